"""The whole line on real films: import, train, evaluate; against a yardstick that needs no network at all.

    python benchmarks/nih_line.py --films ../shared/data/nih [--runs nih_convnext nih_swin] [--quick] [--json FILE]

The yardstick is PCA of 48 px films and logistic regression, trained on the same training films and judged on the same
test films. Everything runs as a user would run it, through the command line; --quick trains two epochs.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.data.policy import measured_labels
from cxr_mtl.metrics.classify import enough
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.intervals import estimate, patient_resamples, resampled_ranking

SIDE, COMPONENTS, RESAMPLES = 48, 100, 1000


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        cxr(work, "data", "import", "nih", arguments.films.resolve(), "--out", "nih.parquet")
        rows = yardstick(work / "nih.parquet")
        for run in arguments.runs:
            rows += measure(work, run, quick=arguments.quick)
    report = {
        "benchmark": "nih_line",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": _cores()},
        "versions": {
            name: version(name) for name in ("cxr-mtl", "torch", "timm", "monai", "deepspeed", "scikit-learn")
        },
        "rows": rows,
        "ratios": {
            f"{row['name']} / yardstick": row["value"] / rows[0]["value"]
            for row in rows
            if row["metric"] == "macro AUROC"
        },
    }
    for row in rows:
        interval = "" if row["low"] is None else f"  ({row['low']:.3f} to {row['high']:.3f})"
        print(f"{row['name']:<14} {row['metric']:<34} {row['value']:>9.3f} {row['unit']}{interval}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=Path("../shared/data/nih"), help="NIH ChestX-ray14 layout")
    parser.add_argument("--runs", nargs="+", default=["nih_convnext", "nih_swin"], help="run files under configs/")
    parser.add_argument("--quick", action="store_true", help="two epochs: shows that it runs, not what it reaches")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--work", type=Path, help="keep all here; a run that is through is not trained again")
    arguments = parser.parse_args()
    if not arguments.films.is_dir():
        print(f"nih_line skipped: {arguments.films} holds no films. Give a folder in NIH's layout with --films.")
        sys.exit(0)
    return arguments


def cxr(work: Path, *args: object) -> float:
    """One command of the command line in the working folder; gives its seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "cxr_mtl", *map(str, args)], cwd=work, check=True)
    return time.monotonic() - started


def measure(work: Path, run: str, *, quick: bool) -> list[dict[str, Any]]:
    settings = ["-s", "train.epochs=2"] if quick else []
    trained = work / f"{run}.minutes"  # written once a run is through, so that --work need not train it again
    if not trained.is_file():
        trained.write_text(str(cxr(work, "train", "-c", run, *settings) / 60))
    minutes = float(trained.read_text())
    cxr(work, "evaluate", f"runs/{run}/best", "nih.parquet", "--out", f"report_{run}", "--resamples", RESAMPLES)
    results = json.loads((work / f"report_{run}" / "results.json").read_text())
    macro, boxes, tree = results["classification"]["macro"], results["localization"], results["hierarchy"]
    rows = [row(run, "macro AUROC", macro["auroc"]), row(run, "macro AUPRC", macro["auprc"])]
    rows += [
        row(run, "tree violations", tree["violation_rate"]),
        row(run, "flat violations", tree["flat_violation_rate"]),
    ]
    for cut in ("0.1", "0.3", "0.5"):
        rows.append(row(run, f"box accuracy at T(IoU) {cut}", boxes["accuracy_at_tiou"][cut]["mean"]))
        rows.append(row(run, f"  of a box at random, {cut}", boxes["random"]["accuracy_at_tiou"][cut]["mean"]))
    return [*rows, {"name": run, "metric": "training", "value": minutes, "unit": "min", "low": None, "high": None}]


def row(name: str, metric: str, number: dict[str, Any]) -> dict[str, Any]:
    low, high = number["ci95"] or (None, None)
    return {"name": name, "metric": metric, "value": number["value"], "unit": "", "low": low, "high": high}


def yardstick(path: Path) -> list[dict[str, Any]]:
    """PCA and logistic regression on the same films, judged by the same code."""
    manifest = load_manifest(path)
    films = np.stack([_thumbnail(manifest.path(i)) for i in range(len(manifest))])
    labels, splits = measured_labels(manifest, LabelsConfig()), np.array(manifest.table["split"].astype(str))
    train, test = splits == "train", splits == "test"
    named = set(manifest.ontology.labelled_by("nih")) - {manifest.ontology.normal}
    columns = [i for i, name in enumerate(manifest.ontology.names) if name in named]
    reduce = make_pipeline(PCA(COMPONENTS, random_state=0), StandardScaler()).fit(films[train])
    before, after = reduce.transform(films[train]), reduce.transform(films[test])
    scores = np.stack([_fit(before, labels[train, c], after) for c in columns], 1)
    presence = labels[test][:, columns]
    draws = patient_resamples(manifest.patient_ids[test], RESAMPLES, 0)
    measured = enough(presence, scores)  # the same findings that an evaluation averages over
    macro = estimate(known_mean(resampled_ranking(presence[:, measured], scores[:, measured], draws).auroc, axis=-1))
    number = {"value": macro.value, "ci95": (macro.low, macro.high)}
    return [row("PCA + logistic", "macro AUROC", number)]


def _fit(train: np.ndarray, presence: np.ndarray, test: np.ndarray) -> np.ndarray:
    known = ~np.isnan(presence)
    return np.asarray(LogisticRegression(C=0.01).fit(train[known], presence[known]).decision_function(test))


def _thumbnail(path: Path) -> np.ndarray:
    with Image.open(path) as film:
        return np.asarray(film.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32).ravel() / 255


def _cores() -> int:
    import os

    return os.cpu_count() or 0


if __name__ == "__main__":
    main()

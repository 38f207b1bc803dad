"""Does calibration make probabilities truer on films that did not fit it?

    python benchmarks/calibration.py --bundle runs/nih_convnext/best [...] [--films DIR] [--quick] [--json FILE]

Three scenes, each judged on films that fitted nothing, differences paired by patient. At home: the bundle's own
calibration, fitted on its validation films, against the sigmoid of the network's logits, on NIH's test films. A new
site like home: half of NIH's test patients fit `cxr-mtl calibrate`, the others judge. A site unlike home: the same with
Kermany's children. ECE (15 bins of equal mass) and Brier score, the mean over findings with ten films of either kind.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.data.read import read_image
from cxr_mtl.data.sources import import_source
from cxr_mtl.evaluate.calibrate import calibrate
from cxr_mtl.evaluate.collect import stated_presence
from cxr_mtl.metrics.classify import enough
from cxr_mtl.metrics.counted import count_finding
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.intervals import estimate, patient_resamples
from cxr_mtl.predict.predictor import LocalPredictor

Floats = NDArray[np.float64]
RESAMPLES, BATCH = 1000, 16
ROWS: list[dict[str, Any]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=Path("../shared/data"), help="folder with nih/ and kermany/")
    parser.add_argument(
        "--bundle", type=Path, nargs="+", default=[Path("runs/nih_convnext/best")], help="trained on NIH's films"
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the films")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    for needed, what in ((arguments.films / "nih", "films"), *((bundle, "bundle") for bundle in arguments.bundle)):
        if not needed.is_dir():
            print(f"calibration skipped: {needed} is not there. Name the {what} with --{what}.")
            sys.exit(0)
    step = 5 if arguments.quick else 1
    nih, _ = import_source("nih", arguments.films / "nih", ontology="thorax", seed=0)
    kermany, _ = import_source("kermany", arguments.films / "kermany", ontology="thorax", seed=0)
    test = some(nih.where(split="test"), step)
    print(f"{'':<44}{'ECE before':>12}{'after':>8}{'difference':>30}{'Brier before':>14}{'after':>8}{'difference':>30}")
    for bundle in arguments.bundle:
        three_scenes(bundle, test, some(kermany, step))
    if arguments.json:
        names = ("cxr-mtl", "torch", "timm", "scikit-learn")
        text = {
            "benchmark": "calibration",
            "machine": {"processor": platform.processor() or platform.machine()},
            "versions": {name: version(name) for name in names},
            "rows": ROWS,
            "ratios": {},
        }
        arguments.json.write_text(json.dumps(text, indent=2) + "\n")


def three_scenes(bundle: Path, test: Manifest, kermany: Manifest) -> None:
    name = LocalPredictor(bundle).bundle.name
    probability, logits = ask(bundle, test)
    report(f"{name}, at home, NIH test", test, presence(bundle, test), expit(logits), probability)
    for site, films in (("like home, NIH", test), ("unlike home, Kermany", kermany)):
        with tempfile.TemporaryDirectory() as scratch:
            fit, judge = halves(films)
            save_manifest(fit, Path(scratch) / "fit.parquet")
            calibrate(bundle, Path(scratch) / "fit.parquet", "val", Path(scratch) / "new", progress=False)
            before, _ = ask(bundle, judge)
            after, _ = ask(Path(scratch) / "new", judge)
            report(f"{name}, a site {site}", judge, presence(bundle, judge), before, after)


def some(films: Manifest, step: int) -> Manifest:
    return replace(films, table=films.table.iloc[::step].reset_index(drop=True))


def halves(films: Manifest) -> tuple[Manifest, Manifest]:
    """By patient, drawn with a seed: one half as ``val``, which fits, the other as ``test``."""
    patients = np.unique(films.patient_ids)
    first = np.random.default_rng(0).permutation(patients)[: len(patients) // 2]
    mine = np.isin(films.patient_ids, first)
    fit, judge = (films.table[own].reset_index(drop=True) for own in (mine, ~mine))
    return replace(films, table=fit.assign(split="val")), replace(films, table=judge.assign(split="test"))


def ask(bundle: Path, films: Manifest) -> tuple[Floats, Floats]:
    """(N, C) probabilities and logits of the findings head."""
    predictor = LocalPredictor(bundle, threads=1)
    parts = []
    for start in range(0, len(films), BATCH):
        rows = range(start, min(start + BATCH, len(films)))
        parts.append(predictor.look([read_image(films.path(row)) for row in rows]))
    answers = [answer.finding_probability for part in parts for answer in part.answers]
    return np.array(answers), np.concatenate([part.findings for part in parts])


def presence(bundle: Path, films: Manifest) -> Floats:
    return stated_presence(LocalPredictor(bundle).bundle, films)


def report(scene: str, films: Manifest, held: Floats, before: Floats, after: Floats) -> None:
    draws = patient_resamples(films.patient_ids, RESAMPLES, 0)
    columns = np.flatnonzero(enough(held, after))
    counted = [[count_finding(held[:, c], given[:, c], [], draws) for c in columns] for given in (before, after)]
    line = f"{scene + f', {len(films)} x {len(columns)}':<44}"
    for metric in ("ece", "brier"):
        old, new = (known_mean(np.stack([getattr(one, metric) for one in each], 1), axis=1) for each in counted)
        gap = estimate(new - old)
        for name, value in (("before", old), ("after", new), ("after less before", new - old)):
            found = estimate(value)
            entry = {"name": scene, "metric": f"{metric} {name}", "value": found.value, "unit": ""}
            ROWS.append(entry | {"low": found.low, "high": found.high})
        line += f"{old[0]:>12.3f}{new[0]:>8.3f}{f'{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})':>30}"
    print(line)


if __name__ == "__main__":
    main()

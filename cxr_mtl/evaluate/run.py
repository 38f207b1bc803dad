"""Measure a bundle on a split: the door of this room."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mtl.bundle import RESULTS, SPLIT, Bundle
from cxr_mtl.data.leaks import check_seen, seen_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.data.split import shared_patients, split_hash
from cxr_mtl.data.split_file import COLUMNS, read_split
from cxr_mtl.evaluate.ask import Answerer
from cxr_mtl.evaluate.boxes import boxes
from cxr_mtl.evaluate.chart import Chart
from cxr_mtl.evaluate.charts import draw_all
from cxr_mtl.evaluate.collect import Answered, collect, label_policy
from cxr_mtl.evaluate.films import choose, show
from cxr_mtl.evaluate.groups import subgroups
from cxr_mtl.evaluate.plots import save_figures
from cxr_mtl.evaluate.report import write_report
from cxr_mtl.evaluate.results import Row, classification, hierarchy
from cxr_mtl.evaluate.studies import study
from cxr_mtl.evaluate.together import cooccurrence
from cxr_mtl.metrics.intervals import Resamples, patient_resamples
from cxr_mtl.predict.admit import novelty_limit
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import DISCLAIMER, RESULTS_SCHEMA


def evaluate(
    bundle: Path | Bundle,
    manifest_path: Path,
    split: str,
    out: Path,
    *,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
    predictor: Answerer | None = None,
    allow_seen: bool = False,
    films: bool = True,
) -> Row:
    """Ask a bundle for every film of a split, and write what that is worth.

    Args:
        bundle: folder, or one already loaded.
        manifest_path: of the films.
        split: ``train``, ``val`` or ``test``.
        out: folder for results.json, predictions.parquet, report.html and figures/.
        resamples: of patients, for the intervals.
        seed: of the resamples and of the random boxes.
        batch_size: films the model looks at together.
        progress: whether to show a bar.
        predictor: asked instead of one made from ``bundle``.
        allow_seen: test on patients that the bundle learned from, too; the report counts and warns of them.
        films: whether report.html shows and names films; without, it holds numbers alone.

    Returns:
        What results.json holds. The bundle keeps a copy, unless that would put another split in a test's place.

    Raises:
        CheckpointError: the bundle cannot be loaded.
        DataError: the manifest cannot be read, the split has no film that can be, or the bundle learned from some of
            its patients (``train`` and ``val``, where that is to be expected, are measured with a warning).
    """
    started = time.monotonic()
    manifest = load_manifest(manifest_path)
    asked: Answerer = LocalPredictor(bundle) if predictor is None else predictor
    trained = learned_from(asked.bundle)
    if not allow_seen:
        check_seen(trained, manifest, split)
    answered = collect(asked, manifest, split, batch_size=batch_size, progress=progress)
    draws = patient_resamples(answered.manifest.patient_ids, resamples, seed)
    results = {
        **_subject(asked.bundle, answered, manifest, manifest_path, split, trained),
        "bootstrap": {"unit": "patient", "resamples": len(draws) - 1, "seed": seed, "interval": "percentile, 95 %"},
        **_measure(asked.bundle, answered, draws, seed),
        "disclaimer": DISCLAIMER,
    }
    out.mkdir(parents=True, exist_ok=True)
    _save_predictions(asked.bundle, answered, out / "predictions.parquet")
    drawn = _draw(asked.bundle, answered, results)
    save_figures(drawn, out / "figures")
    cases = choose(asked.bundle, answered, _measured(results["classification"])) if films else []
    shown = show(cases, answered, asked.bundle, asked) if films else None
    results["seconds"] = round(time.monotonic() - started, 2)
    write_report(out / "report.html", results, asked.bundle, drawn, shown)
    _save_results(results, out / RESULTS)
    _keep_in_bundle(results, asked.bundle.folder / RESULTS)
    return results


def headline(results: Mapping[str, Any]) -> list[str]:
    """The few lines that a terminal shows."""
    macro, tree, found = results["classification"]["macro"], results["hierarchy"], results["localization"]
    lines = [
        f"{results['n_images']} films of {results['n_patients']} patients, {results['dataset']} {results['split']}",
        f"macro AUROC {_words(macro['auroc'])} over {macro['num_findings']} findings, AUPRC {_words(macro['auprc'])}",
        f"tree violations {_words(tree['violation_rate'])}, of the flat head {_words(tree['flat_violation_rate'])}",
    ]
    if found["findings"]:
        at, chance = (body["accuracy_at_tiou"]["0.5"]["mean"] for body in (found, found["random"]))
        lines.append(f"box accuracy at T(IoU) .5 {_words(at)}, of a box at random {_words(chance)}")
    if unread := results["data"]["unread"]:
        codes = ", ".join(f"{code} {count}" for code, count in results["data"]["refused"].items())
        lines.append(f"Films not answered: {len(unread)} ({codes}); they are in no number, and results.json names them")
    return lines


def _words(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "not defined"
    low, high = row["ci95"]
    return f"{row['value']:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def _measure(bundle: Bundle, answered: Answered, draws: Resamples, seed: int) -> Row:
    weak, learned = bundle.weak_box_findings, len(bundle.box_findings)
    found = classification(bundle, answered, draws)
    return {
        "classification": found,
        "cooccurrence": cooccurrence(bundle, answered, _measured(found)),
        "hierarchy": hierarchy(bundle, answered, draws),
        "localization": boxes(bundle.box_findings, answered.located(range(learned)), draws, seed),
        # Learned without boxes, so never one number with those that were.
        **(
            {"weak_localization": boxes(weak, answered.located(range(learned, learned + len(weak))), draws, seed)}
            if weak
            else {}
        ),
        "study": study(bundle, answered, draws),
        **subgroups(bundle, answered, draws),
    }


def _measured(found: Row) -> list[str]:
    """Findings with numbers of their own, whether or not they are in the mean."""
    return [*found["findings"], *found["few"]]


def _subject(
    bundle: Bundle, answered: Answered, manifest: Manifest, path: Path, split: str, trained: pd.DataFrame
) -> Row:
    """What was measured on what."""
    read = answered.manifest
    policy, own = label_policy(bundle)
    normal = {read.ontology.normal} if bundle.ontology.normal else set()
    other = [i for i in shared_patients(manifest) if manifest.splits[i] == split]
    return {
        "schema": RESULTS_SCHEMA,
        "dataset": ", ".join(sorted(set(read.table["dataset"]))),
        "split": split,
        "n_images": len(read),
        "n_patients": len(set(read.patient_ids)),
        "bundle_sha256": bundle.sha256,
        "model": {"name": bundle.name, "version": bundle.version, "ontology": bundle.ontology.name},
        "data": {
            "manifest": path.name,
            "manifest_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "split_sha256": split_hash(manifest),
            "unread": [film.to_dict() for film in answered.unread],
            "refused": dict(sorted(Counter(film.code for film in answered.unread).items())),
            "refused_positives": _refused_positives(bundle, answered),
            "warned": _warned(bundle, answered),
            "patients_also_in_other_splits": len(set(manifest.patient_ids[other])),
            "films_the_bundle_learned_from": len(seen_films(trained, read, split)),
            "bundle_films": _by_split(trained),
            "findings_unknown_to_the_model": sorted(set(read.ontology.names) - set(bundle.ontology.names) - normal),
            "blank_labels": {"read_as": policy.model_dump()["blank"], "in_datasets": sorted(own)},
        },
    }


def _refused_positives(bundle: Bundle, answered: Answered) -> dict[str, int]:
    """Of each finding, how many of the films that were not answered are stated to show it."""
    counts = Counter(name for film in answered.unread for name in film.present)
    own = [f.name for f in bundle.ontology.findings if not f.group and f.name != bundle.ontology.normal]
    return {name: counts[name] for name in own if counts[name]}


def _warned(bundle: Bundle, answered: Answered) -> int | None:
    """Films that were answered with a warning, as unlike those learned from; None where nobody looked."""
    if np.isnan(answered.novelty).all():
        return None
    return int((answered.novelty > novelty_limit(bundle)).sum())


def learned_from(bundle: Bundle) -> pd.DataFrame:
    """What the bundle was trained and calibrated on, as far as it says."""
    path = bundle.folder / SPLIT
    return read_split(path)[0] if path.is_file() else pd.DataFrame(columns=list(COLUMNS), dtype="str")


def _by_split(films: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Films and patients of each split."""
    return {
        str(split): {"films": len(rows), "patients": len(rows[["dataset", "patient_id"]].drop_duplicates())}
        for split, rows in films.groupby("split")
    }


def _draw(bundle: Bundle, answered: Answered, results: Row) -> dict[str, dict[str, Chart]]:
    return draw_all(answered, bundle.ontology.names, results)


def _save_predictions(bundle: Bundle, answered: Answered, path: Path) -> None:
    """One row a film: who, what is stated, what was answered, and the model's boxes in the manifest's frame."""
    table = answered.manifest.table
    columns: dict[str, Any] = {name: pa.array(table[name], pa.string()) for name in ("image_id", "patient_id")}
    columns |= {name: answered.frames[:, i].astype(np.int32) for i, name in enumerate(("width", "height"))}
    for kind, values in {
        "presence": answered.presence,
        "probability": answered.probability,
        "hierarchy": answered.hierarchy,
        "conditional": answered.conditional,
    }.items():
        columns |= {f"{kind}:{name}": values[:, c] for c, name in enumerate(bundle.ontology.names)}
    columns["novelty"] = answered.novelty
    columns["boxes"] = pa.array(_boxes_by_film(bundle.located, answered), _BOXES)
    pq.write_table(pa.table(columns), path, compression="zstd")


_BOXES = pa.list_(
    pa.struct([("finding", pa.string())] + [(name, pa.float64()) for name in ("score", "x1", "y1", "x2", "y2")])
)


def _boxes_by_film(findings: Sequence[str], answered: Answered) -> list[list[dict[str, Any]]]:
    rows: list[list[dict[str, Any]]] = [[] for _ in range(len(answered.manifest))]
    found = answered.proposed
    for film, d, score, (x1, y1, x2, y2) in zip(found.film, found.finding, found.score, found.xyxy, strict=True):
        rows[film].append({"finding": findings[d], "score": score, "x1": x1, "y1": y1, "x2": x2, "y2": y2})
    return rows


def _save_results(results: Row, path: Path) -> None:
    path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _keep_in_bundle(results: Row, path: Path) -> None:
    if results["split"] != "test" and path.is_file() and json.loads(path.read_text())["split"] == "test":
        return
    _save_results(results, path)

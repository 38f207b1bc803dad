"""Fit a bundle's calibration, thresholds and box cut to another hospital's films; the weights stay as they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.bundle import CARD, GATE, SPLIT, WEIGHTS, Bundle, Description, save_bundle
from cxr_mtl.bundle.fit import Said, refit_calibration, refit_points
from cxr_mtl.card import recalibrated_card
from cxr_mtl.data.leaks import seen_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.data.split import split_hash
from cxr_mtl.data.split_file import COLUMNS, read_split, split_table_text
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.evaluate.collect import Answered, collect
from cxr_mtl.metrics.calibrate import MIN_CLASS
from cxr_mtl.metrics.classify import auroc, per_finding
from cxr_mtl.metrics.localize import choose_box_threshold
from cxr_mtl.predict.admit import Admitted
from cxr_mtl.predict.predictor import LocalPredictor, Looked


def calibrate(
    folder: Path, manifest_path: Path, split: str, out: Path, *, batch_size: int = 16, progress: bool = True
) -> list[str]:
    """Make a bundle with the same weights, calibrated on a split of a manifest.

    A finding that was never trained stays so: films can say what its scores are worth, but it has none. One with fewer
    than five films with it or without it keeps calibration and thresholds, and is named. The films become ``val`` in
    the new bundle's split.csv, so that no test is made on them.

    Args:
        folder: of the bundle.
        manifest_path: of the films.
        split: whose films fit.
        out: new folder of the new bundle.
        batch_size: films the model looks at together.
        progress: whether to show a bar.

    Returns:
        lines that say what was done.

    Raises:
        ConfigError: ``out`` exists.
        CheckpointError: the bundle cannot be loaded.
        DataError: the weights were trained on some of the films' patients, or no finding has enough films.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already.", hint="Name a new folder with --out.")
    manifest = load_manifest(manifest_path)
    witness = _Witness(LocalPredictor(folder))
    bundle = witness.bundle
    table, about = read_split(folder / SPLIT) if (folder / SPLIT).is_file() else (_no_films(), {})
    _check_unseen(table, manifest, split)
    answered = collect(witness, manifest, split, batch_size=batch_size, progress=progress)
    fitted = _provenance(answered, manifest, manifest_path, split)
    said = witness.said(answered)
    description = _recalibrated(bundle, answered, said, fitted)
    files = {SPLIT: _with_films(table, about, answered, fitted)}
    if (folder / CARD).is_file():
        files[CARD] = recalibrated_card((folder / CARD).read_text(encoding="utf-8"), description)
    gate = (folder / GATE).read_bytes() if bundle.gate else None
    save_bundle(out, description, folder / WEIGHTS, files, gate)
    return _in_words(bundle, description, answered, _unranked(bundle, description, said), known=bool(len(table)))


class _Witness:
    """Looks as the predictor does, and keeps the logits, in the order of the films."""

    def __init__(self, predictor: LocalPredictor) -> None:
        self.predictor, self.bundle = predictor, predictor.bundle
        self._looked: list[Looked] = []

    def look(self, films: Sequence[Admitted]) -> Looked:
        self._looked.append(self.predictor.look(films))
        return self._looked[-1]

    def said(self, answered: Answered) -> Said:
        ontology, trained = self.bundle.ontology, self.bundle.trained
        return Said(
            answered.presence,
            np.concatenate([looked.findings for looked in self._looked]),
            np.concatenate([looked.hierarchy for looked in self._looked]),
            np.array([name in trained for name in ontology.names]),
            ontology.parents_among(trained),
            self.bundle.description.model.tree,
        )


def _check_unseen(learned: pd.DataFrame, manifest: Manifest, split: str) -> None:
    rows = seen_films(learned[learned["split"] == "train"], manifest, split)
    if len(rows):
        num, first = len(set(manifest.patient_ids[rows])), manifest.table["image_path"].iat[rows[0]]
        what = (
            f"{len(rows):,} films ({num:,} patients) of split {split!r} are, or may be, ones the weights learned from"
        )
        raise DataError(f"{what}, first: {first}.", hint="Calibrate on films of other patients, such as --split val.")


def _recalibrated(bundle: Bundle, answered: Answered, said: Said, fitted: dict[str, Any]) -> Description:
    old, names = bundle.description, bundle.ontology.names
    findings, new = refit_calibration(old.findings_calibration, said.presence, said.findings)
    nodes, new_nodes = refit_calibration(old.hierarchy_calibration, said.asked, said.own)
    if not (new | new_nodes).any():
        what = f"No finding is present in {MIN_CLASS} of the films and absent in {MIN_CLASS}."
        raise DataError(what, hint="Bring more labelled films.")
    probability = said.probability(findings, nodes)
    points, rules, cut_anew = refit_points(old.operating_points, old.rules, said.presence, probability, names)
    cut = _box_cut(bundle, answered)
    of_tree = np.isnan(old.findings_calibration.scale)  # a run that learned the tree alone answers with its nodes
    kept = {
        "findings_kept": _named(bundle, ~((new | (of_tree & new_nodes)) & cut_anew)),
        "tree_nodes_kept": _named(bundle, ~new_nodes),
        "calibration_confirmed": _named(bundle, new & (findings.scale == old.findings_calibration.scale)),
        "box_cut": "kept" if np.isnan(cut) else "refitted",
    }
    return replace(
        old,
        version=_version(old.version, fitted["dataset"]),
        findings_calibration=findings,
        hierarchy_calibration=nodes,
        operating_points=points,
        rules=rules,
        box_min_score=old.box_min_score if np.isnan(cut) else cut,
        fitted_on=fitted | kept | {"before": dict(old.fitted_on)},
    )


def _unranked(bundle: Bundle, description: Description, said: Said) -> list[str]:
    """Findings that were fitted although the films with them score no higher than those without."""
    probability = said.probability(description.findings_calibration, description.hierarchy_calibration)
    worse = per_finding(auroc, said.presence, probability) <= 0.5
    kept = description.fitted_on["findings_kept"]
    return [name for name in _named(bundle, worse) if name not in kept]


def _named(bundle: Bundle, kept: NDArray[np.bool_]) -> list[str]:
    return [name for name, keeps in zip(bundle.ontology.names, kept, strict=True) if keeps and name in bundle.trained]


def _box_cut(bundle: Bundle, answered: Answered) -> float:
    """Of the findings that boxes were trained for; nan where the films have fewer than five boxes of them."""
    learned = len(bundle.box_findings)
    drawn = answered.annotated.keep(answered.annotated.finding < learned)
    proposed = answered.proposed.keep(answered.proposed.finding < learned)
    if len(drawn) < MIN_CLASS:
        return float("nan")
    return choose_box_threshold(drawn, proposed, answered.asked[:, :learned]).score


def _provenance(answered: Answered, manifest: Manifest, path: Path, split: str) -> dict[str, Any]:
    films = answered.manifest
    return {
        "dataset": ", ".join(sorted(set(films.table["dataset"]))),
        "split": split,
        "films": len(films),
        "patients": len(set(films.patient_ids)),
        "films_not_answered": len(answered.unread),
        "split_sha256": split_hash(manifest),
        "manifest_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _version(old: str, dataset: str) -> str:
    """Such as ``1.0+calibrated.kermany``, and ``1.0+calibrated.kermany.2`` the next time."""
    base, _, suffix = old.partition("+")
    new = f"{base}+calibrated.{re.sub('[^A-Za-z0-9]+', '-', dataset).strip('-')}"
    again = re.fullmatch(r"(.*?)(?:\.(\d+))?", f"{base}+{suffix}")
    return f"{new}.{int(again[2] or 1) + 1}" if suffix and again and again[1] == new else new


def _no_films() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS), dtype="str")


def _with_films(table: pd.DataFrame, about: dict[str, Any], answered: Answered, fitted: dict[str, Any]) -> str:
    """split.csv with the films that fitted as ``val``, whatever they were before."""
    films = answered.manifest.table[list(COLUMNS)].assign(split="val")
    key = ["dataset", "image_id"]
    both = pd.concat([table, films]).drop_duplicates(key, keep="last").reset_index(drop=True)
    named = {name: fitted[name] for name in ("dataset", "split", "films", "split_sha256")}
    told = {name: value for name, value in about.items() if name != "sha256"}
    return split_table_text(both, told | {"calibrated_on": named})


def _in_words(
    bundle: Bundle, description: Description, answered: Answered, unranked: Sequence[str], *, known: bool
) -> list[str]:
    fitted = description.fitted_on
    whose = f"{fitted['films']} films of {fitted['patients']} patients ({fitted['dataset']} {fitted['split']})"
    lines = [f"{description.name} {description.version}: calibration and thresholds fitted on {whose}."]
    if answered.unread:
        lines.append(
            f"Films not answered, which fitted nothing: {len(answered.unread)}, first: {answered.unread[0].message}"
        )
    if kept := fitted["findings_kept"]:
        few = f"under {MIN_CLASS} films with or without it"
        lines.append(f"Kept as they were, for {few}: {', '.join(kept)}.")
    if confirmed := fitted["calibration_confirmed"]:
        lines.append(f"Calibrated as before, which these films do not contradict: {', '.join(confirmed)}.")
    if unranked:
        lines.append(f"Ranked no better than chance on these films, which no calibration mends: {', '.join(unranked)}.")
    change = f"{bundle.box_min_score:.3f} to {description.box_min_score:.3f}"
    lines.append(
        "Boxes are cut as before: fewer than five were drawn." if fitted["box_cut"] == "kept" else f"Box cut: {change}."
    )
    if not known:
        lines.append("The bundle has no split.csv, so nobody can say whether its weights were trained on these films.")
    return lines

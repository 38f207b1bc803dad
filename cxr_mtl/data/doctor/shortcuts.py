"""What a model could guess a finding from without looking at the lungs.  N films, C findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.doctor.people import children_of
from cxr_mtl.data.doctor.problem import Level, Problem, of_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.policy import learned_labels
from cxr_mtl.data.split import SPLITS
from cxr_mtl.types import ABSENT, PRESENT

ENOUGH = 10
"""Films with and as many without a finding, below which a split between groups may be chance."""
GUESSED = 0.6
"""Distance of the groups of films with a finding from those without (total variation): a guess is .8 right."""
SHIFT, SURE = 2.0, 4.0
"""So many times more or fewer patients show a finding than in train, by so many standard errors."""


def examine_shortcuts(manifest: Manifest) -> Iterator[Problem]:
    """Findings that go with a dataset, a view or an age, and splits that are unlike each other."""
    table = manifest.table
    labels = learned_labels(manifest, LabelsConfig())  # what the tree implies is learned as well as what is stated
    told: set[str] = set()
    for what, group in (
        ("dataset", table["dataset"].to_numpy(object)),
        ("view", table["view"].where(table["view"] != "UNKNOWN", None).to_numpy(object)),
        ("age", children_of(manifest)),
    ):
        yield from guessed_from(manifest.ontology.names, labels, group, what, told)
    yield from _split_is_dataset(manifest)
    yield from _prevalence(manifest)


def guessed_from(
    names: Sequence[str], labels: NDArray[np.float32], group: NDArray[np.object_], what: str, told: set[str]
) -> Iterator[Problem]:
    """Findings that a group tells: an error where it tells them all, a warning where it tells most.

    Args:
        names: of the C findings.
        labels: (M, C) as training sees them.
        group: (M,) word or None where unknown.
        what: the groups are, in a word.
        told: findings not to tell of again; the ones told of are added.
    """
    found: dict[Level, list[str]] = {"error": [], "warning": []}
    known = np.asarray([word is not None and word == word for word in group], dtype=bool)
    code, words = pd.factorize(np.asarray(group[known], dtype=object))
    if len(words) < 2:
        return
    labels = labels[known]
    for column, name in enumerate(names):
        present, absent = (
            np.bincount(code[labels[:, column] == value], minlength=len(words)) for value in (PRESENT, ABSENT)
        )
        if name not in told and min(present.sum(), absent.sum()) >= ENOUGH:
            distance = float(np.abs(present / present.sum() - absent / absent.sum()).sum() / 2)
            if distance >= GUESSED:
                where = ", ".join(f"{word} {p:,}:{a:,}" for word, p, a in zip(words, present, absent, strict=True))
                mixed = ((present > 0) & (absent > 0)).any()
                found["warning" if mixed else "error"].append(f"{name} (present:absent in {where})")
                told.add(name)
    for level, some in found.items():
        if some:
            how = "is present in some and absent in others only" if level == "error" else "can mostly be guessed"
            fix = "A model would learn that instead: add films of the missing kind, or leave the finding unknown there."
            yield Problem(level, "shortcut", "", len(some), f"by {what} alone {how}: {'; '.join(some)}", fix)


def _split_is_dataset(manifest: Manifest) -> Iterator[Problem]:
    split, dataset = manifest.table["split"], manifest.table["dataset"]
    if dataset.nunique() < 2 or split.nunique() < 2:
        return
    alone = (split.groupby(dataset).transform("nunique") == 1) & split.notna()
    pairs = sorted(set(zip(dataset[alone], split[alone], strict=True)))
    told = ", ".join(f"{name} in {where}" for name, where in pairs)
    what = f"are of a dataset that is in one split only ({told})"
    fix = "Right for a test on another hospital's films; else split again with: cxr-mtl data split."
    yield from of_films(manifest, np.flatnonzero(alone), "warning", "split-is-dataset", what, fix)


def _prevalence(manifest: Manifest) -> Iterator[Problem]:
    """Findings far more or less frequent in val or test than in train, counted by patient."""
    shown = pd.DataFrame(manifest.labels()).where(lambda v: (v == PRESENT) | (v == ABSENT))
    table = shown.groupby([manifest.patient_ids, pd.Series(manifest.splits)]).max()
    where = table.index.get_level_values(1)
    train = table[where == "train"].to_numpy()
    for name in SPLITS[1:]:
        here = table[where == name].to_numpy()
        if not len(here) or not len(train):
            continue
        (p, n), (q, m) = _share(train), _share(here)
        with np.errstate(divide="ignore", invalid="ignore"):
            both = (p * n + q * m) / (n + m)
            sure = np.abs(p - q) / np.sqrt(both * (1 - both) * (1 / n + 1 / m)) >= SURE
            much = np.maximum(p / q, q / p) >= SHIFT
        if (columns := np.flatnonzero(sure & much)).size:
            names = manifest.ontology.names
            those = ", ".join(f"{names[c]} {q[c]:.1%} against {p[c]:.1%}" for c in columns)
            message = f"in {name} far from as frequent as in train, by patient: {those}"
            fix = "Calibration and thresholds will not carry over; NIH's own lists do this, a split of yours need not."
            yield Problem("warning", "prevalence-shift", "", len(columns), message, fix)


def _share(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C,) share of the patients that show each finding, and of how many."""
    num = (~np.isnan(values)).sum(axis=0).astype(np.float64)
    return np.nansum(values, axis=0) / np.maximum(num, 1), num

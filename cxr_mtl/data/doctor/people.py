"""The checks of patients and studies: what is said of one must be the same on all their films.  N films."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.doctor.problem import Level, Problem, of_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.split import shared_patients
from cxr_mtl.types import ABSENT, PRESENT

ADULT = 16
"""Years. Below it a chest looks different; NIH's and most public sets are of adults."""
CHILDREN = frozenset({"kermany"})
"""Datasets and sources of children alone that state no ages."""
OLDEST = 110
"""Years."""
LONGEST = 30
"""Years between two films of a patient. NIH's go to 14; 71 of PadChest's 67,000 patients go beyond 30, to 78."""
MANY = 200
"""Films of one patient; NIH's goes to 184."""

_STUDY_YEARS = 1.5
_FEW = 1e-3
_IDS = "Check the patient ids: two people share one, or the table is wrong."
_NAMELESS = "Check whether it stands for an unknown patient; give films of unknown patients ids of their own."


def examine_people(manifest: Manifest) -> Iterator[Problem]:
    """Problems of patients, their ages and sexes, their studies and the views."""
    for check in _CHECKS:
        yield from check(manifest)


def _ages(m: Manifest) -> Iterator[Problem]:
    age = m.table["age"].to_numpy(np.float64)
    what = f"have an age below 0 or above {OLDEST}"
    wrong = (age < 0) | (age > OLDEST)
    yield from of_films(m, np.flatnonzero(wrong), "warning", "age-range", what, "Set these ages to unknown.")
    young = np.flatnonzero(children_of(m) == "children")
    what, fix = f"are of patients under {ADULT}", "Leave them out of a model for adults; never set them against adults."
    yield from of_films(m, young, "warning", "child", what, fix)
    known = pd.Series(np.where(wrong, np.nan, age))
    patients = known.groupby(m.patient_ids)
    apart = patients.transform("max") - patients.transform("min") > LONGEST
    what = f"are of patients with ages more than {LONGEST} years apart"
    yield from of_films(m, np.flatnonzero(apart), "warning", "age-differs", what, _IDS)
    studies = known.groupby(_studies(m))
    apart = (studies.transform("max") - studies.transform("min") > _STUDY_YEARS) & ~apart
    what = "are of studies with several ages"
    yield from of_films(m, np.flatnonzero(apart), "warning", "age-differs", what, _IDS)


def _sexes(m: Manifest) -> Iterator[Problem]:
    several = m.table["sex"].groupby(m.patient_ids).transform("nunique") > 1
    what = "are of patients who are both M and F"
    yield from of_films(m, np.flatnonzero(several), "warning", "sex-differs", what, _IDS)


def _patients(m: Manifest) -> Iterator[Problem]:
    ids = pd.Series(m.patient_ids)
    films = ids.groupby(ids).transform("size").to_numpy()
    dataset = m.table.groupby("dataset")["image_id"].transform("size").to_numpy()
    many = (films > MANY) | ((films > MANY / 4) & (films > dataset / 10))
    what = f"are of {ids[many].nunique():,} patients with very many films each (up to {films.max():,})"
    yield from of_films(m, np.flatnonzero(many), "warning", "patient-films", what, _NAMELESS)
    own = m.table["patient_id"].str.rpartition(":")[2] == m.table["image_id"]
    alone = own.groupby(m.table["dataset"]).transform("all").to_numpy(bool) & (dataset > 1)
    what = "have their own name for a patient: who they are of is not known"
    fix = "Films of one patient may be in two splits, and intervals are too narrow; find the patients, or say so."
    yield from of_films(m, np.flatnonzero(alone), "warning", "patient-unknown", what, fix)


def _study_patients(m: Manifest) -> Iterator[Problem]:
    """Studies across patients; where most studies are, their ids count within a patient only, as in CheXpert's."""
    study = _studies(m)
    patients = pd.Series(m.patient_ids).groupby(study).transform("nunique").to_numpy()
    mixed = patients > 1
    if study[mixed].nunique() * 2 > study.nunique():
        return
    splits = m.table["split"].groupby(study).transform("nunique").to_numpy() > 1
    split = mixed & splits
    split[shared_patients(m)] = False  # told already, as patients in more than one split
    what = "are of studies that are in more than one split, under several patients"
    # One study of PadChest's 108,000 is so: no number changes by it.
    level: Level = "error" if split.sum() > len(m) * _FEW else "warning"
    yield from of_films(m, np.flatnonzero(split), level, "study-across-splits", what, _IDS)
    what = "are of studies that several patients share"
    yield from of_films(m, np.flatnonzero(mixed & ~splits), "warning", "study-patients", what, _IDS)


def _study_labels(m: Manifest) -> Iterator[Problem]:
    """Films of one patient's study, one with a finding and one without: usual for labels of films, not of studies."""
    values = m.labels()
    study = _studies(m) + "\n" + pd.Series(m.patient_ids)
    code, _ = pd.factorize(study)
    wrong, names = np.zeros(len(m), dtype=bool), []
    num = int(code.max()) + 1
    for column, name in enumerate(m.ontology.names):
        present = np.bincount(code[values[:, column] == PRESENT], minlength=num) > 0
        absent = np.bincount(code[values[:, column] == ABSENT], minlength=num) > 0
        here = (present & absent)[code] & ~np.isnan(values[:, column])
        wrong |= here
        names += [name] if here.any() else []
    what = f"are of studies whose films contradict each other ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
    fix = "Right where each film was labelled for itself; else one study lies in several classes: merge its labels."
    yield from of_films(m, np.flatnonzero(wrong), "warning", "study-contradicts", what, fix)


def _views(m: Manifest) -> Iterator[Problem]:
    view = m.table["view"]
    what, fix = (
        "are lateral views, which look nothing like frontal ones",
        "Leave out these alone with --views PA,AP,UNKNOWN on import.",
    )
    yield from of_films(m, np.flatnonzero(view == "LATERAL"), "warning", "lateral", what, fix)
    unknown = view == "UNKNOWN"
    # A dataset that states no view at all is what it is; one that states most of them hides laterals among the rest.
    mixed = unknown & ~unknown.groupby(m.table["dataset"]).transform("all")
    what, fix = "have an unknown view where others of their dataset have one", "Look for lateral films among them."
    yield from of_films(m, np.flatnonzero(mixed), "warning", "view-unknown", what, fix)


def _studies(m: Manifest) -> pd.Series[str]:
    """(N,) a name for each study, of one dataset; a film without a study is one by itself."""
    table = m.table
    own = table["study_id"].where(table["study_id"] != "", "film " + table["image_id"])
    return table["dataset"] + ":" + own


_CHECKS: tuple[Callable[[Manifest], Iterator[Problem]], ...] = (
    _ages,
    _sexes,
    _patients,
    _study_patients,
    _study_labels,
    _views,
)


def children_of(m: Manifest) -> NDArray[np.object_]:
    """(N,) ``children``, ``adults`` or None where it is unknown: by age, else by what the dataset is known to be."""
    age = m.table["age"].to_numpy(np.float64)
    words = np.where(age < ADULT, "children", "adults").astype(object)
    words[np.isnan(age) | (age < 0)] = None
    for name, rows in m.table.groupby("dataset").indices.items():
        source = m.info.get("datasets", {}).get(name, {}).get("source")
        if not CHILDREN.isdisjoint((name, source)):
            words[rows[np.isnan(age[rows])]] = "children"
    return words

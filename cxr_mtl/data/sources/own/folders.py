"""Films of your own, sorted into folders by what they show.

Three layouts, and mixtures of them: ``Effusion/film.png``; ``train/Effusion/film.png`` with train, val (valid,
validation) and test; and ``Effusion/disease/film.png`` beside ``Effusion/no_finding/film.png``, with or without
``train`` and ``valid`` above. ``healthy``, ``normal`` or ``no_finding`` beside the findings hold normal films. Films
may lie deeper: ``Edema/disease/patient00001/study1/view1_frontal.jpg``.

A folder says that its finding is present and nothing of any other: a film with two findings lies in one of two folders
as often as in both. Whoever knows that the folders exclude each other says ``exclusive``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.own.copies import same_files
from cxr_mtl.data.sources.own.films import check_splits, excluded_by_normal
from cxr_mtl.data.sources.own.folder_names import Said, drop_strange, read_folders_of
from cxr_mtl.data.sources.own.patients import note_disputed, read_patients
from cxr_mtl.data.sources.own.walk import listing_hash, name_films, walk_films
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT

_HINT = "Put the films into folders with the names of findings: Effusion/film.png, or train/Effusion/film.png."
_LEAK = "Take the folders train, val and test away to have patients dealt anew, or correct --patient-pattern."


def read_folders(
    root: Path,
    ontology: Ontology,
    tally: Tally,
    *,
    allow_missing_images: bool = False,
    exclusive: bool = False,
    patient_pattern: str | None = None,
) -> Found:
    """Read class folders.

    Files that are the same byte for byte are one film, with what all of its folders say.

    Args:
        allow_missing_images: of no effect: where there is no film there is no label either.
        exclusive: whether a film in one folder shows none of the other folders' findings.
        patient_pattern: regular expression over the path below ``root``; its first group, or all that it matches, is
            the patient. None tries the ways of NIH, CheXpert, MIMIC-CXR and Kermany.

    Raises:
        ConfigError: the pattern is wrong.
        DataError: no film, no folder with the name of a finding, or a film or patient in two splits.
    """
    said = drop_strange(_read_paths(root, ontology, tally), ontology, tally)
    groups = same_files(root, list(said))
    copies = sum(len(group) - 1 for group in groups)
    if copies:
        first = next(group for group in groups if len(group) > 1)
        tally.note(f"{copies:,} files are copies of another (first: {first[1]} of {first[0]}): one film, all labels")
        note_disputed(groups, patient_pattern, tally)
    paths = [group[0] for group in groups]
    image_ids = name_films(paths)
    patients, studies = read_patients(paths, image_ids, patient_pattern, tally)
    rows = pd.DataFrame(
        {
            "image_path": paths,
            "image_id": image_ids,
            "patient_id": patients,
            "study_id": studies,
            "view": ["LATERAL" if name.casefold().endswith("_lateral") else "UNKNOWN" for name in image_ids],
        }
    )
    splits = _splits(groups, said)
    split_how = None
    if any(splits):
        rows["split"] = pd.Series(splits, dtype=object)
        split_how = {"how": "folders", "films": {n: splits.count(n) for n in ("train", "val", "test") if n in splits}}
        check_splits(rows, _LEAK)
    stated, labelled = _labels(groups, said, ontology, exclusive, tally)
    info: dict[str, Any] = {
        "label_file": "names of folders",
        "label_sha256": listing_hash(said),
        "exclusive": exclusive,
        "patient_pattern": patient_pattern,
    }
    return Found(rows, stated, info, labelled, split_how=split_how)


def _read_paths(root: Path, ontology: Ontology, tally: Tally) -> dict[str, Said]:
    """Path -> what its folders say, of the films that are not empty."""
    paths = walk_films(root, tally, hint=_HINT)
    empty = {path for path in paths if (root / path).stat().st_size == 0}
    tally.drop("file is empty", sorted(empty))
    if len(empty) == len(paths):
        raise DataError(f"All {len(paths):,} films in {root} are empty files.", hint="Copy them again.")
    known: dict[str, Said] = {}
    said: dict[str, Said] = {}
    for path in paths:
        if path not in empty:
            above = path.rpartition("/")[0]
            if above not in known:
                known[above] = read_folders_of(above.split("/") if above else (), ontology)
            said[path] = known[above]
    return said


def _splits(groups: Sequence[Sequence[str]], said: Mapping[str, Said]) -> list[str | None]:
    """The split of each film and its copies.

    Raises:
        DataError: some are in two.
    """
    found = [{split: path for path in reversed(group) if (split := said[path].split)} for group in groups]
    if leaks := [list(places.values()) for places in found if len(places) > 1]:
        num, second, first = len(leaks), *leaks[0][:2]
        what = f"{num:,} {'film is' if num == 1 else 'films are'} in more than one split, first: {first} and {second}."
        raise DataError(what, hint="Keep each film in one split, or take the folders train, val and test away.")
    return [next(iter(places), None) for places in found]


def _labels(
    groups: Sequence[Sequence[str]], said: Mapping[str, Said], ontology: Ontology, exclusive: bool, tally: Tally
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """(N, C) what the folders of each film and its copies say, and the findings that any folder names."""
    named = {name for one in said.values() for name in one.marks}
    has_normal = ontology.normal is not None and any(one.normal for one in said.values())
    rules = _Rules(ontology, named, has_normal, exclusive)
    yes = np.zeros((len(groups), len(ontology.names)), dtype=bool)
    no = np.zeros_like(yes)
    for row, group in enumerate(groups):
        for path in group:
            for name, value in rules.of(said[path]).items():
                (yes if value == PRESENT else no)[row, ontology.index(name)] = True
    stated = np.full(yes.shape, np.nan, dtype=np.float32)
    stated[yes], stated[no] = PRESENT, ABSENT
    stated[yes & no] = np.nan
    disputed = [f"{groups[row][0]} {ontology.names[column]}" for row, column in np.argwhere(yes & no)]
    tally.drop("label that one folder of a film states and another denies", disputed)
    labelled = tuple(name for name in ontology.names if name in named or (has_normal and name == ontology.normal))
    if never := [name for name in labelled if not (stated[:, ontology.index(name)] == ABSENT).any()]:
        tally.note(
            f"no folder says of any film that it lacks {', '.join(never)}: there is nothing to tell it from; "
            "--exclusive if a film in one folder shows none of the others' findings"
        )
    return stated, labelled


class _Rules:
    """What follows from what the folders of one file say."""

    def __init__(self, ontology: Ontology, named: Collection[str], has_normal: bool, exclusive: bool) -> None:
        self.ontology, self.named, self.exclusive = ontology, named, exclusive
        self.normal = ontology.normal if has_normal else None
        self.excluded = excluded_by_normal(ontology, named)

    def of(self, said: Said) -> dict[str, float]:
        """Finding -> 1 or 0."""
        marks: dict[str, float] = {}
        present = [name for name, value in said.marks.items() if value == PRESENT]
        if said.normal:
            marks |= dict.fromkeys(self.excluded, ABSENT)
            if self.normal is not None:
                marks[self.normal] = PRESENT
        elif present:
            if self.exclusive:
                implied = set(present).union(*(self.ontology.ancestors(name) for name in present))
                marks |= dict.fromkeys(set(self.named) - implied, ABSENT)
            if self.normal is not None and self.excluded.intersection(present):
                marks[self.normal] = ABSENT
        return marks | dict(said.marks)

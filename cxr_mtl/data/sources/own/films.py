"""What films of one's own have in common, whether folders or a table tell of them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

import pandas as pd

from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def plain(word: str) -> str:
    """Lower case, with underscores and hyphens as spaces."""
    return " ".join(word.replace("_", " ").replace("-", " ").split()).casefold()


def near_word(word: str, among: Iterable[str]) -> str | None:
    """The one of some words that a slip of the pen may have meant; COVID is no slip for COPD."""
    known = {plain(name): name for name in among}
    near = difflib.get_close_matches(plain(word), known, n=1, cutoff=0.8)
    return known[near[0]] if near else None


def excluded_by_normal(ontology: Ontology, named: Collection[str]) -> set[str]:
    """Those of some findings that a normal film does not show; it may show others, such as a pacemaker."""
    normal = ontology.normal
    if normal is None:
        return set(named)
    return {name for name in named if ontology.complete({name: PRESENT}, "").get(normal) == ABSENT}


def check_splits(rows: pd.DataFrame, hint: str) -> None:
    """Refuse a split of somebody's own in which two parts share a patient.

    Raises:
        DataError: how many patients do, and the first film.
    """
    several = rows.groupby("patient_id")["split"].nunique() > 1
    if several.any():
        first = rows.loc[rows["patient_id"].isin(several.index[several]), "image_path"].iat[0]
        num = int(several.sum())
        what = f"{num:,} {'patient is' if num == 1 else 'patients are'} in more than one split, first: {first}."
        raise DataError(what, hint=hint)

"""Columns that every dataset has in its own spelling: age, sex, view.  N rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.report import Tally

OLDEST = 110
"""Years; what is above is an error of unit or of the pen."""

_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read_ages(column: pd.Series[str], tally: Tally, *, oldest: float = OLDEST) -> NDArray[np.float64]:
    """(N,) years, nan unknown. Tables write 58, DICOM and copies 058Y, 018M or 010D; an empty cell is unknown.

    Args:
        column: text; its index names the films in notes.
    """
    text = column.str.strip().str.upper()
    parts = text.str.extract(r"^(\d+(?:\.\d+)?)\s*([YMWD]?)$")
    years = (pd.to_numeric(parts[0], errors="coerce") * parts[1].map(_YEARS)).to_numpy(np.float64)
    stated = (text != "").to_numpy(bool)
    for what, bad in (("that are no age", np.isnan(years) & stated), (f"above {oldest:g} years", years > oldest)):
        if bad.any():
            tally.note(f"{int(bad.sum()):,} ages {what} (first: {column.index[bad][0]}): set to unknown")
    return np.where(years > oldest, np.nan, years)


def read_sexes(column: pd.Series[str]) -> list[str | None]:
    """``M``, ``F`` or None, from the first letter of whatever is written."""
    first = column.str.strip().str.upper().str[:1]
    return [letter if letter in ("M", "F") else None for letter in first]


def read_views(column: pd.Series[str], views: Mapping[str, str], tally: Tally, *, quote: bool = True) -> list[str]:
    """A view of ours for each of the dataset's.

    Args:
        column: the dataset's own words, any case; its index names the films in notes.
        views: its words in capitals -> PA, AP or LATERAL; every other word becomes UNKNOWN and is noted.
        quote: name these words; not where people fill in the cells, for a shifted row may have a name in one.
    """
    words = column.str.strip().str.upper()
    strange = words[~words.isin(list(views))]
    if len(strange):
        told = _told(strange) if quote else f"first: {strange.index[0]}"
        tally.note(f"{len(strange):,} films have a view other than PA, AP and lateral: UNKNOWN ({told})")
    return [views.get(word, "UNKNOWN") for word in words]


def _told(words: pd.Series[str]) -> str:
    counts = words.value_counts()
    told = ", ".join(f"{word or 'none stated'} {num:,}" for word, num in counts.head(8).items())
    return f"{told} and {len(counts) - 8} more words" if len(counts) > 8 else told

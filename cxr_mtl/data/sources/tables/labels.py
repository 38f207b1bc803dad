"""From a dataset's own words and marks to labels in the ontology's order.  N films, C findings.

Two kinds of dataset: those with a column a finding and a mark in it (CheXpert), and those that list what they saw
(NIH). A list is a closed world: what the dataset has a name for and does not list is absent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.report import Tally
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT, UNCERTAIN

Labels = NDArray[np.float32]
Flags = NDArray[np.bool_]

_MARKS = {"": np.nan, "1": PRESENT, "1.0": PRESENT, "0": ABSENT, "0.0": ABSENT, "-1": UNCERTAIN, "-1.0": UNCERTAIN}
_WORST = 3
"""Rank of presence where several columns mean one finding: present, uncertain, absent, not stated."""


def stated_columns(
    table: pd.DataFrame, columns: dict[str, str | None], ontology: Ontology, tally: Tally
) -> tuple[Labels, Flags]:
    """Labels of a table with a column a finding.

    Args:
        table: N rows of text; marks are 1, 0, -1 or empty, with or without a decimal.
        columns: column -> the finding it means; None where the ontology has none, which is noted.

    Returns:
        (N, C) 1, 0, -1, nan; of several columns of one finding present beats uncertain beats absent beats empty.
        (N,) rows with a mark that is none of these, for the source to drop and say so.
    """
    left_out = [column for column, finding in columns.items() if finding is None]
    if left_out:
        tally.note(f"ontology {ontology.name} has no {', '.join(sorted(left_out))}: these labels were left out")
    rank = np.zeros((len(table), len(ontology.names)), dtype=np.int8)
    bad = np.zeros(len(table), dtype=bool)
    for column, finding in columns.items():
        marks = table[column].str.strip()
        bad |= ~marks.isin(list(_MARKS)).to_numpy(bool)
        if finding is not None:
            values = marks.map(_MARKS).to_numpy(np.float32)
            place = ontology.index(finding)
            rank[:, place] = np.maximum(rank[:, place], _rank(values))
    return np.asarray([np.nan, ABSENT, UNCERTAIN, PRESENT], dtype=np.float32)[rank], bad


def _rank(values: Labels) -> NDArray[np.int8]:
    ranks = np.zeros(len(values), dtype=np.int8)
    for mark, rank in ((ABSENT, 1), (UNCERTAIN, 2), (PRESENT, _WORST)):
        ranks[values == mark] = rank
    return ranks


def stated_words(
    words: Sequence[Sequence[str]], dataset: str, ontology: Ontology, tally: Tally, *, known: Collection[str] = ()
) -> tuple[Labels, Flags, Flags]:
    """Labels of a dataset that lists what it saw.

    Args:
        words: of each film.
        known: further words of the dataset's, in lower case; to tell a finding that an ontology leaves out from a slip
            of the pen. Words that the ontology has for the dataset need not be among them.

    Returns:
        (N, C) 1 or 0 for what the dataset has a name for, nan for all else.
        (N,) films with a word that is neither the ontology's nor known: what else they lack is then unknown, too.
        (N,) films with a known word that the ontology has no finding for; these words are noted.
    """
    closed = np.full(len(ontology.names), np.nan, dtype=np.float32)
    closed[[ontology.index(name) for name in ontology.labelled_by(dataset)]] = ABSENT
    read: dict[tuple[str, ...], tuple[Labels, bool, bool]] = {}
    left_out: dict[str, int] = {}
    stated = np.empty((len(words), len(closed)), dtype=np.float32)
    bad, unlisted = np.zeros(len(words), dtype=bool), np.zeros(len(words), dtype=bool)
    # A hundred thousand films hold some thousand different lists.
    for row, given in enumerate(words):
        key = tuple(given)
        if key not in read:
            found = {word: ontology.find(dataset, word) for word in key}
            labels = closed.copy()
            labels[[ontology.index(name) for name in found.values() if name is not None]] = PRESENT
            strange = [word for word, name in found.items() if name is None]
            outside = [word for word in strange if word.strip().casefold() in known]
            read[key] = labels, len(outside) < len(strange), bool(outside)
            left_out = dict.fromkeys(outside, 0) | left_out
        stated[row], bad[row], unlisted[row] = read[key]
        if unlisted[row]:
            for word in key:
                if word in left_out:
                    left_out[word] += 1
    if left_out:
        counted = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
        told = ", ".join(f"{word} {num:,}" for word, num in counted[:12])
        more = f" and {len(counted) - 12} more" if len(counted) > 12 else ""
        tally.note(f"ontology {ontology.name} has no finding for {told}{more} (films): these labels were left out")
    return stated, bad, unlisted


def complete_all(stated: Labels, ontology: Ontology, dataset: str) -> Labels:
    """What follows from what is stated, film by film (``Ontology.complete``), once for every different row."""
    # nan is not equal to itself, so rows are told apart by a code that no label has.
    codes = np.where(np.isnan(stated), np.float32(9), stated)
    _, first, which = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    out = np.full((len(first), stated.shape[1]), np.nan, dtype=np.float32)
    for place, row in enumerate(first):
        labels = dict(zip(ontology.names, stated[row].tolist(), strict=True))
        for name, value in ontology.complete(labels, dataset).items():
            out[place, ontology.index(name)] = value
    return out[which.reshape(-1)]

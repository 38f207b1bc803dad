"""Counting what readers mark.  N films, R readings (a reader of a film), W words of a dataset, C findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.report import Tally
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT

Labels = NDArray[np.float32]


@dataclass(frozen=True)
class Readings:
    """What each reader says of each film.

    Attributes:
        num_films: N.
        film: (R,) row of the film.
        words: W words of the dataset.
        marks: (R, W) 1 marked, 0 not marked, nan not answered.
    """

    num_films: int
    film: NDArray[np.intp]
    words: tuple[str, ...]
    marks: Labels


def make_readings(
    num_films: int, film: NDArray[np.intp], reader: Sequence[str], words: Sequence[str], marks: Labels
) -> Readings:
    """Readings of rows of which several may be one reader's of one film: what any of them marks is marked.

    Args:
        film: of each row; so are ``reader`` and ``marks``.
    """
    pairs = pd.DataFrame({"film": film, "reader": list(reader)})
    codes = pairs.groupby(["film", "reader"], sort=False).ngroup().to_numpy(np.intp)
    merged = np.full((codes.max(initial=-1) + 1, len(words)), np.nan, dtype=np.float32)
    np.fmax.at(merged, codes, marks)
    return Readings(num_films, film[np.unique(codes, return_index=True)[1]], tuple(words), merged)


@dataclass(frozen=True)
class Verdict:
    """The answer of all readers together.

    Attributes:
        stated: (N, C) 1, 0, nan.
        unlisted: (N,) bool, the answer has a word that the ontology has no finding for.
        lone: finding -> films that only one of several readers marks, and films that any reader marks.
    """

    stated: Labels
    unlisted: NDArray[np.bool_]
    lone: dict[str, tuple[int, int]]


def count_votes(readings: Readings, dataset: str, ontology: Ontology, tally: Tally, *, majority: bool) -> Verdict:
    """One answer a film.

    Votes are for findings, not for words: of two readers one may say nodule and the other tumour where the ontology has
    one finding for both. By majority, too, readers who agree on a group and not on what in it still agree: two who mark
    different opacities both mark an opacity.

    Args:
        majority: more than half of those who answer must mark a finding; otherwise one is enough, and all must say that
            a film is normal.
    """
    targets, marks = _marks_of_findings(readings, dataset, ontology)
    if ontology.normal in targets:
        _settle_normal(readings, marks, targets.index(ontology.normal), tally)
    counts = np.zeros((readings.num_films, len(targets)), dtype=np.int32)
    answered = counts.copy()
    np.add.at(counts, readings.film, marks == PRESENT)
    np.add.at(answered, readings.film, ~np.isnan(marks))
    needed = answered // 2 + 1 if majority else np.ones_like(answered)
    if ontology.normal in targets and not majority:
        normal = targets.index(ontology.normal)
        needed[:, normal] = np.maximum(answered[:, normal], 1)
    values = np.where(answered == 0, np.nan, counts >= needed).astype(np.float32)
    stated = np.full((readings.num_films, len(ontology.names)), np.nan, dtype=np.float32)
    listed = [t for t, name in enumerate(targets) if name in ontology.names]
    stated[:, [ontology.index(targets[t]) for t in listed]] = values[:, listed]
    several = np.bincount(readings.film, minlength=readings.num_films) > 1
    lone = {
        targets[t]: (int(((counts[:, t] == 1) & several).sum()), int((counts[:, t] > 0).sum()))
        for t in listed
        if targets[t] != ontology.normal
    }
    if majority:
        _agree_on_groups(readings, targets, marks, ontology, stated, tally)
    others = [t for t in range(len(targets)) if t not in listed]
    _note_left_out({targets[t]: int((values[:, t] == PRESENT).sum()) for t in others}, ontology, tally)
    unlisted = (values[:, others] == PRESENT).any(axis=1)
    _note_torn(stated, unlisted, ontology, tally)
    return Verdict(stated, unlisted, lone)


def _marks_of_findings(readings: Readings, dataset: str, ontology: Ontology) -> tuple[list[str], Labels]:
    """Findings, then words without one; and (R, that many) marks. Several words of a finding: one marked is enough."""
    meaning = [ontology.find(dataset, word) for word in readings.words]
    targets = list(dict.fromkeys(name for name in meaning if name is not None))
    targets += [word for word, name in zip(readings.words, meaning, strict=True) if name is None]
    marks = np.empty((len(readings.marks), len(targets)), dtype=np.float32)
    for place, target in enumerate(targets):
        which = [w for w, name in enumerate(meaning) if (name or readings.words[w]) == target]
        of_one = readings.marks[:, which]
        unsaid = np.where(np.isnan(of_one).any(axis=1), np.float32(np.nan), np.float32(ABSENT))
        marks[:, place] = np.where((of_one == PRESENT).any(axis=1), np.float32(PRESENT), unsaid)
    return targets, marks


def _settle_normal(readings: Readings, marks: Labels, normal: int, tally: Tally) -> None:
    """A reader who marks anything does not say that the film is normal, whatever else the row says."""
    marks_other = (np.delete(marks, normal, axis=1) == PRESENT).any(axis=1)
    says_normal = marks[:, normal] == PRESENT
    if both := int((marks_other & says_normal).sum()):
        tally.note(f"{both:,} times a reader marks a finding and calls the film normal: not normal")
    marks[marks_other, normal] = ABSENT
    says_normal &= ~marks_other
    mixed = np.intersect1d(readings.film[says_normal], readings.film[marks_other])
    if len(mixed):
        tally.note(f"{len(mixed):,} films are normal to one reader and not to another")


def _agree_on_groups(
    readings: Readings, targets: Sequence[str], marks: Labels, ontology: Ontology, stated: Labels, tally: Tally
) -> None:
    """Make present what most readers' marks imply and no finding of the majority does."""
    said = np.full((len(marks), len(ontology.names)), np.nan, dtype=np.float32)
    for place, name in enumerate(targets):
        if name in ontology.names:
            said[:, ontology.index(name)] = marks[:, place]
    implied = np.zeros(stated.shape, dtype=np.int32)
    np.add.at(implied, readings.film, ontology.propagate(said) == PRESENT)
    readers = np.bincount(readings.film, minlength=len(stated))
    agreed = 2 * implied > readers[:, None]
    if ontology.normal is not None:
        agreed[:, ontology.index(ontology.normal)] = False
    agreed &= ontology.propagate(stated) != PRESENT
    stated[agreed] = PRESENT
    if agreed.any():
        told = ", ".join(f"{name} {num:,}" for name, num in zip(ontology.names, agreed.sum(axis=0), strict=True) if num)
        tally.note(f"most readers agree on a group, not on what in it: the group is present ({told} films)")


def _note_left_out(films: dict[str, int], ontology: Ontology, tally: Tally) -> None:
    if films:
        told = ", ".join(f"{word} {num:,}" for word, num in sorted(films.items(), key=lambda item: (-item[1], item[0])))
        tally.note(f"ontology {ontology.name} has no finding for {told} (films): these labels were left out")


def _note_torn(stated: Labels, unlisted: NDArray[np.bool_], ontology: Ontology, tally: Tally) -> None:
    if ontology.normal is None:
        return
    torn = (stated[:, ontology.index(ontology.normal)] == ABSENT) & ~(stated == PRESENT).any(axis=1) & ~unlisted
    if torn.any():
        tally.note(f"{int(torn.sum()):,} films are not normal, but no finding has votes enough: all findings absent")


def describe_readers(readings: Readings) -> str:
    """How many readers the films have: ``3 readers (15,000 films)``."""
    films = Counter(np.bincount(readings.film, minlength=readings.num_films).tolist())
    return ", ".join(f"{num} reader{'s' * (num != 1)} ({films[num]:,} films)" for num in sorted(films, reverse=True))

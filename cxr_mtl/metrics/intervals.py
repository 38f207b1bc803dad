"""How far a number can be trusted: bootstrap by patient. N films, P patients, R resamples, C findings.

Films of one patient are alike, so patients are drawn, with all their films; drawing films would give intervals that are
too narrow.
An interval is the 2.5th to 97.5th percentile of the number over the resamples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from cxr_mtl.metrics.classify import usable
from cxr_mtl.metrics.counts import Floats, Ranking, Steps, area_under_roc, average_precision

BLOCK = 64  # resamples counted at once: wide enough for BLAS, small enough to stay near the processor


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; nan where not defined.

    Attributes:
        left_out: resamples in which the value is not defined, so that the interval rests on the others.
    """

    value: float
    low: float
    high: float
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As in results.json; null where not defined, ``left_out`` only where there is something to say."""
        value, low, high = (None if np.isnan(x) else x for x in (self.value, self.low, self.high))
        body: dict[str, Any] = {"value": value, "ci95": [low, high]}
        if self.left_out:
            body["left_out"] = self.left_out
        return body


def estimate(drawn: ArrayLike) -> Estimate:
    """From a number over all columns of ``Resamples``: (1 + R,), the sample itself first, nan where not defined."""
    column = np.asarray(drawn, np.float64)
    value, again = column[0], column[1:]
    defined = again[~np.isnan(again)]
    if np.isnan(value) or not len(defined):
        return Estimate(float(value), np.nan, np.nan, left_out=len(again) - len(defined))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high), left_out=len(again) - len(defined))


@dataclass(frozen=True, slots=True)
class Resamples:
    """Which patient is drawn how often.

    The first column draws every patient once: it is the sample itself, so that a value and its interval come out of the
    same arithmetic.

    Attributes:
        patient: (N,) each film's patient, 0 to P - 1.
        counts: (P, 1 + R) how often a patient is in a resample; a column sums to P.
    """

    patient: NDArray[np.intp]
    counts: NDArray[np.uint16]

    @property
    def num_patients(self) -> int:
        return int(self.counts.shape[0])

    def __len__(self) -> int:
        """1 + R."""
        return int(self.counts.shape[1])

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """(P, up to ``BLOCK``) weights at a time, and which resamples they are."""
        for start in range(0, len(self), BLOCK):
            part = slice(start, min(start + BLOCK, len(self)))
            yield part, self.counts[:, part].astype(np.float32, order="C")

    def sums(self, values: ArrayLike, film: NDArray[np.intp] | None = None) -> Floats:
        """Column sums of a table in every resample: what any ratio of sums is made of.

        Args:
            values: (M, K) no nan.
            film: (M,) which film each row belongs to; None where row i is film i.

        Returns:
            (1 + R, K).
        """
        table = np.asarray(values, np.float64)
        patient = self.patient if film is None else self.patient[film]
        owner = csr_matrix((np.ones(len(table)), (patient, np.arange(len(table)))), (self.num_patients, len(table)))
        return self.weigh(owner @ table)

    def weigh(self, by_patient: Floats) -> Floats:
        """(1 + R, K) the same from sums that each patient's films have already, (P, K)."""
        total = np.empty((len(self), by_patient.shape[1]))
        for part, weights in self.blocks():
            total[part] = (by_patient.T @ weights.astype(np.float64)).T
        return total


def patient_resamples(patient_ids: ArrayLike, resamples: int, seed: int) -> Resamples:
    """Draw as many patients as there are, with replacement, ``resamples`` times.

    The first resamples do not depend on how many are drawn, so a short run is a prefix of a long one.
    A single patient gives no resample, and so no interval: one patient says nothing of the next.

    Args:
        patient_ids: (N,) one id a film.
        resamples: R.
        seed: fixes the draw.
    """
    ids, patient = np.unique(np.asarray(patient_ids), return_inverse=True)
    rng, size = np.random.default_rng(seed), len(ids)
    counts = np.ones((1 + (resamples if size > 1 else 0), size), np.uint16)
    for row in counts[1:]:
        row[:] = np.bincount(rng.integers(size, size=size), minlength=size)
    return Resamples(patient.astype(np.intp), np.ascontiguousarray(counts.T))


@dataclass(frozen=True, slots=True)
class Ranked:
    """AUROC and average precision of C findings in each resample, (1 + R, C); nan where there is one class only."""

    auroc: Floats
    auprc: Floats


def resampled_ranking(presence: ArrayLike, score: ArrayLike, resamples: Resamples) -> Ranked:
    """AUROC and average precision of every finding in every resample: each film is sorted once, not once a resample.

    Args:
        presence: (N, C) 1 present, 0 absent, nan unknown.
        score: (N, C) nan where never trained.
        resamples: of the same N films.
    """
    return Ranked(*_over_resamples((area_under_roc, average_precision), presence, score, resamples))


def resampled_auroc(presence: ArrayLike, score: ArrayLike, resamples: Resamples) -> Floats:
    """(1 + R, C) the AUROC alone, which takes less time than both."""
    return np.asarray(_over_resamples((area_under_roc,), presence, score, resamples)[0])


def _over_resamples(
    measures: Sequence[Callable[[Steps], Floats]], presence: ArrayLike, score: ArrayLike, resamples: Resamples
) -> Floats:
    """(len(measures), 1 + R, C)."""
    stated, given = np.asarray(presence, np.float64), np.asarray(score, np.float64)
    columns = range(stated.shape[1])
    found = np.empty((len(measures), len(resamples), len(columns)))

    def sort(c: int) -> Ranking:
        keep = usable(stated[:, c], given[:, c])
        return Ranking(stated[keep, c] == 1, given[keep, c], resamples.patient[keep], resamples.num_patients)

    def count(c: int, order: Ranking, part: slice, weights: NDArray[np.float32]) -> None:
        steps = order.steps(weights)
        for m, measure in enumerate(measures):
            found[m, part, c] = measure(steps)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and scipy let threads run while they compute
        rankings = list(pool.map(sort, columns))
        for part, weights in resamples.blocks():
            list(pool.map(partial(count, part=part, weights=weights), columns, rankings))
    return found

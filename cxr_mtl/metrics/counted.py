"""Calibration and calls of one finding in every resample. N films, R resamples after the sample, B bins, T cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_mtl.metrics.classify import outcomes, rates, reliability, usable
from cxr_mtl.metrics.counts import Floats, ratio
from cxr_mtl.metrics.intervals import Resamples


@dataclass(frozen=True, slots=True)
class Counted:
    """What is added up over films; all else about one finding is a ratio of these.

    Attributes:
        known: (1 + R,) usable films.
        positive: (1 + R,) of these, with the finding.
        squares: (1 + R,) squared distance of probability and truth.
        bin_known: (1 + R, B) films in each bin of the sample, from low probability to high.
        bin_positive: (1 + R, B) of these, with the finding.
        bin_probability: (1 + R, B) their probabilities.
        cells: (1 + R, T, 4) true positive, false positive, true negative, false negative at each threshold.
    """

    known: Floats
    positive: Floats
    squares: Floats
    bin_known: Floats
    bin_positive: Floats
    bin_probability: Floats
    cells: Floats

    @property
    def prevalence(self) -> Floats:
        return ratio(self.positive, self.known)

    @property
    def brier(self) -> Floats:
        return ratio(self.squares, self.known)

    @property
    def ece(self) -> Floats:
        """(1 + R,) over the sample's bins; chance alone widens the gaps of a resample, so these lie higher."""
        return ratio(np.abs(self.bin_probability - self.bin_positive).sum(axis=1), self.known)

    def rates(self, threshold: int) -> dict[str, Floats]:
        """Sensitivity, specificity, ppv, npv and f1 at one of the thresholds, (1 + R,) each."""
        return rates(*self.cells[:, threshold].T)


def count_finding(
    presence: ArrayLike, probability: ArrayLike, thresholds: Sequence[float], resamples: Resamples
) -> Counted:
    """Count one finding.

    Args:
        presence: (N,) 1 present, 0 absent, nan unknown.
        probability: (N,) calibrated.
        thresholds: T, on the probability.
        resamples: of the same N films.
    """
    keep = usable(presence, probability)
    truth, given = (np.asarray(values, np.float64)[keep] for values in (presence, probability))
    patient, patients = resamples.patient[keep], resamples.num_patients
    table = reliability(presence, probability)
    bins, where = len(table.count), table.bin[keep]

    def tally(place: NDArray[np.intp], size: int, weight: Floats | None = None) -> Floats:
        """(P, size) sums over each patient's films of ``weight``, or their number, by place."""
        return np.bincount(patient * size + place, weight, patients * size).reshape(patients, size).astype(np.float64)

    cells = [outcomes(truth, given, cut).argmax(axis=0) for cut in thresholds]
    by_patient = [
        tally(np.zeros_like(where), 1, (given - truth) ** 2),
        tally(where, bins),
        tally(where, bins, truth),
        tally(where, bins, given),
        *(tally(cell, 4) for cell in cells),
    ]
    sums = resamples.weigh(np.concatenate(by_patient, axis=1))
    squares, known, positive, total, called = np.split(sums, np.cumsum([1, bins, bins, bins]), axis=1)
    return Counted(
        known=known.sum(axis=1),
        positive=positive.sum(axis=1),
        squares=squares[:, 0],
        bin_known=known,
        bin_positive=positive,
        bin_probability=total,
        cells=called.reshape(len(sums), len(thresholds), 4),
    )

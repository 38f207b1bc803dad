"""Calibration and calls of one finding in every resample. N films, R resamples after the sample, B bins, T cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

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
    truth = np.where(keep, np.asarray(presence, np.float64), 0.0)
    given = np.where(keep, np.asarray(probability, np.float64), 0.0)
    table = reliability(presence, probability)
    bins = len(table.count)
    inside = (table.bin == np.arange(bins)[:, None]).astype(np.float64)
    cells = [outcomes(presence, probability, cut).astype(np.float64) for cut in thresholds]
    columns = [np.stack([keep, truth, (given - truth) ** 2]), inside, inside * truth, inside * given, *cells]
    sums = resamples.sums(np.concatenate(columns).T)
    in_bin, positive, total, called = np.split(sums[:, 3:], [bins, 2 * bins, 3 * bins], axis=1)
    return Counted(
        known=sums[:, 0],
        positive=sums[:, 1],
        squares=sums[:, 2],
        bin_known=in_bin,
        bin_positive=positive,
        bin_probability=total,
        cells=called.reshape(len(sums), len(thresholds), 4),
    )

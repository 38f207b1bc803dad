"""Weighted counts along a ranking: the arithmetic under AUROC, average precision, FROC and their intervals.

M rows (films, or proposed boxes), G distinct scores that a positive has, P patients, R weightings (resamples).
Weighing a patient counts all of that patient's rows that often, so a weighting is a resample and no row is ever copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]

TILE = 32
_DOWN_TO = np.tril(np.ones((TILE, TILE), np.float32))


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Quotient of any shapes that broadcast; nan where the denominator is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    quotient: Floats = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)
    return quotient


def known_mean(values: ArrayLike, axis: int | None = None) -> Floats:
    """Mean over what is not nan, along ``axis`` or over all; nan where nothing is known."""
    array = np.asarray(values, np.float64)
    return ratio(np.nansum(array, axis=axis), np.sum(~np.isnan(array), axis=axis))


def running_sum(values: NDArray[Any]) -> Floats:
    """(G, R) sums of all rows down to each, of whole numbers; exact while those of a tile stay below 2**24.

    The same as ``np.cumsum(values, axis=0)`` in double precision, and six times as quick: a product with a triangle of
    ones sums the rows of a tile, and only the last rows of the tiles are added up one after another.
    """
    rows, columns = values.shape
    tiles = np.zeros((-(-rows // TILE), TILE, columns), np.float32)
    tiles.reshape(-1, columns)[:rows] = values
    sums: Floats = np.matmul(_DOWN_TO, tiles).astype(np.float64)
    sums[1:] += np.cumsum(sums[:-1, -1], axis=0)[:, None]
    return np.asarray(sums.reshape(-1, columns)[:rows])


@dataclass(frozen=True, slots=True)
class Steps:
    """What has been counted on reaching each score that a positive has, best score first.

    Attributes:
        score: (G,) falling.
        found: (G, R) weight of the positives at exactly this score.
        fp: (G, R) weight of the negatives scored so high or higher.
        tied: (G, R) weight of the negatives at exactly this score, or () 0 where there is no tie.
        positives: (R,) weight of all positives.
        negatives: (R,) weight of all negatives.
    """

    score: Floats
    found: Floats
    fp: Floats
    tied: Floats
    positives: Floats
    negatives: Floats

    @property
    def tp(self) -> Floats:
        """(G, R) weight of the positives scored so high or higher; summed anew each time."""
        return running_sum(self.found)


class Ranking:
    """Rows sorted once by score, ready to be counted under any number of weightings.

    Between two scores that a positive has, only the number of negatives matters, not their order. So the rows fold into
    one sparse (G, P) matrix of positives and one of negatives, and a weighting costs one sparse product.
    """

    def __init__(self, positive: NDArray[np.bool_], score: Floats, patient: NDArray[np.intp], num_patients: int):
        """
        Args:
            positive: (M,) whether the row is a positive.
            score: (M,) higher is more suspicious; no nan.
            patient: (M,) 0 to P - 1, whose row it is.
            num_patients: P.
        """
        falling, step = np.unique(-score[positive], return_inverse=True)
        lost = -score[~positive]
        # A negative counts from the first step whose score is not above its own; below all steps is row G.
        entry = np.searchsorted(falling, lost, side="left")
        at_step = np.append(falling, np.nan)[entry] == lost
        shape = len(falling) + 1, num_patients
        self.score: Floats = -falling
        self._positives = _fold(step, patient[positive], shape)
        self._negatives = _fold(entry, patient[~positive], shape)
        self._tied = _fold(entry[at_step], patient[~positive][at_step], shape) if at_step.any() else None

    def steps(self, weights: NDArray[Any]) -> Steps:
        """Counts under (P, R) whole-number weights; exact while a column of weighted rows stays below 2**24."""
        found = (self._positives @ weights)[:-1].astype(np.float64)
        fp = running_sum(self._negatives @ weights)
        tied = np.zeros(()) if self._tied is None else (self._tied @ weights)[:-1].astype(np.float64)
        return Steps(self.score, found, fp[:-1], tied, positives=found.sum(axis=0), negatives=fp[-1])


def _fold(row: NDArray[np.intp], patient: NDArray[np.intp], shape: tuple[int, int]) -> Any:
    return csr_matrix((np.ones(len(row), np.float32), (row, patient)), shape=shape)


def area_under_roc(steps: Steps) -> Floats:
    """(R,) chance that a positive is scored above a negative, a tie counting half; nan where one class is missing."""
    beaten = np.einsum("gr,gr->r", steps.found, steps.fp - steps.tied / 2 if steps.tied.ndim else steps.fp)
    return 1.0 - ratio(beaten, steps.positives * steps.negatives)


def average_precision(steps: Steps) -> Floats:
    """(R,) precision averaged over the positives, not interpolated; nan where one class is missing."""
    # Weights are whole numbers: where nothing has been counted yet nothing is found either, and 0 / 1 stands for 0 / 0.
    tp = steps.tp
    area = np.einsum("gr,gr->r", steps.found, tp / np.maximum(tp + steps.fp, 1))
    both = (steps.positives > 0) & (steps.negatives > 0)
    return np.where(both, ratio(area, steps.positives), np.nan)

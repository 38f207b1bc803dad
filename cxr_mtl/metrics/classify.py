"""Is the finding there? N films, C findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_mtl.metrics.counts import Floats, Ranking, area_under_roc, average_precision, known_mean, ratio

BINS = 15
MIN_POSITIVES = 10
"""Known films with a finding, and as many without it, below which its numbers are too shaky to stand in a mean."""
Metric = Callable[[ArrayLike, ArrayLike], float]


def usable(presence: ArrayLike, score: ArrayLike) -> NDArray[np.bool_]:
    """Where presence is stated (0 or 1) and there is a score; same shape as both."""
    stated = np.asarray(presence, np.float64)
    keep: NDArray[np.bool_] = ((stated == 0) | (stated == 1)) & ~np.isnan(np.asarray(score, np.float64))
    return keep


def enough(presence: ArrayLike, score: ArrayLike, least: int = MIN_POSITIVES) -> NDArray[np.bool_]:
    """(C,) whether (N, C) presence and score hold at least ``least`` usable films with each finding, and without it."""
    stated, keep = np.asarray(presence, np.float64), usable(presence, score)
    counts = [(keep & (stated == value)).sum(axis=0) for value in (0, 1)]
    return np.asarray(np.minimum(*counts) >= least)


def ranking(presence: ArrayLike, score: ArrayLike) -> Ranking:
    """The usable films of one finding, each its own patient, sorted by score."""
    keep = usable(presence, score)
    positive = np.asarray(presence)[keep] == 1
    return Ranking(positive, np.asarray(score, np.float64)[keep], np.arange(keep.sum()), int(keep.sum()))


def auroc(presence: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve of one finding.

    Args:
        presence: (N,) 1 present, 0 absent, nan unknown.
        score: (N,) any monotone score; nan where never trained.

    Returns:
        0 to 1; nan where only one class is known.

    >>> auroc([1, 0, 0, float("nan")], [0.9, 0.1, 0.9, 0.5])
    0.75
    """
    order = ranking(presence, score)
    return float(area_under_roc(order.steps(_once(presence, score)))[0])


def auprc(presence: ArrayLike, score: ArrayLike) -> float:
    """Average precision of one finding; same arguments as ``auroc``. A score without skill gives the prevalence."""
    order = ranking(presence, score)
    return float(average_precision(order.steps(_once(presence, score)))[0])


def _once(presence: ArrayLike, score: ArrayLike) -> NDArray[np.float32]:
    return np.ones((int(usable(presence, score).sum()), 1), np.float32)


def per_finding(metric: Metric, presence: ArrayLike, score: ArrayLike) -> Floats:
    """(C,) a metric of one finding, over the columns of (N, C) presence and score."""
    columns = zip(np.asarray(presence).T, np.asarray(score).T, strict=True)
    return np.array([metric(p, s) for p, s in columns], np.float64)


def roc_curve(presence: ArrayLike, score: ArrayLike) -> tuple[Floats, Floats]:
    """The corners of the ROC curve of one finding, from (0, 0) to (1, 1).

    Returns:
        (K,) false positive rate and (K,) sensitivity, both rising; both empty where only one class is known.
    """
    keep = usable(presence, score)
    positive, value = np.asarray(presence)[keep] == 1, np.asarray(score, np.float64)[keep]
    if positive.all() or not positive.any():
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-value, kind="stable")
    last = np.append(np.diff(value[order]) != 0, True)  # films of one score are called together
    tp, fp = np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]
    return np.append(0.0, fp / fp[-1]), np.append(0.0, tp / tp[-1])


def outcomes(presence: ArrayLike, probability: ArrayLike, threshold: ArrayLike) -> NDArray[np.bool_]:
    """Which cell of the 2x2 table each film falls into; a probability at the threshold is called positive.

    Args:
        presence: (N, ...) 1 present, 0 absent, nan unknown.
        probability: (N, ...).
        threshold: broadcasts to probability.

    Returns:
        (4, N, ...) true positive, false positive, true negative, false negative; all False where not usable.
    """
    stated, given = np.asarray(presence, np.float64), np.asarray(probability, np.float64)
    keep = usable(stated, given) & ~np.isnan(np.asarray(threshold, np.float64))
    called = given >= np.asarray(threshold, np.float64)
    present, absent = keep & (stated == 1), keep & (stated == 0)
    return np.stack([present & called, absent & called, absent & ~called, present & ~called])


def rates(tp: ArrayLike, fp: ArrayLike, tn: ArrayLike, fn: ArrayLike) -> dict[str, Floats]:
    """Sensitivity, specificity, ppv, npv and f1 from counts of any one shape; nan where nothing was counted."""
    a, b, c, d = (np.asarray(x, np.float64) for x in (tp, fp, tn, fn))
    return {
        "sensitivity": ratio(a, a + d),
        "specificity": ratio(c, c + b),
        "ppv": ratio(a, a + b),
        "npv": ratio(c, c + d),
        "f1": ratio(2 * a, 2 * a + b + d),
    }


def brier(presence: ArrayLike, probability: ArrayLike) -> float:
    """Mean squared distance of the probability from the truth, 0 best; nan without a usable film."""
    keep = usable(presence, probability)
    gap = np.asarray(probability, np.float64)[keep] - np.asarray(presence, np.float64)[keep]
    return float(known_mean(gap**2))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Probability against frequency. B bins that hold a film, from low probability to high.

    Attributes:
        bin: (N,) which bin each film is in; -1 where it is not usable.
        count: (B,) films.
        probability: (B,) mean probability.
        frequency: (B,) share of films where the finding is present.
    """

    bin: NDArray[np.intp]
    count: Floats
    probability: Floats
    frequency: Floats


def reliability(
    presence: ArrayLike, probability: ArrayLike, *, bins: int = BINS, equal_width: bool = False
) -> Reliability:
    """Films of one finding in bins of equal mass, or of equal width.

    Equal mass is the default: the probabilities of a rare finding would all fall into the first bin of equal width.
    Films of one probability share a bin, so there may be fewer bins than asked for.
    """
    keep = usable(presence, probability)
    stated, given = np.asarray(presence, np.float64)[keep], np.asarray(probability, np.float64)[keep]
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    edges = inner if equal_width or not len(given) else np.quantile(given, inner)
    raw = np.searchsorted(edges, given, side="left")
    present_bins, index = np.unique(raw, return_inverse=True)
    count = np.bincount(index, minlength=len(present_bins)).astype(np.float64)
    where = np.full(len(keep), -1, np.intp)
    where[keep] = index
    return Reliability(
        bin=where,
        count=count,
        probability=ratio(np.bincount(index, given, len(present_bins)), count),
        frequency=ratio(np.bincount(index, stated, len(present_bins)), count),
    )


def ece(presence: ArrayLike, probability: ArrayLike, *, bins: int = BINS, equal_width: bool = False) -> float:
    """Expected calibration error: the gap of probability and frequency in a bin, averaged over films."""
    table = reliability(presence, probability, bins=bins, equal_width=equal_width)
    return float(ratio(np.sum(table.count * np.abs(table.probability - table.frequency)), np.sum(table.count)))

"""From scores to probabilities and calls, fitted on validation films only. N films, C findings.

Each finding is scaled by Platt's two numbers, p = sigmoid(a z + b), with a kept positive so that no ranking changes.
Fitted is (log a, b) that minimises

    sum over known films of  log(1 + exp(s)) - y s,  s = a z + b
    + (log a)**2 / (2 * 0.5**2) + b**2 / (2 * 2**2)

that is, the likelihood times a Gaussian prior around leaving the logits as they are (a = 1, b = 0). With a few
positives the prior holds, with many it vanishes. Findings with fewer than five positives or negatives take one fit
pooled over all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from cxr_mtl.metrics.classify import usable
from cxr_mtl.metrics.counts import Floats, ratio

PRIOR_LOG_SCALE, PRIOR_BIAS = 0.5, 2.0
MIN_CLASS = 5
POINTS = ("balanced", "f1", "sensitive", "specific")
SENSITIVE, SPECIFIC = 0.90, 0.95


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt's numbers of C findings; nan for a finding that was never trained.

    Attributes:
        scale: (C,) a, above 0.
        bias: (C,) b.
        num_positive: (C,) validation films with the finding.
        num_negative: (C,) validation films without it.
        pooled: (C,) whether the fit is the one pooled over all findings.
    """

    scale: Floats
    bias: Floats
    num_positive: NDArray[np.int64]
    num_negative: NDArray[np.int64]
    pooled: NDArray[np.bool_]

    def apply(self, logits: ArrayLike) -> Floats:
        """(N, C) probability of (N, C) logits; nan for a finding that was never trained."""
        probability: Floats = expit(self.scale * np.asarray(logits, np.float64) + self.bias)
        return probability

    def to_dict(self, findings: Sequence[str]) -> dict[str, dict[str, Any]]:
        """One entry a trained finding, for bundle.yaml."""
        return {
            name: {
                "scale": float(self.scale[c]),
                "bias": float(self.bias[c]),
                "num_positive": int(self.num_positive[c]),
                "num_negative": int(self.num_negative[c]),
                "pooled": bool(self.pooled[c]),
            }
            for c, name in enumerate(findings)
            if not np.isnan(self.scale[c])
        }

    @classmethod
    def from_dict(cls, body: Mapping[str, Mapping[str, Any]], findings: Sequence[str]) -> Calibration:
        """The inverse of ``to_dict``; a finding without an entry was never trained."""
        rows = [body.get(name, {}) for name in findings]
        return cls(
            scale=np.array([row.get("scale", np.nan) for row in rows], np.float64),
            bias=np.array([row.get("bias", np.nan) for row in rows], np.float64),
            num_positive=np.array([row.get("num_positive", 0) for row in rows], np.int64),
            num_negative=np.array([row.get("num_negative", 0) for row in rows], np.int64),
            pooled=np.array([row.get("pooled", False) for row in rows], bool),
        )


def fit_platt(presence: Floats, logit: Floats) -> tuple[float, float]:
    """Scale and bias of one finding over films that are all known; (1, 0) without a film."""

    def loss(theta: Floats) -> tuple[float, Floats]:
        scale = np.exp(theta[0])
        s = scale * logit + theta[1]
        slope = expit(s) - presence
        value = np.sum(np.logaddexp(0.0, s) - presence * s) + np.sum((theta / prior) ** 2) / 2
        return float(value), np.array([np.sum(slope * logit) * scale, np.sum(slope)]) + theta / prior**2

    prior = np.array([PRIOR_LOG_SCALE, PRIOR_BIAS])
    fitted = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-6.0, 6.0), (-30.0, 30.0)])
    return float(np.exp(fitted.x[0])), float(fitted.x[1])


def fit_calibration(presence: ArrayLike, logits: ArrayLike, trained: ArrayLike | None = None) -> Calibration:
    """Fit every finding on validation films.

    For the conditional head, pass presence through ``hierarchy.given_parents`` first: it is asked only where all
    parents are present, and the product of calibrated conditionals is then what ``hierarchy.compose`` expects.

    Args:
        presence: (N, C) 1 present, 0 absent, nan unknown.
        logits: (N, C).
        trained: (C,) False where the finding was never trained; None where all were.
    """
    stated, given = np.asarray(presence, np.float64), np.asarray(logits, np.float64)
    answered = np.ones(given.shape[1], bool) if trained is None else np.asarray(trained, bool)
    keep = usable(stated, given) & answered
    num_positive, num_negative = (keep & (stated == 1)).sum(axis=0), (keep & (stated == 0)).sum(axis=0)
    pooled = answered & (np.minimum(num_positive, num_negative) < MIN_CLASS)
    shared = fit_platt(stated[keep], given[keep]) if pooled.any() else (np.nan, np.nan)
    numbers = np.full((given.shape[1], 2), np.nan)
    for c in np.flatnonzero(answered):
        numbers[c] = shared if pooled[c] else fit_platt(stated[keep[:, c], c], given[keep[:, c], c])
    return Calibration(numbers[:, 0], numbers[:, 1], num_positive, num_negative, pooled)


@dataclass(frozen=True, slots=True)
class Threshold:
    """One cut on the calibrated probability of one finding, and what it gave on the films it was chosen on."""

    threshold: float
    sensitivity: float
    specificity: float
    pooled: bool = False

    def to_dict(self) -> dict[str, Any]:
        rate = {"sensitivity": self.sensitivity, "specificity": self.specificity}
        stated = {k: None if np.isnan(v) else v for k, v in rate.items()}
        return {"threshold": self.threshold, **stated, "pooled": self.pooled}


def choose_thresholds(presence: ArrayLike, probability: ArrayLike) -> dict[str, Threshold]:
    """Cuts for the four named operating points of one finding; empty where only one class is known.

    balanced: the highest sensitivity + specificity (Youden). f1: the highest F1. sensitive: the highest cut with a
    sensitivity of at least .90. specific: the lowest cut with a specificity of at least .95. Of equal cuts the lower is
    taken, which misses less. A cut lies midway between two probabilities, so that rounding turns no call.

    Args:
        presence: (N,) 1 present, 0 absent, nan unknown.
        probability: (N,) calibrated.
    """
    keep = usable(presence, probability)
    positive = np.asarray(presence)[keep] == 1
    level, index = np.unique(np.asarray(probability, np.float64)[keep], return_inverse=True)
    if positive.all() or not positive.any():
        return {}
    cut = np.concatenate([[0.0], (level[1:] + level[:-1]) / 2, [max((level[-1] + 1) / 2, np.nextafter(level[-1], 2))]])
    tp, fp = (np.append(np.cumsum(np.bincount(index, x, len(level))[::-1])[::-1], 0.0) for x in (positive, ~positive))
    sensitivity, specificity = tp / tp[0], 1 - fp / fp[0]
    best = {
        "balanced": int(np.argmax(np.round(sensitivity + specificity, 12))),
        "f1": int(np.argmax(np.round(2 * tp / (tp + fp + tp[0]), 12))),
        "sensitive": int(np.flatnonzero(sensitivity >= SENSITIVE - 1e-12)[-1]),
        "specific": int(np.flatnonzero(specificity >= SPECIFIC - 1e-12)[0]),
    }
    return {p: Threshold(float(cut[i]), float(sensitivity[i]), float(specificity[i])) for p, i in best.items()}


def choose_operating_points(
    presence: ArrayLike, probability: ArrayLike, findings: Sequence[str]
) -> dict[str, dict[str, Threshold]]:
    """{operating point: {finding: threshold}} for every trained finding.

    A finding with fewer than five positives or negatives takes the cut chosen over all findings together, and the rates
    reported are what that cut gives on the finding itself, nan where it cannot be said.

    Args:
        presence: (N, C).
        probability: (N, C) calibrated; nan where never trained.
    """
    stated, given = np.asarray(presence, np.float64), np.asarray(probability, np.float64)
    shared = choose_thresholds(stated.ravel(), given.ravel())
    points: dict[str, dict[str, Threshold]] = {point: {} for point in POINTS}
    for c, name in enumerate(findings):
        keep = usable(stated[:, c], given[:, c])
        present, value = stated[keep, c] == 1, given[keep, c]
        own = min(present.sum(), (~present).sum()) >= MIN_CLASS
        chosen = choose_thresholds(stated[:, c], given[:, c]) if own else {}
        for point in POINTS if not np.isnan(given[:, c]).all() else ():
            points[point][name] = chosen.get(point) or _borrowed(shared.get(point), present, value)
    return points


def _borrowed(shared: Threshold | None, present: NDArray[np.bool_], probability: Floats) -> Threshold:
    cut = 0.5 if shared is None else shared.threshold
    called = probability >= cut
    sensitivity = float(ratio((called & present).sum(), present.sum()))
    specificity = float(ratio((~called & ~present).sum(), (~present).sum()))
    return Threshold(cut, sensitivity, specificity, pooled=True)

"""What films that weights were not trained on decide: calibration and thresholds, for training and `calibrate` alike.

N films, C findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.metrics.calibrate import MIN_CLASS, Calibration, choose_operating_points, fit_calibration
from cxr_mtl.metrics.classify import usable
from cxr_mtl.metrics.counts import Floats
from cxr_mtl.metrics.hierarchy import Parents, asked_presence, compose, either, own_logits

CONTRADICTED = 5.99  # chi-square of two degrees at 5 %: a correction has two numbers
RULES = {
    "balanced": "highest sensitivity + specificity (Youden)",
    "f1": "highest F1",
    "sensitive": "highest threshold with a sensitivity of at least 0.90",
    "specific": "lowest threshold with a specificity of at least 0.95",
}


@dataclass(frozen=True)
class Said:
    """What is stated of films, and what a network said of them.

    Attributes:
        presence: (N, C) 1 present, 0 absent, nan unknown.
        findings: (N, C) logits of the findings head.
        hierarchy: (N, C) logits of the tree's nodes.
        trained: (C,) False where the finding was never trained.
        parents: for each finding its nearest trained ancestors.
        tree: how the tree's logits compose.
    """

    presence: Floats
    findings: Floats
    hierarchy: Floats
    trained: NDArray[np.bool_]
    parents: Parents
    tree: str

    @property
    def own(self) -> Floats:
        """(N, C) what each node answers with before calibration."""
        return own_logits(self.hierarchy, self.trained, self.parents, self.tree)

    @property
    def asked(self) -> Floats:
        """(N, C) the presence that ``own`` answers for."""
        return asked_presence(self.presence, self.parents, self.tree)

    def probability(self, findings: Calibration, nodes: Calibration) -> Floats:
        """(N, C) what an answer would state."""
        return either(findings.apply(self.findings), compose(nodes.apply(self.own), self.parents, self.tree))


def fit_points(
    presence: Floats, probability: Floats, findings: Sequence[str]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Operating points and their rules, as ``Description`` holds them."""
    points = choose_operating_points(presence, probability, findings)
    rules = {
        point: {"rule": RULES[point], "reached": {finding: cut.to_dict() for finding, cut in cuts.items()}}
        for point, cuts in points.items()
    }
    return {point: {name: cut.threshold for name, cut in cuts.items()} for point, cuts in points.items()}, rules


def refit_calibration(old: Calibration, presence: Floats, logits: Floats) -> tuple[Calibration, NDArray[np.bool_]]:
    """Calibrate on other films, from where the old fit stands.

    What is fitted is a correction of the old calibration. It is taken where the films contradict the old one (ratio
    of their likelihoods, chi-square of two degrees, 5 %): elsewhere it would follow chance, and make films like the
    old ones worse. A finding with fewer than five present or absent films keeps the old one whole: training would
    take a fit pooled over all findings there, but that would put another hospital's average in the place of what
    was fitted to this finding.

    Args:
        old: of the C findings.
        presence: (N, C) 1, 0, nan.
        logits: (N, C) as the old calibration takes them.

    Returns:
        the new calibration, and (C,) which findings had films enough to ask.
    """
    trained, before = ~np.isnan(old.scale), old.scale * logits + old.bias
    step = fit_calibration(presence, before, trained)
    asked = trained & (np.minimum(step.num_positive, step.num_negative) >= MIN_CLASS)
    gain = _likelihood(presence, step.scale * before + step.bias) - _likelihood(presence, before)
    new = asked & (2 * gain > CONTRADICTED)
    calibration = Calibration(
        np.where(new, step.scale * old.scale, old.scale),
        np.where(new, step.scale * old.bias + step.bias, old.bias),
        np.where(new, step.num_positive, old.num_positive),
        np.where(new, step.num_negative, old.num_negative),
        old.pooled & ~new,
    )
    return calibration, asked


def _likelihood(presence: Floats, logits: Floats) -> Floats:
    """(C,) logarithm, over the films that are known."""
    known = usable(presence, logits)
    truth, given = np.where(known, presence, 0.0), np.where(known, logits, 0.0)
    return np.asarray((known * (truth * given - np.logaddexp(0.0, given))).sum(axis=0))


def refit_points(
    old: Mapping[str, Mapping[str, float]],
    old_rules: Mapping[str, Any],
    presence: Floats,
    probability: Floats,
    findings: Sequence[str],
) -> tuple[dict[str, dict[str, float]], dict[str, Any], NDArray[np.bool_]]:
    """As ``fit_points``, but a finding with fewer than five present or absent films keeps its cuts.

    Returns:
        operating points, rules, and (C,) which findings they are new for.
    """
    fitted, fitted_rules = fit_points(presence, probability, findings)
    known = ~np.isnan(probability)
    count = np.minimum(((presence == 1) & known).sum(0), ((presence == 0) & known).sum(0))
    new = count >= MIN_CLASS
    names = {name for name, is_new in zip(findings, new, strict=True) if is_new}
    points: dict[str, dict[str, float]] = {}
    rules: dict[str, Any] = {}
    for point, cuts in old.items():
        points[point] = {name: fitted[point][name] if name in names else cut for name, cut in cuts.items()}
        before, reached = old_rules.get(point, {}), fitted_rules[point]["reached"]
        kept = {name: rates for name, rates in before.get("reached", {}).items() if name not in names}
        rules[point] = {**before, "rule": RULES[point], "reached": kept | {n: reached[n] for n in cuts if n in names}}
    return points, rules, new

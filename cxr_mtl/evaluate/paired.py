"""Two bundles' answers to the same films, number for number. Pure. N films, R resamples after the sample itself.

A difference is the first bundle's number minus the second's, in the sample and in every resample of patients, so what
makes a resample easy makes it easy for both, and the interval of the difference is far narrower than those of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxr_mtl.bundle import Bundle
from cxr_mtl.evaluate.collect import Answered, Floats
from cxr_mtl.evaluate.results import Row, averaged, cuts_of, number, set_rates
from cxr_mtl.metrics.classify import MIN_POSITIVES
from cxr_mtl.metrics.counted import count_finding
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.detect import localization
from cxr_mtl.metrics.intervals import Resamples, resampled_ranking
from cxr_mtl.metrics.localize import TIOU

TIOU_COMPARED = (0.1, 0.3, 0.5)
RATES_COMPARED = ("sensitivity", "specificity")


@dataclass(frozen=True)
class Side:
    """One bundle and what it answered."""

    bundle: Bundle
    answered: Answered


Sides = tuple[Side, Side]
Drawn = Mapping[str, Any]
"""Names to (1 + R,) numbers, or to more names."""


def same_films(first: Side, second: Side) -> Sides:
    """Both with the films that both could read."""
    paths = [side.answered.manifest.table["image_path"] for side in (first, second)]
    kept = [np.flatnonzero(own.isin(other)).astype(np.intp) for own, other in (paths, paths[::-1])]
    return (
        replace(first, answered=first.answered.only(kept[0])),
        replace(second, answered=second.answered.only(kept[1])),
    )


def measure_pair(sides: Sides, draws: Resamples) -> Row:
    """Everything that can be said of both.

    Args:
        sides: answers to the same N films.
        draws: of these films.
    """
    sides, differing = _same_truth(sides)
    first, second = (_own_findings(side) for side in sides)
    findings = _common(averaged(sides[0].bundle, sides[0].answered), averaged(sides[1].bundle, sides[1].answered))
    located = _common(sides[0].bundle.located, sides[1].bundle.located)
    return {
        "min_positives": MIN_POSITIVES,
        "labels_read_differently": differing,
        "only_a": [name for name in first if name not in second],
        "only_b": [name for name in second if name not in first],
        "few": [name for name in _common(first, second) if name not in findings],
        "classification": _pair(*(_findings(side, findings, draws) for side in sides)),
        "hierarchy": _pair(*_trees(sides, draws)),
        "localization": {"findings": located, **_pair(*_boxes(sides, located, draws))},
    }


def comparisons(node: Any) -> Iterator[Row]:
    """Every difference anywhere in the results that has an interval."""
    if isinstance(node, Mapping):
        if "difference" in node:
            if node["difference"]["ci95"][0] is not None:
                yield dict(node)
            return
        for child in node.values():
            yield from comparisons(child)


def _common(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return [name for name in first if name in second]


def _own_findings(side: Side) -> list[str]:
    """What the bundle was trained for, without "normal" and derived groups."""
    ontology, trained = side.bundle.ontology, side.bundle.trained
    return [f.name for f in ontology.findings if f.name in trained and not f.group and f.name != ontology.normal]


def _same_truth(sides: Sides) -> tuple[Sides, int]:
    """Both held to the labels that both read alike, and how many (film, finding) they do not."""
    names = _common(sides[0].bundle.ontology.names, sides[1].bundle.ontology.names)
    columns = [[side.bundle.ontology.index(name) for name in names] for side in sides]
    one, other = (side.answered.presence[:, own] for side, own in zip(sides, columns, strict=True))
    agreed = np.where(one == other, one, np.nan)
    made = []
    for side, own in zip(sides, columns, strict=True):
        presence = side.answered.presence.copy()
        presence[:, own] = agreed
        made.append(replace(side, answered=replace(side.answered, presence=presence)))
    differing = np.isnan(agreed) & ~(np.isnan(one) & np.isnan(other))
    return (made[0], made[1]), int(differing.sum())


def _pair(first: Drawn, second: Drawn) -> Row:
    """Names that both have, each with both numbers and their difference."""
    return {
        name: _pair(own, second[name]) if isinstance(own, Mapping) else _compared(own, second[name])
        for name, own in first.items()
        if name in second
    }


def _compared(first: Floats, second: Floats) -> Row:
    difference = number(first - second)
    low, high = difference["ci95"]
    apart = low is not None and (low > 0 or high < 0)
    return {"a": number(first), "b": number(second), "difference": difference, "excludes_zero": apart}


def _findings(side: Side, names: list[str], draws: Resamples) -> Drawn:
    """Means and every finding, at the bundle's own thresholds."""
    columns = [side.bundle.ontology.index(name) for name in names]
    presence, probability = side.answered.presence[:, columns], side.answered.probability[:, columns]
    ranked = resampled_ranking(presence, probability, draws)
    rows = {}
    for c, name in enumerate(names):
        cuts = cuts_of(side.bundle, name)
        counted = count_finding(presence[:, c], probability[:, c], list(cuts.values()), draws)
        rates = {point: counted.rates(i) for i, point in enumerate(cuts)}
        rows[name] = {
            "auroc": ranked.auroc[:, c],
            "auprc": ranked.auprc[:, c],
            "brier": counted.brier,
            "ece": counted.ece,
            "operating_points": {point: {r: own[r] for r in RATES_COMPARED} for point, own in rates.items()},
        }
    means = {"auroc": known_mean(ranked.auroc, axis=1), "auprc": known_mean(ranked.auprc, axis=1)}
    return {"macro": means, "findings": rows}


def _trees(sides: Sides, draws: Resamples) -> Iterator[Drawn]:
    """hF of each, where both have the same tree; the sets of different trees are not to be compared."""
    one, other = (side.bundle.ontology for side in sides)
    alike = (one.names, one.parents, one.normal) == (other.names, other.parents, other.normal)
    for side in sides:
        if alike:
            known = ~np.isnan(sides[0].answered.hierarchy + sides[1].answered.hierarchy)
            presence = np.where(known, side.answered.presence, np.nan)
            yield {"hf": set_rates(side.bundle, presence, side.answered.hierarchy, draws)["hf"]}
        else:
            yield {}


def _boxes(sides: Sides, names: list[str], draws: Resamples) -> Iterator[Drawn]:
    """Means over the findings that both have boxes for, learned or weak."""
    own = [side.answered.located([side.bundle.located.index(name) for name in names]) for side in sides]
    for answered in own:
        found = localization(own[0].annotated, answered.proposed, own[0].asked & own[1].asked, draws)
        yield {
            "accuracy_at_tiou": {str(t): known_mean(found.iou[:, :, TIOU.index(t)], axis=1) for t in TIOU_COMPARED},
            "pointing_game": known_mean(found.pointing, axis=1),
            "map40": known_mean(found.precision, axis=1),
        }

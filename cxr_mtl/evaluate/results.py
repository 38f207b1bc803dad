"""From arrays to the numbers of results.json. Pure. N films, C findings, R resamples after the sample itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cxr_mtl.bundle import Bundle
from cxr_mtl.evaluate.collect import Answered, Floats
from cxr_mtl.metrics.classify import MIN_POSITIVES, enough
from cxr_mtl.metrics.counted import Counted, count_finding
from cxr_mtl.metrics.counts import known_mean, ratio
from cxr_mtl.metrics.hierarchy import (
    depth_auroc,
    given_parents,
    hierarchical_counts,
    hierarchical_rates,
    violations,
)
from cxr_mtl.metrics.intervals import Ranked, Resamples, estimate, resampled_auroc, resampled_ranking

HIERARCHY_POINT = "balanced"

Row = dict[str, Any]


def number(drawn: Floats) -> Row:
    """A value with its interval, from (1 + R,)."""
    return estimate(drawn).to_dict()


def numbers(names: Iterable[str], drawn: Floats) -> dict[str, Row]:
    """The same for each column of (1 + R, K)."""
    return {name: number(column) for name, column in zip(names, drawn.T, strict=True)}


def averaged(bundle: Bundle, answered: Answered) -> list[str]:
    """The findings that the means are about, in order: what the data's own labels name and there is enough of, without
    "normal" and derived groups."""
    ontology = bundle.ontology
    named = {name for dataset in set(answered.manifest.table["dataset"]) for name in ontology.labelled_by(dataset)}
    many = enough(answered.presence, answered.probability)
    return [
        f.name
        for f, plenty in zip(ontology.findings, many, strict=True)
        if plenty and f.name != ontology.normal and (not f.group or f.name in named)
    ]


def classification(bundle: Bundle, answered: Answered, draws: Resamples) -> Row:
    """Findings head: macro averages, every finding, the groups and what is rare apart, and what cannot be measured."""
    names = bundle.ontology.names
    ranked = resampled_ranking(answered.presence, answered.probability, draws)
    trained = ~np.isnan(answered.probability).all(axis=0)
    defined = ~np.isnan(ranked.auroc[0])
    many = enough(answered.presence, answered.probability)
    headline = averaged(bundle, answered)
    main = [names.index(name) for name in headline]
    rows = {names[c]: _finding(bundle, answered, draws, ranked, int(c)) for c in np.flatnonzero(defined)}
    plenty = {names[c] for c in np.flatnonzero(many)}
    return {
        "macro": {
            "auroc": number(known_mean(ranked.auroc[:, main], axis=1)),
            "auprc": number(known_mean(ranked.auprc[:, main], axis=1)),
            "num_findings": len(main),
        },
        "min_positives": MIN_POSITIVES,
        "findings": {name: row for name, row in rows.items() if name in headline},
        "groups": {name: row for name, row in rows.items() if name in plenty and name not in headline},
        "few": {name: row for name, row in rows.items() if name not in plenty},
        "skipped": [names[c] for c in np.flatnonzero(trained & ~defined)],
        "not_trained": [names[c] for c in np.flatnonzero(~trained)],
    }


def _finding(bundle: Bundle, answered: Answered, draws: Resamples, ranked: Ranked, c: int) -> Row:
    cuts = cuts_of(bundle, bundle.ontology.names[c])
    counted = count_finding(answered.presence[:, c], answered.probability[:, c], list(cuts.values()), draws)
    return {
        "n": int(counted.known[0]),
        "n_pos": int(counted.positive[0]),
        "prevalence": number(counted.prevalence),
        "auroc": number(ranked.auroc[:, c]),
        "auprc": number(ranked.auprc[:, c]),
        "ece": number(counted.ece),
        "brier": number(counted.brier),
        "reliability": _bins(counted),
        "operating_points": {
            point: {"threshold": cut, **_rates(counted, i)} for i, (point, cut) in enumerate(cuts.items())
        },
    }


def cuts_of(bundle: Bundle, finding: str) -> dict[str, float]:
    """The finding's threshold at each operating point that has one."""
    return {point: float(by[finding]) for point, by in bundle.operating_points.items() if by.get(finding) is not None}


def _bins(counted: Counted) -> list[Row]:
    """What ECE averages: each bin's films, mean probability and how often the finding is there."""
    frequency = ratio(counted.bin_positive, counted.bin_known)
    return [
        {"n": int(known), "probability": float(total / known), "frequency": number(drawn)}
        for known, total, drawn in zip(counted.bin_known[0], counted.bin_probability[0], frequency.T, strict=True)
    ]


def _rates(counted: Counted, point: int) -> Row:
    """Rates and counts of one operating point."""
    cells = dict(zip(("tp", "fp", "tn", "fn"), (int(n) for n in counted.cells[0, point]), strict=True))
    return {rate: number(drawn) for rate, drawn in counted.rates(point).items()} | cells


def hierarchy(bundle: Bundle, answered: Answered, draws: Resamples) -> Row:
    """Hierarchy head: consistency, sets closed under ancestors, and ranking given the parents and at each depth."""
    ontology = bundle.ontology
    parents = ontology.parents_among(bundle.trained)
    asked = given_parents(answered.presence, parents)
    conditional = resampled_auroc(asked, answered.conditional, draws)
    many = enough(asked, answered.conditional)
    inner = [c for c, above in enumerate(parents) if above and not np.isnan(conditional[0, c])]
    auroc = resampled_auroc(answered.presence, answered.hierarchy, draws)
    auroc[:, ~enough(answered.presence, answered.hierarchy)] = np.nan
    if ontology.normal is not None:
        auroc[:, ontology.index(ontology.normal)] = np.nan
    by_depth = depth_auroc(auroc, ontology.depth)
    return {
        "violation_rate": _violation_rate(answered.hierarchy, bundle, draws),
        "flat_violation_rate": _violation_rate(answered.probability, bundle, draws),
        "operating_point": HIERARCHY_POINT,
        **_set_rates(bundle, answered, answered.hierarchy, draws),
        "flat": _set_rates(bundle, answered, answered.probability, draws),
        "conditional_auroc": number(known_mean(conditional[:, [c for c in inner if many[c]]], axis=1))
        | {
            "findings": numbers([ontology.names[c] for c in inner], conditional[:, inner]),
            "few": [ontology.names[c] for c in inner if not many[c]],
        },
        "depth_auroc": numbers([str(d) for d in range(by_depth.shape[1])], by_depth),
    }


def _violation_rate(probability: Floats, bundle: Bundle, draws: Resamples) -> Row:
    found = violations(probability, bundle.ontology.edges)
    sums = draws.sums(np.stack([np.nansum(found, axis=1), np.sum(~np.isnan(found), axis=1)], axis=1))
    return number(ratio(sums[:, 0], sums[:, 1]))


def _set_rates(bundle: Bundle, answered: Answered, probability: Floats, draws: Resamples) -> dict[str, Row]:
    return {rate: number(drawn) for rate, drawn in set_rates(bundle, answered.presence, probability, draws).items()}


def set_rates(bundle: Bundle, presence: Floats, probability: Floats, draws: Resamples) -> dict[str, Floats]:
    """Hierarchical precision, recall and F in each resample, "normal" and what was never trained left out."""
    ontology = bundle.ontology
    cuts = bundle.operating_points.get(HIERARCHY_POINT, {})
    threshold = np.array([cuts.get(name, np.nan) for name in ontology.names], np.float64)
    if ontology.normal is not None:
        threshold[ontology.index(ontology.normal)] = np.nan
    stated = np.where(np.isnan(threshold) | np.isnan(probability), np.nan, presence)
    counts = hierarchical_counts(stated, probability >= threshold, ontology.parents)
    return hierarchical_rates(draws.sums(counts))

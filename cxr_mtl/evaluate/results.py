"""From arrays to the numbers of results.json. Pure. N films, C findings, R resamples after the sample itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cxr_mtl.bundle import Bundle
from cxr_mtl.evaluate.collect import Answered, Floats
from cxr_mtl.metrics.classify import BINS, outcomes, rates, reliability, usable
from cxr_mtl.metrics.counts import known_mean, ratio
from cxr_mtl.metrics.hierarchy import (
    depth_auroc,
    given_parents,
    hierarchical_counts,
    hierarchical_rates,
    violations,
)
from cxr_mtl.metrics.intervals import Ranked, Resamples, estimate, resampled_ranking

HIERARCHY_POINT = "balanced"
AGE_BANDS = (0, 18, 40, 60, 80)

Row = dict[str, Any]


def number(drawn: Floats) -> Row:
    """A value with its interval, from (1 + R,)."""
    return estimate(drawn).to_dict()


def numbers(names: Iterable[str], drawn: Floats) -> dict[str, Row]:
    """The same for each column of (1 + R, K)."""
    return {name: number(column) for name, column in zip(names, drawn.T, strict=True)}


def averaged(bundle: Bundle, answered: Answered) -> list[str]:
    """The findings that the headline is about: what the data's own labels name, without "normal" and derived groups."""
    ontology = bundle.ontology
    named = {name for dataset in set(answered.manifest.table["dataset"]) for name in ontology.labelled_by(dataset)}
    return [f.name for f in ontology.findings if f.name != ontology.normal and (not f.group or f.name in named)]


def classification(bundle: Bundle, answered: Answered, draws: Resamples) -> Row:
    """Findings head: macro averages, every finding, the groups apart, and what could not be measured."""
    names = bundle.ontology.names
    ranked = resampled_ranking(answered.presence, answered.probability, draws)
    trained = ~np.isnan(answered.probability).all(axis=0)
    defined = ~np.isnan(ranked.auroc[0])
    headline = averaged(bundle, answered)
    main = [c for c, name in enumerate(names) if name in headline and defined[c]]
    rows = {names[c]: _finding(bundle, answered, draws, ranked, int(c)) for c in np.flatnonzero(defined)}
    return {
        "macro": {
            "auroc": number(known_mean(ranked.auroc[:, main], axis=1)),
            "auprc": number(known_mean(ranked.auprc[:, main], axis=1)),
            "num_findings": len(main),
        },
        "findings": {name: row for name, row in rows.items() if name in headline},
        "groups": {name: row for name, row in rows.items() if name not in headline},
        "skipped": [names[c] for c in np.flatnonzero(trained & ~defined)],
        "not_trained": [names[c] for c in np.flatnonzero(~trained)],
    }


def _finding(bundle: Bundle, answered: Answered, draws: Resamples, ranked: Ranked, c: int) -> Row:
    presence, probability = answered.presence[:, c], answered.probability[:, c]
    name = bundle.ontology.names[c]
    keep = usable(presence, probability)
    truth, given = np.where(keep, presence, 0.0), np.where(keep, probability, 0.0)
    cuts = {point: cut for point, by in bundle.operating_points.items() if (cut := by.get(name)) is not None}
    cells = [outcomes(presence, probability, cut) for cut in cuts.values()]
    table = reliability(presence, probability)
    gaps = (table.bin[:, None] == np.arange(BINS)) * (given - truth)[:, None]
    columns = np.concatenate([np.stack([keep, truth, (given - truth) ** 2]), gaps.T, *cells]).T
    sums = draws.sums(columns)
    known, positive, squares, gap = sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3 : 3 + BINS]
    counted = sums[:, 3 + BINS :].reshape(len(draws), len(cuts), 4)
    return {
        "n": int(known[0]),
        "n_pos": int(positive[0]),
        "prevalence": number(ratio(positive, known)),
        "auroc": number(ranked.auroc[:, c]),
        "auprc": number(ranked.auprc[:, c]),
        "ece": number(ratio(np.abs(gap).sum(axis=1), known)),
        "brier": number(ratio(squares, known)),
        "operating_points": {
            point: {"threshold": float(cut), **_rates(counted[:, i])} for i, (point, cut) in enumerate(cuts.items())
        },
    }


def _rates(counted: Floats) -> Row:
    """Rates and counts of one operating point from (1 + R, 4) cells."""
    cells = dict(zip(("tp", "fp", "tn", "fn"), (int(n) for n in counted[0]), strict=True))
    return {rate: number(drawn) for rate, drawn in rates(*counted.T).items()} | cells


def hierarchy(bundle: Bundle, answered: Answered, draws: Resamples) -> Row:
    """Hierarchy head: consistency, sets closed under ancestors, and ranking given the parents and at each depth."""
    ontology = bundle.ontology
    parents = ontology.parents_among(bundle.trained)
    conditional = resampled_ranking(given_parents(answered.presence, parents), answered.conditional, draws).auroc
    inner = [c for c, above in enumerate(parents) if above and not np.isnan(conditional[0, c])]
    auroc = resampled_ranking(answered.presence, answered.hierarchy, draws).auroc
    if ontology.normal is not None:
        auroc[:, ontology.index(ontology.normal)] = np.nan
    by_depth = depth_auroc(auroc, ontology.depth)
    return {
        "violation_rate": _violation_rate(answered.hierarchy, bundle, draws),
        "flat_violation_rate": _violation_rate(answered.probability, bundle, draws),
        "operating_point": HIERARCHY_POINT,
        **_set_rates(bundle, answered, answered.hierarchy, draws),
        "flat": _set_rates(bundle, answered, answered.probability, draws),
        "conditional_auroc": number(known_mean(conditional[:, inner], axis=1))
        | {"findings": numbers([ontology.names[c] for c in inner], conditional[:, inner])},
        "depth_auroc": numbers([str(d) for d in range(by_depth.shape[1])], by_depth),
    }


def _violation_rate(probability: Floats, bundle: Bundle, draws: Resamples) -> Row:
    found = violations(probability, bundle.ontology.edges)
    sums = draws.sums(np.stack([np.nansum(found, axis=1), np.sum(~np.isnan(found), axis=1)], axis=1))
    return number(ratio(sums[:, 0], sums[:, 1]))


def _set_rates(bundle: Bundle, answered: Answered, probability: Floats, draws: Resamples) -> dict[str, Row]:
    """Hierarchical precision, recall and F, "normal" and what was never trained left out."""
    ontology = bundle.ontology
    cuts = bundle.operating_points.get(HIERARCHY_POINT, {})
    threshold = np.array([cuts.get(name, np.nan) for name in ontology.names], np.float64)
    if ontology.normal is not None:
        threshold[ontology.index(ontology.normal)] = np.nan
    presence = np.where(np.isnan(threshold) | np.isnan(probability), np.nan, answered.presence)
    counts = hierarchical_counts(presence, probability >= threshold, ontology.parents)
    return {rate: number(drawn) for rate, drawn in hierarchical_rates(draws.sums(counts)).items()}


def subgroups(bundle: Bundle, answered: Answered, draws: Resamples) -> dict[str, dict[str, Row]]:
    """Macro AUROC by sex, age, view and dataset, over the findings that have both classes in the group."""
    table = answered.manifest.table
    kinds: dict[str, list[Any]] = {
        "sex": list(table["sex"]),
        "age": [age_band(years) for years in table["age"].to_numpy(np.float64)],
        "view": list(table["view"]),
        "dataset": list(table["dataset"]),
    }
    main = [bundle.ontology.index(name) for name in averaged(bundle, answered)]
    result: dict[str, dict[str, Row]] = {}
    for kind, values in kinds.items():
        stated = np.array([value if isinstance(value, str) else "unknown" for value in values])
        result[kind] = {str(name): _subgroup(answered, draws, main, stated == name) for name in np.unique(stated)}
    return result


def age_band(years: float) -> str | None:
    """Such as 40-59; None where unknown."""
    if np.isnan(years):
        return None
    band = sum(years >= start for start in AGE_BANDS) - 1
    return f"{AGE_BANDS[band]}-{AGE_BANDS[band + 1] - 1}" if band + 1 < len(AGE_BANDS) else f"{AGE_BANDS[band]}+"


def _subgroup(answered: Answered, draws: Resamples, main: list[int], inside: Any) -> Row:
    presence = np.where(inside[:, None], answered.presence[:, main], np.nan)
    auroc = resampled_ranking(presence, answered.probability[:, main], draws).auroc
    return {
        "n_images": int(inside.sum()),
        "n_patients": len(set(draws.patient[inside])),
        "num_findings": int((~np.isnan(auroc[0])).sum()),
        "macro_auroc": number(known_mean(auroc, axis=1)),
    }

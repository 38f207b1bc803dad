"""Groups of patients, and how far apart they are. Pure. N films, C findings of the means, R resamples after the sample.

A gap is a difference of two groups over the findings that there is enough of in both, so that no group looks worse for
having the harder findings. Both groups are drawn in the same resamples: a patient with films in both is in both or in
neither. Shown is the widest of all pairs. It was looked for, so it is wider than a pair named beforehand would be, and
its interval does not know that; the values of all groups stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.bundle import Bundle
from cxr_mtl.evaluate.collect import Answered, Floats
from cxr_mtl.evaluate.results import Row, averaged, number
from cxr_mtl.metrics.classify import enough, outcomes, rates
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.intervals import Resamples, resampled_auroc

AGE_BANDS = (0, 18, 40, 60, 80)
UNKNOWN = "unknown"
GAP_POINT = "balanced"
MIN_PATIENTS = 30
"""Of a group, below which it takes no part in a gap: its interval does not hold."""


@dataclass(frozen=True)
class Group:
    """Films of one group.

    Attributes:
        num_images: films.
        num_patients: patients.
        measures: macro_auroc, sensitivity, specificity: (1 + R, C) of each finding; nan where not defined.
        many: (C,) whether there is enough of the finding in this group.
    """

    num_images: int
    num_patients: int
    measures: Mapping[str, Floats]
    many: NDArray[np.bool_]

    def row(self) -> Row:
        mean = {name: number(known_mean(drawn, axis=1)) for name, drawn in self.measures.items()}
        return {
            "n_images": self.num_images,
            "n_patients": self.num_patients,
            "num_findings": int((~np.isnan(self.measures["macro_auroc"][0])).sum()),
            **mean,
        }


def subgroups(bundle: Bundle, answered: Answered, draws: Resamples) -> Row:
    """``subgroups``: by sex, age, view and dataset, each group over the findings of the means that have both classes in
    it; and ``subgroup_gaps``."""
    columns = [bundle.ontology.index(name) for name in averaged(bundle, answered)]
    kinds = {
        kind: {str(name): _measure(bundle, answered, draws, columns, stated == name) for name in np.unique(stated)}
        for kind, stated in _kinds(answered.manifest.table).items()
    }
    gaps: Row = {kind: _gaps(groups) for kind, groups in kinds.items()}
    return {
        "subgroups": {kind: {name: group.row() for name, group in groups.items()} for kind, groups in kinds.items()},
        "subgroup_gaps": {"min_patients": MIN_PATIENTS, "operating_point": GAP_POINT, "kinds": gaps},
    }


def age_bands(years: Floats) -> list[str]:
    """Of each age, such as 40-59; ``unknown`` where it is nan."""
    ends = [f"-{end - 1}" for end in AGE_BANDS[1:]] + ["+"]
    names = [f"{start}{end}" for start, end in zip(AGE_BANDS, ends, strict=True)]
    bands = np.digitize(years, AGE_BANDS[1:])
    return [UNKNOWN if unknown else names[band] for band, unknown in zip(bands, np.isnan(years), strict=True)]


def _kinds(table: pd.DataFrame) -> dict[str, NDArray[np.str_]]:
    """Which group each film is in, by kind of group. A manifest says ``UNKNOWN`` for a view nobody stated."""
    given = table[["sex", "view", "dataset"]].fillna(UNKNOWN).replace({"view": {"UNKNOWN": UNKNOWN}})
    stated = {str(kind): given[kind].to_numpy(str) for kind in given}
    ages = np.array(age_bands(table["age"].to_numpy(np.float64)), str)
    return {"sex": stated["sex"], "age": ages, "view": stated["view"], "dataset": stated["dataset"]}


def _measure(
    bundle: Bundle, answered: Answered, draws: Resamples, columns: list[int], inside: NDArray[np.bool_]
) -> Group:
    films = np.flatnonzero(inside)
    presence, probability = (table[films][:, columns] for table in (answered.presence, answered.probability))
    own = Resamples(draws.patient[films], draws.counts)
    cuts = bundle.operating_points.get(GAP_POINT, {})
    threshold = np.array([cuts.get(bundle.ontology.names[c], np.nan) for c in columns])
    cells = np.moveaxis(outcomes(presence, probability, threshold), 0, -1)  # (n, C, 4)
    counted = own.sums(cells.reshape(len(films), 4 * len(columns))).reshape(len(draws), len(columns), 4)
    called = rates(*np.moveaxis(counted, -1, 0))
    return Group(
        num_images=len(films),
        num_patients=len(np.unique(own.patient)),
        measures={
            "macro_auroc": resampled_auroc(presence, probability, own),
            "sensitivity": called["sensitivity"],
            "specificity": called["specificity"],
        },
        many=enough(presence, probability),
    )


def _gaps(groups: Mapping[str, Group]) -> Row:
    """The widest gap of each measure over all pairs of groups that are large enough."""
    large = {name: g for name, g in groups.items() if name != UNKNOWN and g.num_patients >= MIN_PATIENTS}
    pairs = list(combinations(large, 2))
    measures = next(iter(groups.values())).measures
    return {
        "groups": list(large),
        "n_pairs": len(pairs),
        **{measure: _widest(large, pairs, measure) for measure in measures},
    }


def _widest(groups: Mapping[str, Group], pairs: list[tuple[str, str]], measure: str) -> Row:
    found = [gap for pair in pairs if (gap := _gap(groups, pair, measure)) is not None]
    return max(found, key=lambda gap: gap["value"], default=number(np.full(1, np.nan)) | {"between": []})


def _gap(groups: Mapping[str, Group], pair: tuple[str, str], measure: str) -> Row | None:
    """Larger minus smaller, the larger named first; None where the pair has no finding in common."""
    both = groups[pair[0]].many & groups[pair[1]].many
    values = {name: groups[name].measures[measure][:, both] for name in pair}
    difference = known_mean(values[pair[0]] - values[pair[1]], axis=1)
    if np.isnan(difference[0]):
        return None
    large, small = pair if difference[0] >= 0 else pair[::-1]
    return number(difference if difference[0] >= 0 else -difference) | {
        "between": [large, small],
        "values": [number(known_mean(values[name], axis=1)) for name in (large, small)],
        "num_findings": int(both.sum()),
    }

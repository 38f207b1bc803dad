"""Examinations of several films, judged as one. Pure. S studies, C findings."""

from __future__ import annotations

import numpy as np

from cxr_mtl.bundle import Bundle
from cxr_mtl.evaluate.collect import Answered, Floats
from cxr_mtl.evaluate.results import Row, averaged, number
from cxr_mtl.metrics.classify import enough
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.intervals import Resamples, resampled_ranking
from cxr_mtl.metrics.study import Studies, Together, group_studies


def study(bundle: Bundle, answered: Answered, draws: Resamples) -> Row:
    """The findings of the means once more, a study's probability being the mean, or the highest, of its films'.

    What a film leaves unsaid another film of the study may say, so there can be too few studies of a finding and enough
    films; it then stands under ``few``.
    """
    films = answered.manifest
    studies = group_studies(list(films.patient_ids), list(films.table["study_id"]))
    names = averaged(bundle, answered)
    columns = [bundle.ontology.index(name) for name in names]
    presence = studies.presence(answered.presence[:, columns])
    own = studies.resamples(draws)
    several = int((studies.sizes > 1).sum())

    def measured(together: Together) -> Row:
        return _measured(names, presence, together(studies, answered.probability[:, columns]), own)

    # Of studies of one film the mean is the highest: no need to measure it twice.
    by_mean = measured(Studies.mean)
    return {
        "n_studies": len(studies),
        "n_with_several_films": several,
        "mean": by_mean,
        "max": measured(Studies.highest) if several else by_mean,
    }


def _measured(names: list[str], presence: Floats, probability: Floats, draws: Resamples) -> Row:
    ranked = resampled_ranking(presence, probability, draws)
    many = enough(presence, probability)
    main = np.flatnonzero(many)
    return {
        "macro": {
            "auroc": number(known_mean(ranked.auroc[:, main], axis=1)),
            "auprc": number(known_mean(ranked.auprc[:, main], axis=1)),
            "num_findings": len(main),
        },
        "findings": {
            names[c]: {
                "n": int((~np.isnan(presence[:, c])).sum()),
                "n_pos": int((presence[:, c] == 1).sum()),
                "auroc": number(ranked.auroc[:, c]),
                "auprc": number(ranked.auprc[:, c]),
            }
            for c in main
        },
        "few": [names[c] for c in np.flatnonzero(~many)],
    }

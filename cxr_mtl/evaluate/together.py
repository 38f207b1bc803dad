"""Which findings are stated together, and which are called together. Pure. N films, C findings, K of them shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxr_mtl.bundle import Bundle
from cxr_mtl.evaluate.collect import Answered, Floats
from cxr_mtl.evaluate.results import Row
from cxr_mtl.metrics.classify import usable
from cxr_mtl.metrics.counts import ratio

POINT = "balanced"
MOST = 20  # findings of a table that a person can still read


def cooccurrence(bundle: Bundle, answered: Answered, findings: Sequence[str]) -> Row:
    """Of the films with one finding, the share that has another too: as stated, and as called.

    A pair is counted on the films where both are known, so that the two tables are about the same films.

    Args:
        findings: those that were measured; of more than ``MOST`` the most frequent are shown.

    Returns:
        ``stated`` and ``called``, each with ``count`` and ``share``: K rows of K, the row the finding that is given.
        The share is None where no film has the row's finding.
    """
    cuts = bundle.operating_points.get(POINT, {})
    columns = [bundle.ontology.index(name) for name in findings if name in cuts]
    positives = {c: int((answered.presence[:, c] == 1).sum()) for c in columns}
    kept = set(sorted(columns, key=lambda c: -positives[c])[:MOST])
    columns = [c for c in columns if c in kept]
    names = [bundle.ontology.names[c] for c in columns]
    presence, probability = answered.presence[:, columns], answered.probability[:, columns]
    known = usable(presence, probability)
    called = known & (probability >= np.array([cuts[name] for name in names], np.float64))
    return {
        "operating_point": POINT,
        "findings": names,
        "stated": _table(known & (presence == 1), known),
        "called": _table(called, known),
    }


def _table(has: np.ndarray, known: np.ndarray) -> Row:
    one, asked = has.astype(np.float64), known.astype(np.float64)
    count: Floats = one.T @ one
    share = ratio(count, one.T @ asked)
    return {
        "count": count.astype(int).tolist(),
        "share": [[None if np.isnan(value) else float(value) for value in row] for row in share],
    }

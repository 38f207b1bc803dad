"""Which films show a finding that should have a box and has none.  N films, C findings of the ontology."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.ontology import Ontology
from cxr_mtl.types import PRESENT, UNCERTAIN, Box


def unboxed(
    drawn: Sequence[Sequence[Box]], stated: NDArray[np.float32], boxed: Sequence[str], ontology: Ontology
) -> NDArray[np.bool_]:
    """(N,) films with a finding that has boxes elsewhere and none here: a place without a box may still show it.

    So it is where a reader ticks Lung tumor, which nobody boxes and which is a lesion as Nodule/Mass is; and where a
    box of Consolidation is also a place of Lung Opacity, though it is not said again. A finding that is uncertain may
    be there as well.

    Args:
        drawn: N films' boxes, of findings among ``boxed``.
        stated: (N, C) 1 present, 0 absent, -1 uncertain, nan not stated.
        boxed: the findings that have boxes.
    """
    labels = ontology.propagate(stated)[:, [ontology.index(name) for name in boxed]]
    shown = (labels == PRESENT) | (labels == UNCERTAIN)
    place = {name: c for c, name in enumerate(boxed)}
    for film, boxes in enumerate(drawn):
        shown[film, [place[box.finding] for box in boxes]] = False
    return np.asarray(shown.any(axis=1))

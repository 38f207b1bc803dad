"""What a source hands back: rows as the dataset states them, nothing dealt, filtered or inferred yet.

N films, C findings of the ontology, in its order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Found:
    """A dataset's own tables, read.

    Attributes:
        rows: one a film, numbered from 0. ``image_path`` (relative to the root, with slashes), ``image_id``,
            ``patient_id`` and ``study_id`` are needed; ``split``, ``view``, ``age`` (years), ``sex``, ``width`` and
            ``height`` (frame of the boxes, pixels), ``boxes`` and ``boxes_exhaustive`` where the dataset knows them.
        stated: (N, C) 1 present, 0 absent, -1 uncertain, nan not stated.
        info: where the labels come from: files, their hashes, options; JSON values.
        labelled: findings that the dataset speaks of.
        boxed: findings that it draws boxes for; on a film with ``boxes_exhaustive`` no box means absent for these only.
        split_how: by what ``rows.split`` was stated, such as official lists; None where the dataset states no split.
        unlisted: (N,) bool, the film carries a word of the dataset's that the ontology lacks; None: not known.
        root: the folder that ``image_path`` is relative to, where it is not the one that was given.
    """

    rows: pd.DataFrame
    stated: NDArray[np.float32]
    info: dict[str, Any]
    labelled: tuple[str, ...]
    boxed: tuple[str, ...] = ()
    split_how: dict[str, Any] | None = None
    unlisted: NDArray[np.bool_] | None = None
    root: Path | None = None

"""VinDr-CXR 1.0.0, in the layout that PhysioNet distributes.

``train/`` and ``test/`` with ``<image_id>.dicom`` (a PNG or JPEG copy does as well), and for each of the two, in
``annotations/``:

* ``image_labels_*.csv``: a column for each of 28 labels, 1 or 0; in training a row for each of three readers
  (``rad_id``), in test one row of the consensus of five.
* ``annotations_*.csv``: a row for each box, in pixels of the original DICOM; in test without ``rad_id``.

A closed world for 22 local labels, which are boxed, and 6 global ones, which are not. All other findings are unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.readers.drawn import CORNERS
from cxr_mtl.data.sources.readers.settle import Annotated, check_readers, settle
from cxr_mtl.data.sources.readers.votes import make_readings
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.files import keep_films
from cxr_mtl.data.sources.vindr_tables import HINT, KEYS, LOCAL, WORDS, Half, read_half
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology

NAME = "vindr"


def read_vindr(
    root: Path, ontology: Ontology, tally: Tally, *, allow_missing_images: bool, readers: str = "any"
) -> Found:
    """Read the folder; one of the two halves, training and test, is enough.

    Args:
        allow_missing_images: keep rows without a film, and boxes without a frame.
        readers: how three readers become one answer: ``any``, ``majority`` or ``fusion``; see readers.py.

    Raises:
        ConfigError: ``readers`` is none of these.
        DataError: a table or the films are missing or cannot be read.
    """
    check_readers(readers)
    info: dict[str, Any] = {}
    halves = [half for split in ("train", "test") if (half := read_half(root, split, info, tally))]
    if not halves:
        raise DataError(f"{root} has no annotations/image_labels_train.csv and no image_labels_test.csv.", hint=HINT)
    how = {"how": "VinDr's train and test"} | {key: info[key] for key in info if key.endswith("labels_sha256")}
    found = settle(
        _annotated(halves, _films(root, halves, tally, allow_missing_images), tally),
        root,
        NAME,
        ontology,
        tally,
        readers=readers,
        local=LOCAL,
        info=info,
        keep_unframed=allow_missing_images,
    )
    return replace(found, split_how=how)


def _films(root: Path, halves: Sequence[Half], tally: Tally, allow_missing: bool) -> pd.DataFrame:
    parts = [(half.split, half.labels["image_id"].drop_duplicates()) for half in halves]
    rows = pd.concat(
        [pd.DataFrame({"image_id": f, "image_path": f"{split}/" + f + ".dicom", "split": split}) for split, f in parts],
        ignore_index=True,
    )
    if both := rows["image_id"][rows["image_id"].duplicated()].tolist():
        raise DataError(f"{len(both)} films are in both training and test of {root}, first: {both[0]}.", hint=HINT)
    rows = keep_films(rows, root, tally, allow_missing_images=allow_missing, hint=HINT)
    tally.note("the dataset names no patients: each film counts as a patient of its own")
    return rows.assign(patient_id=rows["image_id"], study_id=rows["image_id"], view="PA")


def _annotated(halves: Sequence[Half], rows: pd.DataFrame, tally: Tally) -> Annotated:
    """The tables of the films that are kept."""
    films = pd.Index(rows["image_id"])
    labels = pd.concat([half.labels for half in halves], ignore_index=True)
    labels = labels[labels["image_id"].isin(films)]
    if num := int(labels.duplicated(KEYS).sum()):
        tally.note(f"{num:,} rows are a reader's second of the same film: what either ticks is ticked")
    boxes = [half.boxes[half.boxes["image_id"].isin(films)] for half in halves if half.boxes is not None]
    drawn = pd.concat(boxes, ignore_index=True) if boxes else pd.DataFrame(columns=[*KEYS, "word", *CORNERS])
    covered = {half.split for half in halves if half.boxes is not None}
    unsure = frozenset().union(*(half.unsure for half in halves))
    return Annotated(
        rows=rows,
        readings=make_readings(
            len(rows),
            films.get_indexer(pd.Index(labels["image_id"])).astype(np.intp),
            labels["reader"].tolist(),
            WORDS,
            labels[list(WORDS)].to_numpy(np.float32),
        ),
        drawn=drawn,
        drawn_all=(rows["split"].isin(covered) & ~films.isin(unsure)).to_numpy(bool),
        sizes=boxes,
    )

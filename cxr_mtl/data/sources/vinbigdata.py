"""VinBigData Chest X-ray Abnormalities Detection, in the layout that Kaggle distributes.

``train.csv`` (image_id, class_name, class_id, rad_id, x_min, y_min, x_max, y_max) and the films in ``train/``, DICOM or
a PNG or JPEG copy. A row is a box that one of three radiologists drew, or that radiologist's "No finding". The test
films of Kaggle have no labels and are not read.

A closed world for its 14 classes: a reader who does not box one does not see it. All other findings are unknown. The
films are those of VinDr-CXR's training set, under the same names: as VinDr's patients they stay in one split with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.readers.drawn import CORNERS
from cxr_mtl.data.sources.readers.settle import Annotated, check_readers, settle
from cxr_mtl.data.sources.readers.votes import Readings, make_readings
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.files import find_table, keep_films, read_table, short_hash
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT

NAME = "vinbigdata"
NORMAL = "No finding"
# fmt: off
LOCAL = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
    "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis",
)
# fmt: on
"""Classes 0 to 13, each with boxes; 14 is ``NORMAL``."""

_COLUMNS = ("image_id", "class_name", "rad_id", *CORNERS)
_TABLES = ("train.csv", "train.csv.gz", "train.csv.zip", "vinbigdata-train.csv", "vinbigdata-train.csv.gz")
_HINT = "Put train.csv and train/ of kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection there."


def read_vinbigdata(
    root: Path, ontology: Ontology, tally: Tally, *, allow_missing_images: bool, readers: str = "any"
) -> Found:
    """Read the folder.

    Args:
        allow_missing_images: keep rows without a film, and boxes without a frame.
        readers: how three readers become one answer: ``any``, ``majority`` or ``fusion``; see readers.py.

    Raises:
        ConfigError: ``readers`` is none of these.
        DataError: the table or the films are missing or cannot be read.
    """
    check_readers(readers)
    path = find_table(root, _TABLES, hint=_HINT)
    info: dict[str, Any] = {"label_file": path.name, "label_sha256": short_hash(path)}
    tally.note(f"labels from {path.name} (sha256 {info['label_sha256']})")
    table = _usable(read_table(path, needed=_COLUMNS), tally)
    rows = _films(root, table, tally, allow_missing_images)
    table = table[table["image_id"].isin(set(rows["image_id"]))]
    drawn = table[table["word"] != NORMAL]
    return settle(
        Annotated(rows, _readings(table, rows), drawn, np.ones(len(rows), dtype=bool), [table]),
        root,
        NAME,
        ontology,
        tally,
        readers=readers,
        local=LOCAL,
        info=info,
        keep_unframed=allow_missing_images,
    )


def _usable(table: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """Rows of films whose every row can be understood, with the class as ``word`` and the radiologist as ``reader``."""
    for column in ("image_id", "rad_id"):
        empty = table[column] == ""
        tally.drop(f"row has no {column}", table.loc[empty, "image_id"])
        table = table[~empty]
    spelled = {word.casefold(): word for word in (*LOCAL, NORMAL)}
    table = table.assign(word=table["class_name"].str.casefold().map(spelled), reader=table["rad_id"])
    strange = table["word"].isna()
    # What a reader meant by a word that VinBigData does not have may be any class, so none of them is absent.
    films = table["image_id"].isin(set(table.loc[strange, "image_id"]))
    first = table.loc[strange, "image_id"] + " " + table.loc[strange, "class_name"]
    tally.drop("film has a class that VinBigData does not have", first[~table.loc[strange, "image_id"].duplicated()])
    if films.all():
        raise DataError("No film has only classes that VinBigData has.", hint=_HINT)
    table = table[~films]
    boxed_normal = (table["word"] == NORMAL) & (table[list(CORNERS)] != "").any(axis=1)
    tally.drop('box of "No finding"', table.loc[boxed_normal, "image_id"])
    drawn = table["word"] != NORMAL
    repeated = table.duplicated(["image_id", "word", "reader", *CORNERS]) & drawn
    tally.drop("box is in an earlier row already", table.loc[repeated, "image_id"])
    return table[~repeated]


def _films(root: Path, table: pd.DataFrame, tally: Tally, allow_missing: bool) -> pd.DataFrame:
    names = table["image_id"].drop_duplicates()
    rows = pd.DataFrame({"image_id": names.to_numpy(), "image_path": ("train/" + names + ".dicom").to_numpy()})
    rows = keep_films(rows, root, tally, allow_missing_images=allow_missing, hint=_HINT)
    tally.note("the dataset names no patients: each film counts as a patient of its own, the one it has in VinDr-CXR")
    return rows.assign(patient_id="vindr:" + rows["image_id"], study_id=rows["image_id"], view="PA")


def _readings(table: pd.DataFrame, rows: pd.DataFrame) -> Readings:
    """Of each film and reader, the classes that the reader's rows name; the others are not there."""
    words = (*LOCAL, NORMAL)
    film = pd.Index(rows["image_id"]).get_indexer(pd.Index(table["image_id"])).astype(np.intp)
    marks = np.full((len(table), len(words)), ABSENT, dtype=np.float32)
    marks[np.arange(len(table)), pd.Index(words).get_indexer(pd.Index(table["word"]))] = PRESENT
    return make_readings(len(rows), film, table["reader"].tolist(), words, marks)

"""The tables of VinDr-CXR, read and checked: what each reader ticks on a film, and what each reader draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mtl.data.sources.readers.drawn import CORNERS
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.files import read_table, short_hash
from cxr_mtl.errors import DataError
from cxr_mtl.types import ABSENT, PRESENT

NORMAL = "No finding"
CONSENSUS = "consensus"
"""The reader of the test films' labels and boxes."""

# fmt: off
LOCAL = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion",
)
GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", NORMAL)
# fmt: on
WORDS = (*LOCAL, *GLOBAL)
KEYS = ["image_id", "reader"]
HINT = "Put train/, test/ and annotations/ of physionet.org/content/vindr-cxr/1.0.0 there."

# The training table says "Other diseases", the test table "Other disease".
_SPELLED = {word.casefold(): word for word in WORDS} | {"other diseases": "Other disease"}
_MARKS = {"": np.nan, "1": PRESENT, "1.0": PRESENT, "0": ABSENT, "0.0": ABSENT}


@dataclass(frozen=True)
class Half:
    """The tables of training or of test.

    Attributes:
        split: ``train`` or ``test``.
        labels: a row for each film and reader; columns image_id, reader, and one for each of ``WORDS``: 1, 0, nan.
        boxes: as text, columns image_id, reader, word, the corners and, in some copies, width and height; None where
            there is no such table.
        unsure: films with a box that was left out.
    """

    split: str
    labels: pd.DataFrame
    boxes: pd.DataFrame | None
    unsure: frozenset[str]


def read_half(root: Path, split: str, info: dict[str, Any], tally: Tally) -> Half | None:
    """Read ``image_labels_*.csv`` and ``annotations_*.csv``, in ``annotations/`` or at the top.

    Args:
        info: names and hashes of the files are added to it.

    Returns:
        None where neither table is there.

    Raises:
        DataError: there are boxes without labels, or a table cannot be read.
    """
    ticked, drawn = _table(root, f"image_labels_{split}"), _table(root, f"annotations_{split}")
    if ticked is None:
        if drawn is not None:
            raise DataError(f"{root} has {drawn.name}, but no image_labels_{split}.csv.", hint=HINT)
        tally.note(f"there is no image_labels_{split}.csv: no {split} films")
        return None
    _tell(ticked, f"{split}_labels", info, tally)
    labels = _read_labels(ticked, tally)
    if drawn is None:
        tally.note(f"there is no annotations_{split}.csv: the {split} films have no boxes")
        return Half(split, labels, None, frozenset())
    _tell(drawn, f"{split}_boxes", info, tally)
    boxes, unsure = _read_boxes(drawn, labels, tally)
    return Half(split, _tick_what_is_drawn(labels, boxes, tally), boxes, unsure)


def _table(root: Path, stem: str) -> Path | None:
    names = [f"{folder}{stem}.csv{end}" for folder in ("annotations/", "") for end in ("", ".gz")]
    return next((root / name for name in names if (root / name).is_file()), None)


def _tell(path: Path, what: str, info: dict[str, Any], tally: Tally) -> None:
    info |= {f"{what}_file": path.name, f"{what}_sha256": short_hash(path)}
    tally.note(f"{what.replace('_', ' ')} from {path.name} (sha256 {info[f'{what}_sha256']})")


def _read_labels(path: Path, tally: Tally) -> pd.DataFrame:
    table = read_table(path, needed=["image_id"])
    called = {column: _SPELLED[column.casefold()] for column in table.columns if column.casefold() in _SPELLED}
    if missing := [word for word in WORDS if word not in called.values()]:
        raise DataError(f"{path} has no column {missing[0]!r}.", hint=HINT)
    others = [column for column in table.columns if column not in called and column not in ("image_id", "rad_id")]
    if others:
        tally.note(f"{path.name} has columns that are no label of VinDr, left out: {', '.join(others)}")
    table = _with_reader(table, tally).rename(columns=called)
    bad = ~table[list(WORDS)].isin(list(_MARKS)).all(axis=1)
    # All rows of the film go: with fewer readers its votes would count anew.
    films = table["image_id"].isin(set(table.loc[bad, "image_id"]))
    tally.drop("film has a label that is neither 1 nor 0", table.loc[bad, "image_id"].drop_duplicates())
    if films.all():
        raise DataError(f"{path} has no film whose labels are 1 and 0.", hint=HINT)
    table = table[~films]
    if blank := int((table[list(WORDS)] == "").to_numpy().sum()):
        tally.note(f"{blank:,} labels of {path.name} are blank: that reader does not answer")
    return table[KEYS].assign(**{word: table[word].map(_MARKS).astype(np.float32) for word in WORDS})


def _with_reader(table: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """The rows that say whose they are; a table without readers is the consensus's."""
    table = table[_stated(table, "image_id", tally)]
    if "rad_id" not in table.columns or (table["rad_id"] == "").all():
        return table.assign(reader=CONSENSUS)
    table = table[_stated(table, "rad_id", tally)]
    return table.assign(reader=table["rad_id"])


def _stated(table: pd.DataFrame, column: str, tally: Tally) -> pd.Series[bool]:
    stated = table[column] != ""
    tally.drop(f"row has no {column}", table.loc[~stated, "image_id"])
    return stated


def _read_boxes(path: Path, labels: pd.DataFrame, tally: Tally) -> tuple[pd.DataFrame, frozenset[str]]:
    table = _with_reader(read_table(path, needed=["image_id", "class_name", *CORNERS]), tally)
    table = table.assign(word=table["class_name"].str.casefold().map(_SPELLED))
    cornered = (table[list(CORNERS)] != "").any(axis=1)
    ticked = pd.MultiIndex.from_frame(labels[KEYS])
    unread = pd.Series(~pd.MultiIndex.from_frame(table[KEYS]).isin(ticked), table.index)
    strange = table["word"].isna()
    for word in sorted(set(table.loc[strange, "class_name"])):
        named = strange & (table["class_name"] == word)
        tally.drop(f"box of {word or 'no class'}, which is no label of VinDr", table.loc[named, "image_id"])
    tally.drop("box of a film or a reader that has no labels", table.loc[unread & ~strange, "image_id"])
    # A row of No finding, without corners, says that this reader draws nothing.
    unboxed = ~table["word"].isin(LOCAL)
    tally.drop("box of a label that VinDr does not box", table.loc[unboxed & cornered & ~strange & ~unread, "image_id"])
    repeated = table.duplicated([*KEYS, "word", *CORNERS])
    tally.drop("box is in an earlier row already", table.loc[repeated & ~(strange | unread | unboxed), "image_id"])
    columns = [*KEYS, "word", *CORNERS, *(name for name in ("width", "height") if name in table.columns)]
    unsure = frozenset(table.loc[strange | unread, "image_id"])
    return table.loc[~(strange | unread | unboxed | repeated), columns].reset_index(drop=True), unsure


def _tick_what_is_drawn(labels: pd.DataFrame, boxes: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """Who draws a finding sees it, whether or not it is ticked."""
    row = pd.Series(range(len(labels)), pd.MultiIndex.from_frame(labels[KEYS]))
    row = row[~row.index.duplicated()]
    drawn = boxes[[*KEYS, "word"]].drop_duplicates()
    at = row.reindex(pd.MultiIndex.from_frame(drawn[KEYS])).to_numpy(np.intp)
    marks = labels[list(LOCAL)].to_numpy(np.float32, copy=True)
    column = pd.Index(LOCAL).get_indexer(pd.Index(drawn["word"]))
    unticked = marks[at, column] != PRESENT
    if unticked.any():
        first = drawn["image_id"].to_numpy()[unticked][0]
        tally.note(f"{int(unticked.sum()):,} findings are boxed but not ticked (first: {first}): present")
    marks[at, column] = PRESENT
    return labels.assign(**{word: marks[:, place] for place, word in enumerate(LOCAL)})

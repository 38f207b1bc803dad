"""NIH ChestX-ray14, in the layout that NIH distributes.

``Data_Entry_2017*.csv`` (labels, text-mined), ``BBox_List_2017.csv`` (984 boxes), ``train_val_list.txt``,
``test_list.txt`` and the films, in ``images/`` or in ``images_001/images`` to ``images_012/images``. A copy of another
size or format does as well: films are found by stem, and boxes stay in NIH's 1024 px frame.

NIH is a closed world for its 14 findings: one that is not listed is absent. All others are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.columns import read_ages, read_sexes, read_views
from cxr_mtl.data.sources.tables.files import FilmFiles, read_list, read_table, short_hash
from cxr_mtl.data.sources.tables.labels import stated_words
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import Box

NAME = "nih"
FRAME = 1024
"""Side of the square frame that NIH's boxes are in, whatever the size of the films."""

# What NIH's column can say; to tell a finding that an ontology leaves out from a slip of the pen.
# fmt: off
LABELS = frozenset({
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "No Finding", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
})
# fmt: on

_COLUMNS = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
)
_OLDEST = 100
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
_HINT = "Put NIH's own files there: nihcc.app.box.com/v/ChestXray-NIHCC."


def read_nih(root: Path, ontology: Ontology, tally: Tally, *, allow_missing_images: bool) -> Found:
    """Read the folder.

    Args:
        allow_missing_images: keep rows without a film.

    Raises:
        DataError: a table or the films are missing or cannot be read.
    """
    table = _label_file(root)
    info: dict[str, Any] = {
        "label_file": table.name,
        "label_version": "v2020" if "v2020" in table.name else "2017",
        "label_sha256": short_hash(table),
    }
    tally.note(f"labels from {table.name} ({info['label_version']}, sha256 {info['label_sha256']})")
    rows = _find_files(root, _read_entries(table, tally), allow_missing_images, tally)
    words = [[word.strip() for word in text.split("|")] for text in rows["Finding Labels"]]
    known = {label.casefold() for label in LABELS}
    stated, bad, unlisted = stated_words(words, NAME, ontology, tally, known=known)
    said = rows["Image Index"] + " " + rows["Finding Labels"]
    tally.drop("row has a label that NIH does not have", said[bad])
    if bad.all():
        raise DataError("Every row of the table has a label that NIH does not have.", hint=_HINT)
    both = np.asarray([len(set(film)) > 1 and "no finding" in film for film in map(_folded, words)]) & ~bad
    tally.drop("row says No Finding beside a finding", said[both])
    bad |= both
    if bad.all():
        raise DataError("No row of the table can be used.", hint="; ".join(tally.dropped) + ".")
    rows = rows[~bad]
    boxes = _boxes(root, rows, ontology, info, tally)
    split, how = _split(root, rows, tally)
    return Found(
        rows=_columns(rows, boxes, tally).assign(split=pd.Series(split, dtype=object)),
        stated=stated[~bad],
        info=info,
        labelled=ontology.labelled_by(NAME),
        boxed=tuple(sorted({box.finding for film in boxes.values() for box in film})),
        split_how=how,
        unlisted=unlisted[~bad],
    )


def _folded(words: Sequence[str]) -> list[str]:
    return [word.casefold() for word in words]


def _label_file(root: Path) -> Path:
    found = sorted(path for end in ("csv", "csv.gz") for path in root.glob(f"Data_Entry_2017*.{end}"))
    if not found:
        raise DataError(f"{root} has no Data_Entry_2017*.csv.", hint=_HINT)
    # v2020 is NIH's correction of labels and ages; beside the original it is the one to take.
    return next((path for path in found if "v2020" in path.name), found[0])


def _read_entries(path: Path, tally: Tally) -> pd.DataFrame:
    """The rows that name a film, its patient and its labels, indexed by the film's stem."""
    # ``OriginalImage[Width,Height]`` is two names by its bare comma, over two cells: nothing shifts.
    rows = read_table(path, needed=_COLUMNS)
    for column in ("Image Index", "Patient ID", "Finding Labels"):
        empty = rows[column] == ""
        tally.drop(f"row has no {column}", rows.loc[empty, "Image Index"])
        rows = rows[~empty]
    rows = rows.set_index(_stems(rows["Image Index"]))
    repeated = rows.index.duplicated()
    tally.drop("film is in an earlier row already", rows.loc[repeated, "Image Index"])
    return rows[~repeated]


def _stems(names: pd.Series[str]) -> pd.Index[str]:
    """00000001_000.png -> 00000001_000, which a resized copy shares."""
    return pd.Index(names.str.replace(r"\.[A-Za-z]+$", "", regex=True), dtype="str")


def _find_files(root: Path, rows: pd.DataFrame, allow_missing: bool, tally: Tally) -> pd.DataFrame:
    """Add ``path``; drop the rows without a film unless that is allowed."""
    folders = [path for path in sorted(root.glob("images_*/images")) if path.is_dir()]
    folders = [path for path in (root / "images", *folders) if path.is_dir()]
    if not folders and not allow_missing:
        where = "folder images/, nor images_001/images to images_012/images"
        raise DataError(
            f"{root} has no {where}.", hint="Unpack NIH's images_*.tar.gz there, or --allow-missing-images."
        )
    films = FilmFiles(root, folders)
    paths = [films.find(name) for name in rows["Image Index"]]
    missing = np.asarray([path is None for path in paths], dtype=bool)
    if extra := len(films) - int((~missing).sum()):
        tally.note(f"{extra:,} image files belong to no usable row of the table")
    if allow_missing and missing.any():
        tally.note(f"{int(missing.sum()):,} films are kept although their file is missing")
        names = rows["Image Index"]
        return rows.assign(path=[path or f"images/{name}" for path, name in zip(paths, names, strict=True)])
    tally.drop("film is not in the folder", rows.loc[missing, "Image Index"])
    if missing.all():
        where = ", ".join(path.relative_to(root).as_posix() + "/" for path in folders)
        raise DataError(
            f"No film that the table names is in {root}: {where}.", hint="Unpack NIH's images_*.tar.gz there."
        )
    return rows.assign(path=pd.Series(paths, rows.index, dtype="str"))[~missing]


def _boxes(
    root: Path, rows: pd.DataFrame, ontology: Ontology, info: dict[str, Any], tally: Tally
) -> dict[str, list[Box]]:
    """Film's stem -> its boxes, xyxy."""
    path = next((p for end in ("csv", "csv.gz") if (p := root / f"BBox_List_2017.{end}").is_file()), None)
    if path is None:
        tally.note("there is no BBox_List_2017.csv: no film has boxes")
        return {}
    info |= {"box_file": path.name, "box_sha256": short_hash(path)}
    # The header has 9 cells, a row 6 (some copies: 9): only the place tells which is which.
    table = read_table(path, positional=6)
    xywh = table[[2, 3, 4, 5]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    boxes: dict[str, list[Box]] = {}
    stems = _stems(table[0])
    for stem, name, raw, (x, y, w, h) in zip(stems, table[0], table[1], xywh, strict=True):
        finding = ontology.find(NAME, raw)
        if not np.isfinite((x, y, w, h)).all() or w <= 0 or h <= 0:
            tally.drop("box has no area", [name])
        elif finding is None:
            tally.drop(f"box of {raw}, which ontology {ontology.name} does not have", [name])
        elif stem not in rows.index:
            tally.drop("box of a film that was left out or is in no row", [name])
        else:
            boxes.setdefault(stem, []).append(Box(finding, float(x), float(y), float(x + w), float(y + h)))
    return boxes


def _columns(rows: pd.DataFrame, boxes: Mapping[str, list[Box]], tally: Tally) -> pd.DataFrame:
    patients = rows["Patient ID"].str.removesuffix(".0")
    return pd.DataFrame(
        {
            "image_path": rows["path"],
            "image_id": rows.index,
            "patient_id": patients,
            "study_id": patients + "_" + rows["Follow-up #"].str.removesuffix(".0"),
            "view": read_views(rows["View Position"], {"PA": "PA", "AP": "AP"}, tally),
            "age": read_ages(rows["Patient Age"], tally, oldest=_OLDEST),
            "sex": read_sexes(rows["Patient Gender"]),
            "width": FRAME,
            "height": FRAME,
            "boxes": [tuple(boxes.get(stem, ())) for stem in rows.index],
        }
    ).reset_index(drop=True)


def _split(root: Path, rows: pd.DataFrame, tally: Tally) -> tuple[list[str | None], dict[str, Any] | None]:
    """NIH's lists; or nothing where one of them is missing."""
    absent = [name for name in _LISTS.values() if not (root / name).is_file()]
    if absent:
        tally.note(f"there is no {' and no '.join(absent)}")
        return [None] * len(rows), None
    lists = {split: set(_stems(pd.Series(read_list(root / name)))) for split, name in _LISTS.items()}
    if both := sorted(lists["train"] & lists["test"]):
        raise DataError(f"{len(both)} films are in both lists of {root}, first: {both[0]}.", hint=_HINT)
    split = [next((name for name, members in lists.items() if stem in members), None) for stem in rows.index]
    how = {"how": "official lists"} | {f"{name}_sha256": short_hash(root / file) for name, file in _LISTS.items()}
    return split, how

"""NIH ChestX-ray14, in the layout that NIH distributes.

``Data_Entry_2017*.csv`` (labels, text-mined), ``BBox_List_2017.csv`` (984 boxes), ``train_val_list.txt``,
``test_list.txt`` and the films, in ``images/`` or in ``images_001/images`` to ``images_012/images``. A copy of another
size or format does as well: films are found by stem, and boxes stay in NIH's 1024 px frame.

NIH is a closed world for its 14 findings: one that is not listed is absent. All others are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.sources.files import Films, read_list, read_table, short_hash
from cxr_mtl.data.sources.report import ImportReport, Tally, make_report
from cxr_mtl.data.split import carve_validation, check_patients, split_by_patient, with_split
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT, Box, Record

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
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
_HINT = "Put NIH's own files there: nihcc.app.box.com/v/ChestXray-NIHCC."


def import_nih(
    root: Path, ontology: Ontology, *, allow_missing_images: bool = False, seed: int = 0, validation: float = 0.12
) -> tuple[Manifest, ImportReport]:
    """Read the folder.

    Args:
        allow_missing_images: keep rows without a film.
        seed: of the patients who become validation, and of the split where NIH's lists are missing.
        validation: share of the films of the training list to validate on; 0 for none.

    Raises:
        DataError: a table or the films are missing or cannot be read.
    """
    tally, table = Tally(), _label_file(root)
    info: dict[str, Any] = {
        "source": NAME,
        "label_file": table.name,
        "label_version": "v2020" if "v2020" in table.name else "2017",
        "label_sha256": short_hash(table),
    }
    tally.note(f"labels from {table.name} ({info['label_version']}, sha256 {info['label_sha256']})")
    rows = _find_films(root, _read_entries(table, tally), allow_missing_images, tally)
    rows = rows.assign(labels=pd.Series(_labels(rows, ontology, tally), rows.index, dtype=object))
    rows = rows[rows["labels"].notna()]
    boxes = _boxes(root, rows, ontology, info, tally)
    manifest = make_manifest(_records(rows, boxes, tally), root, ontology, info)
    manifest = _split(root, manifest, seed, validation, tally)
    return manifest, make_report(NAME, manifest, tally)


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


def _find_films(root: Path, rows: pd.DataFrame, allow_missing: bool, tally: Tally) -> pd.DataFrame:
    """Add ``path``; drop the rows without a film unless that is allowed."""
    folders = [path for path in sorted(root.glob("images_*/images")) if path.is_dir()]
    folders = [path for path in (root / "images", *folders) if path.is_dir()]
    if not folders and not allow_missing:
        where = "folder images/, nor images_001/images to images_012/images"
        raise DataError(
            f"{root} has no {where}.", hint="Unpack NIH's images_*.tar.gz there, or --allow-missing-images."
        )
    films = Films(root, folders)
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


def _labels(rows: pd.DataFrame, ontology: Ontology, tally: Tally) -> list[Mapping[str, float] | None]:
    """Labels of each row; None where one is not NIH's, for then a finding that is not listed need not be absent."""
    absent = dict.fromkeys(ontology.labelled_by(NAME), ABSENT)
    known: dict[str, Mapping[str, float] | None] = {}
    left_out: set[str] = set()
    # 112,120 rows hold fewer than a thousand different texts.
    for text in rows["Finding Labels"].unique():
        raw = [name.strip() for name in text.split("|")]
        found = {name: ontology.find(NAME, name) for name in raw}
        strange = [name for name, finding in found.items() if finding is None and name not in LABELS]
        left_out |= {name for name, finding in found.items() if finding is None and name in LABELS}
        stated = absent | {finding: PRESENT for finding in found.values() if finding is not None}
        known[text] = None if strange else ontology.complete(stated, NAME)
    if left_out:
        tally.note(f"ontology {ontology.name} has no {', '.join(sorted(left_out))}: these labels were left out")
    labels = [known[text] for text in rows["Finding Labels"]]
    bad = np.asarray([one is None for one in labels], dtype=bool)
    tally.drop("row has a label that NIH does not have", (rows["Image Index"] + " " + rows["Finding Labels"])[bad])
    if bad.all():
        raise DataError("Every row of the table has a label that NIH does not have.", hint=_HINT)
    return labels


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
            boxes.setdefault(stem, []).append(Box(finding, x, y, x + w, y + h))
    return boxes


def _records(rows: pd.DataFrame, boxes: Mapping[str, list[Box]], tally: Tally) -> list[Record]:
    ages = _ages(rows["Patient Age"], tally)
    views = rows["View Position"].str.upper().where(lambda view: view.isin(["PA", "AP"]), "UNKNOWN")
    if num := int((views == "UNKNOWN").sum()):
        tally.note(f"{num:,} films have a view other than PA and AP: set to UNKNOWN")
    patients = rows["Patient ID"].str.removesuffix(".0")
    studies = patients + "_" + rows["Follow-up #"].str.removesuffix(".0")
    columns = (rows["path"], patients, studies, views, ages, rows["Patient Gender"].str.upper(), rows["labels"])
    return [
        Record(
            image_path=path,
            image_id=stem,
            patient_id=patient,
            study_id=study,
            dataset=NAME,
            view=view,
            age=age,
            sex=sex if sex in ("M", "F") else None,
            width=FRAME,
            height=FRAME,
            boxes=tuple(boxes.get(stem, ())),
            labels=labels,
        )
        for stem, path, patient, study, view, age, sex, labels in zip(rows.index, *columns, strict=True)
    ]


def _ages(column: pd.Series[str], tally: Tally) -> NDArray[np.float64]:
    """Years. NIH writes 58, copies 058Y, 018M or 010D; the original table has ages above 100: errors of unit."""
    parts = column.str.upper().str.extract(r"^(\d+(?:\.\d+)?)\s*([YMWD]?)$")
    years = (pd.to_numeric(parts[0], errors="coerce") * parts[1].map(_YEARS)).to_numpy(np.float64)
    for what, bad in (("that are no age", np.isnan(years)), (f"above {_OLDEST} years", years > _OLDEST)):
        if bad.any():
            tally.note(f"{int(bad.sum()):,} ages {what} (first: {column.index[bad][0]}): set to unknown")
    return np.where(years > _OLDEST, np.nan, years)


def _split(root: Path, manifest: Manifest, seed: int, validation: float, tally: Tally) -> Manifest:
    """NIH's lists, with validation carved out of training; or patients dealt anew where a list is missing."""
    absent = [name for name in _LISTS.values() if not (root / name).is_file()]
    if absent:
        tally.note(f"there is no {' and no '.join(absent)}: split by patient, not comparable with published numbers")
        return split_by_patient(manifest, _FRACTIONS, seed)
    lists = {split: set(_stems(pd.Series(read_list(root / name)))) for split, name in _LISTS.items()}
    if both := sorted(lists["train"] & lists["test"]):
        raise DataError(f"{len(both)} films are in both lists of {root}, first: {both[0]}.", hint=_HINT)
    stems = manifest.table["image_id"]
    split = [next((name for name, members in lists.items() if stem in members), None) for stem in stems]
    if unlisted := split.count(None):
        tally.note(f"{unlisted:,} films are in neither list (first: {stems[split.index(None)]}): in no split")
    how = {"how": "official lists"} | {f"{split}_sha256": short_hash(root / name) for split, name in _LISTS.items()}
    manifest = with_split(manifest, np.asarray(split, dtype=object), how)
    check_patients(manifest)
    if validation and len(set(manifest.where(split="train").patient_ids)) < 2:
        tally.note("too few patients are in the training list to validate on some of them")
        return manifest
    return carve_validation(manifest, validation, seed) if validation else manifest

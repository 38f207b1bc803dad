"""RSNA Pneumonia Detection Challenge, in the layout that Kaggle distributes.

``stage_2_train_labels.csv`` (a row a box, or one without numbers where there is none), the films in
``stage_2_train_images``, and ``stage_2_detailed_class_info.csv``; where that is missing no film is known to be normal.
The boxes are radiologists' and mark every opacity that looks like pneumonia, in a frame of 1024 px.

THE FILMS ARE NIH'S. RSNA's ``pneumonia-challenge-dataset-mappings_2018.json`` tells which one each is. With it patients
are called ``nih:1``, so that no patient of NIH's test list can be trained on by way of RSNA.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.columns import read_ages, read_sexes, read_views
from cxr_mtl.data.sources.tables.files import FilmFiles, find_table, keep_films, read_list, read_table, short_hash
from cxr_mtl.data.sources.tables.labels import Labels
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT, UNKNOWN, Box

NAME = "rsna"
FRAME = 1024
"""Side of the square frame that the boxes are in, whatever the size of the films."""
OPACITY, NORMAL, OTHER = "Lung Opacity", "Normal", "No Lung Opacity / Not Normal"
"""RSNA's three classes; a film is of the first exactly where it has a box."""

_TABLES = ("stage_2_train_labels.csv", "stage_2_train_labels.csv.gz", "*stage_2_train_labels.csv.zip")
_CLASSES = "*stage_2_detailed_class_info.csv*"
_HEADERS = "*stage_2_train_images_dicom_headers.csv*"
_MAPPING = "pneumonia-challenge-dataset-mappings*.json"
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
_VIEWS = {"PA": "PA", "AP": "AP"}
_XYWH = ("x", "y", "width", "height")
_HINT = "Get it from kaggle.com/c/rsna-pneumonia-detection-challenge."
_MAPPING_HINT = "Get it from RSNA's page of the challenge of 2018."


def read_rsna(
    root: Path, ontology: Ontology, tally: Tally, *, allow_missing_images: bool, mapping: Path | None = None
) -> Found:
    """Read the folder.

    Args:
        mapping: RSNA's list of which NIH film each is; None takes the one in the folder. Where NIH's own lists of films
            lie in the folder or beside the mapping, each film takes the split that it has there.

    Raises:
        DataError: a table, the mapping or the films are missing or cannot be read.
    """
    path = find_table(root, _TABLES, hint=_HINT)
    info: dict[str, Any] = {"label_file": path.name, "label_sha256": short_hash(path), "label_version": "stage 2"}
    tally.note(f"labels from {path.name} (sha256 {info['label_sha256']})")
    table = read_table(path, needed=("patientId", *_XYWH, "Target"))
    films = _films(table, ontology, tally)
    films = _add_classes(films, root, info, tally)
    films = _with_files(films, root, allow_missing_images, tally)
    mapping = mapping or next(iter(sorted(root.glob(_MAPPING))), None)
    films = _add_nih(films, mapping, info, tally)
    rows = _rows(films, root, tally)
    split_how = None
    if mapping is not None and (lists := _nih_lists(root, mapping)):
        rows["split"], split_how = _nih_split(films["nih"], lists, mapping)
    stated, labelled = _stated(films, ontology)
    boxed = tuple(name for name in (ontology.find(NAME, OPACITY),) if name)
    return Found(rows, stated, info, labelled=labelled, boxed=boxed, split_how=split_how)


def _films(table: pd.DataFrame, ontology: Ontology, tally: Tally) -> pd.DataFrame:
    """One row a film: ``name``, ``opacity`` (bool), ``boxes``, and ``whole``, whether all its boxes could be read."""
    nameless, unmarked = table["patientId"] == "", ~table["Target"].isin(["0", "1", "0.0", "1.0"])
    tally.drop("row has no patientId", table.loc[nameless, "Target"])
    tally.drop("Target is neither 0 nor 1", table.loc[unmarked & ~nameless, "patientId"])
    table = table[~(nameless | unmarked)]
    table = table.assign(opacity=table["Target"].str[0] == "1")
    mixed = table.groupby("patientId")["opacity"].transform("nunique") > 1
    tally.drop("rows of the film contradict each other in Target", table.loc[mixed, "patientId"].unique())
    table = table[~mixed]
    if table.empty:
        raise DataError("No row of the table of labels is RSNA's.", hint=_HINT)
    films = table[["patientId", "opacity"]].drop_duplicates("patientId").reset_index(drop=True)
    boxes, broken = _boxes(table[table["opacity"]], ontology, tally)
    drawn = [tuple(boxes.get(name, ())) for name in films["patientId"]]
    # An opacity without a box, or with one that cannot be read, may lie anywhere.
    whole = ~films["patientId"].isin(broken) & (films["opacity"] == [bool(row) for row in drawn])
    films = films.rename(columns={"patientId": "name"})
    return films.assign(boxes=pd.Series(drawn, films.index, dtype=object), whole=whole)


def _boxes(table: pd.DataFrame, ontology: Ontology, tally: Tally) -> tuple[dict[str, list[Box]], set[str]]:
    """Film -> its boxes, xyxy; and the films of which a box had to be left out."""
    finding = ontology.find(NAME, OPACITY)
    if finding is None:
        return {}, set()
    boxes: dict[str, list[Box]] = {}
    broken: set[str] = set()
    numbers = table[list(_XYWH)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    for name, (x, y, w, h) in zip(table["patientId"], numbers.tolist(), strict=True):
        box = Box(finding, x, y, x + w, y + h)
        if wrong := _wrong(box):
            tally.drop(wrong, [name])
            broken.add(name)
        elif box in boxes.get(name, ()):
            tally.drop("box is in an earlier row already", [name])
        else:
            boxes.setdefault(name, []).append(box)
    return boxes, broken


def _wrong(box: Box) -> str:
    """What is wrong with a box; an empty text where nothing is."""
    if not np.isfinite(box.xyxy).all() or box.x1 >= box.x2 or box.y1 >= box.y2:
        return "box has no area"
    if min(box.xyxy) < 0 or max(box.xyxy) > FRAME:
        return f"box leaves the frame of {FRAME} px"
    return ""


def _add_classes(films: pd.DataFrame, root: Path, info: dict[str, Any], tally: Tally) -> pd.DataFrame:
    """Add ``normal``: 1, 0 or nan; from the table of classes, which must agree with the boxes."""
    path = next((path for path in sorted(root.glob(_CLASSES)) if path.is_file()), None)
    if path is None:
        tally.note(f"there is no {_CLASSES.strip('*')}: no film is known to be normal")
        return films.assign(normal=UNKNOWN)
    info |= {"class_file": path.name, "class_sha256": short_hash(path)}
    table = read_table(path, needed=("patientId", "class")).drop_duplicates(["patientId", "class"])
    table = table[~table["patientId"].duplicated(keep=False) & table["class"].isin([OPACITY, NORMAL, OTHER])]
    classes = films["name"].map(dict(zip(table["patientId"], table["class"], strict=True)))
    unclear = classes.isna()
    wrong = ~unclear & ((classes == OPACITY) != films["opacity"])
    tally.drop(f"film has not one of RSNA's classes in {path.name}", films.loc[unclear, "name"])
    tally.drop("class and boxes contradict each other", films.loc[wrong, "name"])
    films, classes = films[~(unclear | wrong)], classes[~(unclear | wrong)]
    if films.empty:
        raise DataError(f"No film of the table of labels has a class in {path}.", hint=_HINT)
    return films.assign(normal=np.where(classes == NORMAL, PRESENT, ABSENT)).reset_index(drop=True)


def _with_files(films: pd.DataFrame, root: Path, allow_missing: bool, tally: Tally) -> pd.DataFrame:
    """Add ``image_path``; films lie in Kaggle's folder, in a converted copy of it, or in the root."""
    folders = [*sorted(root.glob("stage_2_train_images*")), root / "images", root]
    found = FilmFiles(root, [folder for folder in folders if folder.is_dir()])
    names = [f"{name}.dcm" for name in films["name"]]
    paths = [(found.find(name) or f"stage_2_train_images/{name}").removeprefix("./") for name in names]
    hint = "Unpack stage_2_train_images.zip there, or --allow-missing-images."
    films = films.assign(image_path=paths)
    return keep_films(films, root, tally, allow_missing_images=allow_missing, hint=hint).reset_index(drop=True)


def _add_nih(films: pd.DataFrame, mapping: Path | None, info: dict[str, Any], tally: Tally) -> pd.DataFrame:
    """Add ``nih``, the stem of the NIH film, or an empty text where there is no mapping."""
    if mapping is None:
        tally.note(
            "WITHOUT RSNA's mapping to NIH (--mapping) each film counts as a patient of its own: a split has patients "
            "on both sides, and as these films are NIH's, the manifest must not be merged with NIH"
        )
        return films.assign(nih="")
    names = _read_mapping(mapping)
    info |= {"mapping_file": mapping.name, "mapping_sha256": short_hash(mapping)}
    nih = films["name"].map(names)
    tally.drop("film is not in the mapping, so its NIH patient is unknown", films.loc[nih.isna(), "name"])
    if nih.isna().all():
        raise DataError(f"{mapping} names none of the films.", hint=_MAPPING_HINT)
    return films.assign(nih=nih)[nih.notna()].reset_index(drop=True)


def _read_mapping(path: Path) -> dict[str, str]:
    """RSNA's film -> stem of NIH's, such as 00000001_000."""
    try:
        entries = json.loads(path.read_text("utf-8-sig"))
        pairs = {str(entry["subset_img_id"]): str(entry["img_id"]) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as err:
        wanted = "a JSON list of entries with subset_img_id and img_id"
        raise DataError(f"{path} is not {wanted} ({type(err).__name__}).", hint=_MAPPING_HINT) from err
    stems = pd.Series(pairs, dtype="str").str.removesuffix(".png")
    strange = ~stems.str.fullmatch(r"\d{1,8}_\d{1,4}")
    if strange.any():
        first = pairs[str(stems.index[strange][0])]
        raise DataError(f"{path}: {first!r} is no name of an NIH film.", hint=_MAPPING_HINT)
    return {str(name): stem for name, stem in stems.items()}


def _rows(films: pd.DataFrame, root: Path, tally: Tally) -> pd.DataFrame:
    numbers = [stem.partition("_")[0] for stem in films["nih"]]
    patients = [f"nih:{int(num)}" if num else name for num, name in zip(numbers, films["name"], strict=True)]
    rows = pd.DataFrame(
        {
            "image_path": films["image_path"],
            "image_id": films["name"],
            "patient_id": patients,
            "study_id": films["name"],
            "width": FRAME,
            "height": FRAME,
            "boxes": films["boxes"],
            "boxes_exhaustive": films["whole"],
        }
    )
    path = next((path for path in sorted(root.glob(_HEADERS)) if path.is_file()), None)
    if path is None:
        tally.note("views, ages and sexes are unknown: they are in the DICOM headers, which are not read here")
        return rows
    table = read_table(path, needed=("PatientID", "ViewPosition", "PatientAge", "PatientSex"))
    table = table.drop_duplicates("PatientID").set_index("PatientID").reindex(films["name"]).fillna("")
    sexes = pd.Series(read_sexes(table["PatientSex"]), rows.index, dtype=object)
    views = read_views(table["ViewPosition"], _VIEWS, tally)
    return rows.assign(view=views, age=read_ages(table["PatientAge"], tally), sex=sexes)


def _nih_lists(root: Path, mapping: Path) -> dict[str, Path] | None:
    """NIH's two lists of films, in the folder or beside the mapping; None unless both are there."""
    for folder in (root, mapping.parent):
        lists = {split: folder / name for split, name in _LISTS.items()}
        if all(path.is_file() for path in lists.values()):
            return lists
    return None


def _nih_split(nih: pd.Series[str], lists: dict[str, Path], mapping: Path) -> tuple[pd.Series[Any], dict[str, Any]]:
    """The split that each film has as a film of NIH, and how that is known."""
    where = {line.rpartition(".")[0] or line: name for name, path in lists.items() for line in read_list(path)}
    split = pd.Series([where.get(stem) for stem in nih], nih.index, dtype=object)
    how = {"how": "NIH's official lists, by RSNA's mapping", "mapping_sha256": short_hash(mapping)}
    return split, how | {f"{name}_sha256": short_hash(path) for name, path in lists.items()}


def _stated(films: pd.DataFrame, ontology: Ontology) -> tuple[Labels, tuple[str, ...]]:
    """(N, C) what boxes and classes state, and the findings that they speak of."""
    stated = np.full((len(films), len(ontology.names)), UNKNOWN, dtype=np.float32)
    spoken_of = set()
    for word, column in ((OPACITY, "opacity"), (NORMAL, "normal")):
        finding = ontology.find(NAME, word)
        values = films[column].to_numpy(np.float32)
        if finding is not None and not np.isnan(values).all():
            stated[:, ontology.index(finding)] = values
            spoken_of.add(finding)
    return stated, tuple(name for name in ontology.labelled_by(NAME) if name in spoken_of)

"""The paediatric pneumonia set of Kermany et al. (Mendeley Data rscbjbr9sj, also on Kaggle).

``train/``, ``test/`` (and Kaggle's ``val/``), each with ``NORMAL/`` and ``PNEUMONIA/``, at the root or up to any depth
below it; or a ``labels.csv`` (file, hier_path, patient_id) beside ``images/``. The germ and the child stand in a film's
name: ``person62_bacteria_300``, ``IM-0115-0001``, ``NORMAL2-IM-0001-0001``, and since version 3 of the set
``BACTERIA-1008087-0001``.

A closed world of normal, bacterial and viral: the graders chose one of the three, so the other two are absent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.own.walk import listing_hash, name_films, walk_films
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.files import keep_films, read_table, short_hash
from cxr_mtl.data.sources.tables.labels import stated_words
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology

NAME = "kermany"
_HINT = "Give the folder with train/ and test/, or with labels.csv and images/ (data.mendeley.com/datasets/rscbjbr9sj)."
_SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
# What a folder or a part of a name says, in the set's three kinds; pneumonia alone leaves the germ open.
_KINDS = {
    "normal": "Normal",
    "pneumonia": "Pneumonia",
    "bacteria": "Bacterial",
    "bacterial": "Bacterial",
    "virus": "Viral",
    "viral": "Viral",
}
_SICK = ("Pneumonia", "Bacterial", "Viral")
_FEW = 100
"""Films of a validation folder below which it is no use: Kaggle's has 16, taken out of Mendeley's training folder."""

_SCANS = re.compile(r"person(\d+)_(bacteria|virus)_\d+", re.IGNORECASE)
_NORMALS = re.compile(r"(?:NORMAL(\d+)-)?IM-(\d+)-\d+", re.IGNORECASE)
_VERSION_3 = re.compile(r"(BACTERIA|VIRUS|NORMAL)-(\d+)-\d+", re.IGNORECASE)


def read_kermany(root: Path, ontology: Ontology, tally: Tally, *, allow_missing_images: bool = False) -> Found:
    """Read the set in either layout.

    Raises:
        DataError: neither layout, or no film in it.
    """
    if (root / "labels.csv").is_file():
        rows, info = _from_table(root, tally, allow_missing_images)
        split_how = None
    else:
        rows, info = _from_folders(root, tally)
        rows, split_how = _official(rows, tally)
    tally.note("all films are of children of one to five years, AP; no single age or sex is published: both unknown")
    tally.note("never set these children's pneumonia against adults' normal films: a model learns age instead")
    stated = _labels(rows["kind"].tolist(), ontology, tally)
    rows = rows.drop(columns="kind").assign(
        image_id=name_films(rows["image_path"].tolist()), view="AP", age=np.nan, sex=None
    )
    rows["study_id"] = rows["image_id"]  # which films were taken together is not published
    return Found(rows, stated, info, ontology.labelled_by(NAME), split_how=split_how)


def _from_table(root: Path, tally: Tally, allow_missing: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
    path = root / "labels.csv"
    table = read_table(path, needed=("file", "hier_path", "patient_id"))
    last = table["hier_path"].str.rpartition("/")[2].str.casefold().map(_KINDS)
    named = table["file"].map(lambda name: _read_name(name)[1])
    good = pd.Series(True, table.index)
    for reason, bad in (
        ("row has no film or patient", (table["file"] == "") | (table["patient_id"] == "")),
        ("row has a class that is none of the set's", last.isna()),
        ("name and class contradict each other", _contradict(named, last)),
        ("film is in an earlier row already", table["file"].duplicated()),
    ):
        tally.drop(reason, table.loc[bad & good, "file"])
        good &= ~bad
    table, kind = table[good], _kind(named, last)[good]
    if table.empty:
        raise DataError(f"{path} has no row that can be used.", hint=_HINT)
    rows = pd.DataFrame({"image_path": "images/" + table["file"], "patient_id": table["patient_id"], "kind": kind})
    info = {"label_file": path.name, "label_sha256": short_hash(path)}
    rows = keep_films(
        rows.reset_index(drop=True), root, tally, allow_missing_images=allow_missing, hint="Put the films in images/."
    )
    return rows, info


def _from_folders(root: Path, tally: Tally) -> tuple[pd.DataFrame, dict[str, Any]]:
    paths = walk_films(root, tally, hint=_HINT)
    parts = [PurePosixPath(path).parts for path in paths]
    table = pd.DataFrame(
        {"image_path": paths, "folder": [_KINDS.get(p[-2].casefold()) if len(p) > 1 else None for p in parts]}
    )
    table["split"] = [_SPLITS.get(p[-3].casefold()) if len(p) > 2 else None for p in parts]
    table["base"] = [
        "/".join(p[: -3 if split else -2])
        for p, split in zip(parts, table["split"].isin(list(_SPLITS.values())), strict=True)
    ]
    names = [_read_name(p[-1]) for p in parts]
    table["patient_id"], table["named"] = [name[0] for name in names], [name[1] for name in names]
    lost = table["folder"].isna()
    if lost.all():
        raise DataError(f"{root} has no folder NORMAL or PNEUMONIA with films in it.", hint=_HINT)
    tally.drop("film is in no folder NORMAL or PNEUMONIA", table.loc[lost, "image_path"])
    table = table[~lost]
    # Kaggle's archive holds the whole set twice: chest_xray/ and chest_xray/chest_xray/.
    base = min(table["base"].unique(), key=lambda folder: (folder.count("/") + bool(folder), folder))
    second = table["base"] != base
    tally.drop("film is in a second copy of the set", table.loc[second, "image_path"])
    table = table[~second]
    table = _settle(table, tally)
    info = {"label_file": "names of folders and films", "label_sha256": listing_hash(table["image_path"])}
    return table[["image_path", "patient_id", "kind", "split"]].reset_index(drop=True), info


def _settle(table: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """Add ``kind``, of the films whose name and folder agree."""
    bad = _contradict(table["named"], table["folder"])
    tally.drop("name and folder contradict each other", table.loc[bad, "image_path"])
    table = table[~bad]
    if table.empty:
        raise DataError("Every film's name contradicts the folder that it is in.", hint=_HINT)
    strange = table["named"].isna()
    if strange.any():
        first = table.loc[strange, "image_path"].iat[0]
        tally.note(
            f"{int(strange.sum()):,} films have a name that is not the set's (first: {first}): each counts as a child "
            "of its own, and the germ of a pneumonia is unknown"
        )
    return table.assign(kind=_kind(table["named"], table["folder"]))


def _kind(named: pd.Series[Any], stated: pd.Series[Any]) -> pd.Series[Any]:
    """What is stated, or the germ that the name adds to it."""
    return named.where((stated == "Pneumonia") & named.notna(), stated)


def _read_name(name: str) -> tuple[str, str | None]:
    """The child and the kind that a film's name tells; its stem and None where it is not one of the set's.

    In version 2, children are counted germ by germ: person62_bacteria and person62_virus are two children.
    """
    if found := _SCANS.match(name):
        return f"person{found[1]}_{found[2].lower()}", _KINDS[found[2].casefold()]
    if found := _NORMALS.match(name):
        return f"N{found[1] or ''}-{found[2]}", "Normal"
    if found := _VERSION_3.match(name):
        return found[2], _KINDS[found[1].casefold()]
    return name.rpartition(".")[0] or name, None


def _contradict(named: pd.Series[Any], stated: pd.Series[Any]) -> pd.Series[bool]:
    """Where the name tells another kind; a germ does not contradict a pneumonia."""
    more_precise = (stated == "Pneumonia") & named.isin(_SICK)
    return named.notna() & stated.notna() & (named != stated) & ~more_precise


def _labels(kinds: Sequence[str], ontology: Ontology, tally: Tally) -> NDArray[np.float32]:
    words = [("Pneumonia", kind) if kind in ("Bacterial", "Viral") else (kind,) for kind in kinds]
    stated, _, _ = stated_words(words, NAME, ontology, tally, known=[kind.casefold() for kind in _KINDS.values()])
    sick = ontology.find(NAME, "Pneumonia")
    found = {ontology.find(NAME, germ) for germ in ("Bacterial", "Viral")}
    germs = {name for name in found if name is not None and name != sick}
    unknown = np.asarray([kind == "Pneumonia" for kind in kinds], dtype=bool)
    if germs and unknown.any():
        for name in germs:
            stated[unknown, ontology.index(name)] = np.nan
        tally.note(f"{int(unknown.sum()):,} films show a pneumonia of unknown germ")
    if len(germs) > 1:
        tally.note("a pneumonia was graded bacterial or viral: where one is present, the other counts as absent")
    return stated


def _official(rows: pd.DataFrame, tally: Tally) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    """The folders' split, unless it is not whole or splits share a child."""
    nowhere = rows["split"].isna()
    if nowhere.any():
        if not nowhere.all():
            tally.note(
                f"{int(nowhere.sum()):,} films are in no folder train, val or test: the folders' split is not used"
            )
        return rows.drop(columns="split"), None
    few = rows["split"] == "val"
    if 0 < few.sum() < _FEW and (rows["split"] == "train").any():
        tally.note(f"the {int(few.sum())} films of the validation folder, too few to judge by, count as training films")
        rows = rows.assign(split=rows["split"].where(~few, "train"))
    several = rows.groupby("patient_id")["split"].nunique() > 1
    if several.any():
        first = rows.loc[rows["patient_id"].isin(several.index[several]), "image_path"].iat[0]
        tally.note(
            f"{int(several.sum()):,} children are in more than one of the set's own splits (first: {first}), so its "
            "split is not used: results are not comparable with published numbers"
        )
        return rows.drop(columns="split"), None
    films = {str(name): int(num) for name, num in rows["split"].value_counts().items()}
    return rows, {"how": "official folders", "films": films}

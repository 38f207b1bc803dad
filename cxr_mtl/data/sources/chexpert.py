"""CheXpert, in the layouts that Stanford, Kaggle and CheXlocalize distribute.

``train.csv`` and ``valid.csv``, and of the test set ``test_labels.csv`` (a row a film) or ``groundtruth.csv`` (a row a
study). The films are in ``train/``, ``valid/`` (CheXlocalize: ``val/``) and ``test/``, beside the tables or one folder
below, or in Stanford's ``CheXpert-v1.0 batch 2 (train 1)`` and so on. Whatever stands before ``patient00001`` in the
tables' paths is left aside, so a copy with another prefix does as well.

The training labels are text-mined, a report's labels on all films of its study: 1, 0, -1 for a report that is unsure,
and empty for one that is silent. Silence is unknown here; the run file's policy may say otherwise. Radiologists
labelled the films of the other two sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.chexpert_labels import LABELS, label_of, read_marks
from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.columns import read_ages, read_sexes, read_views
from cxr_mtl.data.sources.tables.files import IMAGE_SUFFIXES, keep_films, read_table, short_hash
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology

NAME = "chexpert"

TRAINING_TABLES = {
    "chexpert": ("train.csv", "chexpert_train.csv"),
    "chexbert": ("train_cheXbert.csv",),
    "visualchexbert": ("train_visualCheXbert.csv",),
}
"""Who read the training reports, and the table that says what they found; all three are Stanford's."""

_TABLES = {"val": ("valid.csv", "chexpert_valid.csv", "val_labels.csv"), "test": ("test_labels.csv", "groundtruth.csv")}
_FOLDERS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_PLACES = ("", "[Cc]he[Xx]pert*/")
_NOT_LABELS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "Study", "split", "table")
_PATH = (
    r"(?:^|/)(?:(?P<folder>[^/]+)/)?(?P<patient>patient\d+)/(?P<study>study\d+)/"
    r"(?P<film>view\d+_(?P<side>frontal|lateral))(?P<suffix>\.\w+)?$"
)
_STUDY = r"(?:^|/)(?P<patient>patient\d+)/(?P<study>study\d+)/?$"
_VIEWS = {"LATERAL": "LATERAL", "FRONTAL AP": "AP", "FRONTAL PA": "PA"}
_CAP = 90
_HINT = "Give the folder that holds CheXpert's train.csv, or the folder above it."


@dataclass(frozen=True)
class _Folders:
    """Where each patient's folder is: (split, patient) -> the folder above it, relative to the root."""

    above: Mapping[tuple[str, str], str]

    def films(self, root: Path, patient: str, study: str) -> list[str]:
        """Paths of a test study's films, below the root."""
        above = self.above.get(("test", patient))
        folder = root / (above or "") / patient / study
        if above is None or not folder.is_dir():
            return []
        names = sorted(film.name for film in folder.iterdir() if film.suffix.lower() in IMAGE_SUFFIXES)
        return [f"{above}/{patient}/{study}/{name}" for name in names if not name.startswith(".")]


def read_chexpert(
    root: Path, ontology: Ontology, tally: Tally, *, allow_missing_images: bool, labeller: str = "chexpert"
) -> Found:
    """Read the folder.

    Args:
        root: the folder of ``train.csv``, or the one above it.
        allow_missing_images: keep rows without a film.
        labeller: who read the training reports: ``chexpert``, ``chexbert`` or ``visualchexbert``.

    Raises:
        ConfigError: no such labeller.
        DataError: a table or the films are missing or cannot be read.
    """
    if labeller not in TRAINING_TABLES:
        raise ConfigError(
            f"There is no labeller {labeller!r} of CheXpert.", hint=f"One of: {', '.join(TRAINING_TABLES)}."
        )
    tables = _tables(root, labeller, tally)
    folders = _Folders(dict(_patient_folders(root)))
    table = _read_tables(root, tables, folders, tally)
    stated, bad, unlisted = read_marks(table, NAME, ontology, tally, not_labels=_NOT_LABELS)
    tally.drop("row has a mark that is none of 1, 0, -1 and empty", table["Path"][bad])
    keep, parts = _usable(table, bad, tally)
    rows = _rows(table[keep], parts[keep], folders, tally).assign(row=np.flatnonzero(keep))
    rows = keep_films(rows, root, tally, allow_missing_images=allow_missing_images, hint=_HINT)
    stated, unlisted = stated[rows["row"]], unlisted[rows["row"]]
    if silent := int(np.isnan(stated).all(axis=1).sum()):
        tally.note(f"{silent:,} films have no label at all that ontology {ontology.name} knows")
    hashes = {split: short_hash(path) for split, path in tables.items()}
    info: dict[str, Any] = {
        "label_file": {split: path.name for split, path in tables.items()},
        "label_sha256": hashes,
        "labeller": labeller,
    }
    return Found(
        rows=rows.drop(columns="row"),
        stated=stated,
        info=info,
        labelled=ontology.labelled_by(NAME),
        split_how={"how": "official folders"} | {f"{split}_sha256": digest for split, digest in hashes.items()},
        unlisted=unlisted,
    )


def _tables(root: Path, labeller: str, tally: Tally) -> dict[str, Path]:
    """Split -> its table, of those that are there."""
    names = {"train": TRAINING_TABLES[labeller]} | _TABLES
    found = {split: path for split, some in names.items() if (path := _find(root, some)) is not None}
    if not found or ("train" not in found and labeller != "chexpert"):
        raise DataError(f"{root} has no {names['train'][0]}.", hint=_HINT)
    for split, path in found.items():
        tally.note(f"{split} labels from {path.relative_to(root)} (sha256 {short_hash(path)})")
    if "train" not in found:
        tally.note("there is no train.csv: no film is in train")
    if "val" not in found:
        tally.note("there is no valid.csv: validation, if any, is carved out of training and has mined labels")
    if "test" not in found:
        tally.note("there is no table of the test set (test_labels.csv or groundtruth.csv): no film is in test")
    return found


def _find(root: Path, names: tuple[str, ...]) -> Path | None:
    patterns = (f"{place}{name}{end}" for place in _PLACES for name in names for end in ("", ".gz", ".zip"))
    return next((path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()), None)


def _patient_folders(root: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Every (split, patient) and the folder above it; the last one of a patient is the first choice."""
    tops = [root, *sorted(path for path in root.glob(_PLACES[1].rstrip("/")) if path.is_dir())]
    for top in reversed(tops):
        inside = [(top / word, split) for word, split in _FOLDERS.items() if (top / word).is_dir()]
        if "train" in top.name.lower():
            inside.append((top, "train"))  # Stanford's "CheXpert-v1.0 batch 2 (train 1)"
        for folder, split in inside:
            below = folder.relative_to(root).as_posix()
            yield from (((split, path.name), below) for path in folder.iterdir() if path.name.startswith("patient"))


def _read_tables(root: Path, tables: Mapping[str, Path], folders: _Folders, tally: Tally) -> pd.DataFrame:
    """All tables in one, all text: a row a film, with ``split`` and ``table``, the folder that its table is in."""
    parts = []
    for split, path in tables.items():
        table = read_table(path)
        if "Path" not in table and "Study" in table:
            table = _films_of_studies(root, table, folders, tally)
        elif "Path" not in table:
            raise DataError(f"{path} has no column 'Path'.", hint=f"Its columns: {', '.join(table.columns)}.")
        absent = [label for label in LABELS if label not in {label_of(column) for column in table.columns}]
        if len(absent) == len(LABELS):
            raise DataError(f"{path} has none of CheXpert's labels.", hint=f"Its columns: {', '.join(table.columns)}.")
        if absent:
            tally.note(f"{path.name} has no column {', '.join(absent)}: unknown on its films")
        parts.append(table.assign(split=split, table=path.parent.relative_to(root).as_posix()))
    return pd.concat(parts, ignore_index=True).fillna("")


def _films_of_studies(root: Path, table: pd.DataFrame, folders: _Folders, tally: Tally) -> pd.DataFrame:
    """A row a film of a table with a row a study; which films a study has, only the folders say."""
    names = table["Study"].str.replace("\\", "/").str.extract(_STUDY).fillna("")
    films = [
        folders.films(root, patient, study) for patient, study in zip(names["patient"], names["study"], strict=True)
    ]
    lost = np.asarray([not some for some in films], dtype=bool)
    tally.drop("study of the test set has no film in the folder", table["Study"][lost])
    rows = table.loc[table.index.repeat([len(some) for some in films])]
    return rows.assign(Path=pd.Series([path for some in films for path in some], index=rows.index, dtype="str"))


def _usable(table: pd.DataFrame, bad: NDArray[np.bool_], tally: Tally) -> tuple[NDArray[np.bool_], pd.DataFrame]:
    """(N,) rows to keep; and the pieces of every path."""
    parts = table["Path"].str.replace("\\", "/").str.extract(_PATH)
    nameless = (table["Path"] == "").to_numpy(bool)
    strange = parts["film"].isna().to_numpy(bool) & ~nameless
    tally.drop("row has no Path", (table["split"] + " table")[nameless & ~bad])
    tally.drop("path is not .../patient1/study1/view1_frontal.jpg", table["Path"][strange & ~bad])
    keep = ~(bad | nameless | strange)
    repeated = np.zeros(len(table), dtype=bool)
    repeated[keep] = parts.loc[keep, ["patient", "study", "film"]].duplicated().to_numpy(bool)
    tally.drop("film is in an earlier row already", table["Path"][repeated])
    keep &= ~repeated
    if not keep.any():
        raise DataError("No row of CheXpert's tables can be used.", hint="; ".join(tally.dropped) + ".")
    return keep, parts


def _rows(table: pd.DataFrame, parts: pd.DataFrame, folders: _Folders, tally: Tally) -> pd.DataFrame:
    ids = parts["patient"] + "_" + parts["study"] + "_" + parts["film"]
    split = _splits(table, parts, tally)
    return pd.DataFrame(
        {
            "image_path": _paths(table, parts, split, folders),
            "image_id": ids.to_numpy(),
            "patient_id": parts["patient"].to_numpy(),
            "study_id": (parts["patient"] + "/" + parts["study"]).to_numpy(),
            "split": split.to_numpy(),
            "view": _views(table, parts["side"], tally),
            "age": _ages(table, ids, tally),
            "sex": read_sexes(_column(table, "Sex")),
        }
    )


def _splits(table: pd.DataFrame, parts: pd.DataFrame, tally: Tally) -> pd.Series[str]:
    """The split of the folder in the path, which is CheXpert's own; the table's where the path names none."""
    split = parts["folder"].map(_FOLDERS).fillna(table["split"])
    if moved := int((split != table["split"]).sum()):
        tally.note(f"{moved:,} rows stand in another split's table: they are in the split that their path names")
    return split


def _paths(table: pd.DataFrame, parts: pd.DataFrame, split: pd.Series[str], folders: _Folders) -> list[str]:
    """Relative to the root. A patient without a folder gets the one that the table means."""
    names = parts["patient"] + "/" + parts["study"] + "/" + parts["film"] + parts["suffix"].fillna(".jpg")
    own = table["table"].replace(".", "") + "/" + parts["folder"].where(parts["folder"].isin(list(_FOLDERS)), split)
    above = (
        folders.above.get((part, patient), place.lstrip("/"))
        for part, patient, place in zip(split, parts["patient"], own, strict=True)
    )
    return [f"{place}/{name}".removeprefix("./") for place, name in zip(above, names, strict=True)]


def _views(table: pd.DataFrame, side: pd.Series[str], tally: Tally) -> list[str]:
    """A frontal film that is not said to be AP or PA is UNKNOWN: LL and RL contradict ``Frontal``."""
    said = _column(table, "Frontal/Lateral").str.upper()
    said = said.where(said != "", side.str.upper())
    words = said.where(said != "FRONTAL", ("FRONTAL " + _column(table, "AP/PA").str.upper()).str.strip())
    bare = words == "FRONTAL"
    if bare.any():
        tally.note(
            f"{int(bare.sum()):,} frontal films are not said to be AP or PA (the test set's never are): "
            "--views PA,AP leaves them out, PA,AP,UNKNOWN keeps them"
        )
    return read_views(words, _VIEWS, tally)


def _ages(table: pd.DataFrame, ids: pd.Series[str], tally: Tally) -> NDArray[np.float64]:
    """Years. Three films of the last three patients say 0, in a hospital's adults: nobody's age; the oldest say 90."""
    ages = read_ages(_column(table, "Age").set_axis(ids), tally)
    zero = ages == 0
    if zero.any():
        tally.note(f"{int(zero.sum()):,} ages are 0 (first: {ids.to_numpy()[zero][0]}): set to unknown")
    if old := int((ages >= _CAP).sum()):
        tally.note(f"ages are capped: {old:,} films say {_CAP}, which means {_CAP} or more")
    return np.where(zero, np.nan, ages)


def _column(table: pd.DataFrame, name: str) -> pd.Series[str]:
    return table[name] if name in table else pd.Series("", index=table.index, dtype="str")

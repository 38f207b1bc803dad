"""MIMIC-CXR-JPG 2.0.0 and 2.1.0, in the layout that PhysioNet distributes.

``mimic-cxr-2.0.0-metadata.csv.gz`` (a row a film), ``-split.csv.gz``, ``-chexpert.csv.gz`` or ``-negbio.csv.gz`` (a row
a study) and the films, ``files/p10/p10000032/s50414267/<dicom_id>.jpg``. 2.1.0 adds ``-test-set-labeled.csv``, in which
a radiologist read the reports of some studies of the test set; ``patients.csv.gz`` of MIMIC-IV beside them gives ages
and sexes.

All labels are a report's, on all films of its study: 1, 0, -1 for a report that is unsure, and empty for one that is
silent. Silence is unknown here; the run file's policy may say otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.chexpert_labels import LABELS, label_of, read_marks
from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.columns import OLDEST, read_sexes, read_views
from cxr_mtl.data.sources.tables.files import find_table, keep_films, read_table, short_hash
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology

NAME = "mimic"
LABELLERS = ("chexpert", "negbio")

VIEWS = {"AP": "AP", "PA": "PA", "LATERAL": "LATERAL", "LL": "LATERAL", "RL": "LATERAL", "XTABLE LATERAL": "LATERAL"}
"""A film with another word is UNKNOWN: oblique, lordotic (AP AXIAL), on the side (AP LLD), SWIMMERS, or not said."""

_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_KEYS = ["subject_id", "study_id"]
_HINT = "Put the tables of physionet.org/content/mimic-cxr-jpg there, or --allow-missing-images for want of films."
_PATIENTS = ("patients.csv", "patients.csv.gz", "hosp/patients.csv", "hosp/patients.csv.gz")


def read_mimic(
    root: Path,
    ontology: Ontology,
    tally: Tally,
    *,
    allow_missing_images: bool,
    labeller: str = "chexpert",
    radiologist: bool = True,
) -> Found:
    """Read the folder.

    Args:
        allow_missing_images: keep rows without a film.
        labeller: the tool whose labels to take: ``chexpert`` or ``negbio``.
        radiologist: where 2.1.0's ``test-set-labeled.csv`` is there, its studies get its labels instead of the tool's.

    Raises:
        ConfigError: no such labeller.
        DataError: a table or the films are missing or cannot be read.
    """
    if labeller not in LABELLERS:
        raise ConfigError(f"There is no labeller {labeller!r} of MIMIC.", hint=f"One of: {', '.join(LABELLERS)}.")
    info: dict[str, Any] = {"labeller": labeller}
    films = _films(root, info, tally)
    split, how = _split(root, films, info, tally)
    films = films.assign(split=pd.Series(split, dtype=object))
    labels = _tool_labels(root, labeller, info, tally)
    if radiologist:
        labels = _with_radiologist(root, labels, films, info, tally)
    films = _with_study(films, labels, tally)
    stated, bad, unlisted = read_marks(labels, NAME, ontology, tally, not_labels=(*_KEYS, "by"))
    broken = bad[films["study"]]
    tally.drop("study has a mark that is none of 1, 0, -1 and empty", films["image_path"][broken])
    films = films[~broken].reset_index(drop=True)
    if films.empty:
        raise DataError(f"No row of MIMIC's tables in {root} can be used.", hint="; ".join(tally.dropped) + ".")
    films = keep_films(films, root, tally, allow_missing_images=allow_missing_images, hint=_HINT)
    stated, unlisted = stated[films["study"]], unlisted[films["study"]]
    _note_labels(films, labels, stated, tally)
    return Found(
        rows=_rows(root, films, info, tally),
        stated=stated,
        info=info,
        labelled=ontology.labelled_by(NAME),
        split_how=how,
        unlisted=unlisted,
    )


def _patterns(kind: str) -> list[str]:
    return [f"mimic-cxr-2.*-{kind}.{end}" for end in ("csv.gz", "csv")]


def _films(root: Path, info: dict[str, Any], tally: Tally) -> pd.DataFrame:
    """A row a film of the metadata, with ``image_path``."""
    path = find_table(root, _patterns("metadata"), hint=_HINT)
    info["metadata_file"] = path.name
    films = _whole_ids(read_table(path, needed=("dicom_id", *_KEYS, "ViewPosition")), ["dicom_id", *_KEYS])
    usable = films["dicom_id"].str.fullmatch(r"[0-9A-Za-z._-]+") & _numbered(films)
    tally.drop("row of the metadata has no usable dicom_id, subject_id or study_id", films["dicom_id"][~usable])
    films = films[usable]
    repeated = films["dicom_id"].duplicated()
    tally.drop("film is in an earlier row already", films["dicom_id"][repeated])
    films = films[~repeated].reset_index(drop=True)
    above = "files/" if (root / "files").is_dir() or not any(root.glob("p1?")) else ""
    patient, study, film = films["subject_id"], films["study_id"], films["dicom_id"]
    return films.assign(image_path=above + "p" + patient.str[:2] + "/p" + patient + "/s" + study + "/" + film + ".jpg")


def _whole_ids(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Numbers that passed through a float column lose their ``.0``."""
    return table.assign(**{name: table[name].str.removesuffix(".0") for name in columns})


def _numbered(table: pd.DataFrame) -> pd.Series[bool]:
    return table["subject_id"].str.fullmatch(r"\d+") & table["study_id"].str.fullmatch(r"\d+")


def _split(
    root: Path, films: pd.DataFrame, info: dict[str, Any], tally: Tally
) -> tuple[list[str | None], dict[str, Any] | None]:
    """Train, val, test or None of each film; and how that was stated, None where it was not."""
    path = next((path for pattern in _patterns("split") for path in sorted(root.glob(pattern))), None)
    if path is None:
        tally.note("there is no mimic-cxr-2.0.0-split.csv.gz")
        return [None] * len(films), None
    table = _whole_ids(read_table(path, needed=("dicom_id", "split")), ["dicom_id"])
    table = table[~table["dicom_id"].duplicated()].set_index("dicom_id")
    if extra := int((~table.index.isin(films["dicom_id"])).sum()):
        tally.note(f"{extra:,} films of {path.name} are not in the metadata")
    word = films["dicom_id"].map(table["split"]).fillna("")
    strange = ~word.isin(list(_SPLITS))
    if strange.any():
        tally.note(
            f"{int(strange.sum()):,} films have no split in {path.name} (first: {films['dicom_id'][strange].iloc[0]})"
        )
    info["split_file"], digest = path.name, short_hash(path)
    return [_SPLITS.get(one) for one in word], {"how": "official list", "split_sha256": digest}


def _tool_labels(root: Path, labeller: str, info: dict[str, Any], tally: Tally) -> pd.DataFrame:
    """A row a study: its keys, who read it (``by``) and its marks, numbered from 0."""
    path = find_table(root, _patterns(labeller), hint=_HINT)
    info |= {"label_file": path.name, "label_sha256": short_hash(path)}
    tally.note(f"labels from {path.name} (sha256 {info['label_sha256']})")
    labels = _whole_ids(read_table(path, needed=_KEYS), _KEYS)
    if not any(label_of(str(column)) for column in labels):
        raise DataError(f"{path} has none of the labeller's columns.", hint=f"It should have: {', '.join(LABELS)}.")
    usable = _numbered(labels)
    tally.drop(f"row of {path.name} has no usable subject_id or study_id", labels["study_id"][~usable])
    repeated = usable & labels.duplicated(_KEYS)
    tally.drop(f"study is in an earlier row of {path.name} already", labels["study_id"][repeated])
    return labels[usable & ~repeated].reset_index(drop=True).assign(by=labeller)


def _with_radiologist(
    root: Path, labels: pd.DataFrame, films: pd.DataFrame, info: dict[str, Any], tally: Tally
) -> pd.DataFrame:
    """The labels with whole rows replaced where 2.1.0's radiologist read the report.

    Whole rows: where the radiologist found a finding not mentioned, what the tool thought to read must not come back.
    """
    path = next(iter(sorted(root.glob("mimic-cxr-2.*-test-set-labeled.csv*"))), None)
    if path is None:
        return labels
    info |= {"radiologist_file": path.name, "radiologist_sha256": short_hash(path)}
    read = _whole_ids(read_table(path, needed=("study_id",)), ["study_id"])
    repeated = read["study_id"].duplicated()
    tally.drop(f"study is in an earlier row of {path.name} already", read["study_id"][repeated])
    # The table has no subject_id; a study is one patient's.
    patients = films.drop_duplicates("study_id").set_index("study_id")["subject_id"]
    read = read.assign(subject_id=read["study_id"].map(patients), by="radiologist")[~repeated]
    strays = read["subject_id"].isna()
    tally.drop(f"study of {path.name} has no film", read["study_id"][strays])
    read = read[~strays]
    kept = labels[~labels["study_id"].isin(read["study_id"])]
    return pd.concat([read, kept], ignore_index=True).fillna("")


def _with_study(films: pd.DataFrame, labels: pd.DataFrame, tally: Tally) -> pd.DataFrame:
    """The films that have labels, with ``study``, the row of their labels; both keys must agree."""
    row = pd.Series(np.arange(len(labels)), index=labels["subject_id"] + "/" + labels["study_id"])
    place = (films["subject_id"] + "/" + films["study_id"]).map(row)
    lost = place.isna()
    tally.drop("study has no labels", films["image_path"][lost])
    if lost.all():
        raise DataError("No film of MIMIC's metadata has labels.", hint="Are all tables of the same version?")
    return films.assign(study=place)[~lost].astype({"study": np.int64}).reset_index(drop=True)


def _note_labels(films: pd.DataFrame, labels: pd.DataFrame, stated: NDArray[np.float32], tally: Tally) -> None:
    read = (labels["by"] == "radiologist").to_numpy(bool)[films["study"]]
    if read.any():
        test = (films["split"] == "test").to_numpy(bool)
        tally.note(
            f"{int(read.sum()):,} films have the labels of a radiologist who read their reports, "
            f"{int((test & ~read).sum()):,} films of test have the tool's"
        )
        if stray := int((read & ~test).sum()):
            tally.note(f"{stray:,} of the films with a radiologist's labels are not in test")
    if silent := int(np.isnan(stated).all(axis=1).sum()):
        tally.note(f"{silent:,} films have no mark in any label: all their findings are unknown")


def _rows(root: Path, films: pd.DataFrame, info: dict[str, Any], tally: Tally) -> pd.DataFrame:
    ages, sexes = _patients(root, films, info, tally)
    return pd.DataFrame(
        {
            "image_path": films["image_path"],
            "image_id": films["dicom_id"],
            "patient_id": films["subject_id"],
            "study_id": films["study_id"],
            "split": films["split"],
            "view": read_views(films["ViewPosition"], VIEWS, tally),
            "age": ages,
            "sex": sexes,
        }
    )


def _patients(
    root: Path, films: pd.DataFrame, info: dict[str, Any], tally: Tally
) -> tuple[NDArray[np.float64], list[str | None]]:
    """Years and sexes from MIMIC-IV's ``patients.csv``, whose years are shifted as the films' dates are."""
    nobody: list[str | None] = [None] * len(films)
    path = next((root / name for name in _PATIENTS if (root / name).is_file()), None)
    if path is None:
        tally.note("there is no patients.csv.gz of MIMIC-IV: no ages and no sexes")
        return np.full(len(films), np.nan), nobody
    table = read_table(path, needed=("subject_id", "gender", "anchor_age", "anchor_year"))
    table = table[~table["subject_id"].duplicated()].set_index("subject_id").reindex(films["subject_id"])
    info |= {"patients_file": path.name, "patients_sha256": short_hash(path)}
    year = _numbers(films["StudyDate"].str[:4]) if "StudyDate" in films else np.full(len(films), np.nan)
    ages = _numbers(table["anchor_age"]) + year - _numbers(table["anchor_year"])
    ages[(ages < 0) | (ages > OLDEST)] = np.nan
    tally.note(f"ages and sexes from {path.name}: {int(np.isnan(ages).sum()):,} films without an age")
    return ages, read_sexes(table["gender"].fillna(""))


def _numbers(column: pd.Series[str]) -> NDArray[np.float64]:
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, copy=True)

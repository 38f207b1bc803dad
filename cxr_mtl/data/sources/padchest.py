"""PadChest, in the layout that BIMCV distributes.

``PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`` (160,861 films) and the films: 16-bit PNGs in folders ``0`` to
``54``, one a zip file, or all in one folder. A copy of another size or format does as well: films are found by stem.

PadChest lists the words that a report says, or that a network read from it. Words are matched whole, never in part:
a pericardial effusion is no pleural effusion. Each word has one UMLS code, so whole words agree with ``labelCUIS``.
The list is a closed world, what is not listed is absent, with these exceptions:

* ``unchanged`` refers to an earlier report, and an empty word is a sentence that nobody could label: what such a film
  does not list is unknown;
* a film with these words, ``suboptimal study`` or ``exclude`` and nothing else states nothing;
* what a listed word implies is present; a group is not called absent because its own word is missing;
* ``normal`` is only written where nothing else is, so where it is missing it is for the listed findings to say that
  the film is not normal: a pacemaker does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.padchest_words import BLANK, WORDS, read_listed
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.columns import read_ages, read_sexes, read_views
from cxr_mtl.data.sources.tables.files import FilmFiles, find_table, keep_films, read_table, short_hash
from cxr_mtl.data.sources.tables.labels import Flags, Labels, stated_words
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import PRESENT, UNKNOWN

NAME = "padchest"
METHODS = {"all": None, "physician": "Physician"}
"""The option ``labels`` -> the ``MethodLabel`` to keep; None keeps both."""

_COLUMNS = (
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "Projection",
    "MethodLabel",
    "Labels",
)
_IDS = ("ImageID", "PatientID", "StudyID")
_VIEWS = {"PA": "PA", "AP": "AP", "AP_HORIZONTAL": "AP", "L": "LATERAL"}
_FOLDERS = ("", "images", "images-224", "images-64")
_HINT = "Get it from bimcv.cipf.es/bimcv-projects/padchest."


def read_padchest(
    root: Path,
    ontology: Ontology,
    tally: Tally,
    *,
    allow_missing_images: bool,
    labels: str = "all",
    supine: str = "keep",
) -> Found:
    """Read the folder.

    Args:
        labels: ``physician`` keeps the films whose reports physicians labelled; ``all`` those that PadChest's network
            labelled, too.
        supine: ``drop`` leaves out films of patients lying down (AP_horizontal); their view is AP as well.

    Raises:
        ConfigError: no such ``labels`` or ``supine``.
        DataError: the table or the films are missing or cannot be read, or a spreadsheet has rounded the patients' ids.
    """
    if labels not in METHODS:
        raise ConfigError(f"PadChest has no labels {labels!r}.", hint=f"Choose of {', '.join(METHODS)}.")
    if supine not in ("keep", "drop"):
        raise ConfigError(f"PadChest's supine films cannot be {supine!r}.", hint="Choose of keep, drop.")
    path = find_table(root, ("PADCHEST_*.csv", "PADCHEST_*.csv.gz", "PADCHEST_*.csv.zip"), hint=_HINT)
    info: dict[str, Any] = {"label_file": path.name, "label_sha256": short_hash(path), "labels": labels}
    tally.note(f"labels from {path.name} (sha256 {info['label_sha256']})")
    table = _by_method(_entries(path, tally), METHODS[labels], info, tally)
    if supine == "drop":
        lying = table["Projection"].str.upper() == "AP_HORIZONTAL"
        tally.drop("film of a patient lying down", table.loc[lying, "ImageID"])
        table = table[~lying].reset_index(drop=True)
    table = _with_films(table, root, allow_missing_images, tally)
    table, stated, unlisted = _labels(table, ontology, tally)
    _remark(table, tally)
    rows = pd.DataFrame(
        {
            "image_path": table["image_path"],
            "image_id": _stems(table["ImageID"]),
            "patient_id": table["PatientID"],
            "study_id": table["StudyID"],
            "view": read_views(table["Projection"], _VIEWS, tally),
            "age": _ages(table, tally),
            "sex": pd.Series(read_sexes(table["PatientSex_DICOM"]), table.index, dtype=object),
        }
    )
    return Found(rows, stated, info, labelled=ontology.labelled_by(NAME), unlisted=unlisted)


def _entries(path: Path, tally: Tally) -> pd.DataFrame:
    """The rows that name a film, its patient and its study, each film once; numbered from 0."""
    table = read_table(path, needed=_COLUMNS)
    for column in _IDS:
        empty = table[column].isin(BLANK)
        tally.drop(f"row has no {column}", table.loc[empty, "ImageID"])
        table = table[~empty]
    for column in ("PatientID", "StudyID"):
        # Ids of 40 digits: as floating point numbers, many patients become one.
        rounded = table[column].str.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+")
        if rounded.any():
            first = table.loc[rounded, "ImageID"].iloc[0]
            raise DataError(
                f"{path}: {column} of {first} is a rounded number, so different patients may share it.",
                hint="Use BIMCV's own file; spreadsheets round long numbers.",
            )
        table = table.assign(**{column: table[column].str.removesuffix(".0")})
    repeated = _stems(table["ImageID"]).duplicated()
    tally.drop("film is in an earlier row already", table.loc[repeated, "ImageID"])
    return table[~repeated].reset_index(drop=True)


def _stems(names: pd.Series[str]) -> pd.Series[str]:
    return names.str.replace(r"\.[A-Za-z]+$", "", regex=True)


def _by_method(table: pd.DataFrame, wanted: str | None, info: dict[str, Any], tally: Tally) -> pd.DataFrame:
    """Only what was labelled the wanted way; and say how much of each there is."""
    counts = table["MethodLabel"].replace("nan", "").value_counts()
    info["methods"] = {str(method) or "not stated": int(num) for method, num in counts.items()}
    told = ", ".join(f"{method} {num:,}" for method, num in info["methods"].items())
    tally.note(f"films by who labelled the report: {told}; RNN_model is PadChest's network")
    if wanted is None:
        return table
    other = table["MethodLabel"] != wanted
    tally.drop(f"report was not labelled by a {wanted.lower()}", table.loc[other, "ImageID"])
    if other.all():
        raise DataError(f"No row has the MethodLabel {wanted}.", hint="Leave --labels out.")
    return table[~other].reset_index(drop=True)


def _with_films(table: pd.DataFrame, root: Path, allow_missing: bool, tally: Tally) -> pd.DataFrame:
    """Add ``image_path``; films lie in the folder that the table says, or in one folder for all."""
    below = sorted({name for name in table["ImageDir"].unique() if name.isdigit()}, key=int)
    folders = [root / top / name for top in _FOLDERS for name in ("", *below)]
    films = FilmFiles(root, [folder for folder in dict.fromkeys(folders) if folder.is_dir()])
    names = zip(table["ImageID"], table["ImageDir"], strict=True)
    paths = [(films.find(name) or f"{folder}/{name}").removeprefix("./") for name, folder in names]
    hint = "Unpack PadChest's zip files there, or --allow-missing-images."
    table = table.assign(image_path=paths)
    return keep_films(table, root, tally, allow_missing_images=allow_missing, hint=hint)


def _labels(table: pd.DataFrame, ontology: Ontology, tally: Tally) -> tuple[pd.DataFrame, Labels, Flags]:
    """The rows that say what they show, (N, C) what they state, and (N,) which have words without a finding."""
    # 160,861 films have 28,809 different lists.
    meanings = {text: read_listed(text) for text in table["Labels"].unique()}
    listed = [meanings[text] for text in table["Labels"]]
    reasons = np.asarray([one.unusable for one in listed], dtype=np.str_)
    stated, bad, unlisted = stated_words([one.words for one in listed], NAME, ontology, tally, known=WORDS)
    reasons[bad] = "row has a word that PadChest does not have"
    for reason in sorted({*reasons.tolist()} - {""}):
        tally.drop(reason, table.loc[reasons == reason, "ImageID"])
    keep = reasons == ""
    if not keep.any():
        raise DataError("No row of the table has labels that are PadChest's.", hint=_HINT)
    is_open = np.asarray([one.open for one in listed], dtype=bool)[keep]
    silent = np.asarray([not one.words for one in listed], dtype=bool)[keep]
    stated, unlisted = stated[keep], unlisted[keep]
    if num := int(silent.sum()):
        tally.note(f"{num:,} films list nothing (unchanged, suboptimal study or no word alone): all is unknown")
    if num := int((is_open & ~silent).sum()):
        tally.note(f"{num:,} films are 'unchanged' or have an unlabelled sentence: what they do not list is unknown")
    return table[keep].reset_index(drop=True), _reopen(stated, is_open, silent, unlisted, ontology), unlisted


def _reopen(stated: Labels, is_open: Flags, silent: Flags, unlisted: Flags, ontology: Ontology) -> Labels:
    """Take back the absences that a missing word does not prove.

    Args:
        stated: (N, C) as if each list were closed.
        is_open: (N,) what is not listed is unknown.
        silent: (N,) nothing is listed.
        unlisted: (N,) something is listed that the ontology has no finding for.
    """
    present = stated == PRESENT
    opened = np.zeros_like(present)
    opened[is_open | silent] = True
    opened[:, [ontology.index(name) for name in _wider_than_its_words(ontology)]] = True
    if ontology.normal:
        # A listed finding that the ontology lacks still says that the film is not normal.
        opened[:, ontology.index(ontology.normal)] = silent | ~unlisted
    unknown = np.float32(UNKNOWN)
    implied = ontology.propagate(np.where(present, stated, unknown)) == PRESENT
    return np.where(implied, np.float32(PRESENT), np.where(opened, unknown, stated))


def _wider_than_its_words(ontology: Ontology) -> list[str]:
    """Groups that PadChest has a word for, but for which its words are not all: they can be present without one."""
    complete = {finding.name for finding in ontology.findings if NAME in finding.complete_in}
    return [name for name in ontology.groups if complete.isdisjoint({name, *ontology.ancestors(name)})]


def _ages(table: pd.DataFrame, tally: Tally) -> NDArray[np.float64]:
    """(N,) years at the study: the table has the year of birth alone."""
    year = pd.to_numeric(table["StudyDate_DICOM"].str[:4], errors="coerce")
    birth = pd.to_numeric(table["PatientBirth"], errors="coerce")
    unknown = (year.isna() | birth.isna()).to_numpy(bool)
    if num := int(unknown.sum()):
        tally.note(f"{num:,} films have no year of birth or of study: age unknown")
    text = (year - birth).map("{:g}".format).where(~unknown, "")
    return read_ages(text.set_axis(table["ImageID"]), tally)


def _remark(table: pd.DataFrame, tally: Tally) -> None:
    """Count what PadChest says of how films were taken, where the table has these columns."""
    remarks = {
        ("MethodProjection", "resnet-50.t7"): "have a view that PadChest's network told",
        ("Pediatric", "PED"): "are of children by PadChest's own mark",
        (
            "PhotometricInterpretation_DICOM",
            "MONOCHROME1",
        ): "may be dark where dense: run data doctor",
    }
    for (column, value), what in remarks.items():
        if column in table and (num := int((table[column] == value).sum())):
            tally.note(f"{num:,} films {what} ({column} {value})")

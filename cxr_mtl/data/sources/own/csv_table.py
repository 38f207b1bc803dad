"""Films of your own in a table: one row a film, one column a finding; ``template`` makes one to fill in.

Cells are 1 present, 0 absent, -1 uncertain, empty unknown. Paths are relative to the table's folder. Where a film is
marked normal, an empty cell of what a normal film does not show is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.own.csv_boxes import Drawn, box_columns, clean_path, read_boxes
from cxr_mtl.data.sources.own.csv_header import ABOUT, TEMPLATE_HINT, check_header
from cxr_mtl.data.sources.own.csv_template import template
from cxr_mtl.data.sources.own.csv_text import names_of, numbers, read_cells
from cxr_mtl.data.sources.own.films import SPLIT_WORDS, check_splits, excluded_by_normal, near_word
from cxr_mtl.data.sources.own.patients import read_patients
from cxr_mtl.data.sources.own.walk import name_films
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.columns import read_ages, read_sexes, read_views
from cxr_mtl.data.sources.tables.files import keep_films, short_hash
from cxr_mtl.data.sources.tables.labels import stated_columns
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT

__all__ = ["read_csv_table", "template"]

_VIEWS = {"PA": "PA", "AP": "AP"} | dict.fromkeys(("LATERAL", "LAT", "LL", "RL", "L"), "LATERAL")
_WORDS = (
    dict.fromkeys(("yes", "y", "true", "present", "positive"), "1")
    | dict.fromkeys(("no", "n", "false", "absent", "negative"), "0")
    | dict.fromkeys(("uncertain", "equivocal"), "-1")
    | dict.fromkeys(("unknown", "na", "n/a", "nan", "null", "none"), "")
)


def read_csv_table(
    root: Path,
    ontology: Ontology,
    tally: Tally,
    *,
    allow_missing_images: bool = False,
    boxes: Path | None = None,
    exhaustive: bool = False,
    patient_pattern: str | None = None,
) -> Found:
    """Read a table of films and, where there is one, its table of boxes.

    Args:
        root: the table, or the folder that it lies in.
        boxes: the table of boxes; None takes ``boxes.csv`` beside the table if it is there.
        exhaustive: whether every film was searched for all findings that the table of boxes has, also a film that it
            does not name.
        patient_pattern: where there is no column ``patient_id``: regular expression over ``image_path`` whose first
            group, or all that it matches, is the patient.

    Raises:
        ConfigError: the pattern is wrong, or the table has a column ``patient_id`` as well.
        DataError: a table cannot be read, lacks a column, or shares patients between splits; or no row can be used.
    """
    path = _find(root)
    folder = path.parent
    table = _read_films(path, ontology, patient_pattern, tally)
    findings = _finding_columns(table, ontology, tally)
    table = _paths(path, table, patient_pattern, tally)
    table = keep_films(table, folder, tally, allow_missing_images=allow_missing_images, hint=_where(folder))
    table, stated = _stated(path, table, findings, ontology, tally)
    info: dict[str, Any] = {"label_file": path.name, "label_sha256": short_hash(path), "exhaustive": exhaustive}
    info |= {} if patient_pattern is None else {"patient_pattern": patient_pattern}
    drawn = _boxes(path, boxes, table, ontology, info, tally)
    if not findings and not any(one.boxes or one.searched for one in drawn.values()):
        hint = f"Name columns as the findings: {', '.join(ontology.names)}."
        raise DataError(f"{path} has no column of a finding of ontology {ontology.name}.", hint=hint)
    labelled = _named(set(findings.values()), drawn, ontology)
    _from_boxes(stated, table, drawn, ontology, tally)
    _from_normal(stated, labelled, ontology)
    rows, split_how = _rows(path, table, tally)
    boxed = _named((), drawn, ontology)
    if exhaustive and not drawn:
        tally.note("no table of boxes names any of these films: --exhaustive says nothing")
    if drawn:
        rows = rows.assign(**box_columns(rows["image_path"], drawn, stated, boxed, ontology, exhaustive, tally))
    return Found(rows, stated, info, labelled, boxed, split_how, root=folder)


def _find(root: Path) -> Path:
    if root.is_file():
        return root
    tables = sorted(p for end in ("csv", "csv.gz") for p in root.glob(f"*.{end}") if not p.name.startswith((".", "~")))
    films = [path for path in tables if not path.name.startswith("boxes.csv")]
    if len(films) == 1:
        return films[0]
    if not films:
        raise DataError(f"{root} has no table *.csv.", hint=TEMPLATE_HINT)
    names = ", ".join(path.name for path in films[:6])
    raise DataError(f"{root} has {len(films)} tables: {names}.", hint="Give the one to read instead of the folder.")


def _read_films(path: Path, ontology: Ontology, pattern: str | None, tally: Tally) -> pd.DataFrame:
    """Cells by line, with the columns that are no finding in lower case."""
    table = read_cells(path, tally)
    lower = [name.casefold() if name.casefold() in ABOUT else name for name in table.columns]
    table = table.set_axis(lower, axis="columns")
    needed = ("image_path", "patient_id") if pattern is None else ("image_path",)
    check_header(path, table.columns.tolist(), needed, ontology.understand)
    if pattern is not None and "patient_id" in table:
        hint = "Leave --patient-pattern out, or the column."
        raise ConfigError(f"{path} has a column 'patient_id', so no pattern is needed.", hint=hint)
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise DataError(f"{path} has two columns {twice!r}.", hint="Rename or remove one.")
    return table


def _finding_columns(table: pd.DataFrame, ontology: Ontology, tally: Tally) -> dict[str, str]:
    """Column -> the finding it means; every other column is noted as left out."""
    findings: dict[str, str] = {}
    for column in table.columns:
        if column in ABOUT:
            continue
        finding = ontology.understand(column.removeprefix("label:"))
        if finding is not None:
            findings[column] = finding
            continue
        near = near_word(column, (*ABOUT, *ontology.names))
        hint = f"; did you mean {near!r}?" if near else ""
        tally.note(f"column {column} is left out: no finding of ontology {ontology.name}{hint}")
    return findings


def _paths(path: Path, table: pd.DataFrame, pattern: str | None, tally: Tally) -> pd.DataFrame:
    """Clean paths and patients; rows that cannot be used are counted. Adds ``line``."""
    table = table.assign(line=table.index)
    clean = table["image_path"].map(lambda text: clean_path(text, path.parent))
    patients = names_of(table["patient_id"], path) if pattern is None else _matched(clean, pattern, tally)
    good = pd.Series(True, table.index)
    for reason, bad in (
        ("row has no image_path", table["image_path"] == ""),
        ("image_path leads out of the table's folder", clean.isna()),
        ("row has no patient_id", patients == ""),
        ("film is in an earlier row already", clean.duplicated()),
    ):
        tally.drop(reason, [f"line {line}" for line in table.index[good & bad]])
        good &= ~bad
    if not good.any():
        raise DataError(f"{path} has no row that can be used.", hint="; ".join(tally.dropped) + ".")
    clean_text = clean.astype("str")
    return table.assign(image_path=clean_text, clean=clean_text, patient_id=patients)[good].reset_index(drop=True)


def _matched(clean: pd.Series[Any], pattern: str, tally: Tally) -> pd.Series[str]:
    """The patient of each path; a path that leads nowhere has none."""
    films = clean.dropna().drop_duplicates().tolist()
    patients, _ = read_patients(films, films, pattern, tally)
    return clean.map(dict(zip(films, patients, strict=True))).fillna("").astype("str")


def _where(folder: Path) -> str:
    return f"image_path is relative to {folder}; or --allow-missing-images."


def _stated(
    path: Path, table: pd.DataFrame, findings: Mapping[str, str], ontology: Ontology, tally: Tally
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """The rows whose cells can be read, and their labels."""
    marks = table[list(findings)].apply(_marks)
    good = np.ones(len(table), dtype=bool)
    for column in findings:
        strange = (marks[column] == "?").to_numpy(bool)
        where = [f"line {line}, column {column}" for line in table.loc[strange & good, "line"]]
        tally.drop("row has a cell that is none of 1, 0, -1 and empty", where)
        good &= ~strange
    if not good.any():
        raise DataError(f"{path} has no row whose cells are 1, 0, -1 or empty.", hint=TEMPLATE_HINT)
    kept = table[good].reset_index(drop=True)
    stated, _ = stated_columns(marks[good].reset_index(drop=True), dict(findings), ontology, tally)
    return kept, stated


def _marks(column: pd.Series[str]) -> pd.Series[str]:
    """1, 0, -1 and empty, however they are written; ``?`` for all else."""
    values = numbers(column)
    text = column.str.casefold().map(_WORDS).fillna("?").where(column != "", "")
    for value, mark in ((1, "1"), (0, "0"), (-1, "-1")):
        text = text.mask(values == value, mark)
    return text


def _boxes(
    path: Path, boxes: Path | None, table: pd.DataFrame, ontology: Ontology, info: dict[str, Any], tally: Tally
) -> dict[str, Drawn]:
    beside = [path.parent / name for name in ("boxes.csv", "boxes.csv.gz")]
    found = Path(boxes) if boxes is not None else next((p for p in beside if p.is_file() and p != path), None)
    if found is None:
        return {}
    if not found.is_file():
        raise DataError(f"{found} does not exist.", hint="Give the table of boxes, or leave it out.")
    return read_boxes(found, path.parent, table.set_index("clean")["image_path"], ontology, info, tally)


def _named(columns: set[str] | tuple[()], drawn: Mapping[str, Drawn], ontology: Ontology) -> tuple[str, ...]:
    named = {box.finding for one in drawn.values() for box in one.boxes}.union(columns)
    return tuple(name for name in ontology.names if name in named)


def _from_boxes(
    stated: NDArray[np.float32], table: pd.DataFrame, drawn: Mapping[str, Drawn], ontology: Ontology, tally: Tally
) -> None:
    """A boxed finding is present where the table leaves it open; where it is denied, that stands, with a note."""
    place = {film: row for row, film in enumerate(table["image_path"])}
    pairs = sorted({(place[film], ontology.index(box.finding)) for film, one in drawn.items() for box in one.boxes})
    denied = [(row, column) for row, column in pairs if stated[row, column] == ABSENT]
    for row, column in pairs:
        if np.isnan(stated[row, column]):
            stated[row, column] = PRESENT
    if denied:
        first = f"{table['image_path'].iat[denied[0][0]]} {ontology.names[denied[0][1]]}"
        tally.note(f"{len(denied):,} findings have a box on a film where the table calls them absent (first: {first})")


def _from_normal(stated: NDArray[np.float32], labelled: tuple[str, ...], ontology: Ontology) -> None:
    """On a film marked normal, what the table labels, leaves open and a normal film does not show is absent."""
    if ontology.normal is None:
        return
    columns = [ontology.index(name) for name in excluded_by_normal(ontology, labelled)]
    normal = (stated[:, ontology.index(ontology.normal)] == PRESENT) & ~(stated[:, columns] == PRESENT).any(axis=1)
    for column in columns:
        stated[normal & np.isnan(stated[:, column]), column] = ABSENT


def _rows(path: Path, table: pd.DataFrame, tally: Tally) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    films = table["image_path"]
    image_ids = name_films(films.tolist())
    rows = pd.DataFrame({"image_path": films, "image_id": image_ids, "patient_id": table["patient_id"]})
    studies = names_of(table["study_id"], path) if "study_id" in table else pd.Series("", table.index)
    rows["study_id"] = studies.where(studies != "", rows["image_id"])
    if "view" in table:
        lines = "line " + table["line"].astype(str)
        rows["view"] = read_views(table["view"].set_axis(lines), _VIEWS, tally, quote=False)
    if "age" in table:
        rows["age"] = read_ages(table["age"].str.replace(",", ".", regex=False).set_axis(films), tally)
    if "sex" in table:
        rows["sex"] = pd.Series(read_sexes(table["sex"]), dtype=object)
        if strange := int((rows["sex"].isna() & (table["sex"] != "")).sum()):
            tally.note(f"{strange:,} films have a sex that is neither M nor F: set to unknown")
    return rows, _split(table, rows, tally)


def _split(table: pd.DataFrame, rows: pd.DataFrame, tally: Tally) -> dict[str, Any] | None:
    """Add ``split`` where the table states one."""
    if "split" not in table or (table["split"] == "").all():
        return None
    split = table["split"].str.casefold().map(SPLIT_WORDS)
    strange = split.isna() & (table["split"] != "")
    if strange.any():
        first = table.loc[strange, "line"].iat[0]
        tally.note(f"{int(strange.sum()):,} films have a split that is none of train, val, test (first: line {first})")
    rows["split"] = split.astype(object).where(split.notna(), None)
    check_splits(rows, "Correct the column split, or leave it out to have patients dealt anew.")
    films = {name: int((split == name).sum()) for name in ("train", "val", "test") if (split == name).any()}
    return {"how": "column split of the table", "films": films}

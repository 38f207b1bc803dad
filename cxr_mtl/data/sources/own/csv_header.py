"""The header of a table of films: which columns it must have, and what they are called elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cxr_mtl.data.sources.own.films import plain
from cxr_mtl.errors import DataError

ABOUT = ("image_path", "patient_id", "study_id", "split", "view", "age", "sex")
"""Columns that are no finding."""

TEMPLATE_HINT = "Start from: cxr-mtl data import csv --template."
_OTHERS = {
    "image_path": (
        "path", "file", "filename", "file name", "file path", "filepath", "image", "image file", "image name",
        "image index", "image id", "imagepath", "imageid", "img", "img path", "film",
    ),
    "patient_id": (
        "patient", "patientid", "patient no", "patient number", "subject", "subject id", "subjectid", "person", "case",
        "case id", "pid",
    ),
}  # fmt: skip


def check_header(path: Path, columns: Sequence[str], needed: Sequence[str], finds: Callable[[str], object]) -> None:
    """Refuse a header that lacks a column, with the name that it may have there.

    Args:
        columns: with those of ``ABOUT`` in lower case.
        finds: whether a column is a finding. A first line without any name that we know may be no header but a film's
            row, and is not quoted.

    Raises:
        DataError: a needed column is missing.
    """
    missing = next((name for name in needed if name not in columns), None)
    if missing is None:
        return
    others = {name: [column for column in columns if plain(column) in _OTHERS[name]] for name in needed}
    known = any(others.values()) or any(column in ABOUT or finds(column) for column in columns)
    if others[missing]:
        near = " or ".join(repr(column) for column in others[missing][:3])
        hint = f"Did you mean {near}? Rename it to {missing}."
    elif known:
        hint = f"Its columns: {', '.join(columns)}. {TEMPLATE_HINT}"
    else:
        hint = f"Its first line must name the columns. {TEMPLATE_HINT}"
    if missing == "patient_id":
        hint += " Where every film is a patient of its own, copy image_path into patient_id."
    raise DataError(f"{path} has no column {missing!r}.", hint=hint)

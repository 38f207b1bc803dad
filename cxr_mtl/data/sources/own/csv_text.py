"""Tables as people and spreadsheets write them: to text cells, each row under its line number."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import DataError

EXPORT = "Save it as CSV (comma delimited, UTF-8)."
_SEPARATORS = ",;\t"
_EXCEL = re.compile(r"""\s*"?sep=([^\w\s"']|\t)"?[,;\t]*\s*""", re.IGNORECASE)
_COMMENT = re.compile(r'\s*"?\s*#')
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")


def read_cells(path: Path, tally: Tally) -> pd.DataFrame:
    """A table whose index is the line of each row and whose header is in lower case with underscores.

    Separated by what Excel's first line ``sep=;`` says, or else by commas, semicolons or tabs, whichever the header
    uses; UTF-8, UTF-16 or, noted, Windows-1252; lines
    that start with # and empty rows and columns left out. Cells are stripped text; cells missing at a row's end are "".

    Raises:
        DataError: not such a table, or no row in it.
    """
    lines = [(number, line) for number, line in enumerate(_lines(path, tally), 1) if not _COMMENT.match(line)]
    lines, said = _without_excel(lines)
    header_line = next((line for _, line in lines if line.strip(_SEPARATORS + ' "\r\n')), "")
    if not header_line:
        raise DataError(f"{path} is empty.", hint="Start from: cxr-mtl data import csv --template.")
    separator = said or max(_SEPARATORS, key=header_line.count)
    reader = csv.reader((line for _, line in lines), delimiter=separator, strict=True)
    cells: dict[int, list[str]] = {}
    try:
        start = 0
        for row in reader:
            cells[lines[start][0]] = [cell.strip() for cell in row]
            start = reader.line_num
    except csv.Error as err:
        raise DataError(f"{path}, line {lines[start][0]}: {err}.", hint=EXPORT) from err
    filled = {number: row for number, row in cells.items() if any(row)}
    header, *numbers = filled
    names = [_name(cell) for cell in filled[header]]
    table = _table(path, names, {number: filled[number] for number in numbers}, tally)
    if table.empty:
        raise DataError(f"{path} has a header but no rows that can be used.", hint="Add a row a film.")
    return table


def _without_excel(lines: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], str | None]:
    """The lines without Excel's ``sep=;``, and the separator that it states."""
    place, first = next(((place, line) for place, (_, line) in enumerate(lines) if line.strip()), (0, ""))
    stated = _EXCEL.fullmatch(first)
    return (lines[place + 1 :], stated[1]) if stated else (lines, None)


def numbers(column: pd.Series[str]) -> NDArray[np.float64]:
    """(N,) each cell as a number, with a point or a comma before its decimals; nan where it is none."""
    good = column.str.fullmatch(_NUMBER)
    text = column.where(good, "nan").str.replace(",", ".", regex=False)
    return text.to_numpy(np.float64)


def names_of(column: pd.Series[str], path: Path) -> pd.Series[str]:
    """Identities as text: 17.0, which a spreadsheet makes of 17, is 17 again where the whole column looks like it.

    Raises:
        DataError: a spreadsheet rounded one, so that several patients may have become one.
    """
    rounded = column.str.fullmatch(_ROUNDED)
    if rounded.any():
        where = f"{path}, line {column.index[rounded][0]}: {column.name}"
        hint = "Format the column as text in the original table and export it again."
        raise DataError(f"{where} was rounded by a spreadsheet to a power of ten.", hint=hint)
    decimal = column.str.fullmatch(r"\d+[.,]0+") | (column == "")
    return column.str.replace(r"[.,]0+$", "", regex=True) if decimal.all() else column


def _lines(path: Path, tally: Tally) -> list[str]:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (OSError, EOFError, zlib.error) as err:
        raise DataError(f"{path} cannot be read ({err}).", hint="Check the file.") from err
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{path} is a workbook, not a CSV.", hint=EXPORT)
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
        tally.note(f"{path.name} is not UTF-8: read as Windows-1252")
    if "\0" in text:
        raise DataError(f"{path} is not text.", hint=EXPORT)
    return list(io.StringIO(text, newline=""))


def _name(cell: str) -> str:
    return "_".join(cell.split())


def _table(path: Path, names: Sequence[str], rows: dict[int, list[str]], tally: Tally) -> pd.DataFrame:
    if repeated := [name for name, times in Counter(names).items() if name and times > 1]:
        raise DataError(f"{path} has two columns {repeated[0]!r}.", hint="Rename or remove one.")
    long = [number for number, row in rows.items() if any(row[len(names) :])]
    tally.drop("row has more cells than the header", [f"line {number}" for number in long])
    kept = {number: row for number, row in rows.items() if number not in long}
    width = len(names)
    padded = [(row + [""] * width)[:width] for row in kept.values()]
    table = pd.DataFrame(padded, index=list(kept), columns=range(width), dtype="str")
    for place in [place for place, name in enumerate(names) if not name]:
        if (table[place] != "").any():
            tally.note(f"column {place + 1} of {path.name} has no name: it was left out")
    named = [place for place, name in enumerate(names) if name]
    return table[named].set_axis([names[place] for place in named], axis="columns")

"""Reading the files that datasets come in, with errors that say which file and what is wrong with it."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})


def find_table(root: Path, patterns: Sequence[str], *, hint: str) -> Path:
    """The first file below the root that matches one of some patterns, in their order.

    Raises:
        DataError: there is none.
    """
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found[0]
    raise DataError(f"{root} has no {patterns[0]}.", hint=hint)


def read_table(path: Path, *, needed: Sequence[str] = (), positional: int = 0) -> pd.DataFrame:
    """Read a CSV, plain or gzipped, every cell as stripped text and an empty one as "".

    Args:
        needed: names that the header must have.
        positional: when above 0, skip a header that does not fit the rows, and name that many columns 0, 1, ...

    Raises:
        DataError: empty, not text, ragged, without rows or without a needed column.
    """
    options: dict[str, Any] = {"dtype": str, "na_filter": False, "index_col": False}
    if positional:
        options |= {"header": None, "skiprows": 1, "usecols": range(positional)}
    try:
        with warnings.catch_warnings():
            # Cells beyond the header: pandas would warn and lose them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table: pd.DataFrame = pd.read_csv(path, **options)
    except pd.errors.EmptyDataError as err:
        raise DataError(f"{path} is empty.", hint="Download it again.") from err
    except (ValueError, pd.errors.ParserWarning) as err:
        raise DataError(f"{path} is not a well-formed CSV ({_one_line(err)}).", hint="Download it again.") from err
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as err:
        raise DataError(f"{path} cannot be read ({_one_line(err)}).", hint="Check the file.") from err
    if not positional:
        table.columns = table.columns.str.strip()
    if missing := [name for name in needed if name not in table.columns]:
        its = ", ".join(str(name) for name in table.columns)
        raise DataError(f"{path} has no column {missing[0]!r}.", hint=f"Its columns: {its}.")
    if table.empty:
        raise DataError(f"{path} has a header but no rows.", hint="Download it again.")
    return pd.DataFrame({name: table[name].fillna("").str.strip() for name in table})


def read_list(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        DataError: not a text file, or nothing in it.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, ValueError) as err:
        raise DataError(f"{path} cannot be read ({_one_line(err)}).", hint="Check the file.") from err
    if not any(lines):
        raise DataError(f"{path} is empty.", hint="Download it again.")
    return [line for line in lines if line]


def short_hash(path: Path) -> str:
    """The first 16 hexadecimal digits of the file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class FilmFiles:
    """The image files in some folders, found by name or, for a copy in another format, by stem."""

    def __init__(self, root: Path, folders: Iterable[Path]) -> None:
        self._by_name: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        for folder in folders:
            below = folder.relative_to(root).as_posix()
            for name in sorted(path.name for path in folder.iterdir()):
                stem, suffix = os.path.splitext(name)  # noqa: PTH122 - 112,120 names: a Path each costs seconds
                if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                    self._by_name.setdefault(name, f"{below}/{name}")
                    self._by_stem.setdefault(stem, f"{below}/{name}")

    def __len__(self) -> int:
        return len(self._by_stem)

    def find(self, name: str) -> str | None:
        """Path relative to the root; the exact name before another extension."""
        return self._by_name.get(name) or self._by_stem.get(name.rpartition(".")[0])


def keep_films(rows: pd.DataFrame, root: Path, tally: Tally, *, allow_missing_images: bool, hint: str) -> pd.DataFrame:
    """The rows whose film is there, under its own name or with another image's suffix; the others are counted.

    Args:
        rows: with ``image_path``, relative to the root.
        allow_missing_images: keep rows without a film, and note how many they are.

    Raises:
        DataError: no film at all is there, and that is not allowed.
    """
    given = rows["image_path"].tolist()
    folders = {folder for folder in {path.rpartition("/")[0] for path in given} if os.path.isdir(f"{root}/{folder}")}  # noqa: PTH112
    paths = [_there(root, path) if path.rpartition("/")[0] in folders else None for path in given]
    missing = [found is None for found in paths]
    if allow_missing_images:
        if num := sum(missing):
            tally.note(f"{num:,} films are kept although their file is missing")
        return rows.assign(image_path=[found or path for found, path in zip(paths, given, strict=True)])
    if all(missing):
        first = given[0] if given else "any film"
        raise DataError(f"No film that the table names is in {root}, first: {first}.", hint=hint)
    tally.drop("film is not in the folder", [path for path, lost in zip(given, missing, strict=True) if lost])
    kept = rows[[not lost for lost in missing]].reset_index(drop=True)
    return kept.assign(image_path=[path for path in paths if path is not None])


def _there(root: Path, path: str) -> str | None:
    if os.path.isfile(f"{root}/{path}"):  # noqa: PTH113 - hundreds of thousands of names: a Path each costs seconds
        return path
    stem = path.rpartition(".")[0]
    others = (stem + suffix for suffix in sorted(IMAGE_SUFFIXES))
    return next((other for other in others if stem and os.path.isfile(f"{root}/{other}")), None)  # noqa: PTH113


def _one_line(err: BaseException) -> str:
    return " ".join(str(err).split()).rstrip(".") or type(err).__name__

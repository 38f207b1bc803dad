"""The films below a folder, for sets that say by folders what they show."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.files import IMAGE_SUFFIXES
from cxr_mtl.errors import DataError

_SKIPPED = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information"})
_PREAMBLE = 132


def walk_films(root: Path, tally: Tally, *, hint: str) -> list[str]:
    """Paths of the films below a folder, relative to it, with slashes, in order.

    PNG, JPEG and DICOM by suffix, and DICOM of any other name by content. Links are followed, hidden files and what
    operating systems leave behind are not films; every other file is counted in a note.

    Raises:
        DataError: there is no film, or the folder cannot be read.
    """
    films: list[str] = []
    others: list[str] = []
    try:
        for path in _files(str(root), "", ()):
            is_film = os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or _is_dicom(root / path)  # noqa: PTH122
            (films if is_film else others).append(path)
    except OSError as err:
        raise DataError(f"{root} cannot be read ({err.strerror or err}).", hint="Check its permissions.") from err
    if not films:
        raise DataError(f"{root} holds no PNG, JPEG or DICOM file.", hint=hint)
    if others:
        kinds = Counter(os.path.splitext(path)[1].lower() or "no suffix" for path in others)  # noqa: PTH122
        told = ", ".join(f"{num:,} {kind}" for kind, num in kinds.most_common(5))
        tally.note(f"{len(others):,} files are no films and were passed over ({told}; first: {min(others)})")
    return sorted(films)


def name_films(paths: Sequence[str]) -> list[str]:
    """An ``image_id`` for each path: the file's name without suffix; the whole path for names that occur twice."""
    stems = [os.path.splitext(path)[0] for path in paths]  # noqa: PTH122 - a Path each costs seconds on large sets
    names = [stem.rpartition("/")[2] for stem in stems]
    times = Counter(names)
    wide = [name if times[name] == 1 else stem for name, stem in zip(names, stems, strict=True)]
    # film.png beside film.jpg: only the suffix tells them apart.
    times = Counter(wide)
    return [name if times[name] == 1 else path for name, path in zip(wide, paths, strict=True)]


def listing_hash(lines: Iterable[str]) -> str:
    """16 hexadecimal digits of the sha256 of some lines in order: the version of labels that are names of folders."""
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode(errors="surrogateescape")).hexdigest()[
        :16
    ]


def _files(root: str, below: str, above: tuple[str, ...]) -> Iterator[str]:
    here = os.path.join(root, below)  # noqa: PTH118
    real = os.path.realpath(here)
    if real in above:  # a link back to a folder that this one is in
        return
    with os.scandir(here) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SKIPPED:
            continue
        if entry.is_dir():
            yield from _files(root, f"{below}{entry.name}/", (*above, real))
        elif entry.is_file():
            yield below + entry.name


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE)[128:] == b"DICM"
    except OSError:  # it cannot be a film that anybody could read, and is counted among the others
        return False

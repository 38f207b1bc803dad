"""The checks that open the films: there, readable, whole, unique, and of the shape that their boxes were drawn on."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_mtl.data.doctor.problem import Problem, of_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError

SMALL = 224
"""Pixels; the common input of encoders. A film with a shorter side than this would be enlarged."""


@dataclass(frozen=True, slots=True)
class _Film:
    """What one film turned out to be; an empty ``sha256`` says that it could not be read."""

    row: int
    error: ImageError | None = None
    width: int = 0
    height: int = 0
    sha256: str = ""
    blank: bool = False


def examine_films(
    manifest: Manifest, *, decode: bool, threads: int | None, progress: Callable[[int], None] | None
) -> Iterator[Problem]:
    """Problems of the files; each file is read once, however many rows name it."""
    rows = np.flatnonzero(~manifest.table["image_path"].duplicated()).tolist()
    missing = [row for row in rows if not manifest.path(row).is_file()]
    where = f"Check that the films are under {manifest.root}, or import again."
    yield from of_films(manifest, missing, "error", "file-missing", "are not on disk", where)
    if decode:
        films = list(_read_all(manifest, sorted(set(rows) - set(missing)), threads, progress))
        yield from _unreadable(manifest, films)
        films = [film for film in films if film.error is None]
        for check in (_frames, _copies, _looks):
            yield from check(manifest, films)


def _read_all(
    manifest: Manifest, rows: list[int], threads: int | None, progress: Callable[[int], None] | None
) -> Iterator[_Film]:
    # Threads, not processes: decoders release the lock, and nothing has to be pickled.
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        films = pool.map(lambda row: _read(row, manifest.path(row)), rows)
        for film in films:
            yield film
            if progress is not None:
                progress(1)


def _read(row: int, path: Path) -> _Film:
    try:
        film = read_image(path)
    except ImageError as err:
        return _Film(row, error=err)
    blank = bool(film.pixels.min() == film.pixels.max())
    return _Film(row, None, film.width, film.height, film.sha256, blank)


def _unreadable(manifest: Manifest, films: list[_Film]) -> Iterator[Problem]:
    kinds: defaultdict[str, list[_Film]] = defaultdict(list)
    for film in films:
        if film.error is not None:
            kinds[film.error.code].append(film)
    for code, those in sorted(kinds.items()):
        hint = (those[0].error.hint if those[0].error else "") or "Replace the file."
        rows = [film.row for film in those]
        yield from of_films(manifest, rows, "error", "file-unreadable", f"cannot be read ({code})", hint)


def _frames(manifest: Manifest, films: list[_Film]) -> Iterator[Problem]:
    """A box moves from its frame to the film by one factor each way; that is right only when both have one shape."""
    frames, wrong = manifest.frames, []
    for film in films:
        width, height = frames[film.row]
        ratio = (film.width / film.height) / (width / height)
        # A side rounded to whole pixels may be off by half of one.
        if manifest.boxes(film.row) and abs(ratio - 1) > 0.01 + 1 / min(film.width, film.height):
            wrong.append(film.row)
    what = "have another aspect than the frame that their boxes are in, so boxes would shift"
    fix = "Use films that were resized without cropping or padding, or set width and height to the frame of the boxes."
    yield from of_films(manifest, wrong, "error", "box-frame-aspect", what, fix)


def _copies(manifest: Manifest, films: list[_Film]) -> Iterator[Problem]:
    same: defaultdict[str, list[int]] = defaultdict(list)
    for film in films:
        same[film.sha256].append(film.row)
    split = manifest.splits
    across: list[int] = []
    within: list[int] = []
    for rows in same.values():
        splits = {split[row] for row in rows} - {None}
        if len(rows) > 1:
            (across if len(splits) > 1 else within).extend(rows)
    what = "are the same file, byte for byte, as a film of another split"
    yield from of_films(manifest, sorted(across), "error", "copy-across-splits", what, "Keep each film in one split.")
    what = "are the same file, byte for byte, as another film"
    yield from of_films(manifest, sorted(within), "warning", "copy", what, "Keep one of each, with all of its labels.")


def _looks(manifest: Manifest, films: list[_Film]) -> Iterator[Problem]:
    blank = [film.row for film in films if film.blank]
    yield from of_films(manifest, blank, "error", "blank", "are of one grey all over", "Replace or remove them.")
    small = [film.row for film in films if min(film.width, film.height) < SMALL]
    what = f"have a side below {SMALL} px"
    yield from of_films(manifest, small, "warning", "small", what, "Use the original films where you can.")

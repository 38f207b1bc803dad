"""The checks that open the films: there, readable, whole, and looking as a chest film does."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.doctor.copies import examine_copies
from cxr_mtl.data.doctor.looks import Look, look_at
from cxr_mtl.data.doctor.problem import Level, Problem, of_films
from cxr_mtl.data.doctor.shortcuts import guessed_from
from cxr_mtl.data.doctor.text import LINES
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.policy import learned_labels
from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError

SMALL = 224
"""Pixels; the common input of encoders. A film with a shorter side than this would be enlarged."""
LONG = 3.0
"""Longer side by shorter; a child's chest lying across goes to 2.6."""
OTHER_SIZE = 4.0
"""Times the usual longer side of the dataset."""
GREYS = 32
"""Shades of 256; of the project's real films the poorest has 150."""
WHITE, BLACK = 0.5, 0.6
"""Shares of a film at its brightest and darkest; real ones go to .12 and .51 (black borders)."""

_PNG_DEPTH = slice(24, 25)


@dataclass(frozen=True, slots=True)
class _Film:
    """What one film turned out to be; without a ``look`` it is blank or could not be read."""

    row: int
    error: ImageError | None = None
    width: int = 0
    height: int = 0
    sha256: str = ""
    kind: str = ""
    inverted: bool = False
    look: Look | None = None


def examine_films(
    manifest: Manifest, *, decode: bool, threads: int | None, progress: Callable[[int], object] | None
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
        for check in (_frames, _copies, _looks, _sizes, _kinds, _photometric):
            yield from check(manifest, films)


def _read_all(
    manifest: Manifest, rows: list[int], threads: int | None, progress: Callable[[int], object] | None
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
        kind = film.format
        if kind == "png":
            with path.open("rb") as file:
                kind = f"png of {file.read(_PNG_DEPTH.stop)[_PNG_DEPTH][0]} bits"
    except ImageError as error:
        return _Film(row, error=error)
    blank = bool(film.pixels.min() == film.pixels.max())
    look = None if blank else look_at(film.pixels)
    return _Film(row, None, film.width, film.height, film.sha256, kind, film.inverted, look)


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
    looks = [(film, film.look) for film in films if film.look is not None]
    if looks:
        rows, files = [film.row for film, _ in looks], [film.sha256 for film, _ in looks]
        yield from examine_copies(manifest, rows, files, np.stack([look.thumb for _, look in looks]))


def _looks(manifest: Manifest, films: list[_Film]) -> Iterator[Problem]:
    blank = [film.row for film in films if film.look is None]
    yield from of_films(manifest, blank, "error", "blank", "are of one grey all over", "Replace or remove them.")
    lateral = (manifest.table["view"] == "LATERAL").to_numpy(bool)
    found: defaultdict[str, list[int]] = defaultdict(list)
    for film in films:
        for check in _seen(film.look, lateral=bool(lateral[film.row])) if film.look else ():
            found[check].append(film.row)
    for check, (level, what, fix) in _LOOKS.items():
        yield from of_films(manifest, found[check], level, check, what, fix)


def _seen(look: Look, *, lateral: bool) -> Iterator[str]:
    """The one thing that explains the others; only text may be there besides, where strokes can be seen at all."""
    if look.white > WHITE:
        yield "washed-out"
    elif look.greys < GREYS:
        yield "few-greys"
    else:
        if look.black > BLACK:
            yield "mostly-black"
        elif not lateral and (look.inverted or look.turned):
            yield "inverted" if look.inverted else "turned"
        if look.text >= LINES:
            yield "text"


def _sizes(manifest: Manifest, films: list[_Film]) -> Iterator[Problem]:
    small = [film.row for film in films if min(film.width, film.height) < SMALL]
    what = f"have a side below {SMALL} px"
    yield from of_films(manifest, small, "warning", "small", what, "Use the original films where you can.")
    long = [f.row for f in films if max(f.width, f.height) > LONG * min(f.width, f.height)]
    what, fix = f"are more than {LONG:g} times as long as wide, or as wide as long", "Look whether they show a chest."
    yield from of_films(manifest, long, "warning", "aspect", what, fix)
    dataset, other = manifest.table["dataset"], []
    for name in sorted({str(dataset.iat[film.row]) for film in films}):
        sides = {f.row: max(f.width, f.height) for f in films if dataset.iat[f.row] == name}
        usual = float(np.median(list(sides.values())))
        other += [row for row, side in sides.items() if not usual / OTHER_SIZE <= side <= usual * OTHER_SIZE]
    what = f"are over {OTHER_SIZE:g} times larger or smaller than is usual in their dataset"
    fix = "Check for thumbnails among originals; how sharp a film is must not tell where it is from."
    yield from of_films(manifest, sorted(other), "warning", "size", what, fix)


def _kinds(manifest: Manifest, films: list[_Film]) -> Iterator[Problem]:
    """Formats and bit depths: several in one dataset, and findings that go with them."""
    if not films:
        return
    dataset = manifest.table["dataset"]
    by_dataset: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for film in films:
        by_dataset[str(dataset.iat[film.row])][film.kind] += 1
    usual = {name: kinds.most_common(1)[0][0] for name, kinds in by_dataset.items()}
    rare = [film.row for film in films if film.kind != usual[str(dataset.iat[film.row])]]
    told = "; ".join(
        f"{name}: {', '.join(f'{kind} {num:,}' for kind, num in kinds.most_common())}"
        for name, kinds in sorted(by_dataset.items())
        if len(kinds) > 1
    )
    what = f"are of another format or depth than most of their dataset ({told})"
    fix = "Make all from the originals in one way, or check that no finding goes with one kind."
    yield from of_films(manifest, rare, "warning", "format-mix", what, fix)
    rows = np.asarray([film.row for film in films], dtype=np.intp)
    kinds = np.asarray([film.kind + (" MONOCHROME1" if film.inverted else "") for film in films], dtype=object)
    labels = learned_labels(manifest, LabelsConfig())[rows]
    for name in sorted(by_dataset):  # between datasets the dataset itself is the shortcut, told of elsewhere
        here = (dataset.iloc[rows] == name).to_numpy(bool)
        yield from guessed_from(manifest.ontology.names, labels[here], kinds[here], "file format", set())


def _photometric(manifest: Manifest, films: list[_Film]) -> Iterator[Problem]:
    """DICOM films of one dataset, some stored with dense as dark and some not: either kind may be marked wrongly."""
    dataset = manifest.table["dataset"]
    stored: defaultdict[str, dict[bool, list[int]]] = defaultdict(lambda: {True: [], False: []})
    for film in films:
        if film.kind == "dicom":
            stored[str(dataset.iat[film.row])][film.inverted].append(film.row)
    mixed = {name: kinds for name, kinds in sorted(stored.items()) if kinds[True] and kinds[False]}
    told = "; ".join(
        f"{name}: MONOCHROME1 {len(k[True]):,}, MONOCHROME2 {len(k[False]):,}" for name, k in mixed.items()
    )
    rare = sorted(row for kinds in mixed.values() for row in min(kinds[True], kinds[False], key=len))
    what = f"are DICOM of the other polarity than most of their dataset ({told})"
    fix = (
        "Each is read as it says; look whether bones are white in films of either kind, for one may be marked wrongly."
    )
    yield from of_films(manifest, rare, "warning", "photometric-mix", what, fix)


_LOOKS: dict[str, tuple[Level, str, str]] = {
    "few-greys": (
        "warning",
        f"have fewer than {GREYS} shades of grey",
        "Make them from the originals again: depth was lost on the way, as when 12 bits are cut to the upper 8 of 16.",
    ),
    "washed-out": (
        "error",
        f"are white over more than {WHITE:.0%} of their area",
        "Make them from the originals again: 16-bit values were cut off at 255, or the window is wrong.",
    ),
    "mostly-black": (
        "warning",
        f"are black over more than {BLACK:.0%} of their area",
        "Crop the borders, or look whether they show a chest.",
    ),
    "inverted": (
        "warning",
        "look inverted: what is dense is dark",
        "Look at them; store them with bones white, or as MONOCHROME1 DICOM, which is turned round on reading.",
    ),
    "turned": ("warning", "look as if they lay on their side or head", "Look at them, and turn them upright."),
    "text": (
        "warning",
        f"seem to have a block of {LINES} or more lines of text burnt in",
        "Look for names, numbers and dates of patients in them before you share films or a model.",
    ),
}

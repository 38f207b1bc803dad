"""A pack: films decoded once, as the model will see them, in one file that maps into memory.

N films of a manifest, P films of a pack, S input side.

Training reads random films thousands of times; decoding a PNG costs some hundred times more than reading the same film
from a memory map. A plain array beats the shard libraries on a disk that can be mapped (``benchmarks/data.py``): it
needs no library, several processes share its pages, a batch is one indexed read in any order, and so the order of an
epoch stays a pure function of the seed. Shards are for object stores, where nothing can be mapped.

The folder holds the films and an index that is written last and names their file, so a folder without an index is
unfinished; ``pack_draft`` says how it grows. A pack may hold more films than a manifest asks for.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.pack_draft import Decode, Draft, Film, alone, checksum
from cxr_mtl.data.pack_index import FORMAT, check_replaceable, named, places, read_index, stamps, write_index
from cxr_mtl.data.read import read_image
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import DataError, ImageError

Progress = Callable[[int], object]

_AGAIN = ("missing", "unreadable", "unsupported_compression")
"""Why a film may be unread today and read tomorrow: a disk, a permission, a decoder that was not installed."""


@dataclass(frozen=True)
class Pack:
    """Decoded films of a manifest.

    Attributes:
        images: (P, S, S) uint8, mapped from disk.
        at: (N,) where in ``images`` each film of the manifest is.
        sizes: (N, 2) int32, width and height of each film's own file.
        usable: (N,) bool; False where the film could not be read.
        unread: reason by image id of those.
    """

    images: NDArray[np.uint8]
    at: NDArray[np.int64]
    sizes: NDArray[np.int32]
    usable: NDArray[np.bool_]
    unread: dict[str, str]

    @property
    def side(self) -> int:
        return int(self.images.shape[1])

    def films(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(B, S, S) copies of the films of some rows of the manifest."""
        places = self.at[rows]
        _fetch(self.images, places)
        return np.asarray(self.images[places])


@dataclass(frozen=True)
class BadBlock:
    """Films whose bytes are not those that were packed.

    Attributes:
        rows: of the pack.
        first: path of the first film.
        last: path of the last.
    """

    rows: range
    first: str
    last: str

    def __str__(self) -> str:
        return f"films {self.rows.start} to {self.rows.stop - 1} ({self.first} to {self.last}) are damaged"


def _fetch(images: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
    """Ask the disk for all films of a batch at once: what is not in memory yet then comes two to three times faster."""
    pages: object = images.base
    if not isinstance(pages, mmap.mmap) or not hasattr(mmap, "MADV_WILLNEED"):
        return
    size, start = images[0].nbytes, len(pages) - images.nbytes
    for place in places.tolist():
        begin = start + place * size
        page = begin - begin % mmap.PAGESIZE
        pages.madvise(mmap.MADV_WILLNEED, page, begin + size - page)


def pack_folder(manifest_path: Path, side: int) -> Path:
    """Where ``train`` keeps the pack of a manifest unless told otherwise."""
    return manifest_path.with_name(f"{manifest_path.stem}.pack{side}")


def make_pack(
    manifest: Manifest,
    side: int,
    out: Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    verify: bool = False,
) -> Pack:
    """Decode every film of a manifest; what the folder holds already, finished or not, is not decoded again.

    Processes that pack the same folder take turns, and the second finds the work done. Films of an older pack that have
    not changed since are copied from it.

    Args:
        manifest: films to decode.
        side: S, pixels.
        out: folder to write.
        workers: decoding threads; None for one a core. Decoders release the GIL.
        progress: called with the number of films done since its last call.
        verify: check the bytes of a finished pack, and decode damaged blocks again.

    Raises:
        DataError: no film could be read, the folder holds a pack of more films or another side, or the disk is full;
            running it again goes on from there.
    """
    try:
        if not verify and (ready := find_pack(out, manifest, side)) and not _readable_now(out):
            return ready
        out.mkdir(parents=True, exist_ok=True)
        with alone(out):
            ready = find_pack(out, manifest, side)
            if ready is None or _readable_now(out) or (verify and verify_pack(out)):
                check_replaceable(out, manifest, side)
                _pack(manifest, side, out, workers or os.cpu_count() or 1, progress or (lambda _: None))
    except OSError as error:
        full = error.errno in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise DataError(
            f"{out}: the pack could not be written: {error.strerror or error}.",
            hint="Free some disk and run this again: it goes on where it stopped." if full else "Name another folder.",
        ) from None
    return open_pack(out, manifest)


def find_pack(folder: Path, manifest: Manifest, side: int) -> Pack | None:
    """The finished pack in a folder, if it holds all films of a manifest as their files are now."""
    index = read_index(folder)
    if index is None or index["side"] != side or places(index, manifest, stamps(manifest)) is None:
        return None
    try:
        return open_pack(folder, manifest)
    except DataError:  # its films are gone or cut short: it is to be made again
        return None


def is_pack(folder: Path) -> bool:
    """Whether there is a finished pack of any films in a folder."""
    return read_index(folder) is not None


def open_pack(folder: Path, manifest: Manifest) -> Pack:
    """Map the films of a manifest from a finished pack, which may hold others too.

    The films' files need not be there any more; ``find_pack`` is what looks whether they are the same.

    Raises:
        DataError: not a finished pack, or some film is not in it.
    """
    index, images = _open(folder)
    at = places(index, manifest)
    if at is None:
        raise DataError(f"{folder} does not hold all films of the manifest.", hint="Pack them with: cxr-mtl data pack.")
    ids = manifest.table["image_id"].to_numpy(str)
    reasons = {int(row): reason for row, reason in index["unread"].items()}
    unread = {str(ids[row]): reasons[place] for row, place in enumerate(at.tolist()) if place in reasons}
    usable = ~np.isin(at, list(reasons)) if reasons else np.ones(len(at), dtype=bool)
    sizes = np.array(index["sizes"], dtype=np.int32).reshape(-1, 2)[at]
    return Pack(images, at, sizes, usable, unread)


def verify_pack(folder: Path, progress: Progress | None = None) -> list[BadBlock]:
    """Read all of a finished pack and compare it with its checksums.

    Args:
        folder: the pack.
        progress: called with the number of films read since its last call.

    Raises:
        DataError: not a finished pack.
    """
    index, images = _open(folder)
    bad = []
    for start, expected in zip(range(0, len(images), index["block"]), index["sha256"], strict=True):
        rows = range(start, min(start + index["block"], len(images)))
        if checksum(images[rows.start : rows.stop]) != expected:
            bad.append(BadBlock(rows, index["paths"][rows[0]], index["paths"][rows[-1]]))
        if progress:
            progress(len(rows))
    return bad


def _pack(manifest: Manifest, side: int, out: Path, workers: int, progress: Progress) -> None:
    paths, marks = manifest.table["image_path"].astype(str).tolist(), stamps(manifest)
    digest = hashlib.sha256(json.dumps([FORMAT, side, paths, marks]).encode()).hexdigest()
    live = (read_index(out) or {}).get("images", "")
    draft = Draft(out, digest[:16], len(manifest), side, live=live)
    with ThreadPoolExecutor(workers) as pool:
        draft.fill(_decoder(manifest, side, _old_films(out, manifest, side)), pool, progress)
    films = draft.films()
    unread = {row: film.reason for row, film in enumerate(films) if film.reason}
    if len(unread) == len(manifest):
        draft.remove()
        raise DataError(f"None of the {len(manifest)} films could be read; first: {unread[0]}", hint="Check the root.")
    draft.finish()
    index = {
        "format": FORMAT,
        "side": side,
        "images": draft.images.name,
        "block": draft.block,
        "sha256": draft.checksums(),
        "root": str(manifest.root.resolve()),
        "paths": paths,
        "stamps": marks,
        "sizes": [(film.width, film.height) for film in films],
        "unread": unread,
        "again": [row for row, film in enumerate(films) if film.again],
    }
    write_index(out, index)
    draft.sweep()


def _readable_now(out: Path) -> bool:
    """Whether a film can be read that could not when the pack was made, for a reason that need not last."""
    index = read_index(out) or {}
    for row in index.get("again", ()):
        with suppress(ImageError):
            read_image(Path(index["root"]) / index["paths"][row])
            return True
    return False


def _decoder(manifest: Manifest, side: int, old: dict[str, tuple[NDArray[np.uint8], Film]]) -> Decode:
    """What fills one place of the pack: a film's own file, or the older pack that has it."""
    paths = manifest.table["image_path"].astype(str).tolist()

    def decode(row: int, into: NDArray[np.uint8]) -> Film:
        if paths[row] in old:
            into[:], known = old[paths[row]]
            return known
        try:
            film = read_image(manifest.path(row))
        except ImageError as error:
            return Film(0, 0, str(error), error.code in _AGAIN)
        into[:], _ = to_input(film.pixels, side)
        return Film(film.width, film.height)

    return decode


def _old_films(folder: Path, manifest: Manifest, side: int) -> dict[str, tuple[NDArray[np.uint8], Film]]:
    """Films of the folder's older pack that are still good, by path."""
    index = read_index(folder)
    if index is None or index["side"] != side:
        return {}
    try:
        index, images = _open(folder)
    except DataError:
        return {}
    damaged = {row for block in verify_pack(folder) for row in block.rows}
    known = {(path, tuple(stamp)): row for row, (path, stamp) in enumerate(named(index))}
    found = {}
    for path, stamp in zip(manifest.table["image_path"].astype(str), stamps(manifest), strict=True):
        row = known.get((path, stamp))
        if row is not None and row not in damaged and str(row) not in index["unread"]:
            found[path] = (images[row], Film(*index["sizes"][row]))
    return found


def _open(folder: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    index = read_index(folder)
    if index is None:
        raise DataError(f"{folder} is not a finished pack.", hint="Make one with: cxr-mtl data pack.")
    try:
        images = np.load(folder / index["images"], mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: its films cannot be mapped: {error}", hint="Remove it and pack again.") from None
    if images.shape != (len(index["paths"]), index["side"], index["side"]):
        raise DataError(f"{folder}: its films are not those of its index.", hint="Remove it and pack again.")
    return index, images

"""A pack: films decoded once, as the model will see them, in one file that maps into memory.  N films, S input side.

Training reads random films thousands of times; decoding a PNG costs some hundred times more than reading the same film
from a memory map (facts: 150 against 50,000 films a second and core at 512 px). A plain array is enough: it needs no
library, several processes share its pages, and a batch is one indexed read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.read import read_image
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import DataError, ImageError

IMAGES, INDEX = "images.npy", "index.json"
FORMAT = 1  # of what decoding gives; a change of to_input or read_image raises it
WINDOW = 256  # films decoded between two writes to the progress callback


@dataclass(frozen=True)
class Pack:
    """Decoded films of a manifest, row for row.

    Attributes:
        images: (N, S, S) uint8, mapped from disk.
        sizes: (N, 2) int32, width and height of each film's own file.
        usable: (N,) bool; False where the film could not be read.
        unread: reason by image id of those.
    """

    images: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    usable: NDArray[np.bool_]
    unread: dict[str, str]

    @property
    def side(self) -> int:
        return int(self.images.shape[1])


def fingerprint(manifest: Manifest, side: int) -> str:
    """Changes when the list of films, a film's file or the input side does."""
    digest = hashlib.sha256(json.dumps([FORMAT, side]).encode())
    for row, name in enumerate(manifest.table["image_path"]):
        try:
            status = manifest.path(row).stat()
            stamp = (status.st_size, int(status.st_mtime))  # whole seconds: what copying keeps
        except OSError:
            stamp = (0, 0)  # not there; decoding will say so
        digest.update(json.dumps([str(name), *stamp]).encode())
    return digest.hexdigest()


def pack_folder(manifest_path: Path, side: int) -> Path:
    """Where ``train`` keeps the pack of a manifest unless told otherwise."""
    return manifest_path.with_name(f"{manifest_path.stem}.pack{side}")


def make_pack(
    manifest: Manifest,
    side: int,
    out: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Pack:
    """Decode every film of a manifest; a pack that is already complete is opened instead.

    Args:
        manifest: films to decode.
        side: S, pixels.
        out: folder to write. The index is written last, so a folder without one is unfinished and is made anew.
        workers: decoding threads; None for one a core.
        progress: called with the number of films done since its last call.

    Raises:
        DataError: no film could be read, or the disk is full.
    """
    mark = fingerprint(manifest, side)
    if made_of(out) == mark:
        return open_pack(out)
    draft = out / f"{IMAGES}.{os.getpid()}.part"  # of this process alone: another run may be packing the same films
    try:
        out.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=(len(manifest), side, side))
        sizes, unread = _decode_all(manifest, images, workers or os.cpu_count() or 1, progress)
        images.flush()
        # Renamed, not written in place: another run may have the old films mapped.
        (out / INDEX).unlink(missing_ok=True)
        draft.replace(out / IMAGES)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DataError(f"{out}: the pack could not be written: {error.strerror}.", hint="Free some disk.") from None
    if len(unread) == len(manifest):
        first = next(iter(unread.values()))
        raise DataError(f"None of the {len(manifest)} films could be read; first: {first}", hint="Check the root.")
    index: dict[str, Any] = {"fingerprint": mark, "side": side, "sizes": sizes.tolist(), "unread": unread}
    index["ids"] = [str(i) for i in manifest.table["image_id"]]
    part = out / (INDEX + ".part")
    part.write_text(json.dumps(index))
    part.replace(out / INDEX)
    return open_pack(out)


def made_of(folder: Path) -> str | None:
    """Fingerprint of the films in a finished pack; None where there is none."""
    try:
        return str(json.loads((folder / INDEX).read_text())["fingerprint"])
    except (OSError, ValueError, KeyError):
        return None


def open_pack(folder: Path) -> Pack:
    """Map a finished pack."""
    try:
        index = json.loads((folder / INDEX).read_text())
        images = np.load(folder / IMAGES, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not a finished pack: {error}", hint="Remove it and pack again.") from None
    usable = np.array([name not in index["unread"] for name in index["ids"]], dtype=bool)
    return Pack(images, np.array(index["sizes"], dtype=np.int32).reshape(-1, 2), usable, index["unread"])


def _decode_all(
    manifest: Manifest, images: NDArray[np.uint8], workers: int, progress: Callable[[int], object] | None
) -> tuple[NDArray[np.int32], dict[str, str]]:
    sizes = np.zeros((len(manifest), 2), dtype=np.int32)
    unread: dict[str, str] = {}
    ids = [str(i) for i in manifest.table["image_id"]]

    def decode(row: int) -> None:
        try:
            film = read_image(manifest.path(row))
        except ImageError as error:
            unread[ids[row]] = str(error)
            return
        images[row], _ = to_input(film.pixels, images.shape[1])
        sizes[row] = film.width, film.height

    # Decoders release the GIL, so threads fill the array in place; windows bound what waits in the queue.
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(manifest), WINDOW):
            rows = range(start, min(start + WINDOW, len(manifest)))
            list(pool.map(decode, rows))
            if progress:
                progress(len(rows))
    return sizes, unread

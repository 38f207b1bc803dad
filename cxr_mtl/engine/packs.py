"""One pack for all ranks of all nodes.

Where the nodes share a disk, the first rank decodes and all map the same file. Where they do not, the first rank of
each node decodes its own copy of the films into its own folder. Which of the two it is, a file tells: the first rank
leaves one in the folder, and the others look whether they see it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from cxr_mtl.config import DataConfig
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.pack import Pack, find_pack, is_pack, make_pack, open_pack, pack_folder
from cxr_mtl.engine.distributed import barrier, gather, local_rank, together
from cxr_mtl.errors import DataError

Answer = TypeVar("Answer")


def shared_pack(data: DataConfig, manifest: Manifest, side: int, *, main: bool) -> Pack:
    """Decode the films once a disk, then map them on every rank.

    Args:
        data: ``pack`` names the folder; it may hold more films than the manifest.
        manifest: films of the run.
        side: S, pixels.
        main: whether this is the first of all ranks.

    Raises:
        DataError: on every rank, where one of them could not make its pack.
    """
    folder = data.pack or pack_folder(data.manifest, side)
    # The others of a node map what its first rank has looked at: a look asks the disk about every film.
    ready = _together(lambda: bool(local_rank()) or find_pack(folder, manifest, side) is not None)
    if not all(gather(ready)):
        token = folder / f".{gather(uuid.uuid4().hex)[0]}"
        if main:
            with suppress(OSError):  # cannot be written: if there is more to be written, make_pack will say so
                folder.mkdir(parents=True, exist_ok=True)
                token.touch()
        barrier(patient=True)
        with suppress(OSError):
            list(folder.parent.iterdir())  # a network disk may remember that a name was not there
        here = ready or (token.exists() and not main)
        _together(lambda: None if here else _make(data, folder, manifest, side, main=main))
        if main:
            token.unlink(missing_ok=True)
    return _together(lambda: open_pack(folder, manifest))


def _together(work: Callable[[], Answer]) -> Answer:
    """Together, and with time for one rank to decode all films of a dataset while the others wait."""
    return together(work, raised=DataError, disk="The pack cannot be read or written", patient=True)


def _make(data: DataConfig, folder: Path, manifest: Manifest, side: int, *, main: bool) -> None:
    """Decode the films, unless a folder that the run file names holds others."""
    if data.pack and is_pack(folder):
        what = f"data.pack: {folder} holds other films, or these at another size or before they changed."
        raise DataError(what, hint="Remove it, pack again or name another folder.")
    with tqdm(total=len(manifest), desc="decoding films", unit="film", disable=None if main else True) as bar:
        make_pack(manifest, side, folder, progress=bar.update)

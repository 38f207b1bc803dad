"""The index of a pack: which films it holds, where, and what their files were like.  N films of a manifest."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.errors import DataError

INDEX = "index.json"
FORMAT = 2  # of the index and of what decoding gives; a change of to_input or read_image raises it

Stamp = tuple[int, int]  # bytes and time of last change, seconds; (0, 0) of a file that is not there


def stamps(manifest: Manifest) -> list[Stamp]:
    """What tells that a film's file is still the same, without reading it: what make, rsync and git go by too."""
    found = []
    for name in manifest.table["image_path"].astype(str):
        try:
            status = (manifest.root / name).stat()
            found.append((status.st_size, int(status.st_mtime)))  # whole seconds: what copying keeps
        except OSError:
            found.append((0, 0))  # decoding will say so
    return found


def places(index: dict[str, Any], manifest: Manifest, now: Sequence[Stamp] | None = None) -> NDArray[np.int64] | None:
    """(N,) where each film of a manifest is in a pack; None unless all are there.

    A film is known by its path under the root. A manifest with another root, such as a merged one, may name the same
    file otherwise; then it is its path under the pack's root that counts.

    Args:
        index: of the pack.
        manifest: films to find.
        now: what their files are like now; a film whose file was otherwise when it was packed is not there.
    """
    names: Sequence[str] = manifest.table["image_path"].astype(str).tolist()
    known = {path: (row, tuple(stamp)) for row, (path, stamp) in enumerate(named(index))}
    root = manifest.root.resolve()
    if str(root) != index["root"] and any(name not in known for name in names):
        names = [Path(os.path.relpath(root / name, index["root"])).as_posix() for name in names]
    found = [known.get(name, (-1, ())) for name in names]
    if any(row < 0 or (now is not None and now[i] != stamp) for i, (row, stamp) in enumerate(found)):
        return None
    return np.array([row for row, _ in found], dtype=np.int64)


def named(index: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """Path and stamp of each film, in order."""
    return zip(index["paths"], index["stamps"], strict=True)


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a finished pack; None where there is none that this version reads."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
        return index if index.get("format") == FORMAT else None
    except (OSError, ValueError, AttributeError):
        return None


def check_replaceable(out: Path, manifest: Manifest, side: int) -> None:
    """Refuse to put a pack of fewer films, or of another side, in the place of a larger one.

    Raises:
        DataError: what the folder holds.
    """
    index = read_index(out)
    if index is None:
        return
    if index["side"] != side:
        raise DataError(f"{out} is a pack of {index['side']} px films.", hint="Name another folder, or remove it.")
    ours = {os.path.realpath(manifest.path(row)) for row in range(len(manifest))}
    others = [os.path.join(index["root"], name) for name in index["paths"]]  # noqa: PTH118
    lost = [path for path in others if os.path.realpath(path) not in ours and os.path.isfile(path)]  # noqa: PTH113
    if lost:
        what = f"{out} also holds {len(lost):,} films that the manifest lacks, first: {Path(lost[0]).name}."
        raise DataError(what, hint="Pack with the manifest that it was made of, name another folder, or remove it.")


def write_index(folder: Path, index: dict[str, Any]) -> None:
    """Finish a pack: whole or not at all."""
    part = folder / f"{INDEX}.{uuid.uuid4().hex}.part"
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(index))
            file.flush()
            os.fsync(file.fileno())  # the draft is swept away next: the index must outlive a loss of power
        part.replace(folder / INDEX)
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    finally:
        part.unlink(missing_ok=True)

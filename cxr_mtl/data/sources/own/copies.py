"""Files that are the same byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path

from cxr_mtl.errors import DataError

_HEAD = 65536


def same_files(root: Path, paths: Sequence[str]) -> list[list[str]]:
    """Groups of identical files, each in the order given, and the groups in the order of their first.

    Only files that share a size are opened, and only those that begin alike are read whole.

    Raises:
        DataError: a file cannot be read.
    """
    groups: list[list[str]] = [list(paths)]
    for key in (_size, _head, _whole):
        groups = [part for group in groups for part in (_parted(root, group, key) if len(group) > 1 else [group])]
    place = {path: number for number, path in enumerate(paths)}
    return sorted(groups, key=lambda group: place[group[0]])


def _parted(root: Path, group: Iterable[str], key: Callable[[Path], Hashable]) -> list[list[str]]:
    parts: dict[Hashable, list[str]] = {}
    for path in group:
        try:
            parts.setdefault(key(root / path), []).append(path)
        except OSError as err:
            what = f"{root / path} cannot be read ({err.strerror or err})."
            raise DataError(what, hint="Check the file and its permissions.") from err
    return list(parts.values())


def _size(path: Path) -> int:
    return path.stat().st_size


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(_HEAD)).digest()


def _whole(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

"""The films that are asked for: those of a manifest, or files and whatever lies in folders."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cxr_mtl.data.manifest_file import WHO, list_films
from cxr_mtl.errors import ConfigError, DataError

MANIFEST = ".parquet"


@dataclass(frozen=True)
class FilmList:
    """A list of films, in order.

    Attributes:
        who: (N, 4) texts, the columns ``WHO``.
        root: what ``image_path`` is relative to.
        sha256: of the manifest, or of the files' names.
        source: the manifest's name; None for files.
        split: of the manifest; None for all.
    """

    who: pa.Table
    root: Path
    sha256: str
    source: str | None = None
    split: str | None = None

    def __len__(self) -> int:
        return len(self.who)

    def path(self, row: int) -> Path:
        return self.root / str(self.who["image_path"][row])


def list_named(named: Sequence[Path], split: str | None = None) -> FilmList:
    """What a user named.

    Args:
        named: one manifest; or files and folders, which are searched to their depth but for hidden files.
        split: of the manifest.

    Raises:
        ConfigError: a manifest among other files, or a split of files.
        DataError: the manifest cannot be read, or a folder holds no file.
    """
    manifests = [path for path in named if path.suffix == MANIFEST]
    if manifests and len(named) > 1:
        raise ConfigError(f"{manifests[0]} is a manifest, and goes alone.", hint="Name it and no films beside it.")
    if manifests:
        who, root = list_films(manifests[0], split)
        return FilmList(who, root, hashlib.sha256(manifests[0].read_bytes()).hexdigest(), manifests[0].name, split)
    if split is not None:
        raise ConfigError("Files have no --split.", hint="Name a manifest, or leave it out.")
    paths = [path for name in named for path in files_of(name)]
    nobody = pa.nulls(len(paths), pa.string())
    who = pa.table([[str(path) for path in paths], [path.name for path in paths], nobody, nobody], names=list(WHO))
    return FilmList(who, Path(), hashlib.sha256("\0".join(map(str, paths)).encode()).hexdigest())


def files_of(name: Path) -> list[Path]:
    """A file itself, or all of a folder, sorted; what they are, their content says."""
    if not name.is_dir():
        return [name]
    found = sorted(path for path in name.rglob("*") if path.is_file() and not _hidden(path.relative_to(name)))
    if not found:
        raise DataError(f"The folder {name} holds no file.", hint="Check the path.")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def names_of(files: Sequence[Path]) -> dict[Path, str]:
    """A name, without ending, for what is written of each file; those of one name in several folders stay apart."""
    stems = Counter(file.stem for file in files)
    return {
        file: file.stem if stems[file.stem] == 1 else f"{file.parent.name}_{file.name}_{i}"
        for i, file in enumerate(files)
    }

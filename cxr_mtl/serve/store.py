"""The archives of a model store: which model and version each is. Their manifests say so, not their file names."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from cxr_mtl.errors import ServeError

_MANIFEST = "MAR-INF/MANIFEST.json"
_AGAIN = "Copy it again, or build it again with `cxr-mtl package`."


@dataclass(frozen=True, slots=True)
class Archive:
    """One ``.mar`` file: ``version`` of the model ``name``."""

    file: Path
    name: str
    version: str


def read_archive(file: Path) -> Archive:
    """What an archive says of itself. Its other files are checked by the worker that loads it.

    Raises:
        ServeError: there is no such file, it is no archive, or its manifest names no model and version.
    """
    if "," in file.name:  # TorchServe's list of archives has commas between.
        raise ServeError(f"{file} has a comma in its name.", hint="Rename it.")
    try:
        with zipfile.ZipFile(file) as archive:
            model = json.loads(archive.read(_MANIFEST))["model"]
            name, version = model["modelName"], model["modelVersion"]
    except FileNotFoundError:
        raise ServeError(f"{file} does not exist.", hint="`cxr-mtl package BUNDLE` makes archives.") from None
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError):
        raise ServeError(f"{file} is no model archive, or a damaged one.", hint=_AGAIN) from None
    if not (isinstance(name, str) and isinstance(version, str) and name and version):
        raise ServeError(f"{file} names no model and version in its {_MANIFEST}.", hint=_AGAIN)
    return Archive(file, name, version)


def read_store(model_store: Path) -> list[Archive]:
    """Every archive of a store, by name and the newest version of each name first.

    Raises:
        ServeError: there is no such folder, no archive in it, or one that cannot be served; or two are one name and
            version.
    """
    if not model_store.is_dir():
        raise ServeError(f"{model_store} is not a folder.", hint="`cxr-mtl package BUNDLE --out model_store` makes it.")
    archives = [read_archive(file) for file in sorted(model_store.glob("*.mar")) if not file.name.startswith(".")]
    if not archives:
        raise ServeError(f"{model_store} holds no .mar archive.", hint="`cxr-mtl package BUNDLE` makes one.")
    seen: dict[tuple[str, str], Archive] = {}
    for archive in archives:
        other = seen.setdefault((archive.name, archive.version), archive)
        if other is not archive:
            what = f"{other.file.name} and {archive.file.name} are both {archive.name} {archive.version}."
            raise ServeError(f"{model_store}: {what}", hint="Remove one.")
    newest_first = sorted(archives, key=lambda archive: age(archive.version), reverse=True)
    return sorted(newest_first, key=lambda archive: archive.name)


def age(version: str) -> tuple[bool, Version, str]:
    """What versions are ordered by, oldest first: as Python packages are; what is none (``latest``) comes before."""
    try:
        return True, Version(version), version
    except InvalidVersion:
        return False, Version("0"), version

"""Checkpoints on disk: whole or absent, and known to be whole.

A checkpoint is written under another name, sealed with the length and hash of each file, and renamed. ``latest`` names
the newest; the ones before it are there for the day on which a disk gives back something else than it was given.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from cxr_mtl.errors import CheckpointError

LATEST, SEAL, PART = "latest", "files.json", ".part"
UNKNOWN = (-1, 0)  # age of a checkpoint whose seal cannot be read


def publish(part: Path, steps: int, keep: int) -> None:
    """Seal what lies in a ``.part`` folder, give it its name, and drop what is too old.

    Args:
        part: the folder, with all its files.
        steps: optimizer steps that it holds; orders checkpoints by age.
        keep: how many checkpoints stay.

    Raises:
        OSError: the disk's.
    """
    files = {str(f.relative_to(part)): [f.stat().st_size, _sha256(f)] for f in part.rglob("*") if f.is_file()}
    (part / SEAL).write_text(json.dumps({"steps": steps, "files": files}, indent=2))
    for file in part.rglob("*"):
        _fsync(file)
    _fsync(part)
    checkpoint = part.with_name(part.name.removesuffix(PART))
    folder = part.parent
    shutil.rmtree(checkpoint, ignore_errors=True)  # of a run that went back further, and has come here again
    part.rename(checkpoint)
    name = folder / (LATEST + PART)
    name.write_text(checkpoint.name)
    _fsync(name)
    name.replace(folder / LATEST)
    _fsync(folder)
    _drop(folder, checkpoint.name, keep)


def latest_tag(folder: Path) -> str | None:
    """Name of the newest checkpoint of a run, if there is one."""
    file = folder / LATEST
    return file.read_text().strip() if file.is_file() else None


def find_whole(folder: Path) -> tuple[Path, list[str]]:
    """The newest whole checkpoint, and what is wrong with those that would have come before it.

    Raises:
        CheckpointError: there is none.
    """
    latest = latest_tag(folder)
    if latest is None:
        raise CheckpointError(f"{folder}: no checkpoint to resume from.", hint="Start without --resume.")
    newest = _age(folder / latest)
    older = [tag for tag in _by_age(folder) if tag != latest and (_age(folder / tag) < newest or newest == UNKNOWN)]
    damages: list[str] = []
    for tag in [latest, *reversed(older)]:
        damage = find_damage(folder / tag)
        if not damage:
            return folder / tag, damages
        damages.append(damage)
    raise CheckpointError(
        f"{folder}: no checkpoint is whole: {'; '.join(damages)}.", hint="Start again under another name."
    )


def find_damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, in a few words; empty where all is as it was written."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text())["files"]
        for name, (size, digest) in sealed.items():
            file = checkpoint / name
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != size:
                return f"{file} has {file.stat().st_size} bytes instead of {size}"
            if _sha256(file) != digest:
                return f"{file} has changed since it was written"
    except OSError as error:
        return f"{error.filename or checkpoint} cannot be read: {error.strerror or error}"
    except (ValueError, KeyError, TypeError):
        return f"{checkpoint / SEAL} is damaged"
    return ""


def _drop(folder: Path, tag: str, keep: int) -> None:
    """Old ones, and those of steps that are yet to be taken again."""
    now = _age(folder / tag)
    past = [other for other in _by_age(folder) if _age(folder / other) < now]
    kept = {tag, *past[max(0, len(past) - keep + 1) :]}
    for other in folder.iterdir():
        if other.is_dir() and other.name not in kept:
            shutil.rmtree(other, ignore_errors=True)


def _by_age(folder: Path) -> list[str]:
    """Names of all checkpoints, oldest first."""
    tags = [p for p in folder.iterdir() if p.is_dir() and p.suffix != PART]
    return [p.name for p in sorted(tags, key=_age)]


def _age(checkpoint: Path) -> tuple[int, int]:
    """Steps, and the time of writing: an epoch's last step and its end may both have been written."""
    seal = checkpoint / SEAL
    try:
        return int(json.loads(seal.read_text())["steps"]), seal.stat().st_mtime_ns
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""SHA256SUMS: what an archive held when it was built, checked when it is unpacked. The format is ``sha256sum -c``'s."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cxr_mtl.errors import CheckpointError

SUMS_FILE = "SHA256SUMS"
_AGAIN = "Build the archive again with `cxr-mtl package`."


def write_sums(folder: Path, extra: Iterable[Path] = ()) -> Path:
    """Writes the sums of every file under ``folder``, and of ``extra`` files that will lie at its top."""
    listed = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed |= {path.name: path for path in extra}
    listed.pop(SUMS_FILE, None)
    target = folder / SUMS_FILE
    lines = [f"{_digest(path)}  {name}\n" for name, path in sorted(listed.items())]
    target.write_text("".join(lines), encoding="utf-8")
    return target


def verify_sums(folder: Path) -> None:
    """Reads every listed file under ``folder`` again; files that are not listed are not looked at.

    Raises:
        CheckpointError: the list is missing, or a file is missing or differs from the list.
    """
    try:
        lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise CheckpointError(f"The archive has no {SUMS_FILE}.", hint=_AGAIN) from None
    for line in lines:
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"The archive misses {name}.", hint=_AGAIN)
        if _digest(path) != expected:
            raise CheckpointError(f"{name} is not the file that was archived.", hint=_AGAIN)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

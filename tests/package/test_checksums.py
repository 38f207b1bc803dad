"""The list of sums, held to the system's own sha256sum."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cxr_mtl.errors import CheckpointError
from cxr_mtl.package.checksums import SUMS_FILE, verify_sums, write_sums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with sums, one of a file that was brought later."""
    folder = tmp_path / "archive"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a")
    (folder / "sub/b é.bin").write_bytes(bytes(range(256)))
    extra = tmp_path / "weights.bin"
    extra.write_bytes(b"weights")
    write_sums(folder, [extra])
    shutil.copy(extra, folder)
    return folder


def test_what_was_summed_passes(folder: Path) -> None:
    verify_sums(folder)
    (folder / "sub/later.pyc").write_bytes(b"Python writes these")
    verify_sums(folder)
    assert len((folder / SUMS_FILE).read_text().splitlines()) == 3


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum on this machine")
def test_sha256sum_agrees(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", SUMS_FILE], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("name", ["a.txt", "sub/b é.bin", "weights.bin"])
def test_a_file_that_changed_or_went_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + b"?")
    with pytest.raises(CheckpointError, match=f"{name} is not the file"):
        verify_sums(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"misses {name}"):
        verify_sums(folder)


def test_no_sums_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no SHA256SUMS"):
        verify_sums(tmp_path)

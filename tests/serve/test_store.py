"""Which archives there are, and which of them is the newest."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from cxr_mtl.errors import ServeError
from cxr_mtl.serve.store import Archive, age, read_archive, read_store


def write(file: Path, manifest: object) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    return file


def archive(file: Path, name: str, version: str) -> Archive:
    return Archive(write(file, {"model": {"modelName": name, "modelVersion": version}}), name, version)


def test_names_and_versions_come_from_the_manifests_and_the_newest_is_first(tmp_path: Path) -> None:
    old = archive(tmp_path / "z.mar", "lungs", "9.0")
    new = archive(tmp_path / "a-1.0.mar", "lungs", "10.0")
    early = archive(tmp_path / "b.mar", "lungs", "10.0rc1")
    word = archive(tmp_path / "c.mar", "lungs", "latest")
    other = archive(tmp_path / "d.mar", "heart", "1")
    (tmp_path / "README.md").write_text("no archive")
    (tmp_path / ".part.mar").write_bytes(b"half copied")
    assert read_store(tmp_path) == [other, new, early, old, word]


def test_two_archives_of_one_version_are_refused(tmp_path: Path) -> None:
    archive(tmp_path / "a.mar", "lungs", "1.0")
    archive(tmp_path / "b.mar", "lungs", "1.0")
    with pytest.raises(ServeError, match=r"a\.mar and b\.mar are both lungs 1\.0\. Remove one"):
        read_store(tmp_path)


@pytest.mark.parametrize(
    "manifest", [{}, [], {"model": {}}, {"model": {"modelName": "x"}}, {"model": {"modelName": 1, "modelVersion": ""}}]
)
def test_an_archive_that_does_not_say_what_it_is_is_refused(tmp_path: Path, manifest: object) -> None:
    write(tmp_path / "a.mar", manifest)
    with pytest.raises(ServeError, match=r"a\.mar (is no model archive|names no model)"):
        read_store(tmp_path)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.mar", "lungs", "1.0").file.read_bytes()
    (tmp_path / "a.mar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ServeError, match=r"a\.mar is no model archive, or a damaged one"):
        read_store(tmp_path)
    with pytest.raises(ServeError, match="does not exist"):
        read_archive(tmp_path / "none.mar")
    with pytest.raises(ServeError, match="comma"):
        read_archive(tmp_path / "a,b.mar")


VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}(rc[0-9])?", fullmatch=True)


@given(VERSIONS, VERSIONS)
def test_versions_are_ordered_as_packages_are(one: str, two: str) -> None:
    if Version(one) != Version(two):
        assert (age(one) < age(two)) == (Version(one) < Version(two))
    assert age("latest") < age(one)

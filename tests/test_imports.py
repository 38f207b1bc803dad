"""Imports go down only; rooms on one floor are strangers; serving stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cxr_mtl"
FLOORS = [
    {"errors", "types", "paths", "cores", "__init__"},
    {"ontology"},
    {"config"},
    {"data", "model", "losses", "metrics"},
    {"bundle", "engine"},
    {"card"},
    {"pretrain", "train", "predict"},
    {"evaluate"},
    {"package", "serve", "demo", "export"},
    {"quickstart"},
    {"cli_data", "cli_predict", "cli_serve"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MAX_LINES = 300


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports() -> list[tuple[str, str, str]]:
    """(file, its room, imported room) of every import of our own, lazy ones too."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        relative = file.relative_to(PACKAGE)
        room = relative.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cxr_mtl":
                found.append((str(relative), room, room_of(node.module)))
            elif isinstance(node, ast.Import):
                found += [(str(relative), room, room_of(a.name)) for a in node.names if a.name.startswith("cxr_mtl")]
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in PACKAGE.rglob("*.py")}
    assert rooms <= set(FLOOR)


def test_imports_go_down_only() -> None:
    assert len(imports()) > 50
    wrong = [f"{f}: {a} -> {b}" for f, a, b in imports() if a != b and FLOOR[b] >= FLOOR[a]]
    assert wrong == []


def test_files_stay_short() -> None:
    lines = {str(f.relative_to(PACKAGE)): len(f.read_text().splitlines()) for f in PACKAGE.rglob("*.py")}
    assert {file: n for file, n in lines.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("cxr_mtl.predict.bundle_asker", {"monai", "deepspeed", "gradio", "matplotlib", "captum"}),
        ("cxr_mtl.cli", {"torch", "pandas", "numpy", "pydantic", "sklearn"}),
    ],
)
def test_what_starts_fast_imports_little(module: str, banned: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert banned.isdisjoint(loaded)

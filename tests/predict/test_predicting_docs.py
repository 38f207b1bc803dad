"""docs/predicting.md: its Python runs, and its commands that need no launcher; tests/docs says who runs the others."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pretended import listener
from typer.testing import CliRunner

from cxr_mtl.cli import app
from cxr_mtl.data.manifest import make_manifest
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Record

pytestmark = pytest.mark.slow
TEXT = (Path(__file__).resolve().parents[2] / "docs" / "predicting.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def place(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the page names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "nih_convnext").mkdir(parents=True)
    (tmp_path / "runs" / "nih_convnext" / "best").symlink_to(tiny_bundle)
    (tmp_path / "films").mkdir()
    rng = np.random.default_rng(0)
    for name in ("film.png", "films/a.png", "films/b.png"):
        Image.fromarray(rng.integers(0, 255, (70, 80), dtype=np.uint8)).save(tmp_path / name)
    records = [Record(f"films/{n}.png", n, n, n, "nih", "test", labels={"Mass": 1.0}) for n in "ab"]
    save_manifest(make_manifest(records, tmp_path, load_ontology("nih14"), {}), tmp_path / "nih.parquet")
    (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": "k"}}))
    return tmp_path


def test_commands_and_python_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [
        line for block in blocks("sh") for line in block.splitlines() if line.startswith("cxr-mtl predict runs")
    ]
    *alone, of_slurm = commands
    assert "--out" in of_slurm
    assert len(alone) >= 5
    for command in alone:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, (command, done.output)
    snippets = blocks("python")
    assert len(snippets) == 4
    with listener() as server:
        for snippet in snippets:
            exec(snippet.replace("127.0.0.1:8080", f"127.0.0.1:{server.server_port}"), {"__name__": "docs"})
    said = capsys.readouterr().out
    assert "unsupported" in said
    assert "label:Mass" in said
    assert said.count("Prediction(") == 3

"""docs/reports.md: its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from films import film, save
from PIL import Image
from typer.testing import CliRunner

from cxr_mtl.cli import app

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "reports.md").read_text("utf-8")


@pytest.mark.slow
def test_commands_run(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "nih_convnext").mkdir(parents=True)
    (tmp_path / "runs" / "nih_convnext" / "best").symlink_to(tiny_bundle)
    save(film(), tmp_path / "film.dcm")
    Image.effect_noise((90, 80), 60).save(tmp_path / "film.png")
    commands = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, (command, done.output)
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("film.*.*"))
    assert written == [
        "named/film.fhir.json",
        "records/film.fhir.json",
        "reports/film.gsps.dcm",
        "reports/film.sr.dcm",
        "segmentations/film.seg.dcm",
    ]

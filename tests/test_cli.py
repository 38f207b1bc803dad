"""The command line: quick to answer, one line for a mistake, exit codes as promised."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr_mtl import __version__

COMMANDS = [
    "quickstart", "data", "pretrain", "train", "evaluate", "compare", "calibrate", "predict", "package", "serve",
    "demo",
]  # fmt: skip


def cxr(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cxr_mtl", *map(str, args)], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_help_names_every_command() -> None:
    text = cxr("--help").stdout
    assert all(name in text for name in COMMANDS)
    assert "Not for clinical use" in text


def test_version_is_said_without_a_command() -> None:
    done = cxr("--version")
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


@pytest.mark.parametrize(
    "command",
    [*COMMANDS, "data import", "data doctor", "data split", "data pack", "data synth", "data merge", "data curate"],
)
def test_every_command_explains_itself(command: str) -> None:
    from typer.testing import CliRunner

    from cxr_mtl.cli import app

    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.output
    assert "Example: cxr-mtl" in done.output or command == "data"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "-c", "nih_convnext", "-s", "train.lrr=1"], "ConfigError: nih_convnext: train.lrr: no such setting"),
        (["data", "import", "nih", "no_such_folder", "--out", "m.parquet"], "no_such_folder"),
        (["data", "import", "nhi", ".", "--out", "m.parquet"], "nih"),
        (["data", "doctor", "no.parquet"], "no.parquet"),
        pytest.param(["evaluate", "no_bundle", "no.parquet"], "no.parquet", marks=pytest.mark.slow),
        pytest.param(["compare", "no_bundle", "no_other", "no.parquet"], "no.parquet", marks=pytest.mark.slow),
        pytest.param(["calibrate", "no_bundle", "no.parquet"], "no.parquet", marks=pytest.mark.slow),
        pytest.param(["predict", "no_bundle", "film.png"], "no_bundle is not a bundle", marks=pytest.mark.slow),
        pytest.param(["package", "no_bundle"], "no_bundle", marks=pytest.mark.slow),
        (["serve", "--model-store", "no_store"], "no_store"),
    ],
)
def test_a_mistake_is_one_line(args: list[str], says: str, tmp_path: Path) -> None:
    done = cxr(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        ["data", "synth", "--n", "10", "--out", "taken"],
        pytest.param(["quickstart", "--out", "taken"], marks=pytest.mark.slow),
    ],
)
def test_a_file_where_a_folder_is_wanted_is_one_line(args: list[str], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    done = cxr(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert "taken" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = cxr("--debug", "data", "doctor", "no.parquet", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from cxr_mtl import cli

    monkeypatch.setitem(sys.modules, "cxr_mtl.demo.app", None)
    monkeypatch.setattr(sys, "argv", ["cxr-mtl", "demo"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "pip install -e '.[all]'" in capsys.readouterr().err


def test_empty_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "nih" / "images").mkdir(parents=True)
    (tmp_path / "nih" / "Data_Entry_2017_v2020.csv").write_text("")
    done = cxr("data", "import", "nih", tmp_path / "nih", "--out", tmp_path / "m.parquet")
    assert done.returncode == 2
    assert "Data_Entry_2017_v2020.csv" in done.stderr
    assert not (tmp_path / "m.parquet").exists()


def test_predict_answers_good_films_and_explains_bad_ones(tiny_bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90), dtype=np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "note.dcm").write_text("a text file")
    done = cxr("predict", tiny_bundle, tmp_path / "good.png", tmp_path / "note.dcm", "--overlay", tmp_path / "pictures")
    assert done.returncode == 1
    assert "Research use only" in done.stdout
    assert "note.dcm" in done.stdout
    assert [p.name for p in (tmp_path / "pictures").iterdir()] == ["good.png"]


def test_predict_draws_a_picture_of_each_heat_map(tiny_bundle: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from cxr_mtl.cli import app

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90), dtype=np.uint8)).save(tmp_path / "a.png")
    asked = ["predict", str(tiny_bundle), str(tmp_path / "a.png"), "--overlay", str(tmp_path / "pictures"), "--json"]
    asked += ["--heatmap", "Mass", "--heatmap", "Nodule", "--explain", "integrated_gradients", "--top-k", "2"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)["findings"]) == 2
    heats = json.loads(done.stdout)["heatmaps"]
    assert [(heat["finding"], heat["method"]) for heat in heats] == [
        ("Mass", "integrated_gradients"),
        ("Nodule", "integrated_gradients"),
    ]
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["a.Mass.png", "a.Nodule.png"]


def test_predict_refuses_an_unknown_method(tiny_bundle: Path, tmp_path: Path) -> None:
    from cxr_mtl.errors import ConfigError
    from cxr_mtl.predict.command import predict_files
    from cxr_mtl.types import Options

    Image.fromarray(np.zeros((80, 90), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="explain 'lime': no such method of heat maps"):
        predict_files(str(tiny_bundle), [tmp_path / "a.png"], Options(explain="lime"), tell=str, as_json=True)


@pytest.mark.parametrize("asked", [{"explain": "grad_cam"}, {"heatmaps": ("Mass",)}, {"heatmap_format": "array"}])
def test_predict_makes_no_heat_maps_that_nothing_shows(asked: dict[str, Any], tmp_path: Path) -> None:
    from cxr_mtl.errors import ConfigError
    from cxr_mtl.predict.command import predict_files
    from cxr_mtl.types import Options

    with pytest.raises(ConfigError, match="--overlay FOLDER"):
        predict_files("no_bundle", [tmp_path / "a.png"], Options(**asked), tell=str)


@pytest.mark.slow
def test_predict_refuses_an_unknown_operating_point(tiny_bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((80, 90), np.uint8)).save(tmp_path / "a.png")
    done = cxr("predict", tiny_bundle, tmp_path / "a.png", "--operating-point", "best")
    assert done.returncode == 2
    assert "Choose one of: balanced" in done.stderr

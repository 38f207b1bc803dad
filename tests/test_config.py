"""Run files: what is wrong is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cxr_mtl.config import load_config, save_config
from cxr_mtl.errors import ConfigError
from cxr_mtl.paths import configs_dir

RUN_FILES = sorted(configs_dir().glob("*.yaml"))


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda p: p.stem)
def test_the_projects_own_run_files_load(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem


def test_bare_name_finds_the_projects_own() -> None:
    assert load_config("nih_convnext").model.encoder == "convnext_atto"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "train.lrr: no such setting. Did you mean 'lr'?"),
        ("model.image_size=500", "model.image_size: must be a multiple of 32 (got 500)"),
        ("train.lr=fast", "train.lr: Input should be a valid number"),
        ("train.lr=-1", "train.lr: Input should be greater than 0 (got -1)."),
        ("train", "expected key=value"),
        ("name.x=1", "'name' is a value, not a section"),
        ("train.zero_stage=3", "train.ema needs whole weights"),
        ("train.precision=fp16", "train.precision=fp16 needs train.zero_stage=0"),
        ("train.zero_stage=4", "train.zero_stage: Input should be 0, 1, 2 or 3 (got 4)"),
        ("name=../up", "name: String should match"),
        ("pretrain.crops.large_size=32", "films of 128 px lose what is small in crops of less than half of that"),
        (
            "pretrain.crops.small_area=[0.5, 0.1]",
            "must rise from more than 0 (got 0.5, 0.1)",
        ),
        (
            "pretrain.teacher_temperature=0.1",
            "pretrain: teacher_temperature must be below student_temperature, 0.1: the teacher is the surer (got 0.1)",
        ),
        ("pretrain.crop.small=2", "pretrain.crop: no such setting. Did you mean 'crops'?"),
    ],
)
def test_wrong_setting_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("nih_convnext", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scientific_notation_is_a_number() -> None:
    assert load_config("nih_convnext", ["train.lr=1e-4"]).train.lr == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected settings"),
        ("- a\n- b", "expected settings"),
        ("name: [", ":1: not valid YAML"),
        ("name: x", "data: this setting is required"),
    ],
)
def test_wrong_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


def test_missing_file_names_the_projects_own() -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such run file. The project's own are: .*nih_convnext"):
        load_config("nowhere")


def test_saved_config_is_the_same_config(tmp_path: Path) -> None:
    config = load_config("quickstart", ["train.lr=0.5"])
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


def test_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_config("quickstart").train.lr = 1  # type: ignore[misc]

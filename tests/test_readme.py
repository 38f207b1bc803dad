"""Every command of the README is run: by `make quickstart`, by a test here, or by the tests named here."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
# Commands that other tests run for real, by how they begin.
RUN_ELSEWHERE = {
    "make quickstart": "tests/test_quickstart.py",
    "make test": ".ci/run",
    "cxr-mtl data import nih": "tests/test_line.py",
    "cxr-mtl data import kermany": "tests/test_cli_data.py",
    "cxr-mtl data merge": "tests/test_cli_data.py",
    "cxr-mtl data curate": "tests/test_cli_data.py",
    "cxr-mtl data doctor": "tests/test_line.py",
    "cxr-mtl train -c": "tests/test_line.py",
    "cxr-mtl pretrain -c": "tests/pretrain/test_pretrain_runs.py",
    "cxr-mtl evaluate": "tests/test_line.py",
    "cxr-mtl compare": "tests/test_line.py",
    "cxr-mtl calibrate": "tests/test_line.py",
    "cxr-mtl package": "tests/test_line.py",
    "cxr-mtl serve": "tests/test_line.py",
    "cxr-mtl predict": "tests/test_line.py",
    "cxr-mtl demo --bundle": "tests/test_line.py",
    "deepspeed --num_gpus 2 --module cxr_mtl train": "tests/train/test_train_runs.py",
}


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [
        line.removeprefix(".venv/bin/") for block in blocks for line in block.replace("\\\n", "").splitlines() if line
    ]


def test_every_command_is_run_somewhere() -> None:
    assert len(commands()) >= 12
    unknown = [c for c in commands() if not any(c.startswith(known) for known in RUN_ELSEWHERE)]
    assert unknown == []
    for where in RUN_ELSEWHERE.values():
        file = where.split(";")[0]
        assert (REPO / file).is_file(), file


def test_ci_runs_the_readmes_test_command() -> None:
    assert "\nmake test\n" in (REPO / ".ci" / "run").read_text()
    assert "```sh\nmake test\n```" in README


def test_files_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"`(configs/[\w/.]+|CONTRIBUTING\.md)`", README):
        assert (REPO / name).exists(), name
    for page in (REPO / "README.md", *(REPO / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


def test_run_files_say_why() -> None:
    for file in (REPO / "configs").glob("*.yaml"):
        assert file.read_text().startswith("#"), file
        assert yaml.safe_load(file.read_text())["name"] == file.stem

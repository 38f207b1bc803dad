"""Bundles load whole or say what is wrong; never a pickle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cxr_mtl.bundle import DESCRIPTION, WEIGHTS, load_bundle, save_bundle
from cxr_mtl.errors import CheckpointError


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


def test_round_trip(tiny_bundle: Path, tmp_path: Path) -> None:
    first = load_bundle(tiny_bundle)
    save_bundle(tmp_path / "again", first.description, first.model.state_dict())
    second = load_bundle(tmp_path / "again")
    assert second.description.to_dict() == first.description.to_dict()
    assert second.sha256 == first.sha256
    x = torch.randn(1, 1, 64, 64)
    assert torch.equal(first.model(x).findings, second.model(x).findings)


def test_no_pickle_and_readable_by_a_server(tiny_bundle: Path) -> None:
    assert sorted(p.name for p in tiny_bundle.iterdir()) == [DESCRIPTION, "model_card.md", WEIGHTS]
    assert all(p.stat().st_mode & 0o044 == 0o044 for p in tiny_bundle.iterdir())


def test_saving_replaces_whole(copy: Path) -> None:
    (copy / "stray.txt").write_text("old")
    bundle = load_bundle(copy)
    save_bundle(copy, bundle.description, bundle.model.state_dict())
    assert not (copy / "stray.txt").exists()
    assert [p.name for p in copy.parent.iterdir()] == ["copy"]


def test_missing_and_misshapen_weights_are_named(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    name = next(n for n in weights if n.startswith("findings.linear.weight"))
    save_file({n: (w[:-1] if n == name else w) for n, w in weights.items()}, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"1 of another shape \(first: {name}\)"):
        load_bundle(copy)
    save_file({n: w for n, w in weights.items() if n != name}, copy / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"1 missing \(first: {name}\)"):
        load_bundle(copy)


def test_damaged_weights_and_description_are_one_line(copy: Path, tmp_path: Path) -> None:
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        load_bundle(copy)
    assert "\n" not in str(caught.value)
    tree = yaml.safe_load((copy / DESCRIPTION).read_text())
    del tree["trained"]
    (copy / DESCRIPTION).write_text(yaml.safe_dump(tree))
    with pytest.raises(CheckpointError, match="KeyError: 'trained'"):
        load_bundle(copy)
    with pytest.raises(CheckpointError, match="is not a bundle"):
        load_bundle(tmp_path)

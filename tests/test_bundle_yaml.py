"""A bundle's description, from a stranger."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from cxr_mtl.bundle import DESCRIPTION, load_bundle
from cxr_mtl.bundle.folder import load_description
from cxr_mtl.bundle.plain_yaml import read_yaml, write_yaml
from cxr_mtl.errors import CheckpointError

LAYERS = range(1, 30)
BOMBS = {
    "lists": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in LAYERS),
    "merges": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in LAYERS),
    "itself": "a: &a [*a]\n",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_description_that_would_grow_is_one_line(tiny_bundle: Path, tmp_path: Path, bomb: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    text = (folder / DESCRIPTION).read_text(encoding="utf-8")
    (folder / DESCRIPTION).write_text(BOMBS[bomb] + text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="refers to itself, which is not read") as caught:
        load_bundle(folder)
    assert "\n" not in caught.value.message


def test_what_is_written_is_read_though_parts_of_it_are_one_object(tiny_bundle: Path) -> None:
    shared = ["Effusion"]
    value = {"b": shared, "a": shared, "é": [{"x": shared}]}
    assert read_yaml(write_yaml(value)) == value
    assert list(read_yaml(write_yaml(value))) == ["b", "a", "é"]
    described = load_description(tiny_bundle).to_dict()
    assert read_yaml(write_yaml(described)) == yaml.safe_load((tiny_bundle / DESCRIPTION).read_text(encoding="utf-8"))


def test_no_object_is_made_by_name() -> None:
    with pytest.raises(yaml.YAMLError):
        read_yaml("!!python/object/apply:os.system [echo]")

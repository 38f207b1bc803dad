"""Which findings a run learns: those that its run file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxr_mtl.config import parse_config
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.train import study
from cxr_mtl.train.study import make_study, wanted_findings


def test_a_run_learns_what_it_names_or_everything() -> None:
    tree = load_ontology("lung10")
    assert wanted_findings(tree, ()).all()
    wanted = wanted_findings(tree, ("Edema", "Pleural"))
    assert [name for name, one in zip(tree.names, wanted, strict=True) if one] == ["Edema", "Pleural"]
    with pytest.raises(ConfigError, match="Did you mean 'Edema'"):
        wanted_findings(tree, ("Edemas",))


@pytest.mark.parametrize(
    "settings",
    [
        {"findings": ["Edemas"]},
        {"labels": {"uncertain": {"default": "ignore", "Edemas": "ones"}}},
        {"labels": {"blank": {"default": "unknown", "Edemas": "absent"}}},
    ],
)
def test_a_misspelt_finding_is_told_before_a_film_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("films were decoded")

    monkeypatch.setattr(study, "shared_pack", decode)
    write_study_set(tmp_path / "films", 20, 0, 64)
    manifest, _ = import_source("nih", tmp_path / "films", ontology="lung10")
    save_manifest(manifest, tmp_path / "m.parquet")
    data = {"manifest": str(tmp_path / "m.parquet")}
    with pytest.raises(ConfigError, match="'Edemas'"):
        make_study(parse_config({"name": "x", "data": data | settings}, origin="x.yaml"), main=True)
    with pytest.raises(AssertionError, match="decoded"):
        make_study(parse_config({"name": "x", "data": data}, origin="x.yaml"), main=True)

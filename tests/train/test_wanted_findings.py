"""Which findings a run learns: those that its run file names."""

from __future__ import annotations

import pytest

from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.train.study import wanted_findings


def test_a_run_learns_what_it_names_or_everything() -> None:
    tree = load_ontology("lung10")
    assert wanted_findings(tree, ()).all()
    wanted = wanted_findings(tree, ("Edema", "Pleural"))
    assert [name for name, one in zip(tree.names, wanted, strict=True) if one] == ["Edema", "Pleural"]
    with pytest.raises(ConfigError, match="Did you mean 'Edema'"):
        wanted_findings(tree, ("Edemas",))

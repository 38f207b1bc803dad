"""Codes: those of DICOM's tables are in pydicom's copy of them, and no two findings share one."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydicom.sr._concepts_dict import concepts

import cxr_mtl.export.codes as ours
from cxr_mtl.export.codes import PRIVATE, Coded, code_of, standard_codes
from cxr_mtl.ontology import load_ontology
from cxr_mtl.paths import configs_dir

TABLE = yaml.safe_load(Path(ours.__file__).with_name("codes.yaml").read_text("utf-8"))
NAMES = sorted({n for f in (configs_dir() / "ontologies").glob("*.yaml") for n in load_ontology(f.stem).names})


def meanings(code: Coded) -> set[str]:
    """What DICOM's tables call a code, in lower case and without SNOMED's word for its kind at the end."""
    return {m[code.value][0].lower().split(" (")[0] for m in concepts[code.scheme].values() if code.value in m}


def test_dicoms_codes_are_in_dicoms_tables() -> None:
    constants = [c for c in vars(ours).values() if isinstance(c, Coded) and c.scheme != PRIVATE]
    assert len(constants) >= 3
    for code in [*(Coded(*row) for row in TABLE["dicom"].values()), *constants, *ours.CALLS.values()]:
        assert code.meaning.lower() in meanings(code), code


def test_every_coded_finding_is_one_of_ours() -> None:
    assert set(standard_codes()) <= set(NAMES)


def test_no_two_findings_share_a_code() -> None:
    codes = {name: code_of(name) for name in NAMES}
    assert len({(c.scheme, c.value) for c in codes.values()}) == len(NAMES) >= 50
    assert all(len(c.value) <= 16 and len(c.meaning) <= 64 for c in codes.values())
    assert code_of("Hernia") == Coded(PRIVATE, "Hernia", "Hernia")
    assert code_of("Costophrenic Angle Blunting").scheme == PRIVATE

"""The FHIR report against the schema that HL7 publishes for R4, and against models that also want what it requires."""

from __future__ import annotations

import copy
import json
import lzma
import re
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from films import film, prediction, save
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft6Validator
from PIL import Image

from cxr_mtl.errors import ImageError
from cxr_mtl.export import Reports
from cxr_mtl.export.fhir import make_fhir
from cxr_mtl.types import DISCLAIMER, FindingCall, Prediction, ScoredBox

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "reports.md").read_text("utf-8")
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SECRETS = ("ller", "Zo", "MRN-77", "1950", "ACC-99", "20261126")


@cache
def published() -> Draft6Validator:
    """fhir.schema.json of FHIR 4.0.1 (HL7, CC0), whole; only its list of alternatives is replaced by the one meant."""
    schema = json.loads(lzma.decompress(Path(__file__).with_name("fhir-r4.schema.json.xz").read_bytes()))
    assert schema["id"] == "http://hl7.org/fhir/json-schema/4.0"
    return Draft6Validator({"definitions": schema["definitions"], "$ref": "#/definitions/DiagnosticReport"})


def check(report: dict[str, Any]) -> None:
    """R4B's models are those of R4 for these resources; unlike the schema they know which elements must be there."""
    assert [error.message for error in published().iter_errors(report)] == []
    DiagnosticReport.model_validate(report)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    return prediction(save(film(), tmp_path_factory.mktemp("fhir") / "a.dcm"))


@pytest.fixture(scope="module")
def report(answer: Prediction) -> dict[str, Any]:
    return json.loads(json.dumps(make_fhir(answer, NOW)))


def test_report_is_valid(report: dict[str, Any]) -> None:
    check(report)


def test_validators_would_find_errors(report: dict[str, Any]) -> None:
    for path, value in (("status", "perhaps"), ("issued", "yesterday"), ("resultt", []), ("conclusion", 3)):
        broken = copy.deepcopy(report) | {path: value}
        assert list(published().iter_errors(broken)), path
    without = copy.deepcopy(report)
    del without["contained"][1]["status"]
    with pytest.raises(ValueError, match="status"):
        DiagnosticReport.model_validate(without)


def numbers(observation: dict[str, Any]) -> list[tuple[str, float]]:
    """Code and value of each number of an Observation."""
    parts = [part for part in observation["component"] if "valueQuantity" in part]
    return [(part["code"]["coding"][0]["code"], part["valueQuantity"]["value"]) for part in parts]


def test_report_holds_the_answer(report: dict[str, Any], answer: Prediction) -> None:
    assert report["status"] == "preliminary"
    assert DISCLAIMER in report["conclusion"]
    assert DISCLAIMER in report["text"]["div"]
    assert "Called at the operating point balanced: Effusion." in report["conclusion"]
    device, found, calm, unknown = report["contained"]
    assert device["identifier"][0]["value"] == answer.model["sha256"]
    assert found["code"]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "60046008",
        "display": "Pleural effusion",
    }
    assert numbers(found) == [("122157", 0.834567), ("threshold", 0.41), ("score", 0.71), ("score", 0.4)]
    assert numbers(calm) == [("122157", 0.012), ("threshold", 0.3), ("score", 0.3)]
    assert not [part for part in report["contained"] if "valueQuantity" in part], "a number says what it is"
    assert found["interpretation"][0]["coding"][0]["code"] == "POS"
    places = [part["valueString"] for part in found["component"] if "valueString" in part]
    assert places[0] == "left 10.25, top 20.5, right 40, bottom 60.75 pixels of the film"
    assert len(places) == 2
    assert calm["interpretation"][0]["coding"][0]["code"] == "NEG"
    assert calm["code"]["coding"][0]["system"].startswith("urn:uuid:")
    assert unknown["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "component" not in unknown
    assert [r["reference"] for r in report["result"]] == [f"#{o['id']}" for o in (found, calm, unknown)]


def test_the_reports_code_has_loincs_name(report: dict[str, Any]) -> None:
    """As HL7 lists it: hl7.org/fhir/us/ccda, value set LOINC Imaging Document Codes."""
    (coding,) = report["code"]["coding"]
    assert coding == {"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}
    assert json.dumps(coding) in DOCS


def test_no_number_of_the_narrative_reads_as_certain(answer: Prediction) -> None:
    findings = (
        FindingCall("Effusion", "positive", 0.99999, 0.0049),
        FindingCall("Mass", "negative", 0.00001, 0.41),
        FindingCall("Hernia", "not_trained"),
    )
    rows = make_fhir(replace(answer, findings=findings), NOW)["text"]["div"].split("<tr>")[2:]
    assert [re.findall(r"<td>([^<]*)</td>|<td/>", row)[2:] for row in rows] == [
        ["&gt;0.99", "0.0049"],
        ["&lt;0.001", "0.41"],
        ["", ""],
    ]


@pytest.mark.parametrize("name", ["No Finding", "Normal"])
def test_a_normal_film_is_not_called_anything(answer: Prediction, name: str) -> None:
    said = make_fhir(replace(answer, findings=(FindingCall(name, "positive", 0.9, 0.5),)), NOW)
    assert "Called at the operating point balanced: none." in said["conclusion"]
    assert said["contained"][1]["interpretation"][0]["coding"][0]["code"] == "POS", "the answer itself stays"


def written(folder: Path, path: Path, *, with_patient: bool) -> dict[str, Any]:
    reports = Reports(["fhir"], folder, with_patient=with_patient)
    reports.begin([path])
    return json.loads(Path(reports.write(path, prediction(path)).files["fhir"]).read_text("utf-8"))


def test_patient_is_named_only_where_asked_for(tmp_path: Path) -> None:
    path = save(film(), tmp_path / "a.dcm")
    plain = written(tmp_path / "plain", path, with_patient=False)
    assert [secret for secret in SECRETS if secret in json.dumps(plain, ensure_ascii=False)] == []
    named = written(tmp_path / "named", path, with_patient=True)
    check(named)
    patient = named["contained"][-1]
    assert patient["name"] == [{"family": "Müller", "given": ["Zoë"]}]
    assert (patient["birthDate"], patient["gender"]) == ("1950-01-02", "female")
    assert patient["identifier"] == [{"value": "MRN-77"}]
    judged = [part for part in named["contained"] if part["resourceType"] == "Observation"]
    assert [part["subject"] for part in (named, *judged)] == [{"reference": "#patient"}] * (1 + len(judged))
    assert "subject" not in json.dumps(plain)


def test_a_picture_has_a_report_but_no_patient(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (40, 50), 7).save(path)
    check(written(tmp_path, path, with_patient=False))
    with pytest.raises(ImageError, match=r"a\.png is a PNG file, which names neither patient nor study"):
        written(tmp_path / "named", path, with_patient=True)


ratio = st.floats(0, 1)
text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs")), min_size=1, max_size=30)
calls = st.one_of(
    st.builds(FindingCall, text, st.sampled_from(["positive", "negative"]), ratio, ratio),
    st.builds(FindingCall, text, st.just("not_trained")),
)


@settings(max_examples=8)
@given(st.lists(calls, min_size=1, max_size=4), st.lists(ratio, min_size=4, max_size=4), text)
@pytest.mark.slow
def test_any_answer_gives_a_valid_report(
    answer: Prediction, found: list[FindingCall], corners: list[float], warning: str
) -> None:
    x1, y1, x2, y2 = corners
    box = ScoredBox(found[0].name, 0.5, (x1, y1, x2, y2))
    check(
        json.loads(
            json.dumps(make_fhir(replace(answer, findings=tuple(found), boxes=(box,), warnings=(warning,)), NOW))
        )
    )

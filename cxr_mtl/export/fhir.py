"""The FHIR R4 report: a DiagnosticReport that contains an Observation of each finding. Pure.

It is preliminary, as nobody has read it. Of the patient it says nothing unless asked to.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from html import escape
from typing import Any

from cxr_mtl.export.codes import BOX_AREA, CALL, IMAGING_REPORT, PRIVATE, PROBABILITY, SCORE, THRESHOLD, Coded, code_of
from cxr_mtl.predict.marks import NORMAL_NAMES, format_number
from cxr_mtl.types import DISCLAIMER, FindingCall, Prediction, ScoredBox

_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": "http://loinc.org",
}
_HL7 = "http://terminology.hl7.org/CodeSystem"
_PRIVATE_SYSTEM = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, PRIVATE)}"
"""Of the private scheme. No address is ours, so it is an identifier made of the scheme's name."""
_IMAGING_STUDY = replace(IMAGING_REPORT, meaning="Diagnostic imaging study")
"""LOINC's own name for its code, which a server may compare; the other is DICOM's."""
_CALLS = {"positive": ("POS", "Positive"), "negative": ("NEG", "Negative")}
_SEXES = {"M": "male", "F": "female", "O": "other"}


def make_fhir(prediction: Prediction, issued: datetime, patient: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The report as JSON.

    Args:
        prediction: the film's answer.
        issued: when the report was made, with its time zone.
        patient: keywords and values of the film's DICOM tags, to say whose it is and of which study; None to say
            nothing of either.
    """
    observations = [_observation(i, found, prediction) for i, found in enumerate(prediction.findings, 1)]
    contained: list[dict[str, Any]] = [_device(prediction), *observations]
    report: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "meta": {"security": [_coding(f"{_HL7}/v3-ActReason", "HRESCH", "healthcare research")]},
        "text": {"status": "generated", "div": _in_words(prediction)},
        "contained": contained,
        "identifier": [
            {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{uuid.uuid4()}"},
            {"type": {"text": "SHA-256 of the film's file"}, "value": prediction.image["sha256"]},
        ],
        "status": "preliminary",
        "category": [{"coding": [_coding(f"{_HL7}/v2-0074", "RAD", "Radiology")]}],
        "code": _concept(_IMAGING_STUDY, "Chest X-ray, judged by a model"),
        "issued": issued.isoformat(timespec="seconds"),
        "result": [{"reference": f"#{found['id']}", "display": found["code"]["text"]} for found in observations],
        "conclusion": _conclusion(prediction),
    }
    if patient is not None:
        contained.append(_patient(patient))
        for said in (report, *observations):
            said["subject"] = {"reference": "#patient"}
        study = {"system": "urn:dicom:uid", "value": f"urn:oid:{patient['StudyInstanceUID']}"}
        report["imagingStudy"] = [{"type": "ImagingStudy", "identifier": study}]
    return report


def _observation(number: int, found: FindingCall, prediction: Prediction) -> dict[str, Any]:
    said: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"finding-{number}",
        "status": "preliminary",
        "category": [{"coding": [_coding(f"{_HL7}/observation-category", "imaging", "Imaging")]}],
        "code": _concept(code_of(found.name), found.name),
        "device": {"reference": "#model"},
    }
    if found.probability is None or found.threshold is None:
        missing = _coding(f"{_HL7}/data-absent-reason", "not-performed", "Not Performed")
        said["dataAbsentReason"] = {"coding": [missing], "text": "Not assessed: the model was never trained for it."}
        return said
    said["interpretation"] = [
        {"coding": [_coding(f"{_HL7}/v3-ObservationInterpretation", *_CALLS[found.call])], "text": CALL.meaning}
    ]
    said["note"] = [{"text": f"Calibrated probability. Operating point: {prediction.operating_point}. {DISCLAIMER}"}]
    # Components and no value: a bare "Pneumonia 0.83" could be anything, its extent for one.
    said["component"] = [
        {"code": _concept(PROBABILITY), "valueQuantity": _ratio(found.probability)},
        {"code": _concept(THRESHOLD), "valueQuantity": _ratio(found.threshold)},
    ]
    for box in prediction.boxes:
        if box.finding == found.name:
            said["component"] += _box(box)
    return said


def _box(box: ScoredBox) -> list[dict[str, Any]]:
    """Place and score. R4 has no data type for a place in a picture, so it is text."""
    x1, y1, x2, y2 = box.xyxy
    how = "; weak: learned without boxes" if box.weak else ""
    where = f"left {x1:g}, top {y1:g}, right {x2:g}, bottom {y2:g} pixels of the film{how}"
    return [
        {"code": _concept(BOX_AREA), "valueString": where},
        {"code": _concept(SCORE), "valueQuantity": _ratio(box.score)},
    ]


def _device(prediction: Prediction) -> dict[str, Any]:
    model = prediction.model
    return {
        "resourceType": "Device",
        "id": "model",
        "identifier": [{"type": {"text": "SHA-256 of the bundle"}, "value": model["sha256"]}],
        "deviceName": [{"name": model["name"], "type": "model-name"}],
        "version": [{"value": model["version"]}],
        "note": [{"text": f"Ontology of findings: {model['ontology']}. {DISCLAIMER}"}],
    }


def _patient(tags: Mapping[str, str]) -> dict[str, Any]:
    said: dict[str, Any] = {"resourceType": "Patient", "id": "patient"}
    if number := tags.get("PatientID"):
        said["identifier"] = [{"value": number}]
    family, _, rest = tags.get("PatientName", "").partition("=")[0].partition("^")
    if given := [part for part in rest.split("^")[:2] if part]:
        said["name"] = [{"family": family, "given": given} if family else {"given": given}]
    elif family:
        said["name"] = [{"family": family}]
    if len(born := tags.get("PatientBirthDate", "")) == 8 and born.isdigit():
        said["birthDate"] = f"{born[:4]}-{born[4:6]}-{born[6:]}"
    if sex := _SEXES.get(tags.get("PatientSex", "")):
        said["gender"] = sex
    return said


def _conclusion(prediction: Prediction) -> str:
    def names(call: str, without: frozenset[str] = frozenset()) -> str:
        called = (found.name for found in prediction.findings if found.call == call)
        return ", ".join(name for name in called if name not in without) or "none"

    lines = [
        DISCLAIMER,
        f"Called at the operating point {prediction.operating_point}: {names('positive', NORMAL_NAMES)}.",
        f"Not assessed, as the model was never trained for it: {names('not_trained')}.",
        *(f"Note: {warning.rstrip('.')}." for warning in prediction.warnings),
        "Made by software; read by nobody.",
    ]
    return "\n".join(lines)


def _in_words(prediction: Prediction) -> str:
    """The report for the eye: XHTML, as FHIR's narrative."""
    rows = [
        f"<tr><td>{escape(f.name)}</td><td>{escape(f.call.replace('_', ' '))}</td>"
        + "".join(
            "<td/>" if n is None else f"<td>{escape(format_number(n))}</td>" for n in (f.probability, f.threshold)
        )
        + "</tr>"
        for f in prediction.findings
    ]
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in _conclusion(prediction).split("\n"))
    head = "<tr><th>Finding</th><th>Call</th><th>Probability</th><th>Threshold</th></tr>"
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}<table>{head}{"".join(rows)}</table></div>'


def _concept(code: Coded, text: str = "") -> dict[str, Any]:
    system = _SYSTEMS.get(code.scheme, _PRIVATE_SYSTEM)
    return {"coding": [_coding(system, code.value, code.meaning)], "text": text or code.meaning}


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}


def _ratio(value: float) -> dict[str, Any]:
    return {"value": value, "unit": "1", "system": "http://unitsofmeasure.org", "code": "1"}

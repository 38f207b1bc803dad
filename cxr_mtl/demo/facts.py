"""What was done to a film, by which model, how fast; and, for who asks, what the file's own header says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from pydicom.charset import decode_bytes, python_encoding
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from cxr_mtl.data.elements import read_elements
from cxr_mtl.demo.film import INVERTED
from cxr_mtl.demo.picture import bytes_url
from cxr_mtl.errors import ImageError
from cxr_mtl.types import Prediction

NO_FACTS = (
    "<p>Open a film: here stands what was done to it before the model saw it, which model answered, and how fast.</p>"
)
_WARNING = "These may name the patient. They are shown on this page alone and kept nowhere."
_CHARACTER_SET = 0x00080005
_RESETS = TEXT_VR_DELIMS | PN_DELIMS | {ord("="), ord("\\")}
"""After each of these a text is in its first character set again (PS3.5, 6.1.2.5.3)."""
_TAGS = {
    0x00100010: "Patient's name",
    0x00100020: "Patient ID",
    0x00100030: "Birth date",
    0x00100040: "Sex",
    0x00101010: "Age",
    0x00080020: "Study date",
    0x00080050: "Accession number",
    0x00080080: "Institution",
    0x00081030: "Study",
    0x0008103E: "Series",
    0x00185101: "View position",
    0x00080070: "Manufacturer",
    0x00081090: "Model",
}


def facts_html(prediction: Prediction, seconds: float) -> str:
    """What was judged, by what, how fast; and the answer as JSON, to read and to save."""
    image, model = prediction.image, prediction.model
    prepared = {
        "File": f"{image.get('width')} × {image.get('height')} px, {image.get('format')}",
        "Grey scale": INVERTED if image.get("inverted") else "as stored",
        "Window, bits and other notes": "; ".join(prediction.warnings) or "none: read as it is",
        "Orientation": "assumed upright, as submitted; left and right were not checked",
        "Film SHA-256": str(image.get("sha256", "")),
    }
    judged = {
        "Model": f"{model.get('name')} {model.get('version')}",
        "Ontology": str(model.get("ontology")),
        "Bundle SHA-256": str(model.get("sha256", "")),
        "Operating point": prediction.operating_point,
        "Answered in": f"{seconds:.2f} s, with any wait for other visitors",
    }
    body = prediction.to_dict()
    for heatmap in body.get("heatmaps", ()):
        heatmap["png"] = "(left out here; it is in the saved file)"
    saved = bytes_url(json.dumps(prediction.to_dict(), indent=1).encode(), "application/json")
    return (
        f'<div class="cxr-facts"><h2>Done before the model saw it</h2>{_list(prepared)}'
        f"<h2>Judged by</h2>{_list(judged)}<h2>The whole answer</h2>"
        f'<p><a class="save" href="{saved}" download="cxr_mtl_prediction.json">Save as JSON</a></p>'
        f'<details><summary>Read it here</summary><pre tabindex="0" aria-label="Answer as JSON">'
        f"{escape(json.dumps(body, indent=1))}</pre></details></div>"
    )


def header_html(path: Path) -> str:
    """The tags of a DICOM file that tell of patient and study: read when asked for, shown, and kept nowhere."""
    try:
        # Not pydicom's reader: what it dislikes it logs, with the value, which may be a name.
        found = read_elements(path.read_bytes(), {*_TAGS, _CHARACTER_SET}, set())
    except (ImageError, OSError):
        return '<p class="cxr-header">This file has no DICOM header.</p>'
    named = [python_encoding[name] for name in found.texts(_CHARACTER_SET) if name in python_encoding]
    values = {name: found.values[tag] for tag, name in _TAGS.items() if tag in found.values}
    told = {name: _text(value, named if _CHARACTER_SET in found.values else []) for name, value in values.items()}
    return f'<div class="cxr-header"><p>{_WARNING}</p>{_list({k: v for k, v in told.items() if v})}</div>'


def _text(value: bytes, encodings: Sequence[str]) -> str:
    """A text in the file's own character sets; UTF-8 where it names none, as many files do that are not ASCII."""
    if len(encodings) > 1:
        return decode_bytes(value, encodings, _RESETS).strip(" \0")
    return value.decode(encodings[0] if encodings else "utf-8", "replace").strip(" \0")


def _list(facts: dict[str, str]) -> str:
    pairs: Sequence[tuple[str, str]] = [(escape(name), escape(value)) for name, value in facts.items()]
    return f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in pairs)}</dl>"

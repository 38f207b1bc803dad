"""A prediction as the rows and sentences that the demo's page shows. Pure.

A finding below its threshold is "not flagged", never "normal", for no flag is not health; one that the model never
learned is "not trained" and has no number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import Any

from cxr_mtl.errors import CxrError, ImageError
from cxr_mtl.predict.marks import NORMAL_NAMES, XYXY, Style, box_labels, box_styles, format_number
from cxr_mtl.types import FindingCall, Prediction

CALLS = {"positive": "flagged", "negative": "not flagged", "not_trained": "not trained"}
FEW = 6
"""Of findings that were never trained, at most so many have lines of their own; more share one, which names each."""
NO_FLAG = "Nothing is flagged. That does not make the film normal."
_UNLIKE = "unlike the films"


@dataclass(frozen=True, slots=True)
class Row:
    """One finding as the table shows it. ``style`` is that of its boxes, None without."""

    name: str
    call: FindingCall
    num_boxes: int
    style: Style | None
    stands_for_normal: bool

    @property
    def flagged(self) -> bool:
        return self.call.call == "positive" and not self.stands_for_normal

    @property
    def words(self) -> str:
        if self.stands_for_normal and self.call.probability is not None:
            return "above threshold" if self.call.call == "positive" else "below threshold"
        return CALLS[self.call.call]


def rows(prediction: Prediction) -> list[Row]:
    """Flagged findings first, then the others, both from likely to unlikely; what was never trained last."""
    styles = box_styles(prediction)
    counts = {name: sum(box.finding == name for box in prediction.boxes) for name in styles}
    found = [
        Row(call.name, call, counts.get(call.name, 0), styles.get(call.name), call.name in NORMAL_NAMES)
        for call in prediction.findings
    ]
    return sorted(
        found, key=lambda row: (not row.flagged, -(-1.0 if row.call.probability is None else row.call.probability))
    )


def trained(body: dict[str, Any] | None) -> list[str]:
    """Findings that a heat map can be asked for, likeliest first, from the contract's JSON; none after an error."""
    calls = [] if body is None else [call for call in body.get("findings", ()) if call["call"] != "not_trained"]
    return [call["name"] for call in sorted(calls, key=lambda call: -call["probability"])]


def summary(prediction: Prediction) -> str:
    """The picture in words."""
    shown = rows(prediction)
    flagged = [f"{row.name} {format_number(row.call.probability or 0.0)}" for row in shown if row.flagged]
    named = zip(box_labels(prediction), prediction.boxes, strict=True)
    boxes = [f"{label} ({_place(box.xyxy, prediction)})" for label, box in named]
    first = f"Flagged: {', '.join(flagged)}." if flagged else NO_FLAG
    return f"{first} Boxes: {', '.join(boxes)}." if boxes else f"{first} No boxes."


def _place(xyxy: XYXY, prediction: Prediction) -> str:
    """Where a box is on the picture, for who does not see it. Of the picture: the patient's sides are not known."""
    x = (xyxy[0] + xyxy[2]) / 2 / prediction.image["width"]
    y = (xyxy[1] + xyxy[3]) / 2 / prediction.image["height"]
    return f"{_third(y, 'top', 'middle', 'bottom')}, at the picture's {_third(x, 'left', 'centre', 'right')}"


def _third(at: float, low: str, mid: str, high: str) -> str:
    return low if at < 1 / 3 else mid if at < 2 / 3 else high


def bar(probability: float, threshold: float | None = None) -> str:
    """A probability as a length, its threshold as a tick; for the eye only, as the number stands beside it."""
    tick = "" if threshold is None else f";--t:{threshold:.4f}"
    return f'<span class="bar" style="--p:{probability:.4f}{tick}" aria-hidden="true"></span>'


def number(value: float) -> str:
    return f'<span class="number">{escape(format_number(value))}</span>'


def notes(prediction: Prediction) -> tuple[str, list[str]]:
    """That the film is unlike those that the model learned from, empty where it is not so; and all other notes."""
    unlike = [note for note in prediction.warnings if note.startswith(_UNLIKE)]
    return "; ".join(unlike), [note for note in prediction.warnings if note not in unlike]


def is_refusal(error: CxrError) -> bool:
    """Whether the file is at fault, and not a server that is away or an option that the model has not."""
    return isinstance(error, ImageError) and error.status < 500 and error.code != "bad_request"


def error_body(error: CxrError) -> dict[str, Any]:
    """A refusal as the contract has it; what is no fault of the film is named by its kind, such as ``serve_error``."""
    if isinstance(error, ImageError):
        return dict(error.to_dict())
    code = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    return {"error": {"code": code, "message": error.message, "hint": error.hint}}

"""Codes of findings, calls and concepts: standard where one is certain, else of our private scheme."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

PRIVATE = "99CXRMTL"
"""DICOM keeps designators that begin with 99 for private schemes."""
_LONGEST = 16  # letters of a DICOM code value (SH); a longer one would need an attribute that old viewers do not know
_MEANING = 64  # letters of a code's meaning (LO)


@dataclass(frozen=True)
class Coded:
    """One concept: ``scheme`` is DICOM's designator of the coding scheme."""

    scheme: str
    value: str
    meaning: str


def private(value: str, meaning: str) -> Coded:
    """A concept of our own."""
    return Coded(PRIVATE, value, meaning[:_MEANING])


PROBABILITY = Coded("DCM", "122157", "Probability")
THRESHOLD = private("threshold", "Threshold of the probability")
SCORE = private("score", "Score of a box, not calibrated")
CALL = private("call", "Call at the operating point")
ORIGIN = private("box-origin", "How the model learned to draw the box")
WEAK = private("weak-box", "Without boxes, from where the findings head looks")
HEAT_AREA = private("heat-area", "Where a heat map is 0.5 or more")
BOX_AREA = private("box-area", "Inside the boxes of a finding")
CALLS = {
    "positive": Coded("SCT", "10828004", "Positive"),
    "negative": Coded("SCT", "260385009", "Negative"),
    "not_trained": Coded("SCT", "373121007", "Not Evaluated"),
}
CHEST_IMAGING = Coded("SCT", "413815006", "Chest imaging")
IMAGING_REPORT = Coded("LN", "18748-4", "Diagnostic Imaging Report")


def code_of(finding: str) -> Coded:
    """A finding's code; of a name without a certain one, a private code that is the name itself or made from it."""
    return standard_codes().get(finding) or private(_short(finding), finding)


@cache
def standard_codes() -> dict[str, Coded]:
    """Finding to code, from codes.yaml."""
    tables = yaml.safe_load(Path(__file__).with_name("codes.yaml").read_text("utf-8"))
    return {name: Coded(*row) for table in tables.values() for name, row in table.items()}


def _short(name: str) -> str:
    """The name where it fits and is plain, else a digest: two names never share a code by being cut."""
    if len(name) <= _LONGEST and name.isascii() and name.replace(" ", "").replace("-", "").isalnum():
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:_LONGEST]

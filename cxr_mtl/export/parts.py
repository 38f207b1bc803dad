"""What the three DICOM objects share: who made them, and for which film.  Imports highdicom."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from cxr_mtl.export.codes import PRIVATE, Coded
from cxr_mtl.types import DISCLAIMER, Prediction, ScoredBox

MAKER = "cxr_mtl"
SERIES = {"SR": 9101, "PR": 9102, "SEG": 9103}
"""Numbers of the series, by modality; above those of scanners, so that reports come after the films in a list."""
_LO = 64  # letters


def concept(code: Coded) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def new_uid() -> UID:
    """Under 2.25, which everybody may use with a random UUID: we have no root of our own."""
    return generate_uid(prefix=None)


def device_uid(prediction: Prediction) -> str:
    """Of the bundle: the same for all films it judged."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, prediction.model['sha256']).int}"


def short(text: str) -> str:
    """As a DICOM long string, which has at most 64 letters."""
    return text[:_LO]


def parameters(prediction: Prediction) -> dict[str, str]:
    """What else names the algorithm than its name and version."""
    return {
        "bundle sha256": prediction.model["sha256"],
        "ontology": prediction.model["ontology"],
        "operating point": prediction.operating_point,
    }


def about(prediction: Prediction, modality: str) -> dict[str, Any]:
    """Arguments of every highdicom constructor: a series and an instance of its own, and the equipment."""
    return {
        "series_instance_uid": new_uid(),
        "series_number": SERIES[modality],
        "sop_instance_uid": new_uid(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": short(prediction.model["name"]),
        "software_versions": short(prediction.model["version"]),
        "device_serial_number": prediction.model["sha256"][:_LO],
        "series_description": short(f"{MAKER}: {DISCLAIMER}"),
    }


def our_scheme() -> CodingSchemeIdentificationItem:
    return CodingSchemeIdentificationItem(PRIVATE, name="cxr_mtl", responsible_organization="cxr_mtl")


def finish(made: Dataset) -> Dataset:
    """What highdicom leaves to its callers: the private scheme is said to be one."""
    made.CodingSchemeIdentificationSequence = [our_scheme()]
    return made


def corners(box: ScoredBox) -> NDArray[np.float64]:
    """(5, 2) column and row of a closed outline. DICOM counts as boxes do: 0.0 is the outer edge of the first pixel."""
    x1, y1, x2, y2 = box.xyxy
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)])

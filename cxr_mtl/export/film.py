"""What a report needs of the film's own file: the study it belongs to, and whose it is.

Patient data passes through here, from the film into reports of the same study. None of it is in a message, and what
pydicom and highdicom would say about odd values (they quote them) is not let out.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.config import RAISE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from cxr_mtl.data.refuse import printable
from cxr_mtl.errors import ImageError
from cxr_mtl.types import Prediction

_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_IDENTITY = ("PatientID", "PatientName", "AccessionNumber", "StudyID")
_MAY_BE_EMPTY = ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyDate", "StudyTime")
_SEXES = ("M", "F", "O")
_UTF8 = "ISO_IR 192"


def refuse_report(file: Path, why: str, hint: str, code: str = "no_report") -> ImageError:
    """The error of a film that was judged, but of which a report cannot be made."""
    return ImageError(f"{printable(file.name)} {why}.", code=code, hint=hint)


def read_film(file: Path, prediction: Prediction) -> Dataset:
    """The film's header, ready to be referred to.

    Text is as the file states it, in UTF-8. What DICOM wants stated, though it may be empty, is empty where the film
    lacks it, and values that DICOM does not allow are left out, but for those that say who the patient is.

    Args:
        file: the film.
        prediction: its answer.

    Raises:
        ImageError: it is no DICOM file, lacks what tells its study, or is not the file that was judged.
    """
    if prediction.image["format"] != "dicom":
        why = f"is a {str(prediction.image['format']).upper()} file, which names neither patient nor study"
        raise refuse_report(file, why, "Send the DICOM file, or ask for fhir or json only.", code="not_dicom")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != prediction.image["sha256"]:
        raise refuse_report(file, "changed after it was judged", "Ask again.")
    header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
    header.decode()
    if missing := [keyword for keyword in _NEEDED if not header.get(keyword)]:
        raise refuse_report(file, f"lacks {missing[0]}, without which nothing can refer to it", "Export it anew.")
    if wrong := [keyword for keyword in _NEEDED if keyword.endswith("UID") and not UID(header[keyword].value).is_valid]:
        raise refuse_report(file, f"has no valid {wrong[0]}, so nothing can refer to it", "Export it anew.")
    if (header.Columns, header.Rows) != (prediction.image["width"], prediction.image["height"]):
        raise refuse_report(file, "states another size than the picture that was judged", "Export it anew.")
    _mend(header)
    return header


def _mend(header: Dataset) -> None:
    """Take out what DICOM does not allow, but for who the patient is: that must not get lost on the way."""
    for element in header:
        if element.keyword not in _IDENTITY and element.VR != "SQ" and not _allowed(element):
            del header[element.tag]
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        if not all(step > 0 for step in _numbers(header, keyword)):
            del header[keyword]
    widths = _numbers(header, "WindowWidth")
    if len(widths) != len(_numbers(header, "WindowCenter")) or not all(width > 0 for width in widths):
        for keyword in ("WindowWidth", "WindowCenter"):
            header.pop(keyword, None)
    for keyword in (*_IDENTITY, *_MAY_BE_EMPTY):
        if header.get(keyword) is None:
            setattr(header, keyword, "")
    if header.PatientSex not in _SEXES:
        header.PatientSex = ""
    header.SpecificCharacterSet = _UTF8  # its text is decoded; of ours a name may be any


def _allowed(element: DataElement) -> bool:
    """Whether its texts are ones that their kind allows; numbers have been read, so they are."""
    try:
        for value in element.value if element.VM > 1 else [element.value]:
            if isinstance(value, str):
                validate_value(element.VR, value, RAISE)
    except ValueError:
        return False
    return True


def _numbers(header: Dataset, keyword: str) -> list[float]:
    if keyword not in header:
        return []
    element = header[keyword]
    return [float(number) for number in (element.value if element.VM > 1 else [element.value]) if number is not None]


@contextmanager
def discreet() -> Iterator[None]:
    """What pydicom and highdicom find odd about a value, they say with the value in it: let none of it out.

    The whole process is meant, so this is for a command, not for a server's threads.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)

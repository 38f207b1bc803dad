"""What a file says of a person goes nowhere: every text tag holds a canary, and all that comes out is searched."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dicom_files import film, saved
from fuzz_cases import by_gdcm, chunk, encoded
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from cxr_mtl.data.read import read_frontal, read_image
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Prediction

CANARY = "QXCANARYQ"
TEXT = {
    "AE",
    "AS",
    "CS",
    "DA",
    "DS",
    "DT",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "TM",
    "UC",
    "UI",
    "UR",
    "UT",
    "UN",
    "OB",
}
USUAL = frozenset({0x0008, 0x0010, 0x0018, 0x0028})  # groups; one film holds the whole dictionary
# What the picture cannot be read without; each is soiled by itself further down.
NEEDED = {"TransferSyntaxUID", "SOPClassUID", "Modality", "PhotometricInterpretation", "NumberOfFrames", "PixelData"}


@functools.cache
def tags_of(groups: frozenset[int]) -> list[tuple[int, str, str]]:
    """Tag, type and keyword of all elements that can hold text; no groups: of all."""
    return [
        (tag, "LO" if vr in ("IS", "DS") else vr, keyword)
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
        if vr in TEXT and keyword and tag >> 16 not in (0, 2, 0x7FE0, 0xFFFE) and (not groups or tag >> 16 in groups)
    ]


def soil(data: Dataset, spared: set[str], groups: frozenset[int]) -> None:
    """The canary in every element that can hold text, in private ones, and within sequences."""
    item, coded = Dataset(), Dataset()
    coded.CodeMeaning = coded.CodeValue = coded.CodingSchemeDesignator = coded.LUTExplanation = CANARY
    for tag, vr, keyword in tags_of(groups):
        value: Any = CANARY.encode() if vr in ("UN", "OB") else CANARY
        for target in (data, item):
            if keyword not in spared:
                target.add_new(tag, vr, value)
    data.add_new(0x00091010, "LO", CANARY)
    data.OtherPatientIDsSequence = Sequence([item])
    data.ViewCodeSequence, data.AnatomicRegionSequence = Sequence([coded]), Sequence([coded])
    data.VOILUTSequence = Sequence([coded])


def soiled(groups: frozenset[int], **tags: Any) -> Dataset:
    spared = NEEDED | {"BodyPartExamined", "WindowCenter", "WindowWidth", "ViewPosition"}
    with disable_value_validation():
        data = film(BodyPartExamined="CHEST", WindowCenter=2048, WindowWidth=4096, ViewPosition="PA")
        if groups:
            spared.add("SpecificCharacterSet")  # pydicom would complain of it at every element it writes
        soil(data, spared, groups)
        for keyword, value in tags.items():
            if value is None:
                delattr(data, keyword)
            elif keyword in ("WindowCenter", "WindowWidth", "NumberOfFrames", "RescaleSlope") and value == CANARY:
                data[keyword] = data["PatientID"].__class__(keyword, "LO", value)
            else:
                setattr(data, keyword, value)
    return data


def dump(groups: frozenset[int] = USUAL, **tags: Any) -> bytes:
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom names the canary; reading must not
        return saved(soiled(groups, **tags))


def compressed(syntax: str) -> bytes:
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = soiled(USUAL)
        data.compress(syntax, generate_instance_uid=False)
        return saved(data)


def cases() -> Iterator[tuple[str, bytes]]:
    """Films that are read, noted upon and refused in every way, all soiled."""
    yield "good", dump()
    yield "every tag there is", dump(frozenset())
    yield from ((keyword, dump(**{keyword: CANARY})) for keyword in sorted(NEEDED - {"TransferSyntaxUID", "PixelData"}))
    yield from (
        (keyword, dump(**{keyword: CANARY})) for keyword in ("BodyPartExamined", "ViewPosition", "WindowCenter")
    )
    for keyword, value in {
        "Modality": "CT",
        "ViewPosition": "LL",
        "BodyPartExamined": "HAND",
        "PixelSpacing": "1\\2",
        "PatientOrientation": "R\\F",
        "Rows": 41,
        "Columns": 20,
        "BitsAllocated": 12,
        "HighBit": 3,
        "PixelData": None,
        "PresentationIntentType": "FOR PROCESSING",
        "WindowWidth": "0",
    }.items():
        yield f"{keyword} {value}", dump(**{keyword: value})
    whole = dump()
    yield from ((f"cut at {length}", whole[:length]) for length in range(200, len(whole), len(whole) // 40))
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        good = compressed(syntax)
        at = good.rindex(b"\xe0\x7f\x10\0") + 100
        yield syntax, good
        yield f"{syntax} damaged", good[:at] + b"\xff\x00" * 60 + good[at + 120 :]
    lossless = by_gdcm(film(WindowCenter=2048, WindowWidth=4096, PatientName=CANARY), "lossless")
    yield "lossless", lossless
    yield "lossless damaged", lossless[:-300] + b"\xff\x11" * 120 + lossless[-60:]
    png = encoded(Image.new("L", (64, 64), 9), "png")
    text = chunk(b"tEXt", f"Comment\0{CANARY}".encode()) + chunk(b"iTXt", b"XML\0\0\0\0\0" + CANARY.encode())
    yield "png", png[:33] + text + png[33:]
    yield "png damaged", png[:33] + text + png[33:60] + b"x" + png[60:]
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = CANARY, CANARY
    jpeg = encoded(Image.new("L", (64, 64), 9), "jpeg", exif=exif, comment=CANARY.encode())
    yield "jpeg", jpeg
    yield "jpeg cut", jpeg[:-30]
    yield "text", f"PatientName: {CANARY}".encode()


@pytest.fixture(scope="module")
def films() -> dict[str, bytes]:
    return dict(cases())


def words(error: BaseException) -> str:
    """All that an error tells, with what it came from, as a traceback would."""
    told = repr(error) + str(error) + str(vars(error))
    return told + (words(error.__cause__) if error.__cause__ else "")


def test_no_canary_leaves_the_reader(
    films: dict[str, bytes], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capfd.readouterr()
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    came: set[str] = set()
    said: list[str] = []
    for case, data in films.items():
        assert CANARY.encode() in data or "cut at" in case, case
        path = tmp_path / "film.dcm"
        path.write_bytes(data)
        for read, source in ((read_image, data), (read_frontal, data), (read_image, path)):
            try:
                shown = read(source)
            except ImageError as error:
                came.add(error.code)
                said.append(words(error) + json.dumps(error.to_dict()))
            else:
                came.add("read")
                said.append(str(dataclasses.replace(shown, pixels=None)))  # type: ignore[arg-type]
    reached = {"read", "lateral", "not_chest", "not_radiography", "truncated", "corrupt", "colour", "no_pixels"}
    assert reached | {"unsupported", "too_small"} <= came
    everything = "".join([*said, caplog.text, *capfd.readouterr()])
    assert CANARY not in everything.upper()


def test_no_canary_leaves_a_prediction(
    films: dict[str, bytes], tiny_bundle: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    predictor = LocalPredictor(tiny_bundle, device="cpu")
    capfd.readouterr()
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    answers = predictor.predict(list(films.values()))
    said = json.dumps([answer.to_dict() for answer in answers])
    by_case = dict(zip(films, answers, strict=True))
    assert isinstance(by_case["good"], Prediction)
    lateral = by_case["ViewPosition LL"]
    assert isinstance(lateral, ImageError)
    assert (lateral.code, lateral.status) == ("lateral", 422)
    assert "findings" not in lateral.to_dict()
    assert CANARY not in (said + caplog.text + "".join(capfd.readouterr())).upper()

"""DICOM files that are refused, broken or full of names, and the real ones."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import film, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless

from cxr_mtl.data.read import read_image
from cxr_mtl.data.refuse import STATUS
from cxr_mtl.errors import ImageError

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared/data/dicom"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="../shared/data/dicom is not here")
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
PLAIN = saved(film(**WINDOW))


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(data, name="film.dcm")
    assert caught.value.message.startswith("film.dcm ")
    assert "\n" not in str(caught.value)
    return caught.value


def j2k(**tags: Any) -> Dataset:
    data = film(**tags)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    return data


def lying_codestream() -> bytes:
    """A compressed picture that says of itself that it is 60,000 px a side, within a file that states 48 x 40."""
    data = saved(j2k())
    at = data.index(b"\xff\x4f\xff\x51") + 8
    return data[:at] + struct.pack(">LL", 60_000, 60_000) + data[at + 8 :]


def elsewhere(**tags: Any) -> bytes:
    return saved(film(**(WINDOW | tags)))


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (elsewhere(Modality="CT"), "not_radiography", "a CT slice"),
        (elsewhere(Modality="ZZ DOE"), "not_radiography", "another modality"),
        (elsewhere(BodyPartExamined="HAND"), "not_chest", "not a film of the chest"),
        (elsewhere(NumberOfFrames=2), "multi_frame", "more than one frame"),
        (elsewhere(PhotometricInterpretation="RGB"), "colour", "colour"),
        (elsewhere(SamplesPerPixel=3), "colour", "colour"),
        (elsewhere(PixelData=None), "no_pixels", "without a picture"),
        (elsewhere(PixelData=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1", Modality="OT"), "no_pixels", "PDF"),
        (elsewhere(Rows=65535, Columns=65535), "too_large", "65535 x 65535"),
        (elsewhere(Rows=20), "too_small", "48 x 20"),
        (elsewhere(Rows=41), "truncated", "fewer pixels"),
        (elsewhere(Rows=None), "corrupt", "size"),
        (elsewhere(BitsAllocated=1), "unsupported", "bits"),
        (elsewhere(HighBit=3), "corrupt", "contradicts"),
        (lying_codestream(), "corrupt", "another size"),
        (saved(j2k()).replace(b"1.2.4.90", b"1.2.4.92"), "unsupported_compression", "no installed decoder"),
        (PLAIN.replace(b"10008.1.2.1\0", b"10008.1.2.99", 1), "corrupt", "not in fragments"),
        (PLAIN.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"[:20], 1), "corrupt", "fragments"),
    ],
)
def test_what_is_refused(data: bytes, code: str, says: str) -> None:
    error = refusal(data)
    assert error.code == code
    assert says in error.message


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"Modality": "OT"}, "modality not stated"),
        ({"Modality": None}, "modality not stated"),
        ({"ViewPosition": "LL"}, "lateral view"),
        ({"ViewPosition": "LATERAL"}, "lateral view"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for processing"),
        ({"PhotometricInterpretation": None}, "polarity not stated"),
    ],
)
def test_doubts_are_noted(tags: dict[str, Any], says: str) -> None:
    notes = read_image(saved(film(**(WINDOW | tags)))).notes
    assert len(notes) == 2  # and the window
    assert says in notes[0]


@pytest.mark.parametrize(
    "tags", [{"BodyPartExamined": "CHEST"}, {"BodyPartExamined": "PORT CHEST"}, {"ViewPosition": "PA"}]
)
def test_plain_chest_films_raise_no_doubt(tags: dict[str, Any]) -> None:
    assert len(read_image(saved(film(**(WINDOW | tags)))).notes) == 1


def gossip(**tags: Any) -> bytes:
    """A film whose every other tag breaks a rule, with a name in each, as pydicom would quote it in a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = film(**(WINDOW | tags))
        data.SpecificCharacterSet = "ISO_DOE 7"
        data.PatientBirthDate, data.StudyDate, data.PatientAge = "DOE", "Doe-2020", "Doe"
        data.StudyInstanceUID, data.BodyPartExamined = "Doe.1", "Doe^Jane's chest"
        data.StationName, data.WindowWidth = "Doe" * 20, "4096"
        item = Dataset()
        item.SpecificCharacterSet, item.PatientName = "DOE", "Doe^Jane"
        data.OtherPatientIDsSequence = Sequence([item])
        data["OtherPatientIDsSequence"].is_undefined_length = True
        data.add_new(0x00091001, "UN", b"Doe^Jane")
        return saved(data)


SECRETS = ("doe", "jane", "mrn-77", "acc-99")


def test_nothing_of_the_patient_gets_out(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    changes: list[dict[str, Any]] = [{"Modality": "CT"}, {"Modality": "DOE"}, {"NumberOfFrames": 5}, {"Rows": 41}]
    refused = [gossip(**tags) for tags in [*changes, {"PixelData": None}]] + [gossip()[:-7]]
    film_itself = gossip()
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    said = list(read_image(film_itself, name="film.dcm").notes)  # a warning would be an error in this suite
    said += [str(refusal(data)) for data in refused]
    assert caplog.text == ""
    assert not any(secret in " ".join([*said, *capfd.readouterr()]).lower() for secret in SECRETS)
    with warnings.catch_warnings(record=True) as caught:  # what reading with pydicom would have said
        warnings.simplefilter("always")
        str(pydicom.dcmread(io.BytesIO(film_itself)))
    assert any("DOE" in str(warning.message) for warning in caught)


@needs_samples
def test_elements_are_those_pydicom_reads() -> None:
    from cxr_mtl.data.dicom import COLUMNS, ROWS
    from cxr_mtl.data.elements import read_elements
    from cxr_mtl.data.examination import MODALITY, PHOTOMETRIC, SOP_CLASS

    for path in SAMPLES.glob("*.dcm"):
        ours = read_elements(path.read_bytes(), {ROWS, COLUMNS, MODALITY, PHOTOMETRIC, SOP_CLASS}, set())
        theirs = pydicom.dcmread(path, force=True)
        assert (ours.short(ROWS), ours.short(COLUMNS)) == (theirs.Rows, theirs.Columns)
        assert (ours.text(MODALITY), ours.text(PHOTOMETRIC)) == (theirs.Modality, theirs.PhotometricInterpretation)
        assert ours.text(SOP_CLASS) == theirs.SOPClassUID


def compressed(syntax: str) -> bytes:
    data = film(**WINDOW)
    data.compress(syntax, generate_instance_uid=False)
    return saved(data)


FILES = {"plain": PLAIN, "rle": compressed(RLELossless), "j2k": compressed(JPEG2000Lossless), "gossip": gossip()}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_anywhere_is_refused(kind: str) -> None:
    whole = read_image(FILES[kind])
    for length in range(1, len(FILES[kind])):
        if kind == "j2k" and length == len(FILES[kind]) - 8:  # only the mark after the last fragment is missing
            np.testing.assert_array_equal(read_image(FILES[kind][:length]).pixels, whole.pixels)
            continue
        error = refusal(FILES[kind][:length])
        assert error.status == STATUS[error.code]
        assert error.status in (400, 415) or error.code == "no_pixels"


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_gives_a_picture_or_a_refusal_and_nothing_else(
    kind: str, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(FILES[kind])
    header = len(damaged) - 3900 if kind in ("plain", "gossip") else len(damaged)
    for place, value in changes:
        damaged[place % header] = value
    try:
        read = read_image(bytes(damaged))
    except ImageError:
        return
    assert np.isfinite(read.pixels).all()
    assert read.pixels.min() >= 0
    assert read.pixels.max() <= 1


@pytest.mark.parametrize("depth", [3, 50, 100_000])
def test_nested_sequences_end(depth: int) -> None:
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    at = PLAIN.index(b"\x28\x00\x02\x00US")
    data = PLAIN[:at] + opening * depth + closing * depth + PLAIN[at:]
    if depth > 16:
        assert "too deeply" in refusal(data).message
    else:
        np.testing.assert_array_equal(read_image(data).pixels, read_image(PLAIN).pixels)


def test_a_file_of_nothing_but_elements_ends() -> None:
    at = PLAIN.index(b"\x28\x00\x02\x00US")
    assert refusal(PLAIN[:at] + b"\x09\x00\x01\x00LO\0\0" * 300_000).code == "corrupt"

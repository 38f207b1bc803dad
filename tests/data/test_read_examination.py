"""Whether a DICOM film is a chest radiograph, and of which view. pydicom's tables of codes are the oracle."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
from dicom_files import film, saved
from hypothesis import given
from hypothesis import strategies as st
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

from cxr_mtl.data import examination
from cxr_mtl.data.elements import Elements
from cxr_mtl.data.read import read_frontal, read_image
from cxr_mtl.data.refuse import STATUS
from cxr_mtl.errors import ImageError

WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


def shown(**tags: Any) -> bytes:
    with disable_value_validation():  # films hold what people type
        return saved(film(**(WINDOW | tags)))


def coded(value: str, scheme: str = "SRT") -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "whatever a maker wrote"
    return Sequence([item])


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_image(data, name="film.dcm")
    return caught.value


@pytest.mark.parametrize(
    "part",
    [
        "CHEST",
        "chest",
        "Thorax",
        "TORAX AP",
        "PORT CHEST",
        "CHEST_1VIEW",
        "LUNG",
        "HEART",
        "CHEST ABDOMEN",
        "PCHEST",
        "",
        "UNKNOWN",
        "OTHER",
        "N/A",
        "THORACIC",
    ],
)
def test_films_of_the_chest_and_films_that_do_not_say(part: str) -> None:
    assert len(read_image(shown(BodyPartExamined=part)).notes) == 1  # the window: nothing is doubtful


@pytest.mark.parametrize(
    "part",
    [
        "RIBCAGE",
        "RIBS",
        "RIB",
        "L RIBS",
        "CHEST RIBS",
        "STERNUM",
        "TSPINE",
        "THORACIC SPINE",
        "THORACOLUMBAR",
        "SPINE",
        "CLAVICLE",
        "SCAPULA",
        "SHOULDER",
        "ABDOMEN",
        "HAND",
        "KNEE",
        "SKULL",
        "PELVIS",
        "BREAST",
        "KNIE",
        "DOE^JANE",
    ],
)
def test_films_of_anything_else_are_refused_and_the_tag_is_not_quoted(part: str) -> None:
    error = refusal(shown(BodyPartExamined=part))
    assert (error.code, error.status) == ("not_chest", 422)
    assert part not in str(error)
    assert "(0018,0015)" in error.hint


def test_a_part_in_letters_that_are_not_ascii_is_none_that_is_known() -> None:
    data = shown(BodyPartExamined="CHEST ")
    assert refusal(data.replace(b"CHEST ", "胸部".encode())).code == "not_chest"


def test_the_coded_region_speaks_where_the_body_part_is_silent() -> None:
    assert read_image(shown(AnatomicRegionSequence=coded("T-D3000")))
    assert read_image(shown(AnatomicRegionSequence=coded("43799004x", "99LOCAL")))  # a maker's own code says nothing
    assert refusal(shown(AnatomicRegionSequence=coded("T-D8700"))).code == "not_chest"  # hand
    assert refusal(shown(AnatomicRegionSequence=coded("113197003", "SCT"))).code == "not_chest"  # rib
    assert read_image(shown(AnatomicRegionSequence=coded("T-D8700"), BodyPartExamined="CHEST"))


def meanings(codes: set[str]) -> list[str]:
    known = {code: meaning for name in concepts["SCT"].values() for code, (meaning, _) in name.items()}
    numbers = {mapping["SRT"].get(code, code) for code in codes}
    return [known[number].lower() for number in numbers if number in known]


def test_codes_mean_what_they_are_listed_for() -> None:
    chests = meanings(set(examination._CHEST_CODES))
    assert len(chests) >= 8
    words = ("chest", "lung", "heart", "mediastinum", "thora")
    assert [meaning for meaning in chests if not any(word in meaning for word in words)] == []
    for view, words in {"PA": "posteroanterior", "AP": "anteroposterior"}.items():
        (meaning,) = meanings(examination._CODES_OF_VIEWS[view])
        assert words in meaning.replace("-", "")
    laterals = meanings(examination._CODES_OF_VIEWS["LATERAL"])
    assert len(laterals) >= 4
    assert all("lateral" in meaning or "lateromedial" in meaning for meaning in laterals)
    listed = [code for codes in examination._CODES_OF_VIEWS.values() for code in codes]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("position", "view"),
    [
        ("PA", "PA"),
        ("AP", "AP"),
        ("ap supine", "AP"),
        ("AP AXIAL", "AP"),
        ("POSTERO-ANTERIOR", "PA"),
        ("LL", "LATERAL"),
        ("RL", "LATERAL"),
        ("LATERAL", "LATERAL"),
        ("LAT", "LATERAL"),
        ("L LAT", "LATERAL"),
        ("PA LAT", "LATERAL"),
        ("LLD", "UNKNOWN"),
        ("RLO", "UNKNOWN"),
        ("LAO", "UNKNOWN"),
        ("PA LLD", "UNKNOWN"),
        ("SWIMMERS", "UNKNOWN"),
        ("LAT DECUB", "UNKNOWN"),
        ("", "UNKNOWN"),
    ],
)
def test_views_by_name(position: str, view: str) -> None:
    assert read_image(shown(ViewPosition=position)).view == view


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"ViewCodeSequence": coded("R-10236")}, "LATERAL"),
        ({"ViewCodeSequence": coded("399198007", "SCT")}, "LATERAL"),
        ({"ViewCodeSequence": coded("R-10206")}, "AP"),
        ({"ViewCodeSequence": coded("272479007", "SCT")}, "PA"),
        ({"ViewCodeSequence": coded("R-10236"), "ViewPosition": "PA"}, "PA"),  # what the standard says of PA goes first
        ({"PatientOrientation": ["A", "F"]}, "LATERAL"),
        ({"PatientOrientation": ["P", "F"]}, "LATERAL"),
        ({"PatientOrientation": ["L", "F"]}, "UNKNOWN"),  # frontal; from the front or the back it does not say
        ({"PatientOrientation": ["A", "F"], "ViewCodeSequence": coded("R-10206")}, "AP"),
        ({"PatientOrientation": ["L"]}, "UNKNOWN"),
    ],
)
def test_views_by_code_and_by_orientation(tags: dict[str, Any], view: str) -> None:
    assert read_image(shown(**tags)).view == view


def test_laterals_are_read_but_not_judged() -> None:
    data = shown(ViewPosition="LL")
    read = read_image(data)
    assert read.view == "LATERAL"
    assert "lateral view" in read.notes[0]
    with pytest.raises(ImageError) as caught:
        read_frontal(data, name="side.dcm")
    error = caught.value
    assert (error.code, error.status, STATUS["lateral"]) == ("lateral", 422, 422)
    assert error.message == "side.dcm is a lateral view, and the model judges frontal films."
    assert "PA or AP" in error.hint
    np.testing.assert_array_equal(read_frontal(shown(ViewPosition="AP")).pixels, read.pixels)


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"PixelSpacing": [0.2, 0.1]}, "not square"),
        ({"ImagerPixelSpacing": [0.1, 0.2]}, "not square"),
        ({"PixelAspectRatio": [4, 3]}, "not square"),
        ({"PixelSpacing": [0.2, 0.2]}, ""),
        ({"PixelSpacing": [0.143, 0.144]}, ""),  # rounded
        ({"PixelSpacing": [0, 0]}, ""),
        ({"PixelAspectRatio": 1}, ""),
        ({"PatientOrientation": ["R", "F"]}, "turned or mirrored"),
        ({"PatientOrientation": ["F", "L"]}, "turned or mirrored"),
        ({"PatientOrientation": ["L", "F"]}, ""),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"ViewPosition": "LLD"}, "decubitus"),
        ({"ViewPosition": "RAO"}, "oblique"),
    ],
)
def test_geometry_that_reading_leaves_alone_is_noted(tags: dict[str, Any], says: str) -> None:
    read, plain = read_image(shown(**tags)), read_image(shown())
    assert (read.width, read.height) == (48, 40)  # boxes stay in the file's own pixels
    np.testing.assert_array_equal(read.pixels, plain.pixels)
    assert len(read.notes) == 1 + bool(says)
    assert says in read.notes[0]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("2", "not_radiography"),
        ("4", "not_radiography"),
        ("6.1", "not_radiography"),
        ("1.2", "not_radiography"),
        ("1", ""),
        ("1.1", ""),
        ("7", ""),
    ],
)
def test_the_kind_of_object_tells_where_no_modality_does(kind: str, code: str) -> None:
    data = shown(Modality="", SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{kind}")
    if code:
        assert refusal(data).code == code
    else:
        assert "modality not stated" in read_image(data).notes[0]


@given(st.text(string.printable, max_size=16), st.text(string.printable, max_size=16))
def test_whatever_the_tags_hold_there_is_an_answer(part: str, position: str) -> None:
    elements = Elements(values={examination.BODY_PART: part.encode(), examination.VIEW: position.encode()})
    assert examination.view_of(elements) in ("PA", "AP", "LATERAL", "UNKNOWN")
    assert isinstance(examination.shows_chest(elements), bool)

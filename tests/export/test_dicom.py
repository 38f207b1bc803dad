"""Structured report, presentation state and segmentation: valid, and with the answer's own numbers in them."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from films import BOXES, NAME, H, W, complaints, film, heat, prediction, save
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from cxr_mtl.errors import ImageError
from cxr_mtl.export import Reports
from cxr_mtl.export.film import read_film
from cxr_mtl.export.gsps import make_gsps
from cxr_mtl.export.seg import make_seg
from cxr_mtl.export.sr import make_sr
from cxr_mtl.types import DISCLAIMER, Prediction, ScoredBox

KINDS = ("sr", "gsps", "seg")
FOLDER = "dicom"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film ``a.dcm``, and beside it what the three formats make of its answer."""
    folder = tmp_path_factory.mktemp("reports")
    path = save(film(), folder / "a.dcm")
    reports = Reports(KINDS, folder)
    reports.begin([path])
    kept = reports.write(path, prediction(path, heatmaps=(heat("Effusion", 255), heat("Mass", 255))))
    assert kept.left_out == ("seg: the heat map of Mass, which is not called",)
    return folder


def made(place: Path, kind: str) -> Dataset:
    return pydicom.dcmread(place / f"a.{kind}.dcm")


@pytest.mark.parametrize("kind", KINDS)
def test_a_validator_finds_no_error(place: Path, kind: str) -> None:
    assert complaints(place / f"a.{kind}.dcm") == []


def test_the_validator_would_find_one(place: Path, tmp_path: Path) -> None:
    broken = made(place, "sr")
    del broken.VerificationFlag
    broken.save_as(tmp_path / "broken.dcm")
    assert complaints(tmp_path / "broken.dcm")


@pytest.mark.parametrize("kind", KINDS)
def test_patient_and_study_are_the_films(place: Path, kind: str) -> None:
    one, report = pydicom.dcmread(place / "a.dcm"), made(place, kind)
    same = "PatientID PatientBirthDate PatientSex PatientAge StudyInstanceUID StudyDate StudyTime StudyID"
    for keyword in (*same.split(), "AccessionNumber", "StudyDescription", "ReferringPhysicianName"):
        assert report[keyword].value == one[keyword].value, keyword
    assert str(report.PatientName) == NAME
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert report.SeriesInstanceUID != one.SeriesInstanceUID
    assert DISCLAIMER in report.SeriesDescription


def test_structured_report_holds_the_answer(place: Path) -> None:
    one, report = pydicom.dcmread(place / "a.dcm"), hd.sr.srread(place / "a.sr.dcm")
    assert report.SOPClassUID.name == "Comprehensive SR Storage"
    assert (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag) == (
        "UNVERIFIED",
        "COMPLETE",
        "PRELIMINARY",
    )
    comments = [item.TextValue for item in report.content[0].ContentSequence if item.name == codes.DCM.Comment]
    assert comments == [DISCLAIMER, "window 2048 wide 4096 (linear)"]
    findings = report.content.get_image_measurement_groups()
    said = {
        group.tracking_identifier: (
            {m.name.meaning: m.value for m in group.get_measurements()},
            [e.value.meaning for e in group.get_qualitative_evaluations()],
        )
        for group in findings
    }
    assert said == {
        "Effusion": ({"Probability": 0.834567, "Threshold of the probability": 0.41}, ["Positive"]),
        "Costophrenic Angle Blunting": ({"Probability": 0.012, "Threshold of the probability": 0.3}, ["Negative"]),
        "Hernia": ({}, ["Not Evaluated"]),
    }
    coded = [(g.finding_type.scheme_designator, g.finding_type.value) for g in findings]
    assert coded[0] == ("SCT", "60046008")
    assert {scheme for scheme, _ in coded[1:]} == {"99CXRMTL"}
    assert all(m.unit == codes.UCUM.NoUnits for group in findings for m in group.get_measurements())
    sources = {image.referenced_sop_instance_uid for group in findings for image in group.source_images}
    assert sources == {one.SOPInstanceUID}
    texts = [str(item.TextValue) for item in findings[0][0].ContentSequence if item.ValueType == "TEXT"]
    assert any(text.startswith("bundle sha256: ") for text in texts)
    assert "operating point: balanced" in texts
    regions = report.content.get_planar_roi_measurement_groups()
    assert [round(group.get_measurements()[0].value, 3) for group in regions] == [0.71, 0.4, 0.3]
    assert [len(group.get_qualitative_evaluations()) for group in regions] == [0, 0, 1]
    for group, box in zip(regions, BOXES, strict=True):
        assert group.tracking_identifier.startswith(box.finding)
        assert enclosed(group.roi.value) == box.xyxy
        assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID


def enclosed(points: np.ndarray) -> tuple[float, ...]:
    """What a closed outline's corners are the corners of."""
    assert (points[0] == points[-1]).all()
    assert len(points) == 5
    return (*points.min(0).tolist(), *points.max(0).tolist())


def test_presentation_state_draws_the_boxes(place: Path) -> None:
    state = made(place, "gsps")
    assert state.PresentationLUTShape == "INVERSE", "the film states dense as dark"
    assert (state.SoftcopyVOILUTSequence[0].WindowCenter, state.SoftcopyVOILUTSequence[0].WindowWidth) == (2048, 4096)
    note, boxes = state.GraphicAnnotationSequence
    assert note.TextObjectSequence[0].UnformattedTextValue == DISCLAIMER
    assert [t.UnformattedTextValue for t in boxes.TextObjectSequence] == [
        "Effusion 0.71",
        "Effusion 0.40",
        "Costophrenic Angle Blunting 0.30 (weak)",
    ]
    for drawn, box in zip(boxes.GraphicObjectSequence, BOXES, strict=True):
        assert drawn.GraphicAnnotationUnits == "PIXEL"
        assert enclosed(np.reshape(drawn.GraphicData, (-1, 2))) == box.xyxy
    area = state.DisplayedAreaSelectionSequence[0]
    assert list(area.DisplayedAreaTopLeftHandCorner) == [1, 1]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [W, H]


def test_no_score_of_a_presentation_state_reads_as_certain(tmp_path: Path) -> None:
    path = save(film(), tmp_path / "a.dcm")
    answer = prediction(path, [ScoredBox("Effusion", score, (1.0, 2.0, 3.0, 4.0)) for score in (0.9999, 0.0002)])
    _, boxes = make_gsps(read_film(path, answer), answer).GraphicAnnotationSequence
    assert [t.UnformattedTextValue for t in boxes.TextObjectSequence] == ["Effusion >0.99", "Effusion <0.001"]


def test_a_films_own_table_comes_along_in_the_bits_of_a_state(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 12], np.arange(4096, dtype="<u2").tobytes()
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    path = save(film(VOILUTSequence=[table], WindowCenter=None, WindowWidth=None), tmp_path / "a.dcm")
    answer = prediction(path)
    make_gsps(read_film(path, answer), answer).save_as(tmp_path / "a.gsps.dcm", enforce_file_format=True)
    assert complaints(tmp_path / "a.gsps.dcm") == []
    (voi,) = made(tmp_path, "gsps").SoftcopyVOILUTSequence
    assert list(voi.VOILUTSequence[0].LUTDescriptor) == [4096, 0, 16]
    entries = np.frombuffer(voi.VOILUTSequence[0].LUTData, "<u2")
    assert (entries[0], entries[2048], entries[-1]) == (0, round(2048 / 4095 * 65535), 65535)


@pytest.mark.parametrize("widths", [0, [1, 2, 3]])
def test_a_window_that_is_none_is_left_out(tmp_path: Path, widths: object) -> None:
    path = save(film(WindowWidth=widths), tmp_path / "a.dcm")
    header = read_film(path, prediction(path))
    assert "WindowWidth" not in header
    assert "SoftcopyVOILUTSequence" not in make_gsps(header, prediction(path))


def test_segmentation_is_of_strong_places_and_of_boxes(place: Path) -> None:
    segmentation = hd.seg.segread(place / "a.seg.dcm")
    assert segmentation.segmentation_type == hd.seg.SegmentationTypeValues.BINARY
    described = [segmentation.get_segment_description(n) for n in segmentation.segment_numbers]
    assert [d.segment_label for d in described] == [
        "Effusion: heat map of 0.5 or more, grad_cam",
        "Effusion: 2 boxes",
        "Costophrenic Angle Blunting: 1 box",
    ]
    one = pydicom.dcmread(place / "a.dcm")
    masks = segmentation.get_pixels_by_source_instance([one.SOPInstanceUID])[0]
    assert masks.shape == (H, W, 3)
    expected = np.zeros((H, W, 3), bool)
    expected[:, W // 2 :, 0] = True
    expected[20:61, 10:40, 1] = True  # centres at 20.5 to 60.5 and 10.5 to 39.5
    expected[0:8, 0:8, 1] = True
    expected[40:80, 50:96, 2] = True
    assert (masks.astype(bool) == expected).all()


def test_a_film_with_nothing_to_segment_gets_no_segmentation(tmp_path: Path) -> None:
    path = save(film(), tmp_path / "a.dcm")
    reports = Reports(["seg,gsps"], tmp_path / "out")
    reports.begin([path])
    thin = ScoredBox("Mass", 0.5, (10.6, 0.0, 11.4, 9.0))
    kept = reports.write(path, prediction(path, boxes=[thin], heatmaps=[heat("Effusion", 100)]))
    assert kept.left_out == (
        "seg: no pixel is in Effusion: heat map of 0.5 or more, grad_cam",
        "seg: no pixel is in Mass: 1 box",
    )
    assert make_seg(read_film(path, prediction(path)), prediction(path, boxes=[])) == (
        None,
        ("seg: there is no heat map and no box",),
    )
    assert list(kept.files) == ["gsps"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.gsps.dcm"]
    assert complaints(tmp_path / "out" / "a.gsps.dcm") == []


sides = st.tuples(st.floats(0, W), st.floats(0, W), st.floats(0, H), st.floats(0, H))


@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(sides, min_size=1, max_size=4))
def test_any_box_comes_back_as_it_was(place: Path, drawn: list[tuple[float, float, float, float]]) -> None:
    boxes = [ScoredBox("Mass", 0.5, (min(a, b), min(c, d), max(a, b), max(c, d))) for a, b, c, d in drawn]
    path = place / "a.dcm"
    answer = prediction(path, boxes)
    header = read_film(path, answer)
    report = hd.sr.ComprehensiveSR.from_dataset(make_sr(header, answer))
    groups = report.content.get_planar_roi_measurement_groups()
    objects = make_gsps(header, answer).GraphicAnnotationSequence[1].GraphicObjectSequence
    for box, group, outline in zip(boxes, groups, objects, strict=True):
        np.testing.assert_allclose(enclosed(group.roi.value), box.xyxy, rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(enclosed(np.reshape(outline.GraphicData, (-1, 2))), box.xyxy, rtol=1e-6, atol=1e-30)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["CR-MONO1-10-chest", "RG1_J2KI", "RG1_J2KR", "RG1_JLSN", "RG1_UNCR", "nih_udacity_test1"]
)
def test_real_films_give_valid_reports(real_films: Path, tmp_path: Path, name: str) -> None:
    """One has no preamble and hardly a tag, some a pixel spacing of 0, one an age that DICOM does not allow."""
    path = real_films / FOLDER / f"{name}.dcm"
    reports = Reports(KINDS, tmp_path)
    reports.begin([path])
    kept = reports.write(path, prediction(path, heatmaps=(heat("Effusion", 200),)))
    for kind, file in kept.files.items():
        assert complaints(Path(file)) == [], kind
        assert pydicom.dcmread(file).get("PatientID") == pydicom.dcmread(path, force=True).get("PatientID", "")


def refused(path: Path, answer: Prediction) -> ImageError:
    reports = Reports(KINDS, path.parent / "out")
    reports.begin([path])
    with pytest.raises(ImageError) as caught:
        reports.write(path, answer)
    assert not (path.parent / "out").exists(), "nothing half-written"
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_a_film_that_nothing_can_refer_to_is_refused(tmp_path: Path, keyword: str) -> None:
    path = save(film(**{keyword: None}), tmp_path / "a.dcm")
    assert f"a.dcm lacks {keyword}" in str(refused(path, prediction(path)))
    path = save(film(**{keyword: "1.02.x"}), tmp_path / "a.dcm")
    assert f"a.dcm has no valid {keyword}" in str(refused(path, prediction(path)))


def test_a_film_that_is_another_by_now_is_refused(tmp_path: Path) -> None:
    path = save(film(), tmp_path / "a.dcm")
    answer = prediction(path)
    save(film(PatientID="another"), path)
    assert "changed after it was judged" in str(refused(path, answer))


def test_what_nobody_foresaw_ends_in_a_line_without_values(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(film(SOPClassUID="1.2.3.4"), tmp_path / "a.dcm")
    error = refused(path, prediction(path))
    assert "has tags of which no report could be made" in str(error)
    assert NAME not in str(error) + "".join(capfd.readouterr())


def test_odd_tags_neither_stop_a_report_nor_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """highdicom logs a patient's name that it finds odd, and pydicom warns with values in the text."""
    odd = {"PatientName": "Only One Word", "PatientSex": "woman", "PatientBirthDate": "long ago", "PatientID": "9" * 70}
    path = save(film(**odd, StudyTime="noon", PatientAge="76", WindowWidth=None, WindowCenter=None), tmp_path / "a.dcm")
    reports = Reports(KINDS, tmp_path)
    reports.begin([path])
    kept = reports.write(path, prediction(path))
    assert "".join(capfd.readouterr()) == ""
    with pydicom.config.disable_value_validation():
        for file in kept.files.values():
            report = pydicom.dcmread(file)
            assert str(report.PatientName) == "Only One Word"
            assert report.PatientID == "9" * 70
            assert (report.PatientSex, report.PatientBirthDate, report.StudyTime) == ("", "", "")

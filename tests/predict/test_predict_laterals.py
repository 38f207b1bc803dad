"""A film that says it is a lateral view is answered with a reason; evaluation, whose tables know of it, judges it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.command import predict_files
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import Ask, answer_requests
from cxr_mtl.types import Prediction


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> LocalPredictor:
    return LocalPredictor(tiny_bundle)


def dicom(view: str) -> bytes:
    data, meta, out = Dataset(), FileMetaDataset(), io.BytesIO()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = "1.2.840.10008.1.2.1", "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID, data.SOPInstanceUID = "1.2.3", "1.2.3"
    data.file_meta, data.SOPClassUID = meta, meta.MediaStorageSOPClassUID
    data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", view
    pixels = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB"
    pydicom.dcmwrite(out, data, enforce_file_format=True)
    return out.getvalue()


def png() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").save(out, "png")
    return out.getvalue()


def test_a_lateral_gets_a_reason_and_its_neighbours_their_findings(predictor: LocalPredictor) -> None:
    first, lateral, frontal, last = predictor.predict([png(), dicom("LL"), dicom("PA"), png()])
    assert isinstance(lateral, ImageError)
    assert (lateral.code, lateral.status) == ("lateral", 422)
    assert lateral.to_dict() == {
        "error": {
            "code": "lateral",
            "message": "the picture is a lateral view, and the model judges frontal films.",
            "hint": "Send the frontal film (PA or AP); if its view position tag is wrong, correct it.",
        }
    }
    assert all(isinstance(answer, Prediction) for answer in (first, frontal, last))
    assert not any("lateral" in warning for warning in frontal.warnings)  # type: ignore[union-attr]


def test_the_server_answers_with_422(predictor: LocalPredictor) -> None:
    rows = [{"body": {"image": base64.b64encode(dicom(view)).decode()}} for view in ("LATERAL", "AP")]
    lateral, frontal = answer_requests(predictor, [Ask(row) for row in rows])
    assert (lateral.status, frontal.status) == (422, 200)
    assert json.loads(lateral.body)["error"]["code"] == "lateral"
    assert "findings" not in json.loads(lateral.body)


def test_the_command_line_names_the_file(tiny_bundle: Path, tmp_path: Path) -> None:
    told: list[str] = []
    film = tmp_path / "side.dcm"
    film.write_bytes(dicom("RL"))
    assert predict_files(str(tiny_bundle), [film], tell=told.append) == 1
    (line,) = told
    assert "side.dcm is a lateral view" in line
    assert "\n" not in line


def test_evaluation_may_judge_a_lateral_of_its_manifest(predictor: LocalPredictor) -> None:
    film = read_image(dicom("LL"))
    assert film.view == "LATERAL"
    (answer,) = predictor.answer([film])
    assert np.isfinite(answer.finding_probability).any()

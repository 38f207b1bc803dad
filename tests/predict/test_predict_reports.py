"""``cxr-mtl predict --format``: from a bundle and from a server, and what is asked wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pretended import listener
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from typer.testing import CliRunner

from cxr_mtl.cli import app
from cxr_mtl.errors import ConfigError


def dicom_film(path: Path) -> Path:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID = (generate_uid() for _ in range(3))
    data.Modality, data.PatientName, data.PatientID = "CR", "Doe^Jane", "MRN-77"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 80, 90, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PixelData = np.random.default_rng(0).integers(0, 255, (80, 90), np.uint8).tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def test_reports_of_a_film_and_none_of_a_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    film = dicom_film(tmp_path / "a.dcm")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90), np.uint8)).save(tmp_path / "b.png")
    asked = ["predict", str(tiny_bundle), str(film), str(tmp_path / "b.png"), "--json", "--heatmap", "Mass"]
    asked += ["--format", "sr,seg,gsps", "--format", "fhir", "--format", "json", "--reports", str(tmp_path / "out")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 1
    answer, other = (json.loads(line) for line in done.stdout.splitlines())
    files = answer["reports"]["files"]
    assert set(files) == {"sr", "seg", "gsps", "fhir", "json"}
    assert other["reports"]["error"]["code"] == "not_dicom"
    assert len(other["findings"]) > 3, "it was judged all the same"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(Path(f).name for f in files.values())
    assert {pydicom.dcmread(files[kind]).PatientID for kind in ("sr", "seg", "gsps")} == {"MRN-77"}
    kept = json.loads(Path(files["json"]).read_text())
    assert [b["xyxy"] for b in kept["boxes"]] == [b["xyxy"] for b in answer["boxes"]] != []
    assert "Jane" not in done.output + Path(files["fhir"]).read_text()
    again = CliRunner().invoke(app, asked)
    assert isinstance(again.exception, ConfigError)
    assert "is there already" in str(again.exception)


def test_a_server_is_asked_as_a_bundle_is(tmp_path: Path) -> None:
    Image.new("L", (90, 80)).save(tmp_path / "a.png")
    with listener() as server:
        url = f"http://127.0.0.1:{server.server_port}"
        asked = ["predict", "m", str(tmp_path / "a.png"), "--format", "fhir,json", "--reports", str(tmp_path), "--url"]
        done = CliRunner().invoke(app, [*asked, url])
    assert done.exit_code == 0, done.output
    assert f"fhir: {tmp_path / 'a.fhir.json'}" in done.output
    assert json.loads((tmp_path / "a.fhir.json").read_text())["resourceType"] == "DiagnosticReport"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--format", "sr"], "go together"),
        (["--reports", "out"], "go together"),
        (["--with-patient"], "go together"),
        (["--format", "sr", "--reports", "out", "--out", "x.parquet"], "or --format"),
        (["--format", "word", "--reports", "out"], "no such format"),
        (["--format", "sr", "--reports", "out", "--heatmap", "Mass"], "shows no heat map"),
    ],
)
def test_what_makes_no_sense_is_one_line(asked: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["predict", "no_bundle", str(tmp_path / "a.png"), *asked])
    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)
    assert not Path("out").exists()

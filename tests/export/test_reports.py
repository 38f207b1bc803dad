"""Where reports go: whole files under names that meet no other, and nothing where something fails."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from films import film, prediction, save
from PIL import Image

from cxr_mtl.errors import ConfigError, ImageError
from cxr_mtl.export import FORMATS, Reports


@pytest.mark.parametrize(
    ("formats", "with_patient", "says"),
    [
        (["sr", "pdf"], False, "'pdf': no such format. Choose of: sr, seg, gsps, fhir, json"),
        (["fhir,"], False, "'': no such format"),
        (["json"], True, "--with-patient is of --format fhir"),
    ],
)
def test_what_makes_no_sense_is_told_first(formats: list[str], with_patient: bool, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        Reports(formats, tmp_path, with_patient=with_patient)


def test_without_highdicom_only_dicom_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    Reports(["fhir,json"], tmp_path)
    with pytest.raises(
        ConfigError, match=r'--format sr needs highdicom. Install it with: pip install "cxr-mtl\[dicom\]"'
    ):
        Reports(["fhir,sr"], tmp_path)


def test_json_is_the_answer_itself(tmp_path: Path) -> None:
    path = save(film(), tmp_path / "a.dcm")
    reports = Reports(["json", "json"], tmp_path)
    reports.begin([path])
    answer = prediction(path)
    assert json.loads(Path(reports.write(path, answer).files["json"]).read_text("utf-8")) == answer.to_dict()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = save(film(), tmp_path / "a.dcm")
    (tmp_path / "a.json").write_text("mine")
    reports = Reports(["fhir", "json"], tmp_path)
    with pytest.raises(ConfigError, match=r"a\.json is there already"):
        reports.begin([path])
    (tmp_path / "a.json").unlink()
    reports.begin([path])
    (tmp_path / "a.json").write_text("mine")  # while the film was judged
    with pytest.raises(ConfigError, match=r"a\.json is there already"):
        reports.write(path, prediction(path))
    assert (tmp_path / "a.json").read_text() == "mine"


def test_films_of_one_name_get_files_of_their_own(tmp_path: Path) -> None:
    paths = []
    for folder in "xy":
        (tmp_path / folder).mkdir()
        paths.append(save(film(), tmp_path / folder / "a.dcm"))
    reports = Reports(["json"], tmp_path / "out")
    reports.begin(paths)
    for path in paths:
        reports.write(path, prediction(path))
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("names", [("a.dcm", "a.dcm"), ("a.dcm", "a.fhir.dcm")])
def test_two_reports_for_one_place_are_told_before_a_film_is_judged(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"\.json would be written twice"):
        Reports(["fhir,json"], tmp_path).begin([tmp_path / name for name in names])


def test_a_failing_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(film(), tmp_path / "a.dcm")
    reports = Reports(["json"], tmp_path / "out")
    reports.begin([path])

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    answer = prediction(path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        reports.write(path, answer)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_picture_gets_none_of_its_reports_if_one_needs_a_patient(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (40, 50), 7).save(path)
    reports = Reports(["json,sr"], tmp_path / "out")
    reports.begin([path])
    with pytest.raises(ImageError) as caught:
        reports.write(path, prediction(path))
    assert caught.value.code == "not_dicom"
    assert not (tmp_path / "out").exists()


def test_every_format_has_an_ending_of_its_own() -> None:
    assert len(set(FORMATS.values())) == len(FORMATS)

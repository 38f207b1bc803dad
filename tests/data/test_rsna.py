"""RSNA's tables in the shapes they come in; the way from its films to NIH's; and the real tables."""

from __future__ import annotations

import importlib.util
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_mtl.data.sources import ImportReport, import_source
from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.rsna import read_rsna
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box

THORAX = load_ontology("thorax")
LABELS = """patientId,x,y,width,height,Target
aa-1,,,,,0
bb-2,264.0,152.0,213.0,379.0,1
bb-2,562.0,152.0,256.0,453.0,1
cc-3,,,,,0
dd-4,100.0,200.0,300.0,400.0,1
"""
CLASSES = """patientId,class
aa-1,Normal
bb-2,Lung Opacity
bb-2,Lung Opacity
cc-3,No Lung Opacity / Not Normal
dd-4,Lung Opacity
"""
HEADERS = """,PatientAge,PatientID,PatientSex,ViewPosition
0,43,bb-2,F,AP
1,155,aa-1,M,PA
2,7,cc-3,F,PA
3,60,dd-4,O,LL
"""
MAPPING = [
    {"subset_img_id": "aa-1", "img_id": "00000013_004.png", "orig_labels": ["No Finding"], "SOPInstanceUID": "1.2"},
    {"subset_img_id": "bb-2", "img_id": "00000013_005.png", "orig_labels": ["Infiltration"], "SOPInstanceUID": "1.3"},
    {"subset_img_id": "cc-3", "img_id": "00000200_000.png", "orig_labels": ["Mass"], "SOPInstanceUID": "1.4"},
    {"subset_img_id": "dd-4", "img_id": "00030805_000.png", "orig_labels": ["Edema"], "SOPInstanceUID": "1.5"},
    {"subset_img_id": "of the challenge's test set", "img_id": "00000001_000.png", "orig_labels": []},
]


@pytest.fixture
def rsna(tmp_path: Path) -> Path:
    """Four films as Kaggle distributes them; the films are empty files, for nothing here opens them."""
    (tmp_path / "stage_2_train_labels.csv").write_text(LABELS)
    (tmp_path / "stage_2_detailed_class_info.csv").write_text(CLASSES)
    (tmp_path / "stage_2_train_images").mkdir()
    for name in ("aa-1", "bb-2", "cc-3", "dd-4"):
        (tmp_path / f"stage_2_train_images/{name}.dcm").touch()
    return tmp_path


@pytest.fixture
def mapping(rsna: Path) -> Path:
    path = rsna / "elsewhere" / "mappings.json"
    path.parent.mkdir()
    path.write_text(json.dumps(MAPPING))
    return path


def read(root: Path, **options: Any) -> tuple[Found, Tally]:
    tally = Tally()
    found = read_rsna(root, THORAX, tally, **({"allow_missing_images": False} | options))
    assert len(found.rows) == len(found.stated)
    return found, tally


def imported(root: Path, **options: Any) -> tuple[dict[str, dict[Any, Any]], ImportReport]:
    """Rows of the manifest by film."""
    manifest, report = import_source("rsna", root, **options)
    return {str(row["image_id"]): row for row in manifest.table.to_dict("records")}, report


def dropped(tally: Tally) -> dict[str, int]:
    return {reason: one.count for reason, one in tally.dropped.items()}


def test_a_clean_folder_is_kept_whole(rsna: Path) -> None:
    found, tally = read(rsna)
    assert tally.dropped == {}
    assert found.rows["image_id"].tolist() == ["aa-1", "bb-2", "cc-3", "dd-4"]
    assert found.rows["image_path"][1] == "stage_2_train_images/bb-2.dcm"
    assert (found.labelled, found.boxed, found.split_how) == (("No Finding", "Pneumonia"), ("Pneumonia",), None)
    assert found.rows["boxes_exhaustive"].all()


def test_boxes_are_xyxy_in_the_1024_frame(rsna: Path) -> None:
    found, _ = read(rsna)
    assert found.rows["boxes"][1] == (Box("Pneumonia", 264, 152, 477, 531), Box("Pneumonia", 562, 152, 818, 605))
    assert found.rows["boxes"][0] == ()
    assert set(found.rows["width"]) == set(found.rows["height"]) == {1024}


def test_opacity_is_pneumonia_and_its_absence_says_nothing_of_other_opacities(rsna: Path) -> None:
    rows, report = imported(rsna)
    label = {film: {n.removeprefix("label:"): v for n, v in row.items() if "label:" in n} for film, row in rows.items()}
    assert [label[film]["Pneumonia"] for film in ("aa-1", "bb-2", "cc-3", "dd-4")] == [0, 1, 0, 1]
    assert [label[film]["No Finding"] for film in ("aa-1", "bb-2", "cc-3", "dd-4")] == [1, 0, 0, 0]
    assert label["bb-2"]["Lung Opacity"] == 1
    assert math.isnan(label["cc-3"]["Lung Opacity"])
    assert math.isnan(label["cc-3"]["Mass"])
    assert math.isnan(label["aa-1"]["Effusion"])
    assert report.labels["boxes"].to_dict()["Pneumonia"] == 3


def test_without_classes_no_film_is_known_to_be_normal(rsna: Path) -> None:
    (rsna / "stage_2_detailed_class_info.csv").unlink()
    found, tally = read(rsna)
    assert np.isnan(found.stated[:, THORAX.index("No Finding")]).all()
    assert found.labelled == ("Pneumonia",)
    assert any("no film is known to be normal" in note for note in tally.notes)
    rows, _ = imported(rsna)
    assert rows["bb-2"]["label:No Finding"] == 0
    assert math.isnan(rows["aa-1"]["label:No Finding"])


@pytest.mark.parametrize("line", ["cc-3,10,10,0,5,1", "cc-3,10,10,5,-5,1", "cc-3,,,,,1", "cc-3,a,1,1,1,1"])
def test_an_opacity_without_its_box_may_lie_anywhere(rsna: Path, line: str) -> None:
    (rsna / "stage_2_detailed_class_info.csv").unlink()
    (rsna / "stage_2_train_labels.csv").write_text(LABELS.replace("cc-3,,,,,0", line))
    found, tally = read(rsna)
    assert dropped(tally) == {"box has no area": 1}
    assert found.rows["boxes_exhaustive"].tolist() == [True, True, False, True]
    assert found.stated[2, THORAX.index("Pneumonia")] == 1


def test_a_box_outside_the_film_and_one_listed_twice(rsna: Path) -> None:
    more = "bb-2,264.0,152.0,213.0,379.0,1\ndd-4,1000,0,25,25,1\n"
    (rsna / "stage_2_train_labels.csv").write_text(LABELS + more)
    found, tally = read(rsna)
    assert dropped(tally) == {"box leaves the frame of 1024 px": 1, "box is in an earlier row already": 1}
    assert found.rows["boxes"].map(len).tolist() == [0, 2, 0, 1]
    assert found.rows["boxes_exhaustive"].tolist() == [True, True, True, False]


def test_rows_that_cannot_be_right_are_left_out_and_counted(rsna: Path) -> None:
    more = ",,,,,0\nee-5,,,,,2\naa-1,1,1,5,5,1\nff-6,,,,,0\n"
    (rsna / "stage_2_train_labels.csv").write_text(LABELS + more)
    (rsna / "stage_2_detailed_class_info.csv").write_text(CLASSES.replace("dd-4,Lung Opacity", "dd-4,Normal"))
    found, tally = read(rsna)
    assert found.rows["image_id"].tolist() == ["bb-2", "cc-3"]
    assert dropped(tally) == {
        "row has no patientId": 1,
        "Target is neither 0 nor 1": 1,
        "rows of the film contradict each other in Target": 1,
        "film has not one of RSNA's classes in stage_2_detailed_class_info.csv": 1,
        "class and boxes contradict each other": 1,
    }


@pytest.mark.parametrize(
    "place", ["stage_2_train_images/{}.png", "stage_2_train_images_jpg/{}.jpg", "images/{}.png", "{}.dcm"]
)
def test_films_are_found_in_every_layout(rsna: Path, place: str) -> None:
    for path in (rsna / "stage_2_train_images").iterdir():
        path.unlink()
    film = rsna / place.format("cc-3")
    film.parent.mkdir(exist_ok=True)
    film.touch()
    found, tally = read(rsna)
    assert found.rows["image_path"].tolist() == [place.format("cc-3")]
    assert dropped(tally) == {"film is not in the folder": 3}
    film.unlink()
    with pytest.raises(DataError, match="No film that the table names"):
        read(rsna)


def test_views_ages_and_sexes_from_the_table_of_headers(rsna: Path) -> None:
    found, tally = read(rsna)
    assert "view" not in found.rows
    assert any("views, ages and sexes are unknown" in note for note in tally.notes)
    (rsna / "kaggle_stage_2_train_images_dicom_headers.csv").write_text(HEADERS)
    found, tally = read(rsna)
    assert found.rows["view"].tolist() == ["PA", "AP", "PA", "UNKNOWN"]
    np.testing.assert_array_equal(found.rows["age"], [np.nan, 43, 7, 60])
    assert found.rows["sex"].tolist() == ["M", "F", "F", None]
    assert any("1 ages above 110 years (first: aa-1)" in note for note in tally.notes)


def test_without_the_mapping_it_says_so_loudly(rsna: Path) -> None:
    found, tally = read(rsna)
    assert found.rows["patient_id"].tolist() == found.rows["image_id"].tolist()
    assert any(note.startswith("WITHOUT RSNA's mapping") and "--mapping" in note for note in tally.notes)


def test_patients_are_nih_s(rsna: Path, mapping: Path) -> None:
    found, tally = read(rsna, mapping=mapping)
    assert found.rows["patient_id"].tolist() == ["nih:13", "nih:13", "nih:200", "nih:30805"]
    assert found.split_how is None
    assert found.info["mapping_file"] == "mappings.json"
    assert not any("WITHOUT" in note for note in tally.notes)


def test_patients_are_called_as_the_nih_manifest_calls_them(rsna: Path, mapping: Path, tmp_path_factory: Any) -> None:
    root = tmp_path_factory.mktemp("nih")
    (root / "Data_Entry_2017_v2020.csv").write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
        "00000013_004.png,Mass,4,13,60,M,PA,1,1,1,1\n00000200_000.png,Mass,4,200,60,M,PA,1,1,1,1\n"
        "00030805_000.png,Mass,4,30805,60,M,PA,1,1,1,1\n"
    )
    nih, _ = import_source("nih", root, allow_missing_images=True)
    ours, _ = import_source("rsna", rsna, mapping=mapping)
    assert set(nih.patient_ids) == set(ours.patient_ids)


def test_the_mapping_in_the_folder_is_taken_unasked(rsna: Path, mapping: Path) -> None:
    mapping.rename(rsna / "pneumonia-challenge-dataset-mappings_2018.json")
    found, _ = read(rsna)
    assert found.rows["patient_id"][0] == "nih:13"


def test_a_film_that_the_mapping_lacks_is_left_out(rsna: Path, mapping: Path) -> None:
    mapping.write_text(json.dumps(MAPPING[1:]))
    found, tally = read(rsna, mapping=mapping)
    assert found.rows["image_id"].tolist() == ["bb-2", "cc-3", "dd-4"]
    assert dropped(tally) == {"film is not in the mapping, so its NIH patient is unknown": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a JSON list"),
        ("[1]", "is not a JSON list"),
        ('{"subset_img_id": "aa-1"}', "is not a JSON list"),
        ('[{"subset_img_id": "aa-1"}]', "is not a JSON list"),
        ("[" * 100_000, "is not a JSON list"),
        ('[{"subset_img_id": "aa-1", "img_id": "chest.png"}]', "'chest.png' is no name of an NIH film"),
        ('[{"subset_img_id": "zz-9", "img_id": "00000001_000.png"}]', "names none of the films"),
        ("[]", "names none of the films"),
    ],
)
def test_a_wrong_mapping_is_one_line(rsna: Path, mapping: Path, text: str, message: str) -> None:
    mapping.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(rsna, mapping=mapping)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_no_mapping_at_that_path(rsna: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        read(rsna, mapping=rsna / "nowhere.json")


@pytest.mark.parametrize("beside", ["root", "mapping"])
def test_films_take_the_split_that_they_have_in_nih(rsna: Path, mapping: Path, beside: str) -> None:
    folder = rsna if beside == "root" else mapping.parent
    (folder / "train_val_list.txt").write_text("00000013_004.png\n00000013_005.png\n")
    found, _ = read(rsna, mapping=mapping)
    assert found.split_how is None
    (folder / "test_list.txt").write_text("00000200_000.png\n")
    found, _ = read(rsna, mapping=mapping)
    assert found.rows["split"].tolist() == ["train", "train", "test", None]
    assert found.split_how is not None
    assert set(found.split_how) == {"how", "mapping_sha256", "train_sha256", "test_sha256"}
    rows, report = imported(rsna, mapping=mapping)
    assert rows["cc-3"]["split"] == "test"
    assert any("1 films are in none of the dataset's lists" in note for note in report.notes)


def test_a_patient_in_both_of_nih_s_lists_is_refused(rsna: Path, mapping: Path) -> None:
    (rsna / "train_val_list.txt").write_text("00000013_004.png\n")
    (rsna / "test_list.txt").write_text("00000013_005.png\n")
    with pytest.raises(DataError, match="1 patient is in more than one split"):
        import_source("rsna", rsna, mapping=mapping)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no stage_2_train_labels.csv"):
        read(tmp_path)


def test_a_zipped_table(rsna: Path) -> None:
    before, _ = read(rsna)
    with zipfile.ZipFile(rsna / "stage_2_train_labels.csv.zip", "w") as archive:
        archive.write(rsna / "stage_2_train_labels.csv", "stage_2_train_labels.csv")
    (rsna / "stage_2_train_labels.csv").unlink()
    after, _ = read(rsna)
    pd.testing.assert_frame_equal(after.rows, before.rows)


def test_all_of_rsna_against_torchxrayvision() -> None:
    """30,227 rows; theirs calls Lung Opacity absent where RSNA's readers saw no opacity that looks like pneumonia."""
    datasets = pytest.importorskip("torchxrayvision.datasets")
    package = importlib.util.find_spec("torchxrayvision")
    assert package is not None
    assert package.origin is not None
    data = Path(package.origin).parent / "data"
    xrv = datasets.RSNA_Pneumonia_Dataset(".", views=["*"])
    manifest, report = import_source("rsna", data, allow_missing_images=True)
    assert (report.kept, len(xrv), report.dropped) == (26_684, 26_684, {})
    table = manifest.table.set_index("image_id").reindex(xrv.csv["patientId"])
    theirs = dict(zip(xrv.pathologies, xrv.labels.T, strict=True))
    np.testing.assert_array_equal(table["label:Pneumonia"], theirs["Pneumonia"])
    opacity = table["label:Lung Opacity"].to_numpy()
    np.testing.assert_array_equal(opacity == 1, theirs["Lung Opacity"] == 1)
    assert int(np.isnan(opacity).sum()) == int((theirs["Lung Opacity"] == 0).sum()) == 20_672
    assert table["view"].tolist() == xrv.csv["view"].tolist()
    boxes = xrv.raw_csv[xrv.raw_csv["Target"] == 1]
    assert report.labels.loc["Pneumonia", "boxes"] == len(boxes) == 9_555
    ends = boxes.assign(x2=boxes["x"] + boxes["width"], y2=boxes["y"] + boxes["height"])
    want = [
        (film, *map(float, row)) for film, *row in ends[["patientId", "x", "y", "x2", "y2"]].itertuples(index=False)
    ]
    have = [(str(film), *box.xyxy) for film, row in table["boxes"].items() for box in row]
    assert sorted(have) == sorted(want)
    assert table["boxes_exhaustive"].all()

"""Kaggle's table in the shapes it comes in, and what can be wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import film, saved

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.sources import ImportReport, import_source
from cxr_mtl.data.sources.vinbigdata import LOCAL, NORMAL
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import list_ontologies, load_ontology
from cxr_mtl.types import Box

THORAX = load_ontology("thorax")
HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
H, W = 40, 48
ROWS = [
    ("aa", "No finding", 14, "R1", "", "", "", ""),
    ("aa", "No finding", 14, "R2", "", "", "", ""),
    ("aa", "No finding", 14, "R3", "", "", "", ""),
    ("bb", "Cardiomegaly", 3, "R1", 10.0, 20.0, 40.0, 38.0),
    ("bb", "Cardiomegaly", 3, "R2", 12, 20, 42, 38),
    ("bb", "Nodule/Mass", 8, "R2", 1, 2, 5, 6),
    ("bb", "Cardiomegaly", 3, "R3", 10, 20, 40, 38),
    ("cc", "Other lesion", 9, "R1", 1, 1, 9, 9),
    ("cc", "Pleural effusion", 10, "R2", 1, 30, 20, 40),
    ("cc", "ILD", 5, "R4", 2, 2, 30, 30),
    ("dd", "No finding", 14, "R1", "", "", "", ""),
]
FILMS = ["aa", "bb", "cc", "dd"]


def table(rows: list[Any]) -> str:
    return "\n".join([HEADER, *(",".join(map(str, row)) for row in rows)]) + "\n"


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(table(ROWS))
    (tmp_path / "train").mkdir()
    for name in FILMS:
        (tmp_path / f"train/{name}.dicom").write_bytes(saved(film()))
    return tmp_path


def read(root: Path, **options: Any) -> tuple[Manifest, ImportReport]:
    return import_source("vinbigdata", root, **options)


def row_of(manifest: Manifest, name: str) -> int:
    return manifest.table["image_id"].tolist().index(name)


def label(manifest: Manifest, name: str, finding: str) -> float:
    return float(manifest.labels()[row_of(manifest, name), manifest.ontology.index(finding)])


def boxes(manifest: Manifest, name: str) -> tuple[Box, ...]:
    return manifest.boxes(row_of(manifest, name))


def test_any(kaggle: Path) -> None:
    manifest, report = read(kaggle)
    assert (report.kept, report.patients) == (4, 4)
    assert {reason: d.count for reason, d in report.dropped.items()} == {
        "box of Other lesion, which ontology thorax does not have": 1
    }
    one = manifest.record(row_of(manifest, "bb"))
    assert (one.image_path, one.patient_id, one.study_id, one.view) == ("train/bb.dicom", "vindr:bb", "bb", "PA")
    assert (one.width, one.height) == (W, H)  # from the header
    assert [label(manifest, name, "No Finding") for name in ("aa", "bb", "cc")] == [1, 0, 0]
    assert label(manifest, "bb", "Cardiomegaly") == label(manifest, "bb", "Lung Lesion") == 1
    assert label(manifest, "aa", "Cardiomegaly") == label(manifest, "cc", "Cardiomegaly") == 0
    assert np.isnan(label(manifest, "aa", "Pneumonia"))
    assert boxes(manifest, "bb") == (
        Box("Cardiomegaly", 10, 20, 40, 38, "R1"),
        Box("Cardiomegaly", 12, 20, 42, 38, "R2"),
        Box("Lung Lesion", 1, 2, 5, 6, "R2"),
        Box("Cardiomegaly", 10, 20, 40, 38, "R3"),
    )
    assert any("Cardiomegaly 0 of 1, " in note and "Lung Lesion 1 of 1" in note for note in report.notes)
    assert any(note.startswith("readers any: one reader is enough") for note in report.notes)
    # a nodule is an opacity, but no opacity is boxed: a place without a box may still be one
    exhaustive = dict(zip(manifest.table["image_id"], manifest.table["boxes_exhaustive"], strict=True))
    assert exhaustive == {"aa": True, "bb": False, "cc": True, "dd": True}
    about = manifest.info["datasets"]["vinbigdata"]
    assert (about["readers"], about["sizes_from"]) == ("any", ["DICOM headers"])
    assert "Lung Lesion" in about["boxed"]
    assert "No Finding" not in about["boxed"]


def test_majority(kaggle: Path) -> None:
    manifest, report = read(kaggle, readers="majority")
    assert label(manifest, "bb", "Cardiomegaly") == 1
    assert label(manifest, "bb", "Lung Lesion") == label(manifest, "cc", "Effusion") == 0
    assert label(manifest, "cc", "No Finding") == 0
    assert len(boxes(manifest, "bb")) == 3
    assert report.dropped["box of a finding that too few readers mark"].count == 3
    assert any(note.startswith("1 films are not normal, but no finding") for note in report.notes)


def test_fusion(kaggle: Path) -> None:
    manifest, report = read(kaggle, readers="fusion")
    heart, lesion = boxes(manifest, "bb")
    assert heart.xyxy == pytest.approx((32 / 3, 20, 122 / 3, 38))
    assert (heart.finding, heart.reader) == ("Cardiomegaly", "R1+R2+R3")
    assert lesion == Box("Lung Lesion", 1, 2, 5, 6, "R2")
    np.testing.assert_array_equal(manifest.labels(), read(kaggle)[0].labels())
    assert "6 boxes became 4" in report.notes


def test_strange_readers(kaggle: Path) -> None:
    with pytest.raises(ConfigError, match="readers is 'all', not any, majority or fusion"):
        read(kaggle, readers="all")


def test_png_copies_need_a_table_of_sizes(kaggle: Path) -> None:
    whole, _ = read(kaggle)
    for path in (kaggle / "train").iterdir():
        path.rename(path.with_suffix(".png"))  # nothing here opens them
    bare, report = read(kaggle)
    assert bare.table["boxes"].map(len).sum() == 0
    assert bare.table["boxes_exhaustive"].tolist() == [True, False, False, True]
    assert np.isnan(bare.frames).all()
    np.testing.assert_array_equal(bare.labels(), whole.labels())
    assert report.dropped["box whose frame, the size of the original film, is not known"].count == 7
    assert any("train_meta.csv (image_id,dim0,dim1" in note for note in report.notes)
    (kaggle / "train_meta.csv").write_text("image_id,dim0,dim1\n" + "".join(f"{n},{H},{W}\n" for n in FILMS))
    again, _ = read(kaggle)
    assert again.table["image_path"].tolist() == [f"train/{name}.png" for name in FILMS]
    assert again.frames.tolist() == [[W, H]] * 4
    for column in ("boxes", "boxes_exhaustive"):
        assert again.table[column].tolist() == whole.table[column].tolist()


def test_a_copy_that_writes_sizes_beside_the_boxes(kaggle: Path) -> None:
    rows = [(*row, 2332, 2580) for row in ROWS]
    (kaggle / "train.csv").write_text(table(rows).replace(HEADER, HEADER + ",width,height"))
    manifest, _ = read(kaggle)
    assert manifest.frames.tolist() == [[2332, 2580]] * 4


def test_without_films_boxes_are_kept_without_a_frame(kaggle: Path) -> None:
    for path in (kaggle / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="No film that the table names"):
        read(kaggle)
    manifest, report = read(kaggle, allow_missing_images=True)
    assert np.isnan(manifest.frames).all()
    assert len(boxes(manifest, "bb")) == 4
    assert any("7 boxes have no frame" in note for note in report.notes)


def test_a_film_that_is_missing_is_left_out(kaggle: Path) -> None:
    (kaggle / "train/bb.dicom").unlink()
    manifest, report = read(kaggle)
    assert manifest.table["image_id"].tolist() == ["aa", "cc", "dd"]
    assert report.dropped["film is not in the folder"].count == 1
    assert boxes(manifest, "cc")[0].finding == "Effusion"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("bb", "ILD", 5, "R1", 40, 2, 30, 30), "box has no area"),
        (("bb", "ILD", 5, "R1", 40, 2, 40, 30), "box has no area"),
        (("bb", "ILD", 5, "R1", "", "", "", ""), "box is not four numbers"),
        (("bb", "ILD", 5, "R1", "nan", 1, 2, 3), "box is not four numbers"),
        (("aa", "No finding", 14, "R1", 1, 2, 3, 4), 'box of "No finding"'),
        (("bb", "Cardiomegaly", 3, "R1", 10.0, 20.0, 40.0, 38.0), "box is in an earlier row already"),
        (("bb", "Tumour", 15, "R1", 1, 2, 3, 4), "film has a class that VinBigData does not have"),
        (("bb", "", "", "R1", 1, 2, 3, 4), "film has a class that VinBigData does not have"),
        (("bb", "ILD", 5, "", 1, 2, 3, 4), "row has no rad_id"),
        (("", "ILD", 5, "R1", 1, 2, 3, 4), "row has no image_id"),
    ],
)
def test_hostile_rows(kaggle: Path, row: tuple[Any, ...], reason: str) -> None:
    before, _ = read(kaggle)
    (kaggle / "train.csv").write_text(table([*ROWS, row]))
    after, report = read(kaggle)
    assert report.dropped[reason].count == 1
    if "class that" in reason:
        assert after.table["image_id"].tolist() == ["aa", "cc", "dd"]
        return
    # A box that cannot be read still says what its reader saw; its film's boxes are then not all there are.
    seen = reason in ("box has no area", "box is not four numbers")
    assert label(after, "bb", "Interstitial Pattern") == float(seen)
    assert label(after, "aa", "No Finding") == 1
    assert after.table["boxes"].tolist() == before.table["boxes"].tolist()
    if seen:
        assert not after.table["boxes_exhaustive"].iat[row_of(after, "bb")]


def test_a_box_that_cannot_be_read_makes_its_film_not_exhaustive(kaggle: Path) -> None:
    (kaggle / "train.csv").write_text(table([*ROWS, ("cc", "ILD", 5, "R4", 9, 9, 9, 9)]))
    manifest, _ = read(kaggle)
    assert manifest.table["boxes_exhaustive"].tolist() == [True, False, False, True]


def test_no_table_and_a_wrong_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no train\.csv.*vinbigdata-chest-xray"):
        read(tmp_path)
    (tmp_path / "train.csv").write_text("Path,Sex\na,M\n")
    with pytest.raises(DataError, match="has no column 'image_id'"):
        read(tmp_path)
    (tmp_path / "train.csv").write_text(table([("aa", "Tumour", 0, "R1", 1, 2, 3, 4)]))
    with pytest.raises(DataError, match="No film has only classes"):
        read(tmp_path)


def test_every_class_is_a_finding_or_is_known_to_be_left_out() -> None:
    for name in list_ontologies():
        tree = load_ontology(name)
        theirs = [raw for finding in tree.findings for raw in finding.names.get("vinbigdata", ())]
        assert set(theirs) <= {*LOCAL, NORMAL}
    assert [word for word in (*LOCAL, NORMAL) if THORAX.find("vinbigdata", word) is None] == ["Other lesion"]

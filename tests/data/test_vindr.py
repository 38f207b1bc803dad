"""VinDr-CXR in PhysioNet's layout, made here, and what can be wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicom_files import film, saved
from vindr_files import drawn, ticks

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.sources import ImportReport, import_source
from cxr_mtl.data.sources.vindr_tables import GLOBAL, LOCAL, WORDS
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import list_ontologies, load_ontology
from cxr_mtl.types import Box

THORAX = load_ontology("thorax")
H, W = 40, 48
NORMAL = "No finding"
# film -> what each of its readers ticks
TRAIN = {
    "aa": {"R1": [NORMAL], "R2": [NORMAL], "R3": [NORMAL]},
    "bb": {"R1": ["Cardiomegaly"], "R2": ["Cardiomegaly", "Lung tumor"], "R3": ["Cardiomegaly", "Lung cavity"]},
    "cc": {"R1": ["Pneumonia", "Consolidation", "Lung Opacity"], "R8": [NORMAL], "R9": ["Other disease"]},
    "dd": {"R1": ["Rib fracture"], "R2": ["Clavicle fracture"], "R3": [NORMAL]},
}
TEST = {"ee": {"": ["Aortic enlargement", "Other disease"]}, "ff": {"": [NORMAL]}}
# film, reader, class, corners
TRAIN_BOXES: list[tuple[Any, ...]] = [
    ("aa", "R1", NORMAL, "", "", "", ""),
    ("bb", "R1", "Cardiomegaly", 10, 20, 40, 38),
    ("bb", "R2", "Cardiomegaly", 12, 20, 42, 38),
    ("bb", "R3", "Cardiomegaly", 10, 20, 40, 38),
    ("bb", "R3", "Lung cavity", 1, 1, 5, 5),
    ("cc", "R1", "Consolidation", 1, 1, 20, 20),
    ("cc", "R1", "Lung Opacity", 1, 1, 20, 20),
    ("dd", "R1", "Rib fracture", 1, 1, 20, 20),
    ("dd", "R2", "Clavicle fracture", 30, 1, 40, 20),
]
TEST_BOXES: list[tuple[Any, ...]] = [("ee", "Aortic enlargement", 5, 5, 20, 20), ("ff", NORMAL, "", "", "", "")]


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    tables = tmp_path / "annotations"
    tables.mkdir()
    (tables / "image_labels_train.csv").write_text(ticks(TRAIN))
    (tables / "image_labels_test.csv").write_text(ticks(TEST, test=True))
    (tables / "annotations_train.csv").write_text(drawn(TRAIN_BOXES))
    (tables / "annotations_test.csv").write_text(drawn(TEST_BOXES, test=True))
    for split, films in (("train", TRAIN), ("test", TEST)):
        (tmp_path / split).mkdir()
        for name in films:
            (tmp_path / f"{split}/{name}.dicom").write_bytes(saved(film()))
    return tmp_path


def read(root: Path, **options: Any) -> tuple[Manifest, ImportReport]:
    return import_source("vindr", root, **({"validation": 0.0} | options))


def row_of(manifest: Manifest, name: str) -> int:
    return manifest.table["image_id"].tolist().index(name)


def label(manifest: Manifest, name: str, finding: str) -> float:
    return float(manifest.labels()[row_of(manifest, name), manifest.ontology.index(finding)])


def boxes(manifest: Manifest, name: str) -> tuple[Box, ...]:
    return manifest.boxes(row_of(manifest, name))


def exhaustive(manifest: Manifest) -> dict[str, bool]:
    return dict(zip(manifest.table["image_id"], manifest.table["boxes_exhaustive"].tolist(), strict=True))


def test_any(vindr: Path) -> None:
    manifest, report = read(vindr)
    assert manifest.table["image_id"].tolist() == ["aa", "bb", "cc", "dd", "ee", "ff"]
    assert manifest.table["split"].tolist() == ["train"] * 4 + ["test"] * 2
    assert {reason: d.count for reason, d in report.dropped.items()} == {
        "box of Lung cavity, which ontology thorax does not have": 1
    }
    one = manifest.record(row_of(manifest, "bb"))
    assert (one.image_path, one.patient_id, one.view) == ("train/bb.dicom", "bb", "PA")
    assert (one.width, one.height) == (W, H)
    present = {name: {n for n in THORAX.names if label(manifest, name, n) == 1} for name in manifest.table["image_id"]}
    assert present["aa"] == present["ff"] == {"No Finding"}
    assert present["bb"] == {"Cardiomegaly", "Lung Lesion"}  # Lung Opacity is stated absent; training settles it
    assert present["cc"] == {"Pneumonia", "Consolidation", "Lung Opacity"}
    assert present["dd"] == {"Fracture"}
    assert present["ee"] == {"Aortic Enlargement"}
    assert label(manifest, "aa", "Tuberculosis") == label(manifest, "ee", "COPD") == 0
    assert label(manifest, "ee", "No Finding") == label(manifest, "cc", "No Finding") == 0
    assert np.isnan(label(manifest, "aa", "Hernia"))
    assert boxes(manifest, "ee") == (Box("Aortic Enlargement", 5, 5, 20, 20, "consensus"),)
    assert [box.reader for box in boxes(manifest, "dd")] == ["R1", "R2"]
    assert any("films have 3 readers (4 films), 1 reader (2 films)" in note for note in report.notes)
    told = next(note for note in report.notes if "ontology thorax has no finding for" in note)
    assert "Other disease 2" in told
    assert "Lung cavity 1" in told


def test_a_film_whose_lesion_nobody_boxes_is_not_exhaustive(vindr: Path) -> None:
    manifest, _ = read(vindr)
    # bb: Lung tumor is ticked, not boxed, and means what Nodule/Mass means
    assert exhaustive(manifest) == {"aa": True, "bb": False, "cc": True, "dd": True, "ee": True, "ff": True}
    boxed = manifest.info["datasets"]["vindr"]["boxed"]
    assert {"Lung Lesion", "Fracture", "Edema"} <= set(boxed)
    assert not {"Pneumonia", "COPD", "Tuberculosis", "No Finding"} & set(boxed)


def test_majority(vindr: Path) -> None:
    manifest, report = read(vindr, readers="majority")
    assert label(manifest, "bb", "Cardiomegaly") == 1
    assert label(manifest, "bb", "Lung Lesion") == label(manifest, "cc", "Pneumonia") == 0
    assert label(manifest, "dd", "Fracture") == 1  # one says rib and one says clavicle
    assert label(manifest, "ee", "Aortic Enlargement") == 1  # the consensus is one reader
    assert report.dropped["box of a finding that too few readers mark"].count == 2
    assert (len(boxes(manifest, "cc")), len(boxes(manifest, "dd"))) == (0, 2)
    assert exhaustive(manifest)["bb"]


def test_fusion(vindr: Path) -> None:
    manifest, _ = read(vindr, readers="fusion")
    (heart,) = boxes(manifest, "bb")
    assert heart.reader == "R1+R2+R3"
    assert heart.xyxy == pytest.approx((32 / 3, 20, 122 / 3, 38))
    assert len(boxes(manifest, "dd")) == 2
    np.testing.assert_array_equal(manifest.labels(), read(vindr)[0].labels())
    with pytest.raises(ConfigError, match="readers is 'both'"):
        read(vindr, readers="both")


def test_validation_is_carved_out_of_training_only(vindr: Path) -> None:
    manifest, _ = read(vindr, validation=0.3)
    split = manifest.table["split"].tolist()
    assert split[4:] == ["test", "test"]
    assert set(split[:4]) == {"train", "val"}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_copies_with_a_table_of_sizes_at_the_top(vindr: Path, suffix: str) -> None:
    whole, _ = read(vindr)
    for split in ("train", "test"):
        for path in (vindr / split).iterdir():
            path.rename(path.with_suffix(f".{suffix}"))
    bare, report = read(vindr)
    assert bare.table["boxes"].map(len).sum() == 0
    assert report.dropped["box whose frame, the size of the original film, is not known"].count == 9
    for split, films in (("train", TRAIN), ("test", TEST)):
        lines = "".join(f"{name},{H},{W}\n" for name in films)
        (vindr / f"{split}_meta.csv").write_text("image_id,dim0,dim1\n" + lines)
    again, _ = read(vindr)
    assert again.table["boxes"].tolist() == whole.table["boxes"].tolist()
    assert again.frames.tolist() == [[W, H]] * 6


def test_tables_at_the_top_and_gzipped_names(vindr: Path) -> None:
    before, _ = read(vindr)
    for path in (vindr / "annotations").iterdir():
        pd.read_csv(path, dtype=str, keep_default_na=False).to_csv(vindr / f"{path.name}.gz", index=False)
        path.unlink()
    after, _ = read(vindr)
    assert after.table.equals(before.table)


def test_one_half_is_enough(vindr: Path) -> None:
    for name in ("image_labels_train", "annotations_train"):
        (vindr / f"annotations/{name}.csv").unlink()
    manifest, report = read(vindr)
    assert manifest.table["image_id"].tolist() == ["ee", "ff"]
    assert "there is no image_labels_train.csv: no train films" in report.notes


def test_missing_tables(vindr: Path) -> None:
    (vindr / "annotations/annotations_train.csv").unlink()
    manifest, report = read(vindr)
    assert exhaustive(manifest) == {"aa": False, "bb": False, "cc": False, "dd": False, "ee": True, "ff": True}
    assert "there is no annotations_train.csv: the train films have no boxes" in report.notes
    (vindr / "annotations/image_labels_test.csv").unlink()
    with pytest.raises(DataError, match=r"has annotations_test\.csv, but no image_labels_test\.csv"):
        read(vindr)
    for path in (vindr / "annotations").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"image_labels_train\.csv.*physionet"):
        read(vindr)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("bb", "R1", "Cardiomegaly", 40, 20, 10, 38), "box has no area"),
        (("bb", "R1", "Cardiomegaly", "", "", "", ""), "box is not four numbers"),
        (("bb", "R1", "Cardiomegaly", "nan", 20, 10, 38), "box is not four numbers"),
        (("bb", "R1", "Cardiomegaly", 10, 20, 40, 38), "box is in an earlier row already"),
        (("bb", "R1", NORMAL, 10, 20, 40, 38), "box of a label that VinDr does not box"),
        (("bb", "R1", "Pneumonia", 10, 20, 40, 38), "box of a label that VinDr does not box"),
        (("bb", "R1", "Tumour", 10, 20, 40, 38), "box of Tumour, which is no label of VinDr"),
        (("bb", "R1", "", 10, 20, 40, 38), "box of no class, which is no label of VinDr"),
        (("bb", "R7", "Cardiomegaly", 10, 20, 40, 38), "box of a film or a reader that has no labels"),
        (("zz", "R1", "Cardiomegaly", 10, 20, 40, 38), "box of a film or a reader that has no labels"),
        (("", "R1", "Cardiomegaly", 10, 20, 40, 38), "row has no image_id"),
        (("bb", "", "Cardiomegaly", 10, 20, 40, 38), "row has no rad_id"),
    ],
)
def test_hostile_boxes(vindr: Path, row: tuple[Any, ...], reason: str) -> None:
    before, _ = read(vindr)
    (vindr / "annotations/annotations_train.csv").write_text(drawn([*TRAIN_BOXES, row]))
    after, report = read(vindr)
    assert report.dropped[reason].count == 1
    assert after.table["boxes"].tolist() == before.table["boxes"].tolist()
    np.testing.assert_array_equal(after.labels(), before.labels())


def test_a_box_left_out_makes_its_film_not_exhaustive(vindr: Path) -> None:
    for row in (("cc", "R1", "Lung Opacity", 1, 1, 1, 9), ("cc", "R1", "Tumour", 1, 1, 9, 9)):
        (vindr / "annotations/annotations_train.csv").write_text(drawn([*TRAIN_BOXES, row]))
        manifest, _ = read(vindr)
        assert not exhaustive(manifest)["cc"]
        assert exhaustive(manifest)["dd"]


def test_what_is_boxed_but_not_ticked_is_present(vindr: Path) -> None:
    row = ("aa", "R2", "ILD", 1, 1, 9, 9)
    (vindr / "annotations/annotations_train.csv").write_text(drawn([*TRAIN_BOXES, row]))
    manifest, report = read(vindr)
    assert label(manifest, "aa", "Interstitial Pattern") == 1
    assert label(manifest, "aa", "No Finding") == 0
    assert "1 findings are boxed but not ticked (first: aa): present" in report.notes
    assert "1 times a reader marks a finding and calls the film normal: not normal" in report.notes


def test_hostile_labels(vindr: Path) -> None:
    path = vindr / "annotations/image_labels_train.csv"
    plain = path.read_text()
    before, _ = read(vindr)
    rows = plain.splitlines()
    again = rows[4].replace("bb,R1", "bb,R2")  # a second row of R2, with fewer ticks
    path.write_text("\n".join([*rows, again]) + "\n")
    after, report = read(vindr)
    np.testing.assert_array_equal(after.labels(), before.labels())
    assert any(note.startswith("1 rows are a reader's second") for note in report.notes)
    path.write_text(plain.replace("aa,R1,0", "aa,R1,2"))
    after, report = read(vindr)
    assert "aa" not in after.table["image_id"].tolist()
    assert report.dropped["film has a label that is neither 1 nor 0"].count == 1
    path.write_text(plain.replace("bb,R1,0", "bb,R1,").replace("bb,R2,0", "bb,R2,").replace("bb,R3,0", "bb,R3,"))
    after, report = read(vindr)
    assert label(before, "bb", "Aortic Enlargement") == 0
    assert np.isnan(label(after, "bb", "Aortic Enlargement"))
    assert any(note.startswith("3 labels of image_labels_train.csv are blank") for note in report.notes)
    path.write_text(plain.replace(",Cardiomegaly,", ",Heart,"))
    with pytest.raises(DataError, match="has no column 'Cardiomegaly'"):
        read(vindr)
    path.write_text(ticks({**TRAIN, "ee": {"R1": [NORMAL]}}))
    with pytest.raises(DataError, match="1 films are in both training and test"):
        read(vindr)


def test_every_label_is_a_finding_or_is_known_to_be_left_out() -> None:
    for name in list_ontologies():
        tree = load_ontology(name)
        theirs = {raw for finding in tree.findings for raw in finding.names.get("vindr", ())}
        assert theirs - {"Interstitial lung disease"} <= set(WORDS)
    assert (len(LOCAL), len(GLOBAL)) == (22, 6)
    left_out = {word for word in WORDS if THORAX.find("vindr", word) is None}
    bags = {"Other lesion", "Other disease"}
    assert left_out == bags | {"Enlarged PA", "Lung cavity", "Lung cyst", "Mediastinal shift"}

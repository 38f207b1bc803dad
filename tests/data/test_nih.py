"""NIH's own files in all the shapes they come in; and the whole table against the counts that it is known to have."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.sources import ImportReport, import_source
from cxr_mtl.data.sources.tables.files import read_table
from cxr_mtl.data.split import check_patients
from cxr_mtl.errors import ConfigError, CxrError, DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box

NO_SPLIT = "the dataset states no split: dealt by patient, not comparable with published numbers"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
# film, labels, follow-up, patient, age, sex, view
ROWS = [
    ("00000001_000", "Cardiomegaly", 0, 1, "57", "M", "PA"),
    ("00000001_001", "Cardiomegaly|Pleural_Thickening", 1, 1, "58", "M", "PA"),
    ("00000002_000", "No Finding", 0, 2, "80", "F", "AP"),
    ("00000003_000", "Hernia|Infiltration", 0, 3, "9", "F", "PA"),
    ("00000004_000", "Effusion", 0, 4, "33", "M", "AP"),
    ("00000005_000", "No Finding", 7, 5, "0", "M", "PA"),
]
BOXES = [("00000004_000.png", "Effusion", 100.5, 200, 50, 400.25), ("00000003_000.png", "Infiltrate", 1, 2, 3, 4)]


def entries(rows: list[tuple[object, ...]], end: str = "") -> str:
    lines = [f"{r[0]}.png,{','.join(str(c) for c in r[1:])},2682,2749,0.143,0.143{end}" for r in rows]
    return "\n".join([HEADER + end, *lines]) + "\n"


def box_list(rows: list[tuple[object, ...]], newline: str = "\r\n", end: str = "") -> bytes:
    lines = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", *(",".join(map(str, row)) + end for row in rows)]
    return (newline.join(lines) + newline).encode()


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """Six films of five patients as NIH distributes them; the films are empty files, for nothing here opens them."""
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(entries(ROWS))
    (tmp_path / "BBox_List_2017.csv").write_bytes(box_list(BOXES))
    (tmp_path / "train_val_list.txt").write_text("".join(f"{row[0]}.png\n" for row in ROWS[:4]))
    (tmp_path / "test_list.txt").write_text("\r\n".join(f"{row[0]}.png" for row in ROWS[4:]))
    (tmp_path / "images").mkdir()
    for row in ROWS:
        (tmp_path / f"images/{row[0]}.png").touch()
    return tmp_path


def read(root: Path, ontology: str = "nih14", **options: object) -> tuple[Manifest, ImportReport]:
    return import_source("nih", root, ontology=ontology, **options)  # type: ignore[arg-type]


def row_of(manifest: Manifest, film: str) -> int:
    return manifest.table["image_id"].tolist().index(film)


def label(manifest: Manifest, film: str, finding: str) -> float:
    return float(manifest.labels()[row_of(manifest, film), manifest.ontology.index(finding)])


def test_a_clean_folder_is_kept_whole(nih: Path) -> None:
    manifest, report = read(nih)
    assert (report.kept, report.patients, report.dropped) == (6, 5, {})
    assert manifest.root == nih
    assert all(manifest.path(i).is_file() for i in range(6))
    first = manifest.record(0)
    assert (first.image_path, first.image_id) == ("images/00000001_000.png", "00000001_000")
    assert (first.patient_id, first.study_id, first.dataset) == ("1", "1_0", "nih")
    assert (first.view, first.age, first.sex) == ("PA", 57.0, "M")
    assert (first.width, first.height, first.boxes_exhaustive) == (1024, 1024, False)


def test_what_nih_does_not_list_is_absent_and_what_it_does_not_label_is_unknown(nih: Path) -> None:
    manifest, _ = read(nih, "thorax")
    film = "00000001_001"
    assert label(manifest, film, "Cardiomegaly") == 1
    assert label(manifest, film, "Pleural Thickening") == 1
    assert label(manifest, film, "Effusion") == label(manifest, film, "No Finding") == 0
    assert label(manifest, film, "Pleural") == 1  # a group, from what is below it
    assert label(manifest, "00000004_000", "Lung Opacity") == 0
    assert label(manifest, "00000002_000", "No Finding") == 1
    assert math.isnan(label(manifest, film, "Fracture"))
    assert math.isnan(label(manifest, "00000002_000", "Support Devices"))


def test_boxes_are_xyxy_in_the_1024_frame(nih: Path) -> None:
    manifest, report = read(nih)
    assert manifest.boxes(row_of(manifest, "00000004_000")) == (Box("Effusion", 100.5, 200, 150.5, 600.25),)
    assert manifest.boxes(row_of(manifest, "00000003_000")) == (Box("Infiltration", 1, 2, 4, 6),)
    assert report.labels["boxes"].sum() == 2
    assert manifest.frames.tolist() == [[1024, 1024]] * 6


@pytest.mark.parametrize(("newline", "end"), [("\n", ""), ("\r\n", ",,,"), ("\n", ",,,")])
def test_box_list_in_every_shape(nih: Path, newline: str, end: str) -> None:
    before, _ = read(nih)
    (nih / "BBox_List_2017.csv").write_bytes(box_list(BOXES, newline, end))
    after, _ = read(nih)
    assert after.table["boxes"].tolist() == before.table["boxes"].tolist()


def test_the_original_table_with_its_empty_last_column(nih: Path) -> None:
    """Data_Entry_2017.csv: ages as 058Y, and units that went wrong."""
    ages = ["058Y", "018M", "010D", "412", "", "413Y"]
    rows = [(*row[:4], age, *row[5:]) for row, age in zip(ROWS, ages, strict=True)]
    before, _ = read(nih)
    (nih / "Data_Entry_2017_v2020.csv").unlink()
    (nih / "Data_Entry_2017.csv").write_text("\ufeff" + entries(rows, end=","), "utf-8")
    after, report = read(nih)
    expected = [58, 1.5, 10 / 365.25, math.nan, math.nan, math.nan]
    np.testing.assert_allclose(after.table["age"], expected, rtol=1e-6)
    np.testing.assert_array_equal(after.labels(), before.labels())
    assert after.info["datasets"]["nih"]["label_version"] == "2017"
    assert "2 ages above 100 years (first: 00000003_000): set to unknown" in report.notes


def test_of_two_tables_the_corrected_one_is_read(nih: Path) -> None:
    (nih / "Data_Entry_2017.csv").write_text(entries([ROWS[0]], end=","))
    manifest, report = read(nih)
    assert (len(manifest), manifest.info["datasets"]["nih"]["label_file"]) == (6, "Data_Entry_2017_v2020.csv")
    assert "Data_Entry_2017_v2020.csv" in report.notes[0]


def test_a_table_that_pandas_wrote_again_reads_alike(nih: Path) -> None:
    before, _ = read(nih)
    path = nih / "Data_Entry_2017_v2020.csv"
    table = read_table(path)
    table["Patient ID"] = table["Patient ID"].astype(float)
    table["Follow-up #"] = table["Follow-up #"].astype(float)
    table.to_csv(path)  # with an index column, and patient 1 as 1.0
    after, _ = read(nih)
    assert after.table.equals(before.table)


def test_films_in_twelve_folders(nih: Path) -> None:
    for number, film in enumerate(sorted((nih / "images").iterdir()), start=1):
        folder = nih / f"images_{number:03d}/images"
        folder.mkdir(parents=True)
        film.rename(folder / film.name)
    (nih / "images").rmdir()
    manifest, report = read(nih)
    assert report.kept == 6
    assert manifest.record(2).image_path == "images_003/images/00000002_000.png"
    assert all(manifest.path(i).is_file() for i in range(6))


def test_a_resized_copy_is_found_by_stem_and_the_exact_name_comes_first(nih: Path) -> None:
    for film in (nih / "images").iterdir():
        film.with_suffix(".jpg").touch()
    (nih / "images/00000002_000.png").unlink()
    (nih / "images/._00000002_000.png").touch()
    (nih / "images/notes.txt").touch()
    manifest, report = read(nih)
    assert manifest.record(0).image_path == "images/00000001_000.png"
    assert manifest.record(2).image_path == "images/00000002_000.jpg"
    assert (report.dropped, len(report.notes)) == ({}, 2)


def test_official_lists_are_followed_and_validation_comes_from_training(nih: Path) -> None:
    manifest, report = read(nih, validation=0.4, seed=3)
    split = dict(zip(manifest.table["image_id"], manifest.splits, strict=True))
    assert {film for film, name in split.items() if name == "test"} == {"00000004_000", "00000005_000"}
    assert {split[row[0]] for row in ROWS[:4]} == {"train", "val"}
    assert split["00000001_000"] == split["00000001_001"]
    check_patients(manifest)
    assert report.splits["test"] == 2
    how = manifest.info["split"]
    assert (how["how"], how["validation"], how["seed"]) == ("official lists", 0.4, 3)
    assert set(read(nih, validation=0)[0].splits) == {"train", "test"}


def test_without_lists_patients_are_dealt_and_that_is_said(nih: Path) -> None:
    (nih / "test_list.txt").unlink()
    manifest, report = read(nih)
    check_patients(manifest)
    assert set(manifest.splits) == {"train", "val", "test"}
    assert {"there is no test_list.txt", NO_SPLIT} <= set(report.notes)
    assert manifest.info["split"]["how"] == "by patient"


def test_films_of_the_test_list_alone_can_be_read(nih: Path) -> None:
    for row in ROWS[:4]:
        (nih / f"images/{row[0]}.png").unlink()
    manifest, report = read(nih)
    assert set(manifest.splits) == {"test"}
    assert "too few patients are in the training list to validate on some of them" in report.notes


def test_films_in_no_list_are_in_no_split_and_that_is_said(nih: Path) -> None:
    (nih / "test_list.txt").write_text("00000005_000.png\n")
    manifest, report = read(nih)
    assert manifest.record(4).split is None
    assert report.splits["none"] == 1
    assert "1 films are in none of the dataset's lists (first: 00000004_000): in no split" in report.notes


def test_nothing_is_dropped_in_silence(nih: Path) -> None:
    bad = [
        ("00000006_000", "Pnumonia", 0, 6, "50", "M", "PA"),
        ("00000007_000", "", 0, 7, "50", "M", "PA"),
        ("00000008_000", "Mass", 0, "", "50", "M", "PA"),
        ("00000009_000", "Mass", 0, 9, "50", "M", "PA"),
        ("00000001_000", "Mass", 0, 1, "50", "M", "PA"),
        ("00000010_000", "Mass", 0, 10, "50", "O", "LL"),
        ("00000011_000", "No Finding|Mass", 0, 11, "50", "M", "PA"),
    ]
    (nih / "Data_Entry_2017_v2020.csv").write_text(entries([*ROWS, *bad]))
    more = [("00000099_000.png", "Mass", 1, 1, 5, 5), ("00000001_000.png", "Zebra", 1, 1, 5, 5)]
    more += [("00000001_000.png", "Mass", 1, 1, 0, 5), ("00000006_000.png", "Mass", 1, 1, 5, 5)]
    (nih / "BBox_List_2017.csv").write_bytes(box_list([*BOXES, *more]))
    for name in (
        "00000006_000.png",
        "00000007_000.png",
        "00000008_000.png",
        "00000010_000.png",
        "00000011_000.png",
        "00000042_000.png",
    ):
        (nih / "images" / name).touch()
    manifest, report = read(nih)
    assert {reason: (d.count, d.first) for reason, d in report.dropped.items()} == {
        "row has no Patient ID": (1, "00000008_000.png"),
        "row has no Finding Labels": (1, "00000007_000.png"),
        "film is in an earlier row already": (1, "00000001_000.png"),
        "film is not in the folder": (1, "00000009_000.png"),
        "row has a label that NIH does not have": (1, "00000006_000.png Pnumonia"),
        "row says No Finding beside a finding": (1, "00000011_000.png No Finding|Mass"),
        "box of a film that was left out or is in no row": (2, "00000099_000.png"),
        "box of Zebra, which ontology nih14 does not have": (1, "00000001_000.png"),
        "box has no area": (1, "00000001_000.png"),
    }
    assert report.kept == 7
    assert label(manifest, "00000001_000", "Cardiomegaly") == 1  # the first row of the two
    odd = manifest.record(6)
    assert (odd.view, odd.sex) == ("UNKNOWN", None)
    assert "3 image files belong to no usable row of the table" in report.notes
    assert "1 films have a view other than PA, AP and lateral: UNKNOWN (LL 1)" in report.notes
    text = "\n".join(report.lines())
    assert all(reason in text for reason in report.dropped)
    assert all(note in text for note in report.notes)
    assert report.to_dict()["dropped"]["box has no area"] == {"count": 1, "first": "00000001_000.png"}


def test_labels_that_an_ontology_leaves_out_are_named(nih: Path) -> None:
    manifest, report = read(nih, "lung10")
    assert report.kept == 6
    assert any(
        "ontology lung10 has no" in note and "Hernia" in note and "Infiltration" in note for note in report.notes
    )
    assert label(manifest, "00000003_000", "No Finding") == 0
    assert report.dropped["box of Infiltrate, which ontology lung10 does not have"].count == 1


def test_the_report_counts_what_the_manifest_holds(nih: Path) -> None:
    _, report = read(nih)
    assert report.labels.loc["Cardiomegaly"].tolist() == [2, 4, 0, 0, 0]
    assert report.labels.loc["Infiltration"].tolist() == [1, 5, 0, 0, 1]
    assert (report.labels[["present", "absent", "unknown", "uncertain"]].sum(axis=1) == 6).all()


def test_missing_films_are_kept_only_when_allowed(nih: Path) -> None:
    (nih / "images/00000002_000.png").unlink()
    assert read(nih)[1].dropped["film is not in the folder"].count == 1
    manifest, report = read(nih, allow_missing_images=True)
    assert (report.kept, report.dropped) == (6, {})
    assert manifest.record(2).image_path == "images/00000002_000.png"
    assert "1 films are kept although their file is missing" in report.notes


def test_gzipped_tables_are_read(nih: Path) -> None:
    before, _ = read(nih)
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        (nih / f"{name}.gz").write_bytes(gzip.compress((nih / name).read_bytes()))
        (nih / name).unlink()
    after, _ = read(nih)
    assert after.table.equals(before.table)


def _remove_films(root: Path) -> None:
    for film in (root / "images").iterdir():
        film.unlink()


def _write(name: str, text: str) -> object:
    return lambda root: (root / name).write_text(text)


TABLE = "Data_Entry_2017_v2020.csv"
BROKEN = {
    "has no Data_Entry_2017": lambda root: (root / TABLE).unlink(),
    "v2020.csv is empty": _write(TABLE, ""),
    "has a header but no rows": _write(TABLE, HEADER + "\n"),
    "has no column 'Finding Labels'": _write(
        TABLE, HEADER.replace("Finding Labels", "Finding") + "\n" + "1" + "," * 10
    ),
    "is not a well-formed CSV": _write(TABLE, HEADER + "\n" + ",".join("123456789abcd") + "\n"),
    "not a well-formed CSV": lambda root: (root / TABLE).write_bytes(HEADER.encode() + b"\n\xff\xfe\x00,,"),
    "has no folder images/, nor images_001/images": lambda root: (root / "images").rename(root / "pictures"),
    "No film that the table names is in": _remove_films,
    "Every row of the table has a label that NIH does not have": _write(
        TABLE, entries([(*ROWS[0][:1], "X", *ROWS[0][2:])])
    ),
    "test_list.txt is empty": _write("test_list.txt", "\n\n"),
    "1 films are in both lists": _write("test_list.txt", "00000001_001.png\n"),
    "1 patient is in more than one split": lambda root: (
        (root / "test_list.txt").write_text("00000001_001.png\n"),
        (root / "train_val_list.txt").write_text("00000001_000.png\n"),
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_one_line(nih: Path, message: str) -> None:
    BROKEN[message](nih)  # type: ignore[operator]
    with pytest.raises(DataError) as caught:
        read(nih)
    assert message in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "root", "ontology", "message"),
    [
        ("nhi", ".", "nih14", "There is no source 'nhi'. Did you mean 'nih'?"),
        ("zebra", ".", "nih14", "Sources: nih, "),
        ("nih", "nowhere", "nih14", "nowhere is not a folder."),
        ("nih", ".", "nih15", "nih15"),
    ],
)
def test_a_wrong_request_is_one_line(nih: Path, name: str, root: str, ontology: str, message: str) -> None:
    with pytest.raises(CxrError) as caught:
        import_source(name, nih / root, ontology=ontology)
    assert message in str(caught.value)


def test_an_ontology_without_a_word_of_nih_is_refused(nih: Path) -> None:
    silent = load_ontology("nih14").to_dict()
    for finding in silent["findings"]:
        finding["names"].pop("nih", None)
        finding["complete_in"] = []
    with pytest.raises(ConfigError, match="has no finding that nih labels"):
        import_source("nih", nih, ontology=load_ontology("nih14").from_dict(silent))


def test_the_real_films(real_films: Path) -> None:
    """../shared/data/README.md says what is there."""
    manifest, report = read(real_films / "nih", "thorax")
    assert (report.kept, report.patients, report.dropped) == (2219, 1534, {})
    assert report.labels["boxes"].sum() == 726
    assert (manifest.table["boxes"].map(len) > 0).sum() == 646
    assert report.splits["test"] == 280
    assert report.splits["train"] + report.splits["val"] == 1939
    assert abs(report.splits["val"] / 1939 - 0.12) < 0.005
    assert report.labels.loc["Pneumonia", "present"] == 579
    assert report.labels.loc["No Finding", "present"] == 502
    check_patients(manifest)

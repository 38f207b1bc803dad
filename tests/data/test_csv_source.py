"""Tables of one's own: the template, what spreadsheets make of it, and every cell that is wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from csv_films import HEADER, ROWS, UNKNOWN, dropped, film, labels, noted, read, write
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.data.sources.own.csv_boxes import clean_path
from cxr_mtl.data.sources.own.csv_table import template
from cxr_mtl.data.sources.own.csv_text import numbers, read_cells
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import list_ontologies, load_ontology


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name in "abc":
        film(tmp_path / f"{name}.png")
    return tmp_path


def test_a_clean_table(three: Path) -> None:
    found, tally = read(write(three, HEADER, *ROWS))
    assert (tally.dropped, tally.notes) == ({}, [])
    # Of b.png, marked normal, the effusion is absent; tubes may cross a normal film.
    assert labels(found) == {"a.png": [0, UNKNOWN, 1], "b.png": [1, UNKNOWN, 0], "c.png": [UNKNOWN, 0, -1]}
    assert found.labelled == ("No Finding", "Support Devices", "Effusion")
    assert found.rows["patient_id"].tolist() == ["P1", "P2", "P3"]
    assert found.rows["study_id"].tolist() == found.rows["image_id"].tolist() == ["a", "b", "c"]
    assert found.rows["view"].tolist() == ["PA", "AP", "LATERAL"]
    assert found.rows["sex"].tolist() == ["F", "M", None]
    assert np.nan_to_num(found.rows["age"], nan=-1).tolist() == [63, 7, -1]
    assert found.split_how == {"how": "column split of the table", "films": {"train": 2, "test": 1}}
    assert found.root == three
    assert found.boxed == ()
    by_folder, _ = read(three)
    assert by_folder.rows.equals(found.rows)


@pytest.mark.parametrize("ontology", list_ontologies())
def test_the_template_imports_as_it_is(tmp_path: Path, ontology: str) -> None:
    text = template(load_ontology(ontology))
    (tmp_path / "films.csv").write_text(text)
    found, tally = read(tmp_path, ontology, allow_missing_images=True)
    assert tally.dropped == {}
    assert len(found.rows) == 3
    assert found.rows["split"].tolist() == ["train", "val", "test"]
    assert {1.0, 0.0, -1.0} <= set(found.stated.ravel().tolist())
    assert all(name in text.replace("\n# ", " ") for name in load_ontology(ontology).names)
    assert max(map(len, text.splitlines())) <= 120
    with pytest.raises(DataError, match=r"allow-missing-images"):
        read(tmp_path, ontology)


def spreadsheet(text: str, kind: str) -> bytes:
    """The table as spreadsheets of different countries save it."""
    if kind == "utf-16":
        return text.replace(",", "\t").encode("utf-16")
    if kind == "semicolon":
        return ("\ufeff" + text.replace(".0,", ",0,").replace(",", ";").replace("\n", "\r\n")).encode()
    if kind == "comments":
        return (
            "# a comment, quite long,\n" + '"# another, ""quoted""",,,,\n\n' + text.replace("\n", "\n#x,\n")
        ).encode()
    if kind == "ragged":
        return ("\ufeff" + text.replace("\n", ",,,\r\n") + ",,,,,,,,,,,\r\n,\r\n\r\n").encode()
    return text.encode()


@pytest.mark.parametrize("kind", ["plain", "utf-16", "semicolon", "comments", "ragged"])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_spreadsheets(three: Path, kind: str, suffix: str) -> None:
    before, _ = read(write(three, HEADER, *ROWS))
    (three / "films.csv").unlink()
    data = spreadsheet("\n".join([HEADER, *ROWS]) + "\n", kind)
    (three / f"films.{suffix}").write_bytes(gzip.compress(data) if suffix == "csv.gz" else data)
    after, tally = read(three)
    assert after.rows.equals(before.rows)
    assert np.array_equal(after.stated, before.stated, equal_nan=True)
    assert (tally.dropped, tally.notes) == ({}, [])


def test_decimal_commas_and_numbers_as_names(three: Path) -> None:
    rows = ["a.png;1,0;1,0;63,5", "b.png;2,0;-1,0;", "c.png;30,0;0,00;018M"]
    found, tally = read(write(three, "image_path;patient_id;Effusion;age", *rows))
    assert found.rows["patient_id"].tolist() == ["1", "2", "30"]
    assert labels(found) == {"a.png": [1], "b.png": [-1], "c.png": [0]}
    assert np.nan_to_num(found.rows["age"], nan=-1).tolist() == [63.5, -1, 1.5]
    assert tally.dropped == {}


def test_names_with_a_point_stay_where_not_all_are_numbers(three: Path) -> None:
    found, _ = read(write(three, "image_path,patient_id,Edema", "a.png,1.0,1", "b.png,1.1,1", "c.png,007,1"))
    assert found.rows["patient_id"].tolist() == ["1.0", "1.1", "007"]


def test_rounded_names_are_refused(three: Path) -> None:
    with pytest.raises(DataError, match=r"line 3: patient_id was rounded by a spreadsheet"):
        read(write(three, "image_path,patient_id,Edema", "a.png,17,1", "b.png,1.23457E+11,1"))


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("1", 1),
        ("1.0", 1),
        ("TRUE", 1),
        ("Yes", 1),
        ("0.0", 0),
        ("no", 0),
        ("-1", -1),
        ("N/A", UNKNOWN),
        (" ", UNKNOWN),
    ],
)
def test_cells(three: Path, cell: str, label: float) -> None:
    found, _ = read(write(three, "image_path,patient_id,Edema,Mass", f"a.png,1,{cell},1"))
    assert np.nan_to_num(found.stated, nan=UNKNOWN)[0, load_ontology("thorax").index("Edema")] == label


def test_wrong_cells_are_told_by_line_and_column_but_not_quoted(three: Path) -> None:
    rows = ["a.png,1,1,0", "b.png,2,John Doe,0", "c.png,3,0,2"]
    found, tally = read(write(three, "# comment", "image_path,patient_id,Edema,Mass", *rows))
    assert found.rows["image_path"].tolist() == ["a.png"]
    assert dropped(tally) == {"row has a cell that is none of 1, 0, -1 and empty": "2 line 4, column Edema"}
    with pytest.raises(DataError, match="no row whose cells"):
        read(write(three, "image_path,patient_id,Edema", "a.png,1,x"))


def test_rows_that_cannot_be_used_are_counted_by_line(three: Path) -> None:
    rows = ["a.png,1,1", ",2,1", "b.png,,1", "../x.png,3,1", "/etc/x.png,4,1", "C:\\x.png,5,1", "a.png,6,1"]
    rows += ["b.png,7,1,1", "missing.png,8,1", "c.png,9"]
    found, tally = read(write(three, "image_path,patient_id,Edema", *rows))
    assert found.rows["patient_id"].tolist() == ["1", "9"]
    assert dropped(tally) == {
        "row has more cells than the header": "1 line 9",
        "row has no image_path": "1 line 3",
        "image_path leads out of the table's folder": "3 line 5",
        "row has no patient_id": "1 line 4",
        "film is in an earlier row already": "1 line 8",
        "film is not in the folder": "1 missing.png",
    }


def test_paths_of_windows_and_whole_paths_into_the_folder(three: Path) -> None:
    film(three / "deep/d.png")
    rows = ["deep\\d.png,1,1", f"{three}/a.png,2,1", "./b.png,3,1", "deep/../c.jpg,4,1"]
    found, _ = read(write(three, "Image_Path,Patient ID,Edema", *rows))
    assert found.rows["image_path"].tolist() == ["deep/d.png", "a.png", "b.png", "c.png"]


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b"]), max_size=8))
def test_no_path_leads_out(parts: list[str]) -> None:
    clean = clean_path("/".join(parts), Path("/data"))
    if clean is not None:
        assert not clean.startswith(("/", ".."))
        assert (Path("/data") / "/".join(p for p in parts if p)).resolve() == (Path("/data") / clean).resolve()


@given(st.integers(-10_000, 10_000), st.integers(0, 4), st.sampled_from(".,"))
def test_numbers_in_both_writings(value: int, decimals: int, point: str) -> None:
    text = f"{value / 10**decimals:.{decimals}f}".replace(".", point)
    assert numbers(pd.Series([text, "x", ""], dtype="str"))[0] == pytest.approx(value / 10**decimals)


def test_columns_are_understood_or_named(three: Path) -> None:
    header = "image_path,patient_id,Pleural effusion,label:Edema,Efusion,Sexx,dataset"
    found, tally = read(write(three, header, "a.png,1,1,0,1,F,x"))
    assert found.labelled == ("Edema", "Effusion")
    assert tally.notes == [
        "column Efusion is left out: no finding of ontology thorax; did you mean 'Effusion'?",
        "column Sexx is left out: no finding of ontology thorax; did you mean 'sex'?",
        "column dataset is left out: no finding of ontology thorax",
    ]


def test_two_columns_of_one_finding(three: Path) -> None:
    found, _ = read(write(three, "image_path,patient_id,Effusion,Pleural_Effusion", "a.png,1,0,1", "b.png,1,0,"))
    assert labels(found) == {"a.png": [1], "b.png": [0]}


def test_odd_splits_views_and_sexes_are_noted(three: Path) -> None:
    rows = ["a.png,1,train,oblique,X,1", "b.png,2,holdout,PA,f,1", "c.png,3,,,,1"]
    found, tally = read(write(three, "image_path,patient_id,split,view,sex,Edema", *rows))
    assert found.rows["split"].tolist() == ["train", None, None]
    assert found.rows["view"].tolist() == ["UNKNOWN", "PA", "UNKNOWN"]
    assert found.rows["sex"].tolist() == [None, "F", None]
    assert noted(tally, "1 films have a split that is none of train, val, test (first: line 3)")
    assert noted(tally, "2 films have a view other than PA, AP and lateral: UNKNOWN (first: line 2)")
    assert not noted(tally, "OBLIQUE")
    assert noted(tally, "1 films have a sex that is neither M nor F")


def test_a_patient_in_two_splits_is_refused(three: Path) -> None:
    with pytest.raises(DataError, match=r"^1 patient is in more than one split, first: a\.png"):
        read(write(three, "image_path,patient_id,split,Edema", "a.png,1,train,1", "b.png,1,test,1"))


def test_an_empty_split_column_states_no_split(three: Path) -> None:
    found, _ = read(write(three, "image_path,patient_id,split,Edema", "a.png,1,,1", "b.png,1,,1"))
    assert found.split_how is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"image_path,patient_id,Edema\n", "no rows"),
        (b"path,patient_id,Edema\na.png,1,1\n", "no column 'image_path'"),
        (b"image_path,Edema\na.png,1\n", "no column 'patient_id'"),
        (b"image_path,patient_id\na.png,1\n", "no column of a finding"),
        (b"image_path,patient_id,Edema,Edema\na.png,1,1,0\n", "two columns 'Edema'"),
        (b"image_path,patient_id,Image_path\na.png,1,1\n", "two columns 'image_path'"),
        (b"image_path,patient_id,Edema\n../a.png,1,1\n", "no row that can be used"),
        (b'image_path,patient_id,Edema\n"a.png,1,1\n', "line 2"),
        (b"PK\x03\x04workbook", "a workbook"),
        (b"image\0path", "not text"),
    ],
)
def test_what_is_no_table(three: Path, data: bytes, message: str) -> None:
    (three / "films.csv").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read(three)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_letters_of_windows(three: Path) -> None:
    (three / "films.csv").write_bytes("image_path,patient_id,Edema\na.png,Zoë,1\n".encode("cp1252"))
    found, tally = read(three)
    assert found.rows["patient_id"].tolist() == ["Zoë"]
    assert noted(tally, "Windows-1252")


@pytest.mark.parametrize("said", ["sep=;", '"sep=;"', "SEP=;;;"])
def test_excels_first_line(three: Path, said: str) -> None:
    found, tally = read(write(three, said, "image_path;patient_id;Edema,Mass;Edema", "a.png;1;0;1", "b.png;;;1"))
    assert labels(found) == {"a.png": [1]}
    assert dropped(tally) == {"row has no patient_id": "1 line 4"}


def test_excels_first_line_may_say_what_no_header_does(three: Path) -> None:
    found, _ = read(write(three, "sep=|", "image_path|patient_id|Edema", "a.png|1,2|1"))
    assert found.rows["patient_id"].tolist() == ["1,2"]
    assert read_cells(write(three, "sep=\t", "a\tb,c", "1\t2", name="x.csv"), Tally()).columns.tolist() == ["a", "b,c"]


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("FileName,patient_id,Edema", "Did you mean 'FileName'? Rename it to image_path."),
        ("Image Index,path,patient_id,Edema", "Did you mean 'Image_Index' or 'path'? Rename it to image_path."),
        ("image_path,PatientID,Edema", "Did you mean 'PatientID'? Rename it to patient_id."),
        ("image_path,Subject-ID,Edema", "Did you mean 'Subject-ID'? Rename it to patient_id."),
        ("image_path,Edema", "Its columns: image_path, Edema."),
        ("films,Edema", "Its columns: films, Edema."),
    ],
)
def test_a_missing_column_may_have_another_name(three: Path, header: str, hint: str) -> None:
    with pytest.raises(DataError, match="no column") as caught:
        read(write(three, header, "a.png,1"))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)
    if "no column 'patient_id'" in str(caught.value):
        assert "copy image_path into patient_id" in caught.value.hint


def test_a_first_line_that_is_no_header_is_not_quoted(three: Path) -> None:
    with pytest.raises(DataError, match="no column 'image_path'") as caught:
        read(write(three, "a.png,Doe John,1", "b.png,Roe Jane,0"))
    assert "Doe" not in f"{caught.value} {caught.value.hint}"


def test_patients_by_a_pattern(three: Path) -> None:
    film(three / "P7_d.png")
    film(three / "P7_e.png")
    rows = ["P7_d.png,1", "P7_e.png,0", "a.png,1", "../b.png,1"]
    found, tally = read(write(three, "image_path,Edema", *rows), patient_pattern=r"(P\d+)_")
    assert found.rows["patient_id"].tolist() == ["P7", "P7", "a.png"]
    assert found.info["patient_pattern"] == r"(P\d+)_"
    assert noted(tally, "1 films name no patient (first: a.png)")
    assert dropped(tally) == {"image_path leads out of the table's folder": "1 line 5"}
    with pytest.raises(ConfigError, match="has a column 'patient_id'"):
        read(write(three, HEADER, *ROWS), patient_pattern="x")


def test_which_table(three: Path) -> None:
    with pytest.raises(DataError, match=r"no table \*\.csv"):
        read(three)
    write(three, HEADER, *ROWS)
    write(three, HEADER, *ROWS, name="more.csv")
    with pytest.raises(DataError, match=r"2 tables: films\.csv, more\.csv"):
        read(three)


def test_lines_are_the_lines_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "# one", "", "a,b", '"x', 'y",1', "# six", "z,2")
    table = read_cells(path, Tally())
    assert table.index.tolist() == [4, 7]
    assert table["a"].tolist() == ["x\ny", "z"]

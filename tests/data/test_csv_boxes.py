"""Boxes of one's own, and what they say of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from csv_films import HEADER, ROWS, UNKNOWN, dropped, film, labels, noted, read, write

from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name in "abc":
        film(tmp_path / f"{name}.png")
    return tmp_path


BOXES = "image_path,finding,x1,y1,x2,y2"


def test_boxes_in_the_frame_of_the_file(three: Path) -> None:
    write(three, HEADER, *ROWS)
    write(
        three,
        BOXES + ",reader",
        "a.png,Pleural Effusion,10,20,30.5,80,R1",
        "c.png,Mass,0,0,5,5,",
        "b.png",
        name="boxes.csv",
    )
    found, tally = read(three)
    assert tally.dropped == {}
    assert found.rows["boxes"].tolist() == [
        (Box("Effusion", 10, 20, 30.5, 80, "R1"),),
        (),
        (Box("Mass", 0, 0, 5, 5, ""),),
    ]
    assert found.rows["boxes_exhaustive"].tolist() == [False, True, False]
    assert found.rows[["width", "height"]].astype(object).to_numpy()[[0, 2]].tolist() == [[100, 80], [100, 80]]
    assert found.rows["width"].isna().tolist() == [False, True, False]
    assert found.boxed == ("Mass", "Effusion")
    assert found.labelled == ("No Finding", "Support Devices", "Mass", "Effusion")
    # A box says that its finding is present; of the others it says nothing, but b.png is a normal film.
    mass = found.stated[:, load_ontology("thorax").index("Mass")]
    assert np.nan_to_num(mass, nan=UNKNOWN).tolist() == [UNKNOWN, 0, 1]
    assert found.info["box_file"] == "boxes.csv"


def test_boxes_drawn_on_another_size(three: Path) -> None:
    write(three, HEADER, *ROWS)
    rows = ["a.png,Effusion,500,20,900,80,1000,800", "a.png,Mass,5,2,9,8,100,80", "b.png,Mass,500,20,900,80,,"]
    write(three, BOXES + ",width,height", *rows, name="boxes.csv")
    found, tally = read(three)
    assert found.rows["boxes"].tolist() == [(Box("Effusion", 500, 20, 900, 80),), (), ()]
    assert found.rows["width"].tolist()[0] == 1000
    assert dropped(tally) == {
        "box is in another frame than the first box of its film": "1 line 3",
        "box reaches out of its film (drawn on another size? then give width and height)": "1 line 4",
    }


def test_exhaustive_but_not_where_a_box_was_lost(three: Path) -> None:
    write(three, HEADER, *ROWS)
    write(three, BOXES, "a.png,Mass,1,1,5,5", "b.png,Mass,5,5,5,9", "b.png,,,,,", name="drawn.csv")
    found, _ = read(three / "films.csv", boxes=three / "drawn.csv", exhaustive=True)
    assert found.rows["boxes_exhaustive"].tolist() == [True, False, True]  # c.png is in no row of drawn.csv


@pytest.mark.parametrize("exhaustive", [False, True])
def test_not_exhaustive_where_a_boxed_finding_is_there_without_a_box(tmp_path: Path, exhaustive: bool) -> None:
    """Nodule is a Lung Lesion, and Lung Lesion has a box on f.png alone."""
    for name in "abcdef":
        film(tmp_path / f"{name}.png")
    rows = ["a.png,1,1,,", "b.png,2,0,,", "c.png,3,,1,", "d.png,4,-1,,", "e.png,5,,,1", "f.png,6,1,,"]
    write(tmp_path, "image_path,patient_id,Mass,Nodule,Effusion", *rows)
    drawn = ["f.png,Mass,1,1,5,5", "f.png,Lung Lesion,1,1,5,5", *(f"{name}.png" for name in "abcdef")]
    write(tmp_path, BOXES, *drawn, name="boxes.csv")
    found, tally = read(tmp_path, exhaustive=exhaustive)
    assert found.boxed == ("Lung Lesion", "Mass")
    assert dict(zip("abcdef", found.rows["boxes_exhaustive"], strict=True)) == {
        "a": False,  # Mass, no box
        "b": True,
        "c": False,  # Nodule, so Lung Lesion
        "d": False,  # perhaps Mass
        "e": True,  # nobody boxes Effusion
        "f": True,
    }
    why = "3 films that were searched show, or may show, a boxed finding without a box (first: a.png)"
    assert noted(tally, f"{why}: boxes not exhaustive")


def test_every_film_may_have_been_searched(three: Path) -> None:
    write(three, HEADER, *ROWS)
    write(three, BOXES, "a.png,Mass,1,1,5,5", "b.png,Jane Roe,1,1,5,5", name="boxes.csv")
    found, tally = read(three, exhaustive=True)
    assert found.rows["boxes_exhaustive"].tolist() == [True, False, True]
    assert noted(tally, "1 films that were searched lost a box (first: b.png): boxes not exhaustive")
    assert "Roe" not in f"{tally}"
    (three / "boxes.csv").unlink()
    found, tally = read(three, exhaustive=True)
    assert "boxes_exhaustive" not in found.rows
    assert noted(tally, "--exhaustive says nothing")


@pytest.mark.parametrize("size", ["1e999", "99999999999", "65536", "0", "-3", "10.5", "", "wide"])
def test_sizes_that_no_film_has(three: Path, size: str) -> None:
    write(three, HEADER, *ROWS)
    rows = [f"a.png,Mass,1,1,5,5,{size},80", "a.png,Mass,1,1,5,5,65535,65535.0", "b.png,,,,,,,"]
    write(three, BOXES + ",width,height", *rows, name="boxes.csv")
    found, tally = read(three)
    assert dropped(tally) == {"box has a width or height that is no whole number from 1 to 65,535": "1 line 2"}
    assert found.rows["boxes"].map(len).tolist() == [1, 0, 0]
    assert found.rows["width"].tolist()[0] == 65535
    assert found.rows["boxes_exhaustive"].tolist() == [False, True, False]


def test_boxes_that_cannot_be_used(three: Path) -> None:
    write(three, HEADER, *ROWS)
    rows = [
        "z.png,Mass,1,1,5,5",
        "a.png,Cat,1,1,5,5",
        "a.png,Mass,1,1,5,",
        "a.png,Mass,5,1,5,9",
        "a.png,No Finding,1,1,5,5",
    ]
    write(three, BOXES, *rows, name="boxes.csv")
    found, tally = read(three)
    assert found.boxed == ()
    assert dropped(tally) == {
        "box of a film that was left out or is in no row": "1 line 2",
        "box of what is no finding with a place in ontology thorax": "2 line 3",
        "box is not four numbers": "1 line 4",
        "box has no area": "1 line 5",
    }


def test_a_box_that_the_table_denies(three: Path) -> None:
    write(three, "image_path,patient_id,Mass", "a.png,1,0", "b.png,2,-1", "c.png,3,")
    write(three, BOXES, *(f"{name}.png,Mass,1,1,5,5" for name in "abc"), name="boxes.csv")
    found, tally = read(three)
    assert labels(found) == {"a.png": [0], "b.png": [-1], "c.png": [1]}
    assert noted(tally, "1 findings have a box on a film where the table calls them absent (first: a.png Mass)")


def test_boxes_alone_are_a_reason_to_import(three: Path) -> None:
    write(three, "image_path,patient_id", "a.png,1", "b.png,2")
    write(three, BOXES, "a.png,Mass,1,1,5,5", name="boxes.csv")
    found, _ = read(three)
    assert found.labelled == found.boxed == ("Mass",)


def test_real_films(tmp_path: Path, real_films: Path) -> None:
    """NIH's own films and boxes written as the template asks for come back the same."""
    from cxr_mtl.data.sources import import_source

    known, _ = import_source("nih", real_films / "nih", ontology="nih14")
    table = known.table[known.table["boxes"].map(len) > 0].head(40)
    (tmp_path / "images").symlink_to(real_films / "nih/images", target_is_directory=True)
    names = known.ontology.names
    lines = [",".join(["image_path", "patient_id", "age", *names])]
    drawn = [BOXES + ",width,height"]
    for _, row in table.iterrows():
        marks = ["" if np.isnan(row[f"label:{name}"]) else f"{row[f'label:{name}']:g}" for name in names]
        lines.append(",".join([row["image_path"], row["patient_id"], str(row["age"]), *marks]))
        drawn += [
            f"{row['image_path']},{b.finding},{b.x1!r},{b.y1!r},{b.x2!r},{b.y2!r},1024,1024" for b in row["boxes"]
        ]
    write(tmp_path, *lines)
    write(tmp_path, *drawn, name="boxes.csv")
    found, tally = read(tmp_path, "nih14")
    assert tally.dropped == {}
    assert np.array_equal(found.stated, table[[f"label:{n}" for n in names]].to_numpy(np.float32), equal_nan=True)
    assert found.rows["boxes"].tolist() == table["boxes"].tolist()
    assert found.rows["age"].tolist() == table["age"].tolist()

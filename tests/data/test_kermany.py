"""The paediatric set in every layout that it is handed about in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.kermany import read_kermany
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import load_ontology

FILMS = {
    "train/NORMAL/IM-0115-0001": "N-0115",
    "train/NORMAL/IM-0491-0001-0002": "N-0491",
    "train/NORMAL/NORMAL2-IM-0383-0001": "N2-0383",
    "train/PNEUMONIA/person62_bacteria_300": "person62_bacteria",
    "train/PNEUMONIA/person62_bacteria_301": "person62_bacteria",
    "train/PNEUMONIA/person80_virus_150": "person80_virus",
    "test/NORMAL/IM-0001-0001": "N-0001",
    "test/PNEUMONIA/person62_virus_119": "person62_virus",
    "test/PNEUMONIA/person80_bacteria_389": "person80_bacteria",
}


def lay(root: Path, films: object = FILMS, below: str = "", suffix: str = ".jpeg") -> Path:
    for name in films:  # type: ignore[attr-defined]
        path = root / below / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def read(root: Path, ontology: str = "kermany", **options: bool) -> tuple[Found, Tally]:
    tally = Tally()
    return read_kermany(root, load_ontology(ontology), tally, **options), tally


def labels(found: Found) -> dict[str, list[float]]:
    """Image -> labels in the ontology's order; unknown is -9."""
    return dict(zip(found.rows["image_id"], np.nan_to_num(found.stated, nan=-9).tolist(), strict=True))


def dropped(tally: Tally) -> dict[str, int]:
    return {reason: lost.count for reason, lost in tally.dropped.items()}


@pytest.mark.parametrize("below", ["", "chest_xray", "ChestXRay2017/chest_xray"])
def test_folders_at_any_level(tmp_path: Path, below: str) -> None:
    found, tally = read(lay(tmp_path, below=below))
    assert tally.dropped == {}
    by_name = found.rows.set_index("image_id")
    assert dict(by_name["patient_id"]) == {name.rpartition("/")[2]: child for name, child in FILMS.items()}
    assert dict(by_name["split"]) == {name.rpartition("/")[2]: name.partition("/")[0] for name in FILMS}
    assert all((tmp_path / path).is_file() for path in found.rows["image_path"])
    assert set(found.rows["view"]) == {"AP"}
    assert found.rows["age"].isna().all()
    assert found.rows["sex"].isna().all()
    assert found.split_how == {"how": "official folders", "films": {"train": 6, "test": 3}}
    assert found.labelled == ("Normal", "Pneumonia", "Bacterial", "Viral")


def test_a_closed_world_of_three(tmp_path: Path) -> None:
    found, _ = read(lay(tmp_path))
    table = labels(found)
    assert table["IM-0115-0001"] == [1, 0, 0, 0]
    assert table["person62_bacteria_300"] == [0, 1, 1, 0]
    assert table["person62_virus_119"] == [0, 1, 0, 1]


def test_thorax_has_a_word_for_each_and_knows_nothing_else(tmp_path: Path) -> None:
    found, _ = read(lay(tmp_path), "thorax")
    known = np.flatnonzero(~np.isnan(found.stated).all(axis=0))
    assert [load_ontology("thorax").names[column] for column in known] == ["No Finding", "Pneumonia"]
    films = found.rows["image_id"].tolist()
    assert found.stated[films.index("person80_virus_150"), known].tolist() == [0, 1]
    assert found.stated[films.index("NORMAL2-IM-0383-0001"), known].tolist() == [1, 0]
    assert found.labelled == ("No Finding", "Pneumonia")


def test_version_3_names_carry_the_childs_number(tmp_path: Path) -> None:
    films = [
        "train/PNEUMONIA/BACTERIA-1008087-0001",
        "train/PNEUMONIA/VIRUS-1008087-0002",
        "test/NORMAL/NORMAL-115218-0001",
    ]
    found, _ = read(lay(tmp_path, films))
    assert sorted(found.rows["patient_id"]) == ["1008087", "1008087", "115218"]
    assert labels(found)["VIRUS-1008087-0002"] == [0, 1, 0, 1]
    assert found.split_how is not None


def test_a_child_in_train_and_test_ends_the_official_split(tmp_path: Path) -> None:
    found, tally = read(lay(tmp_path, [*FILMS, "test/PNEUMONIA/person62_bacteria_302"]))
    assert found.split_how is None
    assert "split" not in found.rows
    assert any(
        note.startswith("1 children are in more than one") and "person62_bacteria" in note for note in tally.notes
    )
    assert len(found.rows) == 10


def test_kaggles_sixteen_go_back_to_train(tmp_path: Path) -> None:
    found, tally = read(
        lay(tmp_path, [*FILMS, "val/NORMAL/NORMAL2-IM-1427-0001", "val/PNEUMONIA/person62_bacteria_304"])
    )
    assert found.rows["split"].value_counts().to_dict() == {"train": 8, "test": 3}
    assert any(note.startswith("the 2 films of the validation folder") for note in tally.notes)


def test_a_validation_folder_of_use_stays(tmp_path: Path) -> None:
    films = [*FILMS, *(f"val/NORMAL/NORMAL2-IM-{number:04}-0001" for number in range(1000, 1100))]
    found, _ = read(lay(tmp_path, films))
    assert found.rows["split"].value_counts().to_dict() == {"val": 100, "train": 6, "test": 3}


def test_kaggles_archive_holds_everything_twice(tmp_path: Path) -> None:
    lay(lay(tmp_path, below="chest_xray"), below="chest_xray/chest_xray")
    lay(tmp_path, below="chest_xray/__MACOSX")
    (tmp_path / "chest_xray/train/NORMAL/._IM-0115-0001.jpeg").touch()
    (tmp_path / "chest_xray/train/NORMAL/.DS_Store").touch()
    found, tally = read(tmp_path)
    assert len(found.rows) == 9
    assert dropped(tally) == {"film is in a second copy of the set": 9}
    assert not found.rows["image_path"].str.startswith("chest_xray/chest_xray").any()


def test_every_film_that_is_left_out_is_counted(tmp_path: Path) -> None:
    lay(tmp_path, [*FILMS, "train/NORMAL/person9_virus_9", "train/PNEUMONIA/NORMAL-5-0001", "train/stray"])
    (tmp_path / "train/NORMAL/notes.txt").touch()
    found, tally = read(tmp_path)
    assert len(found.rows) == 9
    assert dropped(tally) == {"film is in no folder NORMAL or PNEUMONIA": 1, "name and folder contradict each other": 2}
    assert any("1 files are no films" in note and "notes.txt" in note for note in tally.notes)


def test_a_renamed_film_has_no_germ_and_no_siblings(tmp_path: Path) -> None:
    found, tally = read(lay(tmp_path, [*FILMS, "train/PNEUMONIA/0001", "train/NORMAL/0002"], suffix=".png"))
    table = labels(found)
    assert table["0001"] == [0, 1, -9, -9]
    assert table["0002"] == [1, 0, 0, 0]
    assert {"0001", "0002"} < set(found.rows["patient_id"])
    assert any(note.startswith("2 films have a name that is not the set's") for note in tally.notes)


def test_germ_folders_and_no_split(tmp_path: Path) -> None:
    found, _ = read(lay(tmp_path, ["normal/a", "Bacterial/b", "VIRUS/c"]))
    assert found.split_how is None
    assert labels(found) == {"a": [1, 0, 0, 0], "b": [0, 1, 1, 0], "c": [0, 1, 0, 1]}


@pytest.mark.parametrize("films", [[], ["train/a"], ["train/CAT/a"]])
def test_what_is_not_the_set(tmp_path: Path, films: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read(lay(tmp_path, films))
    assert "mendeley" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_the_shared_copy(real_films: Path) -> None:
    root = real_films / "kermany"
    found, tally = read(root)
    table = pd.read_csv(root / "labels.csv", dtype=str)
    assert tally.dropped == {}
    assert found.split_how is None
    assert len(found.rows) == len(table) == 890
    assert dict(zip(found.rows["image_path"], found.rows["patient_id"], strict=True)) == dict(
        zip("images/" + table["file"], table["patient_id"], strict=True)
    )
    assert (found.stated == 1).sum(axis=0).tolist() == [330, 560, 272, 288]
    assert not np.isnan(found.stated).any()
    paths = table["hier_path"].str.split("/")
    truth = [[float(name in path) for name in load_ontology("kermany").names] for path in paths]
    assert found.stated.tolist() == truth


def shared(tmp_path: Path, rows: list[str]) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_text("\n".join(["file,hier_path,patient_id,width,height", *rows]))
    return tmp_path


def test_rows_of_the_table_that_cannot_be_used(tmp_path: Path) -> None:
    good = "IM-0001-0001.jpg,Normal,N-0001,9,9"
    rows = [good, good, "a.jpg,Cat,p,9,9", "b.jpg,Normal,,9,9", "person1_virus_1.jpg,Normal,p,9,9"]
    rows += ["missing.jpg,Pneumonia/Viral,p,9,9", "c.jpg,Pneumonia,p,9,9"]
    root = shared(tmp_path, rows)
    for name in ("IM-0001-0001.jpg", "c.jpg"):
        (root / "images" / name).touch()
    found, tally = read(root)
    assert found.rows["image_id"].tolist() == ["IM-0001-0001", "c"]
    assert dropped(tally) == {
        "row has no film or patient": 1,
        "row has a class that is none of the set's": 1,
        "name and class contradict each other": 1,
        "film is in an earlier row already": 1,
        "film is not in the folder": 1,
    }
    both, _ = read(root, allow_missing_images=True)
    assert len(both.rows) == 3

"""Films of one's own in folders: every layout, and the trap of a film that lies in several of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.own.copies import same_files
from cxr_mtl.data.sources.own.folders import read_folders
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import load_ontology

UNKNOWN = -9.0


def lay(root: Path, films: dict[str, str]) -> Path:
    """Path -> what the file holds; the pictures themselves are never opened."""
    for name, content in films.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def each(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def read(root: Path, ontology: str = "thorax", **options: object) -> tuple[Found, Tally]:
    tally = Tally()
    return read_folders(root, load_ontology(ontology), tally, **options), tally  # type: ignore[arg-type]


def labels(found: Found, ontology: str = "thorax") -> dict[str, dict[str, float]]:
    """Path -> the findings that are known of any film; unknown is -9."""
    names, known = load_ontology(ontology).names, np.flatnonzero((found.stated >= -1).any(axis=0))
    marks = np.nan_to_num(found.stated, nan=UNKNOWN)
    return {
        path: {names[column]: float(row[column]) for column in known}
        for path, row in zip(found.rows["image_path"], marks, strict=True)
    }


def values(film: dict[str, float]) -> list[float]:
    return list(film.values())


def dropped(tally: Tally) -> dict[str, int]:
    return {reason: lost.count for reason, lost in tally.dropped.items()}


def noted(tally: Tally, text: str) -> bool:
    return any(text in note for note in tally.notes)


def test_a_folder_says_nothing_of_the_others(tmp_path: Path) -> None:
    found, tally = read(lay(tmp_path, each("Effusion/a.png", "Pleural_Thickening/b.png", "pneumothorax/deep/er/c.jpg")))
    table = labels(found)
    assert table["Effusion/a.png"] == {
        "Effusion": 1,
        "Pneumothorax": UNKNOWN,
        "Pleural Thickening": UNKNOWN,
    }
    assert np.nansum(found.stated) == 3
    assert found.labelled == ("Effusion", "Pneumothorax", "Pleural Thickening")
    assert found.split_how is None
    assert noted(tally, "no folder says of any film that it lacks Effusion, Pneumothorax, Pleural Thickening")
    assert noted(tally, "EACH COUNTS AS A PATIENT OF ITS OWN")
    assert tally.dropped == {}


@pytest.mark.parametrize("normal", ["healthy", "NORMAL", "no_finding", "No Finding", "No-Finding"])
def test_a_normal_folder_makes_absent_what_the_folders_name(tmp_path: Path, normal: str) -> None:
    found, _ = read(lay(tmp_path, each("Effusion/a.png", "Support_Devices/b.png", f"{normal}/c.png")))
    table = labels(found)
    assert table[f"{normal}/c.png"] == {"No Finding": 1, "Support Devices": UNKNOWN, "Effusion": 0}
    assert table["Effusion/a.png"] == {"No Finding": 0, "Support Devices": UNKNOWN, "Effusion": 1}
    # Tubes may cross a normal film.
    assert table["Support_Devices/b.png"] == {
        "No Finding": UNKNOWN,
        "Support Devices": 1,
        "Effusion": UNKNOWN,
    }
    assert found.labelled == ("No Finding", "Support Devices", "Effusion")


def test_exclusive_folders_deny_each_other_but_not_what_they_imply(tmp_path: Path) -> None:
    root = lay(tmp_path, each("Effusion/a.png", "Pneumonia/b.png", "Lung Opacity/c.png", "Normal/d.png"))
    found, tally = read(root, exclusive=True)
    table = labels(found)
    assert list(table["Normal/d.png"]) == ["No Finding", "Lung Opacity", "Pneumonia", "Effusion"]
    assert values(table["Effusion/a.png"]) == [0, 0, 0, 1]
    assert values(table["Pneumonia/b.png"]) == [0, UNKNOWN, 1, 0]
    assert values(table["Lung Opacity/c.png"]) == [0, 1, 0, 0]
    assert values(table["Normal/d.png"]) == [1, 0, 0, 0]
    assert not noted(tally, "no folder says")
    assert found.info["exclusive"] is True


def test_split_folders(tmp_path: Path) -> None:
    root = lay(
        tmp_path, each("set/train/Edema/a.png", "set/valid/Edema/b.png", "set/test/Edema/c.png", "set/x/Edema/d.png")
    )
    found, _ = read(root)
    splits = dict(zip(found.rows["image_id"], found.rows["split"], strict=True))
    assert splits == {"a": "train", "b": "val", "c": "test", "d": None}
    assert found.split_how == {"how": "folders", "films": {"train": 1, "val": 1, "test": 1}}


@pytest.mark.parametrize(("train", "valid"), [("train/", "valid/"), ("", "")])
def test_the_chexpert_relayout(tmp_path: Path, train: str, valid: str) -> None:
    """A study copied into a folder of every disease: one film, with the union of what they say."""
    film, other = "patient00001/study1/view1_frontal.jpg", "patient00002/study1/view1_frontal.jpg"
    root = lay(
        tmp_path,
        {
            f"{train}Pleural_Effusion/disease/{film}": "one",
            f"{train}Edema/no_finding/{film}": "one",
            f"{train}Cardiomegaly/disease/{film}": "one",
            f"{train}Edema/disease/patient00001/study2/view2_lateral.jpg": "two",
            f"{valid}Edema/no_finding/{other}": "three",
            f"{valid}healthy/patient00003/study1/view1_frontal.jpg": "four",
            "train.csv": "Path",
        },
    )
    found, tally = read(root)
    who = found.rows["patient_id"] + found.rows["view"].str[:1]
    table = dict(zip(who, labels(found).values(), strict=True))
    assert list(table["chexpert:patient00001U"]) == ["No Finding", "Edema", "Effusion", "Cardiomegaly"]
    assert values(table["chexpert:patient00001U"]) == [0, 0, 1, 1]
    assert values(table["chexpert:patient00001L"]) == [0, 1, UNKNOWN, UNKNOWN]
    assert values(table["chexpert:patient00002U"]) == [UNKNOWN, 0, UNKNOWN, UNKNOWN]  # not a normal film
    assert values(table["chexpert:patient00003U"]) == [1, 0, 0, 0]
    assert found.rows["image_id"].is_unique
    assert set(found.rows["study_id"]) == {f"patient0000{p}_study{s}" for p, s in ((1, 1), (1, 2), (2, 1), (3, 1))}
    assert noted(tally, "2 files are copies of another")
    assert noted(tally, "1 files are no films")
    assert ("split" in found.rows) == bool(train)


def test_folders_that_contradict_each_other_leave_the_label_open(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        {
            "Edema/disease/a.png": "1",
            "Edema/no_finding/a.png": "1",
            "Effusion/disease/a.png": "1",
            "Effusion/disease/b.png": "2",
            "healthy/b.png": "2",
        },
    )
    found, tally = read(root)
    table = labels(found)
    assert list(table["Edema/disease/a.png"]) == ["No Finding", "Edema", "Effusion"]
    # a: edema is disputed; the effusion is not. b: normal and not normal, with and without an effusion.
    assert values(table["Edema/disease/a.png"]) == [0, UNKNOWN, 1]
    assert values(table["Effusion/disease/b.png"]) == [UNKNOWN, 0, UNKNOWN]
    assert dropped(tally) == {"label that one folder of a film states and another denies": 3}


def test_same_name_but_other_bytes_are_two_films(tmp_path: Path) -> None:
    found, _ = read(lay(tmp_path, {"Edema/1.png": "ab", "Mass/1.png": "cd", "Mass/1.jpg": "efg", "Mass/2.png": "hijk"}))
    assert sorted(found.rows["image_id"]) == ["2", "Edema/1", "Mass/1.jpg", "Mass/1.png"]
    assert len(found.rows) == 4


def test_a_film_in_two_splits_is_refused_with_count_and_first(tmp_path: Path) -> None:
    root = lay(
        tmp_path, {"train/Edema/a.png": "1", "test/Mass/b.png": "1", "val/Mass/c.png": "22", "train/Mass/c.png": "22"}
    )
    with pytest.raises(DataError) as caught:
        read(root)
    assert caught.value.message == "2 films are in more than one split, first: test/Mass/b.png and train/Edema/a.png."


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    root = lay(tmp_path, each("train/Edema/00000007_000.png", "test/Edema/00000007_001.png"))
    with pytest.raises(DataError, match=r"^1 patient is in more than one split, first: te"):
        read(root)
    found, _ = read(root, patient_pattern=r"[^/]+$")  # the user knows better
    assert found.split_how is not None


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("00000012_003.png", "nih:12"),
        ("p10/p10000032/s50414267/02aa804e.jpg", "mimic:10000032"),
        ("p10000032/s50414267/02aa804e.jpg", "mimic:10000032"),
        ("patient00001/study1/view1_frontal.jpg", "chexpert:patient00001"),
        ("patient00001_study1_view1_frontal.jpg", "chexpert:patient00001"),
        ("person12_virus_48.jpeg", "kermany:person12_virus"),
        ("NORMAL2-IM-0115-0001.jpeg", "kermany:N2-0115"),
        ("scan:1.png", "scan_1"),
        ("100000032_003.png", "100000032_003"),
    ],
)
def test_patients_of_public_sets(tmp_path: Path, name: str, patient: str) -> None:
    found, _ = read(lay(tmp_path, each(f"Pneumonia/{name}")))
    assert found.rows["patient_id"].tolist() == [patient]


def test_a_pattern_of_ones_own(tmp_path: Path) -> None:
    root = lay(tmp_path, each("Edema/case1-a.png", "Edema/case1-b.png", "Mass/case22-a.png", "Mass/odd.png"))
    found, tally = read(root, patient_pattern=r"(case\d+)-")
    assert found.rows["patient_id"].tolist() == ["case1", "case1", "case22", "odd"]
    assert noted(tally, "1 films name no patient (first: odd)")
    whole, _ = read(root, patient_pattern=r"case\d+")
    assert whole.rows["patient_id"].tolist() == ["case1", "case1", "case22", "odd"]


def test_one_film_of_several_patients_is_told(tmp_path: Path) -> None:
    films = {"Edema/00000001_000.png": "1", "Mass/00000002_000.png": "1", "Mass/00000001_000.png": "1"}
    found, tally = read(lay(tmp_path, films))
    assert found.rows["patient_id"].tolist() == ["nih:1"]
    assert noted(tally, "1 films carry the names of several patients (first: Edema/00000001_000.png and Mass/0")
    _, same = read(tmp_path, patient_pattern="0000000")
    assert not noted(same, "several patients")


@pytest.mark.parametrize("pattern", ["(", "nothing like this"])
def test_a_pattern_that_cannot_be_meant(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(lay(tmp_path, each("Edema/a.png")), patient_pattern=pattern)
    assert caught.value.hint


def test_folders_that_mean_nothing_are_named_and_counted(tmp_path: Path) -> None:
    root = lay(tmp_path, each("Edema/a.png", "Efusion/b.png", "Efusion/c.png", "COVID/d.png", "e.png"))
    (root / "Edema/empty.png").touch()
    found, tally = read(root)
    assert found.rows["image_path"].tolist() == ["Edema/a.png"]
    assert dropped(tally) == {
        "folder Efusion is no finding of ontology thorax (did you mean 'Effusion'?)": 2,
        "folder COVID is no finding of ontology thorax": 1,
        "film is in no folder with the name of a finding": 1,
        "file is empty": 1,
    }


def test_many_strange_folders_do_not_flood_the_report(tmp_path: Path) -> None:
    _, tally = read(lay(tmp_path, each("Edema/a.png", *(f"x{n:02}/a.png" for n in range(40)))))
    assert len(tally.dropped) == 11
    assert sum(dropped(tally).values()) == 40


def test_no_folder_is_understood(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(lay(tmp_path, each("Efusion/b.png", "cats/d.png")))
    assert caught.value.message.endswith("thorax: Efusion, cats.")
    assert caught.value.hint.startswith("Did you mean 'Effusion'? Findings: No Finding, ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("films", [{}, {"Edema/a.txt": "text"}, {"Edema/a.png": ""}])
def test_no_film(tmp_path: Path, films: dict[str, str]) -> None:
    with pytest.raises(DataError):
        read(lay(tmp_path, films))


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    lay(tmp_path, each("store/a.png", "data/Mass/b.png"))
    (tmp_path / "data/Edema").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "data/Mass/up").symlink_to(tmp_path / "data", target_is_directory=True)
    found, _ = read(tmp_path / "data")
    assert found.rows["image_path"].tolist() == ["Edema/a.png", "Mass/b.png"]


def test_dicom_by_content(tmp_path: Path) -> None:
    lay(tmp_path, each("Mass/1.2.840.113", "Mass/b.png"))
    (tmp_path / "Mass/1.2.840.114").write_bytes(b"\0" * 128 + b"DICM and more")
    found, tally = read(tmp_path)
    assert found.rows["image_path"].tolist() == ["Mass/1.2.840.114", "Mass/b.png"]
    assert noted(tally, "1 files are no films")


def test_the_kermany_folders_in_its_own_ontology(tmp_path: Path) -> None:
    root = lay(tmp_path, each("NORMAL/a.png", "Pneumonia/Viral/b.png", "Pneumonia/Bacterial/c.png"))
    table = labels(read(root, "kermany")[0], "kermany")
    assert values(table["Pneumonia/Viral/b.png"]) == [0, 1, UNKNOWN, 1]
    assert values(table["NORMAL/a.png"]) == [1, 0, 0, 0]


def test_same_files_are_those_of_the_same_bytes(tmp_path: Path) -> None:
    long = "x" * 70_000
    films = {"a": "1", "b": "2", "c": "1", "d": long + "1", "e": long + "2", "f": long + "1", "g": ""}
    assert same_files(lay(tmp_path, films), list(films)) == [["a", "c"], ["b"], ["d", "f"], ["e"], ["g"]]


def test_real_films_sorted_by_hand(tmp_path: Path, real_films: Path) -> None:
    """NIH's films copied into a folder for each of their labels come back with NIH's own labels."""
    table = pd.read_csv(real_films / "nih/Data_Entry_2017_v2020.csv", dtype=str).head(60)
    ontology = load_ontology("nih14")
    for name, text in zip(table["Image Index"], table["Finding Labels"], strict=True):
        film = real_films / "nih/images" / name.replace(".png", ".jpg")
        for label in text.split("|"):
            (tmp_path / label.replace(" ", "_")).mkdir(exist_ok=True)
            shutil.copy(film, tmp_path / label.replace(" ", "_") / film.name)
    found, tally = read(tmp_path, "nih14")
    assert tally.dropped == {}
    truth = {
        name.removesuffix(".png"): {ontology.find("nih", label) for label in text.split("|")}
        for name, text in zip(table["Image Index"], table["Finding Labels"], strict=True)
    }
    for image, patient, stated in zip(found.rows["image_id"], found.rows["patient_id"], found.stated, strict=True):
        assert {name for name, value in zip(ontology.names, stated, strict=True) if value == 1} == truth[image]
        assert patient == f"nih:{int(image[:8])}"
    assert len(found.rows) == 60

"""PadChest's table in the shapes it comes in, its words one by one, and the real table against its own UMLS codes."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxr_mtl.data.read import read_image
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.padchest import read_padchest
from cxr_mtl.data.sources.padchest_words import NORMAL, REMARKS, WORDS, read_listed
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology, load_ontology

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
PATIENT = "8398604886942923316379882356{:08d}"
THORAX = load_ontology("thorax")


def row(number: int, labels: object, **cells: str) -> dict[str, str]:
    """A row as BIMCV writes it: ids of many digits, a year of birth with a decimal, missing values as nan."""
    return {
        "": str(number),
        "ImageID": f"20536686640136348236148679891455886468_film{number}.png",
        "ImageDir": str(number % 3),
        "StudyDate_DICOM": "20140915",
        "StudyID": f"2053668664013634823614867989145588{number:08d}",
        "PatientID": PATIENT.format(number),
        "PatientBirth": "1930.0",
        "PatientSex_DICOM": "F",
        "Projection": "PA",
        "MethodLabel": "Physician",
        "Labels": str(labels),
    } | cells


def write(root: Path, rows: list[dict[str, str]]) -> Path:
    root.mkdir(exist_ok=True)
    with (root / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def read(
    root: Path, ontology: Ontology = THORAX, *, allow_missing_images: bool = True, labels: str = "all"
) -> tuple[Found, Tally]:
    tally = Tally()
    found = read_padchest(root, ontology, tally, allow_missing_images=allow_missing_images, labels=labels)
    assert len(found.rows) == len(found.stated)
    assert found.rows.index.tolist() == list(range(len(found.rows)))
    return found, tally


def states(root: Path, labels: object, ontology: Ontology = THORAX) -> dict[str, float]:
    """What a film with these labels states; findings that it leaves unknown are not in it."""
    found, _ = read(write(root, [row(0, labels)]), ontology)
    return {name: float(v) for name, v in zip(ontology.names, found.stated[0], strict=True) if not math.isnan(v)}


def dropped(tally: Tally) -> dict[str, int]:
    return {reason: one.count for reason, one in tally.dropped.items()}


def test_a_row_becomes_a_film(tmp_path: Path) -> None:
    found, tally = read(write(tmp_path, [row(4, ["normal"])]))
    one = found.rows.iloc[0]
    assert one["image_path"] == "1/20536686640136348236148679891455886468_film4.png"
    assert one["image_id"] == "20536686640136348236148679891455886468_film4"
    assert one["patient_id"] == PATIENT.format(4)
    assert one["study_id"] == "205366866401363482361486798914558800000004"
    assert (one["view"], one["age"], one["sex"]) == ("PA", 84.0, "F")
    assert tally.dropped == {}
    assert found.split_how is None
    assert found.boxed == ()
    assert found.info["methods"] == {"Physician": 1}
    assert set(found.labelled) == set(THORAX.labelled_by("padchest"))


def test_what_is_not_listed_is_absent_and_what_padchest_does_not_label_is_unknown(tmp_path: Path) -> None:
    stated = states(tmp_path, ["pleural effusion", " COPD signs"])
    assert stated["Effusion"] == stated["COPD"] == 1
    assert stated["Pneumonia"] == stated["Fracture"] == 0
    assert "Aortic Enlargement" not in stated


@pytest.mark.parametrize(
    ("word", "finding"),
    [
        ("pericardial effusion", "Effusion"),
        ("subcutaneous emphysema", "Emphysema"),
        ("breast mass", "Mass"),
        ("mediastinal mass", "Mass"),
        ("pleural mass", "Mass"),
        ("mass", "Mass"),
        ("pseudonodule", "Nodule"),
        ("air bronchogram", "Consolidation"),
        ("alveolar pattern", "Infiltration"),
        ("heart valve calcified", "Calcification"),
    ],
)
def test_words_are_matched_whole(tmp_path: Path, word: str, finding: str) -> None:
    assert states(tmp_path, [word])[finding] == 0


def test_a_word_that_the_ontology_lacks_is_counted_and_is_not_normal(tmp_path: Path) -> None:
    root = write(tmp_path, [row(0, ["pericardial effusion"]), row(1, ["scoliosis"])])
    found, tally = read(root)
    assert found.unlisted is not None
    assert found.unlisted.tolist() == [True, False]
    assert any("pericardial effusion 1" in note for note in tally.notes)
    assert found.stated[0, THORAX.index("No Finding")] == 0


def test_normal(tmp_path: Path) -> None:
    assert states(tmp_path, ["normal"])["No Finding"] == 1
    assert states(tmp_path, ["normal", "unchanged"])["No Finding"] == 1
    # "normal" is only written where nothing else is: a pacemaker does not say whether the rest is.
    assert "No Finding" not in states(tmp_path, ["pacemaker"])
    assert "No Finding" not in states(tmp_path, ["unchanged", "pacemaker"])


def test_normal_is_completed_from_the_findings(tmp_path: Path) -> None:
    write(tmp_path, [row(0, ["scoliosis"]), row(1, ["pacemaker"]), row(2, ["normal"]), row(3, ["scoliosis", ""])])
    manifest, _ = import_source("padchest", tmp_path, allow_missing_images=True)
    normal = dict(zip(manifest.table["image_id"].str[-1], manifest.table["label:No Finding"], strict=True))
    assert (normal["0"], normal["2"], normal["3"]) == (0, 1, 0)
    assert math.isnan(normal["1"])


@pytest.mark.parametrize("remark", ["unchanged", ""])
def test_a_remark_leaves_open_what_is_not_listed(tmp_path: Path, remark: str) -> None:
    stated = states(tmp_path, ["pleural effusion", f" {remark}"])
    assert stated["Effusion"] == 1
    assert not {name for name, value in stated.items() if value != 1}


def test_a_suboptimal_film_is_read_all_the_same(tmp_path: Path) -> None:
    stated = states(tmp_path, ["suboptimal study", "exclude", "pleural effusion"])
    assert stated["Effusion"] == 1
    assert stated["Pneumothorax"] == 0


@pytest.mark.parametrize("labels", [["unchanged"], ["", " unchanged"], [""], [], ["suboptimal study"]])
def test_remarks_alone_state_nothing(tmp_path: Path, labels: list[str]) -> None:
    assert states(tmp_path, labels) == {}


def test_rows_that_say_nothing_or_two_things_are_left_out_and_counted(tmp_path: Path) -> None:
    bad: list[object] = [["exclude"], ["exclude", "unchanged"], "nan", "", ["normal", "nodule"], ["normal", "goiter"]]
    bad += ["['nodule'", "nodule", "{'nodule': 1}", "[1]", "(" * 300, ["nodul"]]
    found, tally = read(write(tmp_path, [row(i, labels) for i, labels in enumerate([*bad, ["nodule"]])]))
    assert found.rows["image_id"].str.endswith("film12").tolist() == [True]
    assert dropped(tally) == {
        "report says nothing of the film ('exclude' alone)": 2,
        "row has no labels": 2,
        "row says normal and lists findings": 2,
        "Labels is no list of words": 5,
        "row has a word that PadChest does not have": 1,
    }


def test_no_usable_row_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No row of the table"):
        read(write(tmp_path, [row(0, ["nodul"])]))


def test_what_is_implied_is_present_and_groups_wider_than_their_words_are_unknown(tmp_path: Path) -> None:
    stated = states(tmp_path, ["hydropneumothorax", "cardiomegaly", "calcified granuloma"])
    for finding in ("Effusion", "Pneumothorax", "Pleural", "Enlarged Cardiomediastinum", "Granuloma", "Calcification"):
        assert stated[finding] == 1
    # A film can show an opacity that PadChest's two words for one do not name.
    assert "Lung Opacity" not in stated
    assert states(tmp_path, ["alveolar pattern"])["Lung Opacity"] == 1
    # Pleural is complete in PadChest, so what is below it is, too.
    assert stated["Pleural Other"] == 0


@given(st.lists(st.sampled_from(sorted(WORDS - {NORMAL})), min_size=1), st.randoms(use_true_random=False))
def test_order_repeats_case_and_spaces_of_words_mean_nothing(words: list[str], random: object) -> None:
    spread = [f" {word.upper()} " for word in words] + words
    random.shuffle(spread)  # type: ignore[attr-defined]
    assert read_listed(str(spread)) == read_listed(str(words))
    assert set(read_listed(str(words)).words) == set(words) - REMARKS


@given(st.text())
def test_any_cell_is_answered(text: str) -> None:
    listed = read_listed(text)
    assert bool(listed.unusable) or isinstance(listed.words, tuple)


@pytest.mark.parametrize(
    "place", ["1/{}.png", "{}.png", "images/1/{}.png", "images/{}.png", "images-224/{}.png", "1/{}.jpg"]
)
def test_films_are_found_in_every_layout(tmp_path: Path, place: str) -> None:
    write(tmp_path, [row(4, ["normal"]), row(5, ["normal"])])
    film = tmp_path / place.format("20536686640136348236148679891455886468_film4")
    film.parent.mkdir(parents=True, exist_ok=True)
    film.touch()
    found, tally = read(tmp_path, allow_missing_images=False)
    assert [tmp_path / path for path in found.rows["image_path"]] == [film]
    assert ".." not in found.rows["image_path"][0]
    assert not found.rows["image_path"][0].startswith((".", "/"))
    assert dropped(tally) == {"film is not in the folder": 1}


def test_no_film_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No film that the table names") as caught:
        read(write(tmp_path, [row(0, ["normal"])]), allow_missing_images=False)
    assert "--allow-missing-images" in caught.value.hint


def test_views_ages_and_sexes(tmp_path: Path) -> None:
    cells = [
        {"Projection": "PA", "PatientBirth": "1930.0", "PatientSex_DICOM": "M"},
        {"Projection": "AP", "PatientBirth": "2014.0", "PatientSex_DICOM": "F"},
        {"Projection": "AP_horizontal", "PatientBirth": "nan", "PatientSex_DICOM": "O"},
        {"Projection": "L", "PatientBirth": "1880", "PatientSex_DICOM": "nan"},
        {"Projection": "COSTAL", "PatientBirth": "2015.0", "PatientSex_DICOM": ""},
        {"Projection": "EXCLUDE", "StudyDate_DICOM": "", "PatientSex_DICOM": "F"},
    ]
    found, tally = read(write(tmp_path, [row(i, ["normal"], **cell) for i, cell in enumerate(cells)]))
    assert found.rows["view"].tolist() == ["PA", "AP", "AP", "LATERAL", "UNKNOWN", "UNKNOWN"]
    np.testing.assert_array_equal(found.rows["age"], [84, 0, np.nan, np.nan, np.nan, np.nan])
    assert found.rows["sex"].tolist() == ["M", "F", None, None, None, "F"]
    notes = " ".join(tally.notes)
    assert "2 films have no year of birth or of study" in notes
    assert "1 ages above 110 years" in notes
    assert "COSTAL 1, EXCLUDE 1" in notes


def test_physicians_labels_alone(tmp_path: Path) -> None:
    root = write(tmp_path, [row(0, ["nodule"]), row(1, ["mass"], MethodLabel="RNN_model")])
    both, tally = read(root)
    assert len(both.rows) == 2
    assert any("Physician 1, RNN_model 1" in note for note in tally.notes)
    physician, tally = read(root, labels="physician")
    assert physician.rows["image_id"].str[-1].tolist() == ["0"]
    assert dropped(tally) == {"report was not labelled by a physician": 1}
    with pytest.raises(ConfigError, match="no labels 'doctor'"):
        read(root, labels="doctor")
    with pytest.raises(DataError, match="MethodLabel Physician"):
        read(write(tmp_path, [row(1, ["mass"], MethodLabel="RNN_model")]), labels="physician")


def test_ids_stay_as_long_as_they_are(tmp_path: Path) -> None:
    found, _ = read(write(tmp_path, [row(i, ["normal"], PatientID=f"{PATIENT.format(i)}.0") for i in range(2)]))
    assert found.rows["patient_id"].tolist() == [PATIENT.format(0), PATIENT.format(1)]


@pytest.mark.parametrize("column", ["PatientID", "StudyID"])
def test_ids_that_a_spreadsheet_rounded_are_refused(tmp_path: Path, column: str) -> None:
    with pytest.raises(DataError, match=f"{column} of .*film1.png is a rounded number") as caught:
        read(write(tmp_path, [row(0, ["normal"]), row(1, ["normal"], **{column: "8.39861E+35"})]))
    assert "8.39" not in str(caught.value)


def test_rows_without_an_id_and_films_listed_twice_are_left_out(tmp_path: Path) -> None:
    rows = [row(0, ["normal"]), row(0, ["nodule"]), row(1, ["normal"], PatientID="nan"), row(2, ["x"], StudyID="")]
    found, tally = read(write(tmp_path, rows))
    assert len(found.rows) == 1
    assert dropped(tally) == {
        "row has no PatientID": 1,
        "row has no StudyID": 1,
        "film is in an earlier row already": 1,
    }


def test_remarks_of_the_table_are_counted(tmp_path: Path) -> None:
    extra = {
        "MethodProjection": "resnet-50.t7",
        "Pediatric": "PED",
        "PhotometricInterpretation_DICOM": "MONOCHROME1",
    }
    _, tally = read(write(tmp_path, [row(0, ["normal"], **extra)]))
    assert sum(note.startswith("1 films ") for note in tally.notes if "Method" in note or "Ped" in note) == 2
    assert any("MONOCHROME1" in note for note in tally.notes)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no PADCHEST_\*.csv"):
        read(tmp_path)


@pytest.mark.parametrize("top", [4095, 65535])
def test_a_sixteen_bit_film_is_not_clipped_to_white(tmp_path: Path, top: int) -> None:
    """12 bits as the machines store them, and scaled up: the way through 8 bits would leave 255 of these values."""
    write(tmp_path, [row(4, ["normal"])])
    values = np.linspace(0, top, 64 * 48).reshape(64, 48).astype(np.uint16)
    (tmp_path / "1").mkdir()
    Image.fromarray(values).save(tmp_path / "1" / "20536686640136348236148679891455886468_film4.png")
    found, _ = read(tmp_path, allow_missing_images=False)
    pixels = read_image((tmp_path / found.rows["image_path"][0]).read_bytes()).pixels
    np.testing.assert_allclose(pixels, values / top, atol=1e-6)

"""MIMIC-CXR-JPG: its tables are not public, so the fixture writes small ones with PhysioNet's columns and traps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.sources import ImportReport, import_source
from cxr_mtl.data.sources.mimic import VIEWS, read_mimic
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import ConfigError, CxrError
from cxr_mtl.ontology import load_ontology

THORAX = load_ontology("thorax")
# In the order of PhysioNet's tables: by the alphabet.
# fmt: off
LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)
METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)
# ViewPosition of the whole of MIMIC-CXR-JPG, films.
ALL_VIEWS = {
    "AP": 147173, "PA": 96161, "LATERAL": 82853, "LL": 35133, "": 15769, "PA LLD": 4, "LAO": 3, "RAO": 3, "AP AXIAL": 2,
    "AP LLD": 2, "XTABLE LATERAL": 2, "AP RLD": 2, "SWIMMERS": 1, "PA RLD": 1, "LPO": 1,
}
# fmt: on

Marks = Mapping[str, str]

# film, patient, study, view, split
FILMS = [
    ("02aa804e-bde0afdd", 10000032, 50414267, "PA", "train"),
    ("174413ec-4ec4c1f7", 10000032, 50414267, "LATERAL", "train"),
    ("2a2277a9-b0ded155", 10000032, 53189527, "LL", "train"),
    ("68b5c4b1-227d0485", 10000764, 57375967, "AP", "validate"),
    ("b79e55c3-735ce5ac", 10000898, 50771383, "", "test"),
    ("8061113f-c019f3ae", 11000935, 50578979, "AP AXIAL", "test"),
]
STUDIES: dict[tuple[int, int], Marks] = {
    (10000032, 50414267): {"No Finding": "1.0", "Support Devices": "1.0"},
    (10000032, 53189527): {"Pleural Effusion": "-1.0", "Lung Opacity": "1.0", "Pneumothorax": "0.0"},
    (10000764, 57375967): {"Consolidation": "1.0", "Pleural Effusion": "0.0"},
    (10000898, 50771383): {"Edema": "1.0", "Fracture": "1.0"},
    (11000935, 50578979): {},  # the labeller found nothing to say, nor that there is nothing: 2,414 studies are so
}


def write(root: Path, kind: str, table: pd.DataFrame, version: str = "2.0.0", end: str = ".csv.gz") -> Path:
    path = root / f"mimic-cxr-{version}-{kind}{end}"
    table.to_csv(path, index=False)
    return path


def metadata(films: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    rows = [
        (film, patient, study, "CHEST (PORTABLE AP)", view, 3056, 2544, 21800506, 213014.531, "C", "v", "Erect")
        for film, patient, study, view, _ in films
    ]
    return pd.DataFrame(rows, columns=list(METADATA))


def splits(films: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    rows = [(film, study, patient, split) for film, patient, study, _, split in films]
    return pd.DataFrame(rows, columns=["dicom_id", "study_id", "subject_id", "split"])


def studies(marks: Mapping[tuple[int, int], Marks]) -> pd.DataFrame:
    rows = [{"subject_id": patient, "study_id": study} | dict(said) for (patient, study), said in marks.items()]
    return pd.DataFrame(rows, columns=["subject_id", "study_id", *LABELS])


def film_path(film: object, patient: object, study: object) -> str:
    return f"files/p{str(patient)[:2]}/p{patient}/s{study}/{film}.jpg"


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """Six films of four patients; the films are empty files, for nothing here opens them."""
    write(tmp_path, "metadata", metadata(FILMS))
    write(tmp_path, "split", splits(FILMS).iloc[::-1])  # in another order than the metadata
    write(tmp_path, "chexpert", studies(STUDIES))
    write(tmp_path, "negbio", studies({key: {"Pneumonia": "1.0"} for key in STUDIES}))
    for film, patient, study, _, _ in FILMS:
        path = tmp_path / film_path(film, patient, study)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def read(root: Path, **options: object) -> tuple[Manifest, ImportReport]:
    return import_source("mimic", root, **options)  # type: ignore[arg-type]


def stated(root: Path, **options: object) -> pd.DataFrame:
    """What is stated, by film, before anything follows from it."""
    found = read_mimic(root, THORAX, Tally(), allow_missing_images=True, **options)  # type: ignore[arg-type]
    return pd.DataFrame(found.stated, columns=list(THORAX.names), index=found.rows["image_id"])


def test_a_clean_folder_is_kept_whole(mimic: Path) -> None:
    manifest, report = read(mimic)
    assert (report.kept, report.patients, report.dropped) == (6, 4, {})
    assert all(manifest.path(i).is_file() for i in range(6))
    first = manifest.record(0)
    assert first.image_path == "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg"
    assert (first.image_id, first.patient_id, first.study_id) == ("02aa804e-bde0afdd", "10000032", "50414267")
    assert (first.dataset, math.isnan(first.age), first.sex) == ("mimic", True, None)
    assert manifest.table["split"].tolist() == ["train"] * 3 + ["val", "test", "test"]
    assert manifest.table["view"].tolist() == ["PA", "LATERAL", "LATERAL", "AP", "UNKNOWN", "UNKNOWN"]
    about = manifest.info["datasets"]["mimic"]
    assert (about["label_file"], about["labeller"]) == ("mimic-cxr-2.0.0-chexpert.csv.gz", "chexpert")
    assert len(about["label_sha256"]) == 16


def test_marks_of_a_study_are_on_all_its_films(mimic: Path) -> None:
    table = stated(mimic)
    normal = {"No Finding": 1, "Support Devices": 1}
    assert [table.loc[FILMS[i][0]].dropna().to_dict() for i in (0, 1)] == [normal, normal]
    assert table.loc[FILMS[2][0]].dropna().to_dict() == {"Lung Opacity": 1, "Effusion": -1, "Pneumothorax": 0}
    assert table.loc[FILMS[5][0]].isna().all()
    assert any("1 films have no mark in any label" in note for note in read(mimic)[1].notes)


def test_a_normal_study_keeps_its_devices(mimic: Path) -> None:
    manifest, _ = read(mimic)
    normal = dict(zip(THORAX.names, manifest.labels()[0].tolist(), strict=True))
    assert (normal["No Finding"], normal["Support Devices"], normal["Edema"], normal["Fracture"]) == (1, 1, 0, 0)
    assert math.isnan(normal["Emphysema"])


def test_views_that_are_neither_frontal_nor_lateral_are_noted(mimic: Path) -> None:
    note = "2 films have a view other than PA, AP and lateral: UNKNOWN (none stated 1, AP AXIAL 1)"
    assert any(note in said for said in read(mimic)[1].notes), read(mimic)[1].notes
    kept = {view: num for view, num in ALL_VIEWS.items() if view in VIEWS}
    assert sum(ALL_VIEWS.values()) == 377110
    assert sum(num for view, num in kept.items() if VIEWS[view] == "LATERAL") == 117988
    assert sum(ALL_VIEWS.values()) - sum(kept.values()) == 15788


def test_the_other_labeller(mimic: Path) -> None:
    assert stated(mimic, labeller="negbio")["Pneumonia"].tolist() == [1] * 6
    with pytest.raises(ConfigError, match="There is no labeller 'chexbert' of MIMIC"):
        read(mimic, labeller="chexbert")


def radiologist(root: Path, marks: Mapping[int, Marks]) -> None:
    """2.1.0's table: no subject_id, and Airspace Opacity."""
    rows = [{"study_id": study} | dict(said) for study, said in marks.items()]
    columns = ["Airspace Opacity" if label == "Lung Opacity" else label for label in LABELS]
    table = pd.DataFrame(rows, columns=["study_id", *columns])
    write(root, "test-set-labeled", table, version="2.1.0", end=".csv")


def test_a_radiologists_labels_win_whole(mimic: Path) -> None:
    radiologist(mimic, {50771383: {"Airspace Opacity": "1.0", "No Finding": "-1.0"}, 50000000: {"Edema": "1.0"}})
    table = stated(mimic)
    # Edema and Fracture, which the tool read, are gone: the radiologist found them not mentioned.
    assert table.loc[FILMS[4][0]].dropna().to_dict() == {"No Finding": -1, "Lung Opacity": 1}
    assert table.loc[FILMS[3][0]].dropna().to_dict() == {"Consolidation": 1, "Effusion": 0}
    manifest, report = read(mimic)
    assert report.kept == 6
    assert report.dropped["study of mimic-cxr-2.1.0-test-set-labeled.csv has no film"].first == "50000000"
    assert any(
        "1 films have the labels of a radiologist" in n and "1 films of test have the tool's" in n for n in report.notes
    )
    assert manifest.info["datasets"]["mimic"]["radiologist_file"] == "mimic-cxr-2.1.0-test-set-labeled.csv"
    assert stated(mimic, radiologist=False).loc[FILMS[4][0]].dropna().to_dict() == {"Edema": 1, "Fracture": 1}


def test_a_radiologist_may_label_what_the_tool_could_not(mimic: Path) -> None:
    write(mimic, "chexpert", studies({key: said for key, said in STUDIES.items() if key[1] != 50771383}))
    assert read(mimic)[1].dropped["study has no labels"].count == 1
    radiologist(mimic, {50771383: {"Edema": "1.0"}, 53189527: {"Edema": "0.0"}})
    _, report = read(mimic)
    assert (report.kept, report.dropped) == (6, {})
    assert any("1 of the films with a radiologist's labels are not in test" in note for note in report.notes)


def test_ages_and_sexes_of_mimic_iv(mimic: Path) -> None:
    patients = pd.DataFrame(
        [(10000032, "F", 52, 2180), (10000764, "M", 40, 2175), (11000935, "F", 91, 2300)],
        columns=["subject_id", "gender", "anchor_age", "anchor_year"],
    )
    patients.to_csv(mimic / "patients.csv.gz", index=False)
    dated = metadata(FILMS).assign(StudyDate=[21800506, 21800506, 21831231, 21800101, 21800101, 21800101])
    write(mimic, "metadata", dated)
    manifest, report = read(mimic)
    assert [manifest.record(i).sex for i in range(6)] == ["F", "F", "F", "M", None, "F"]
    ages = manifest.table["age"].to_numpy()
    assert ages[:4].tolist() == [52, 52, 55, 45]
    assert np.isnan(ages[4:]).all()  # in no row of the table; born after the film
    assert any("2 films without an age" in note for note in report.notes)


def test_plain_tables_and_numbers_that_became_floats(mimic: Path) -> None:
    before, _ = read(mimic)
    for name in ("metadata", "split", "chexpert"):
        path = mimic / f"mimic-cxr-2.0.0-{name}.csv.gz"
        table = pd.read_csv(path, keep_default_na=False, dtype=str)
        for column in ("subject_id", "study_id"):
            table[column] += ".0"
        body = table.to_csv(index=False, quoting=1, lineterminator="\r\n")
        path.with_suffix("").write_bytes(body.encode())
        path.unlink()
    after, report = read(mimic)
    assert report.dropped == {}
    assert after.table.equals(before.table)


def test_films_without_files_folder_and_as_dicom(mimic: Path) -> None:
    for patient in list((mimic / "files").iterdir()):
        patient.rename(mimic / patient.name)
    (mimic / "files").rmdir()
    first = mimic / film_path(*FILMS[0][:3]).removeprefix("files/")
    first.rename(first.with_suffix(".dcm"))
    manifest, report = read(mimic)
    assert (report.kept, report.dropped) == (6, {})
    assert manifest.record(0).image_path.endswith("02aa804e-bde0afdd.dcm")


def test_without_a_split_table_patients_are_dealt(mimic: Path) -> None:
    (mimic / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    _, report = read(mimic)
    assert any("no mimic-cxr-2.0.0-split.csv.gz" in note for note in report.notes)
    assert any("not comparable with published numbers" in note for note in report.notes)


def test_rows_that_cannot_be_used_are_counted(mimic: Path) -> None:
    odd = [
        ("", 10000032, 50414267, "PA", "train"),
        ("../../etc/passwd", 10000032, 50414267, "PA", "train"),
        ("aaaa-aaaa", "p10", 50414267, "PA", "train"),
        (FILMS[0][0], 10000032, 50414267, "AP", "train"),  # a second row of a film
        ("bbbb-bbbb", 10000032, 59999999, "PA", "train"),  # a study without labels
        ("cccc-cccc", 10000898, 50414267, "PA", "train"),  # another patient's study
        ("dddd-dddd", 10000032, 58888888, "PA", "train"),  # a study with a mark that is none
        ("eeee-eeee", 10000032, 50414267, "PA", "holdout"),  # a split of nobody's; and no file
    ]
    write(mimic, "metadata", metadata([*FILMS, *odd]))
    write(mimic, "split", splits([*FILMS, *odd]))
    table = studies(STUDIES | {(10000032, 58888888): {"Edema": "yes"}})
    again = studies({(10000764, 57375967): {"Edema": "1.0"}, (10000764, 5): {}}).astype(object)
    again.loc[1, "study_id"] = "?"
    write(mimic, "chexpert", pd.concat([table, again]))
    manifest, report = read(mimic)
    assert {reason: dropped.count for reason, dropped in report.dropped.items()} == {
        "row of the metadata has no usable dicom_id, subject_id or study_id": 3,
        "film is in an earlier row already": 1,
        "row of mimic-cxr-2.0.0-chexpert.csv.gz has no usable subject_id or study_id": 1,
        "study is in an earlier row of mimic-cxr-2.0.0-chexpert.csv.gz already": 1,
        "study has no labels": 2,
        "study has a mark that is none of 1, 0, -1 and empty": 1,
        "film is not in the folder": 1,
    }
    assert report.kept == 6
    manifest, report = read(mimic, allow_missing_images=True)
    assert (report.kept, report.splits["none"]) == (7, 1)
    assert any("1 films have no split in" in note for note in report.notes)
    assert manifest.record(3).view == "AP"


def _remove_films(root: Path) -> None:
    for film in root.rglob("*.jpg"):
        film.unlink()


BROKEN: dict[str, Callable[[Path], object]] = {
    "has no mimic-cxr-2.*-metadata.csv.gz": lambda root: (root / "mimic-cxr-2.0.0-metadata.csv.gz").unlink(),
    "has no mimic-cxr-2.*-chexpert.csv.gz": lambda root: (root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink(),
    "has no column 'ViewPosition'": lambda root: write(root, "metadata", metadata(FILMS).drop(columns="ViewPosition")),
    "has no column 'subject_id'": lambda root: write(root, "chexpert", studies(STUDIES).drop(columns="subject_id")),
    "has none of the labeller's columns": lambda root: write(
        root, "chexpert", studies(STUDIES)[["subject_id", "study_id"]]
    ),
    "has no column 'split'": lambda root: write(root, "split", splits(FILMS).drop(columns="split")),
    "cannot be read": lambda root: (root / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(b"no gzip"),
    "No film of MIMIC's metadata has labels": lambda root: write(root, "chexpert", studies({(1, 2): {"Edema": "1.0"}})),
    "can be used": lambda root: write(root, "chexpert", studies({key: {"Edema": "?"} for key in STUDIES})),
    "No film that the table names is in": _remove_films,
    "1 patient is in more than one split": lambda root: write(
        root, "split", splits([(*FILMS[0][:4], "test"), *FILMS[1:]])
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_one_line(mimic: Path, message: str) -> None:
    BROKEN[message](mimic)
    with pytest.raises(CxrError) as caught:
        read(mimic)
    assert message in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


MARK = {"": math.nan, "1.0": 1.0, "0.0": 0.0, "-1.0": -1.0}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_film_has_its_own_studys_marks(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever the orders of the three tables, against a plain loop over dictionaries."""
    keys = data.draw(st.lists(st.tuples(st.integers(10, 19), st.integers(50, 59)), min_size=1, max_size=6, unique=True))
    marks = {key: {label: data.draw(st.sampled_from(sorted(MARK))) for label in LABELS} for key in keys}
    owners = [*keys, *keys[:2], (20, 50)]  # two studies with two films, one study without labels
    films = [(f"f{n}", *key, data.draw(st.sampled_from(sorted(ALL_VIEWS))), "train") for n, key in enumerate(owners)]
    write(tmp_path, "metadata", metadata(data.draw(st.permutations(films))))
    write(tmp_path, "split", splits(data.draw(st.permutations(films))))
    write(tmp_path, "chexpert", studies({key: marks[key] for key in data.draw(st.permutations(keys))}))
    table = stated(tmp_path)
    labelled = [film for film in films if film[1:3] in marks]
    assert sorted(table.index) == sorted(film[0] for film in labelled)
    for film, patient, study, _, _ in labelled:
        for label, mark in marks[patient, study].items():
            np.testing.assert_equal(table.loc[film, str(THORAX.find("mimic", label))], MARK[mark])


# --- Many films -----------------------------------------------------------------------------------------------------


def many(root: Path, num: int) -> pd.DataFrame:
    """Tables of that many films, with MIMIC's shares of views and about 1.7 films a study; the metadata."""
    rng = np.random.default_rng(0)
    patient = 10_000_000 + np.sort(rng.integers(0, max(num // 6, 1), num))
    study = 50_000_000 + patient % 10_000_000 * 10 + rng.integers(0, 3, num)
    share = np.asarray(list(ALL_VIEWS.values())) / sum(ALL_VIEWS.values())
    split = np.asarray(["train", "validate", "test"])[(patient % 50 == 0) * 1 + (patient % 50 == 1) * 2]
    view = rng.choice(list(ALL_VIEWS), num, p=share)
    films = list(zip([f"{n:08x}-mimic" for n in range(num)], patient, study, view, split, strict=True))
    table = metadata(films)
    write(root, "metadata", table, end=".csv")
    write(root, "split", splits(films).sample(frac=1, random_state=0), end=".csv")
    keys = table[["subject_id", "study_id"]].drop_duplicates()
    marks = rng.choice(["", "1.0", "0.0", "-1.0"], (len(keys), len(LABELS)), p=[0.7, 0.15, 0.1, 0.05])
    said = pd.DataFrame(marks, columns=list(LABELS), index=keys.index)
    others = [label for label in LABELS if label not in ("No Finding", "Support Devices")]
    normal = said["No Finding"] == "1.0"
    said.loc[normal, others] = said.loc[normal, others].replace({"1.0": "0.0", "-1.0": ""})
    said.loc[~normal, "No Finding"] = ""
    write(root, "chexpert", pd.concat([keys, said], axis=1), end=".csv")
    return table


def test_twenty_thousand_films_equal_torchxrayvision(tmp_path: Path) -> None:
    xrv = pytest.importorskip("torchxrayvision")
    table = many(tmp_path, 20_000)
    start = time.perf_counter()
    found = read_mimic(tmp_path, THORAX, Tally(), allow_missing_images=True)
    # 377,110 films take 19 times as long. A row at a time would need minutes; a busy machine is allowed for.
    assert time.perf_counter() - start < 8
    assert found.rows["image_id"].tolist() == table["dicom_id"].tolist()

    names = {kind: str(tmp_path / f"mimic-cxr-2.0.0-{kind}.csv") for kind in ("chexpert", "metadata")}
    views = [*(view for view in ALL_VIEWS if view), "UNKNOWN"]
    data = xrv.datasets.MIMIC_Dataset("", names["chexpert"], names["metadata"], views=views, unique_patients=False)
    theirs = pd.DataFrame(data.labels, columns=[str(name) for name in data.pathologies], index=data.csv["dicom_id"])
    manifest, _ = read(tmp_path, allow_missing_images=True)
    values = manifest.labels()
    frame = pd.DataFrame(np.where(values == -1, np.nan, values), columns=list(THORAX.names), index=table["dicom_id"])
    theirs = theirs.loc[frame.index]
    unlike = {name: ~((frame[name] == theirs[name]) | (frame[name].isna() & theirs[name].isna())) for name in theirs}
    assert {name for name, rows in unlike.items() if rows.any()} == {"Lung Opacity", "Support Devices"}
    # Ours is present above a present finding that implies it.
    opacity = unlike["Lung Opacity"]
    assert (frame["Lung Opacity"][opacity] == 1).all()
    assert theirs["Lung Opacity"][opacity].isna().all()
    # Theirs takes the devices off every normal film (facts/domain.md 1b); CheXpert's, in the same library, does not.
    devices = unlike["Support Devices"]
    assert (frame["No Finding"][devices] == 1).all()
    assert (theirs["Support Devices"][devices] == 0).all()

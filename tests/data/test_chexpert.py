"""CheXpert in the layouts it comes in; and the whole training table against its known counts and torchxrayvision."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.sources import ImportReport, import_source
from cxr_mtl.data.sources.chexpert import read_chexpert
from cxr_mtl.data.sources.chexpert_labels import LABELS, label_of
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import ConfigError, CxrError, DataError
from cxr_mtl.ontology import Ontology, load_ontology

ABOUT = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
THORAX = load_ontology("thorax")
UNKNOWN = float("nan")

Row = dict[str, str]


def row(path: str, about: str = "Female,68,Frontal,AP", /, **marks: str) -> Row:
    """One film; marks by label with underscores for spaces."""
    cells = dict(zip(ABOUT, [f"CheXpert-v1.0-small/{path}", *about.split(",")], strict=True))
    return cells | {label: marks.get(label.replace(" ", "_"), "") for label in LABELS}


TRAIN = [
    row("train/patient00001/study1/view1_frontal.jpg", No_Finding="1.0", Pneumothorax="0.0", Support_Devices="1.0"),
    row("train/patient00002/study2/view1_frontal.jpg", "Male,87,Frontal,PA", Cardiomegaly="-1.0", Lung_Opacity="1.0"),
    row("train/patient00002/study1/view1_frontal.jpg", "Male,83,Frontal,AP", Edema="1.0", Pleural_Effusion="0.0"),
    row("train/patient00002/study1/view2_lateral.jpg", "Male,83,Lateral,", Edema="1.0", Pleural_Effusion="0.0"),
    row("train/patient00003/study1/view1_frontal.jpg", "Unknown,0,Frontal,LL", Fracture="1.0"),
    row("train/patient00004/study1/view1_frontal.jpg", "Male,90,Frontal,RL"),
]
VALID = [row("valid/patient64541/study1/view1_frontal.jpg", **{label.replace(" ", "_"): "0.0" for label in LABELS})]


def text(rows: Sequence[Row], newline: str = "\n", quote: bool = False) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(rows[0]), lineterminator=newline, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def films(root: Path, rows: Sequence[Row], prefix: str = "CheXpert-v1.0-small/") -> None:
    """Empty files: nothing here opens them."""
    for cells in rows:
        path = root / cells["Path"].removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Kaggle's copy: seven films of five patients."""
    (tmp_path / "train.csv").write_text(text(TRAIN))
    (tmp_path / "valid.csv").write_text(text(VALID))
    films(tmp_path, [*TRAIN, *VALID])
    return tmp_path


def read(root: Path, **options: object) -> tuple[Manifest, ImportReport]:
    return import_source("chexpert", root, **options)  # type: ignore[arg-type]


def labels(manifest: Manifest, film: str) -> dict[str, float]:
    at = manifest.table["image_id"].tolist().index(film)
    return dict(zip(manifest.ontology.names, manifest.labels()[at].tolist(), strict=True))


def test_a_clean_folder_is_kept_whole(small: Path) -> None:
    manifest, report = read(small)
    assert (report.kept, report.patients, report.dropped) == (7, 5, {})
    assert all(manifest.path(i).is_file() for i in range(7))
    second = manifest.record(1)
    assert second.image_path == "train/patient00002/study2/view1_frontal.jpg"
    assert (second.image_id, second.patient_id) == ("patient00002_study2_view1_frontal", "patient00002")
    assert (second.study_id, second.dataset) == ("patient00002/study2", "chexpert")
    assert (second.view, second.age, second.sex, second.split) == ("PA", 87.0, "M", "train")
    assert manifest.table["split"].tolist() == ["train"] * 6 + ["val"]
    assert manifest.table["view"].tolist() == ["AP", "PA", "AP", "LATERAL", "UNKNOWN", "UNKNOWN", "AP"]
    assert manifest.table["image_id"].is_unique
    about = manifest.info["datasets"]["chexpert"]
    assert about["label_file"] == {"train": "train.csv", "val": "valid.csv"}
    assert len(about["label_sha256"]["train"]) == 16


def test_what_the_user_should_know_is_said(small: Path) -> None:
    manifest, report = read(small)
    assert (manifest.record(4).sex, math.isnan(manifest.record(4).age)) == (None, True)
    assert manifest.record(5).age == 90
    for note in (
        "1 ages are 0 (first: patient00003_study1_view1_frontal): set to unknown",
        "ages are capped: 1 films say 90, which means 90 or more",
        "2 films have a view other than PA, AP and lateral: UNKNOWN (FRONTAL LL 1, FRONTAL RL 1)",
        "there is no table of the test set",
        "1 films have no label at all that ontology thorax knows",
    ):
        assert any(note in said for said in report.notes), note


def test_marks_stay_what_they_are_and_silence_is_unknown(small: Path) -> None:
    found = read_chexpert(small, THORAX, Tally(), allow_missing_images=False)
    stated = pd.DataFrame(found.stated, columns=list(THORAX.names), index=found.rows["image_id"])
    first = stated.loc["patient00001_study1_view1_frontal"].dropna().to_dict()
    assert first == {"No Finding": 1, "Pneumothorax": 0, "Support Devices": 1}
    second = stated.loc["patient00002_study2_view1_frontal"].dropna().to_dict()
    assert second == {"Lung Opacity": 1, "Cardiomegaly": -1}
    assert set(found.labelled) == {label if label != "Pleural Effusion" else "Effusion" for label in LABELS}


def test_a_normal_film_lacks_what_chexpert_labels_but_for_devices(small: Path) -> None:
    manifest, _ = read(small)
    normal = labels(manifest, "patient00001_study1_view1_frontal")
    assert (normal["No Finding"], normal["Support Devices"], normal["Fracture"], normal["Edema"]) == (1, 1, 0, 0)
    assert math.isnan(normal["Emphysema"])
    assert labels(manifest, "patient00002_study1_view1_frontal")["Lung Opacity"] == 1  # above the edema


def test_an_ontology_without_a_label_says_so(small: Path) -> None:
    _, report = read(small, ontology=_without("Fracture"))
    assert any("has no Fracture: these labels were left out" in note for note in report.notes)
    found = read_chexpert(small, _without("Fracture"), Tally(), allow_missing_images=False)
    assert found.unlisted is not None
    assert found.unlisted.tolist() == [False] * 4 + [True, False, False]


def _without(name: str) -> Ontology:
    plain = THORAX.to_dict()
    plain["findings"] = [finding for finding in plain["findings"] if finding["name"] != name]
    return THORAX.from_dict(plain)


def test_the_folder_above_will_do(small: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    above = tmp_path_factory.mktemp("above")
    small.rename(above / "CheXpert-v1.0-small")
    manifest, report = read(above)
    assert (report.kept, report.dropped) == (7, {})
    assert all(manifest.path(i).is_file() for i in range(7))


def test_tables_above_the_films_and_patients_without_a_folder_above(small: Path, tmp_path: Path) -> None:
    (small / "CheXpert-v1.0-small").mkdir()
    (small / "train").rename(small / "CheXpert-v1.0-small/train")
    manifest, report = read(small)
    assert (report.kept, report.dropped) == (7, {})
    assert manifest.record(0).image_path.startswith("CheXpert-v1.0-small/train/patient00001/")
    bare = tmp_path / "training"
    films(bare, TRAIN, "CheXpert-v1.0-small/train/")
    (bare / "train.csv").write_text(text(TRAIN))
    manifest, report = read(bare)
    assert (report.kept, report.dropped) == (6, {})
    assert manifest.record(0).image_path == "patient00001/study1/view1_frontal.jpg"


def test_stanfords_batches(tmp_path: Path) -> None:
    first = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)"
    first.mkdir()
    (first / "train.csv").write_text(text(TRAIN).replace("CheXpert-v1.0-small", "CheXpert-v1.0"))
    (first / "valid.csv").write_text(text(VALID))
    films(first, VALID)
    for number, rows in (("2 (train 1)", TRAIN[:2]), ("3 (train 2)", TRAIN[4:])):
        films(tmp_path / f"CheXpert-v1.0 batch {number}", rows, "CheXpert-v1.0-small/train/")
    films(tmp_path / "CheXpert-v1.0 batch 2 (train 1)", TRAIN[2:4], "CheXpert-v1.0-small/train/")
    manifest, report = read(tmp_path)
    assert (report.kept, report.dropped) == (7, {})
    assert all(manifest.path(i).is_file() for i in range(7))
    assert manifest.table["split"].tolist() == ["train"] * 6 + ["val"]


TEST = (
    "patient64741/study1/view1_frontal.jpg",
    "patient64741/study1/view2_lateral.jpg",
    "patient64742/study1/view1_frontal.jpg",
)


def test_the_test_set_with_a_row_a_film(tmp_path: Path) -> None:
    """CheXlocalize: no sexes, ages or views; ``val/`` where the table says ``valid/``; Airspace Opacity."""
    root = tmp_path / "CheXpert"
    root.mkdir()
    marks = dict.fromkeys(LABELS, "0.0") | {"Lung Opacity": "1.0"}
    rows = [{"Path": f"CheXpert-v1.0/test/{film}"} | marks for film in TEST]
    body = text(rows).replace("Lung Opacity", "Airspace Opacity")
    (root / "test_labels.csv").write_text(body)
    (root / "val_labels.csv").write_text(text(VALID))
    films(root, rows, "CheXpert-v1.0/")
    films(root, [cells | {"Path": cells["Path"].replace("valid/", "val/")} for cells in VALID])
    manifest, report = read(tmp_path)
    assert report.dropped == {}
    assert manifest.table["split"].tolist() == ["val", "test", "test", "test"]
    assert manifest.table["view"].tolist() == ["AP", "UNKNOWN", "LATERAL", "UNKNOWN"]
    assert labels(manifest, "patient64741_study1_view1_frontal")["Lung Opacity"] == 1
    assert all(manifest.path(i).is_file() for i in range(4))
    assert any("--views PA,AP leaves them out" in note for note in report.notes)


def test_the_test_set_with_a_row_a_study(small: Path) -> None:
    """rajpurkarlab/cheXpert-test-set-labels: the folders say which films a study has."""
    marks = dict.fromkeys(LABELS, "0") | {"Cardiomegaly": "1"}
    studies = [f"CheXpert-v1.0/test/patient{n}/study1" for n in (64741, 64742, 64743)]
    (small / "groundtruth.csv").write_text(text([{"Study": study} | marks for study in studies]))
    films(small, [{"Path": f"test/{film}"} for film in TEST])
    (small / "test/patient64741/study1/Thumbs.db").touch()
    manifest, report = read(small)
    assert report.splits == {"train": 6, "val": 1, "test": 3}
    assert report.dropped["study of the test set has no film in the folder"].first == studies[2]
    assert labels(manifest, "patient64741_study1_view2_lateral")["Cardiomegaly"] == 1
    assert not any("no table of the test set" in note for note in report.notes)


def test_only_the_validation_table(small: Path) -> None:
    (small / "train.csv").unlink()
    manifest, report = read(small)
    assert report.splits == {"train": 0, "val": 1, "test": 0}
    assert "there is no train.csv: no film is in train" in report.notes
    assert manifest.record(0).split == "val"


def test_another_reader_of_the_reports(small: Path) -> None:
    (small / "train_cheXbert.csv").write_text(text([TRAIN[0] | {"No Finding": "", "Edema": "1.0"}]))
    manifest, report = read(small, labeller="chexbert")
    assert (report.kept, report.splits["val"]) == (2, 1)
    assert labels(manifest, "patient00001_study1_view1_frontal")["Edema"] == 1
    assert manifest.info["datasets"]["chexpert"]["labeller"] == "chexbert"
    with pytest.raises(DataError, match=r"has no train_visualCheXbert\.csv"):
        read(small, labeller="visualchexbert")
    with pytest.raises(ConfigError, match="There is no labeller 'bert'"):
        read(small, labeller="bert")


def test_a_film_is_in_the_split_of_its_folder(small: Path) -> None:
    (small / "train.csv").write_text(text([*TRAIN, *VALID]))
    manifest, report = read(small)
    assert manifest.table["split"].tolist() == ["train"] * 6 + ["val"]
    assert report.dropped["film is in an earlier row already"].count == 1
    assert any("1 rows stand in another split's table" in note for note in report.notes)


def test_rows_that_cannot_be_used_are_counted(small: Path) -> None:
    odd = [
        row("") | {"Path": ""},
        row("train/patient9/view1_frontal.jpg"),
        row("train/../../secret.jpg"),
        row("train/patient00005/study1/view1_frontal.jpg", Edema="maybe"),
        row("train/patient00006/study1/view1_frontal.jpg", Edema="2.0"),
        row("train/patient00007/study1/view1_frontal.jpg", Edema="1"),
        TRAIN[0],
    ]
    (small / "train.csv").write_text(text([*TRAIN, *odd]))
    manifest, report = read(small)
    assert {reason: dropped.count for reason, dropped in report.dropped.items()} == {
        "row has no Path": 1,
        "path is not .../patient1/study1/view1_frontal.jpg": 2,
        "row has a mark that is none of 1, 0, -1 and empty": 2,
        "film is in an earlier row already": 1,
        "film is not in the folder": 1,
    }
    assert report.kept == 7
    everything = sum(dropped.count for dropped in report.dropped.values()) + report.kept
    assert everything == len(TRAIN) + len(odd) + len(VALID)
    manifest, report = read(small, allow_missing_images=True)
    assert report.kept == 8
    assert manifest.record(6).image_path == "train/patient00007/study1/view1_frontal.jpg"


def test_a_column_that_is_missing_is_unknown_and_one_too_many_is_named(small: Path) -> None:
    cells = [{k: v for k, v in one.items() if k != "Edema"} | {"Ethnicity": "x", "Unnamed: 0": "1"} for one in VALID]
    (small / "valid.csv").write_text(text(cells))
    manifest, report = read(small)
    assert math.isnan(labels(manifest, "patient64541_study1_view1_frontal")["Edema"])
    assert "valid.csv has no column Edema: unknown on its films" in report.notes
    assert "columns that are not read: Ethnicity" in report.notes


@pytest.mark.parametrize(("newline", "quote"), [("\r\n", False), ("\n", True)])
def test_tables_in_every_spelling(small: Path, newline: str, quote: bool) -> None:
    before, _ = read(small)
    (small / "train.csv").unlink()
    (small / "train.csv.gz").write_bytes(gzip.compress(text(TRAIN, newline, quote).encode()))
    body = (
        text(VALID, newline, quote)
        .replace("Pleural Effusion", "Pleural_Effusion")
        .replace("No Finding", " no finding ")
    )
    (small / "valid.csv").write_bytes(b"\xef\xbb\xbf" + body.encode())
    after, _ = read(small)
    assert after.table.equals(before.table)


def _same_patient_twice(root: Path) -> None:
    again = [row("valid/patient00001/study9/view1_frontal.jpg", Edema="0")]
    (root / "valid.csv").write_text(text(again))
    films(root, again)


def _remove_films(root: Path) -> None:
    for film in root.rglob("*.jpg"):
        film.unlink()


def _remove_tables(root: Path) -> None:
    for table in root.glob("*.csv"):
        table.unlink()


BROKEN: dict[str, Callable[[Path], object]] = {
    "has no train.csv": _remove_tables,
    "train.csv is empty": lambda root: (root / "train.csv").write_text(""),
    "has a header but no rows": lambda root: (root / "train.csv").write_text(text(TRAIN).splitlines()[0] + "\n"),
    "has no column 'Path'": lambda root: (root / "train.csv").write_text(text(TRAIN).replace("Path", "Film")),
    "has none of CheXpert's labels": lambda root: (root / "valid.csv").write_text("Path,Sex\nvalid/a.jpg,F\n"),
    "No row of CheXpert's tables can be used": lambda root: [
        (root / f"{name}.csv").write_text(text([row("x.jpg")])) for name in ("train", "valid")
    ],
    "No film that the table names is in": _remove_films,
    "1 patient is in more than one split": _same_patient_twice,
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_one_line(small: Path, message: str) -> None:
    BROKEN[message](small)
    with pytest.raises(CxrError) as caught:
        read(small)
    assert message in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


SPELT = {"": UNKNOWN, "1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": -1, "-1": -1, " 1.0 ": 1, "nan?": None, "0.5": None}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(marks=st.lists(st.lists(st.sampled_from(sorted(SPELT)), min_size=14, max_size=14), min_size=1, max_size=6))
def test_every_row_is_read_or_counted(tmp_path: Path, marks: list[list[str]]) -> None:
    rows = [
        row(f"train/patient{n:05d}/study1/view1_frontal.jpg") | dict(zip(LABELS, cells, strict=True))
        for n, cells in enumerate(marks)
    ]
    (tmp_path / "train.csv").write_text(text(rows))
    meant = [[SPELT[cell] for cell in cells] for cells in marks]
    good = [cells for cells in meant if None not in cells]
    tally = Tally()
    if not good:
        with pytest.raises(DataError, match="can be used"):
            read_chexpert(tmp_path, THORAX, tally, allow_missing_images=True)
        return
    found = read_chexpert(tmp_path, THORAX, tally, allow_missing_images=True)
    assert len(found.rows) + sum(dropped.count for dropped in tally.dropped.values()) == len(rows)
    places = [THORAX.index(THORAX.find("chexpert", label) or "") for label in LABELS]
    np.testing.assert_array_equal(found.stated[:, places], np.asarray(good, dtype=np.float32))
    rest = np.delete(found.stated, places, axis=1)
    assert np.isnan(rest).all()


@pytest.mark.parametrize(
    ("column", "label"),
    [
        ("Pleural_Effusion", "Pleural Effusion"),
        (" lung  opacity", "Lung Opacity"),
        ("Airspace Opacity", "Lung Opacity"),
        ("Pericardial Effusion", None),
        ("Age", None),
    ],
)
def test_a_column_is_one_label_or_none(column: str, label: str | None) -> None:
    assert label_of(column) == label


# --- The real table -----------------------------------------------------------------------------------------------


def _xrv_data() -> Path:
    package = importlib.util.find_spec("torchxrayvision")
    if package is None or package.origin is None:
        pytest.skip("torchxrayvision, which carries CheXpert's whole training table, is not installed")
    return Path(package.origin).parent / "data"


def _theirs(path: Path) -> pd.DataFrame:
    """Labels by torchxrayvision, no film left out, in the table's order."""
    xrv = pytest.importorskip("torchxrayvision")
    data = xrv.datasets.CheX_Dataset("", csvpath=str(path), views=["AP", "PA", "L", "LL", "RL"], unique_patients=False)
    return pd.DataFrame(data.labels, columns=[str(name) for name in data.pathologies])


def _differences(manifest: Manifest, theirs: pd.DataFrame) -> dict[str, int]:
    """Finding -> films on which ours, with uncertain as unknown, is not theirs."""
    values = manifest.labels()
    ours = pd.DataFrame(np.where(values == -1, np.nan, values), columns=list(manifest.ontology.names))
    assert len(ours) == len(theirs)
    unlike = {name: ~((ours[name] == theirs[name]) | (ours[name].isna() & theirs[name].isna())) for name in theirs}
    opacity = unlike["Lung Opacity"]
    # The one decision: an unstated opacity is present above a present finding that implies it.
    assert (ours["Lung Opacity"][opacity] == 1).all()
    assert theirs["Lung Opacity"][opacity].isna().all()
    return {str(name): int(rows.sum()) for name, rows in unlike.items() if rows.any()}


def test_part_of_the_real_table_equals_torchxrayvision(tmp_path: Path) -> None:
    table = pd.read_csv(_xrv_data() / "chexpert_train.csv.gz", dtype=str, keep_default_na=False, nrows=4000)
    table.to_csv(tmp_path / "train.csv", index=False)
    manifest, report = read(tmp_path, allow_missing_images=True, validation=0)
    assert (report.kept, report.dropped) == (4000, {})
    below = ["Atelectasis", "Consolidation", "Edema", "Pneumonia", "Lung Lesion"]
    implied = (table["Lung Opacity"] == "") & (table[below] == "1.0").any(axis=1)
    assert _differences(manifest, _theirs(tmp_path / "train.csv")) == {"Lung Opacity": int(implied.sum())}


STATED = {  # label -> present, uncertain; facts/domain.md 4b
    "No Finding": (22381, 0),
    "Atelectasis": (33376, 33739),
    "Consolidation": (14783, 27742),
    "Pneumonia": (6039, 18770),
    "Edema": (52246, 12984),
    "Enlarged Cardiomediastinum": (10798, 12403),
    "Effusion": (86187, 11628),
    "Cardiomegaly": (27000, 8087),
}


@pytest.mark.slow
def test_all_of_chexpert() -> None:
    """The whole table, as the package torchxrayvision carries it."""
    root = _xrv_data()
    manifest, report = read(root, allow_missing_images=True)
    assert (report.kept, report.patients, report.dropped) == (223414, 64540, {})
    table = manifest.table
    assert (table["study_id"].nunique(), table["image_id"].nunique()) == (187641, 223414)
    assert table["view"].value_counts().to_dict() == {"AP": 161590, "LATERAL": 32387, "PA": 29420, "UNKNOWN": 17}
    assert (int(table["sex"].isna().sum()), int(table["age"].isna().sum()), table["age"].max()) == (1, 3, 90)
    counts = report.labels
    assert {name: (counts.loc[name, "present"], counts.loc[name, "uncertain"]) for name in STATED} == STATED
    normal, device = (manifest.labels()[:, THORAX.index(name)] for name in ("No Finding", "Support Devices"))
    assert int(((normal == 1) & (device == 1)).sum()) == 8808
    assert _differences(manifest, _theirs(root / "chexpert_train.csv.gz")) == {"Lung Opacity": 45501}
    shared = [label if label != "Pleural Effusion" else "Effusion" for label in LABELS]
    assert int(counts.loc[shared, "uncertain"].sum()) == 139958

"""``cxr-mtl data`` as a user types it: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from cxr_mtl.cli import app
from cxr_mtl.cli_data import data
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.data.sources import SOURCES
from cxr_mtl.data.split_file import read_split
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import ConfigError, DataError


def cxr(*args: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, args)])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawn films in NIH's layout, imported."""
    folder = tmp_path_factory.mktemp("drawn")
    write_study_set(folder / "films", 40, 0, 96)
    done = cxr("import", "nih", folder / "films", "--out", folder / "nih.parquet", "--ontology", "lung10")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def kermany(tmp_path: Path) -> Path:
    """Twelve grey pictures of six children in Kaggle's layout."""
    rng = np.random.default_rng(0)
    for child in range(6):
        for germ in ("bacteria", "virus"):
            file = tmp_path / "chest_xray" / "train" / "PNEUMONIA" / f"person{child}_{germ}_{child}.jpeg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(file)
    return tmp_path


def test_every_source_is_named_in_the_help() -> None:
    text = " ".join(cxr("import", "--help").output.replace("│", " ").split())
    assert all(source in text for source in SOURCES)


def test_the_template_imports_as_it_is(tmp_path: Path) -> None:
    done = cxr("import", "csv", "--template", "--ontology", "nih14")
    assert done.exit_code == 0
    (tmp_path / "films.csv").write_text(done.output)
    out = tmp_path / "mine.parquet"
    done = cxr("import", "csv", tmp_path / "films.csv", "--out", out, "--name", "ward7", "--allow-missing-images")
    assert done.exit_code == 0, done.output
    assert set(load_manifest(out).table["dataset"]) == {"ward7"}


def test_datasets_merge_on_the_command_line(drawn: Path, kermany: Path) -> None:
    children, both = kermany / "kermany.parquet", kermany / "both.parquet"
    assert cxr("import", "kermany", kermany, "--ontology", "kermany", "--out", children).exit_code == 0
    done = cxr("merge", drawn / "nih.parquet", children, "--out", both)
    assert done.exit_code == 0, done.output
    assert "Viral" in done.output
    assert load_manifest(both).table["dataset"].value_counts().to_dict() == {"nih": 40, "kermany": 12}


def test_a_split_is_saved_and_taken_over(drawn: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "again.parquet"
    cxr("import", "nih", drawn / "films", "--out", manifest, "--ontology", "lung10")
    dealt = cxr(
        "split", manifest, "--train", 0.5, "--val", 0.2, "--test", 0.3, "--seed", 4, "--save", tmp_path / "s.csv"
    )
    assert (dealt.exit_code, (tmp_path / "s.csv").read_text()[:17]) == (0, "# cxr-mtl split {")
    taken = cxr("split", drawn / "nih.parquet", "--like", tmp_path / "s.csv")
    assert taken.exit_code == 0
    assert load_manifest(drawn / "nih.parquet").splits.tolist() == load_manifest(manifest).splits.tolist()


def test_a_split_is_written_as_it_is(drawn: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "kept.parquet"
    cxr("import", "nih", drawn / "films", "--out", manifest, "--ontology", "lung10")
    before = manifest.read_bytes()
    done = cxr("split", manifest, "--keep", "--save", tmp_path / "new" / "folder" / "s.csv")
    assert done.exit_code == 0, done.output
    assert "as it was" in done.output
    assert manifest.read_bytes() == before
    table, about = read_split(tmp_path / "new" / "folder" / "s.csv")
    assert about["how"] == "official lists"
    kept = load_manifest(manifest).table
    said = dict(zip(table["image_id"], table["split"], strict=True))
    assert [said[name] for name in kept["image_id"]] == kept["split"].tolist()


def test_a_manifest_is_not_changed_where_the_split_cannot_be_saved(drawn: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "kept.parquet"
    cxr("import", "nih", drawn / "films", "--out", manifest, "--ontology", "lung10")
    before = manifest.read_bytes()
    done = cxr("split", manifest, "--seed", 9, "--save", manifest / "s.csv")
    assert isinstance(done.exception, DataError)
    assert manifest.read_bytes() == before


def test_an_import_speaks_to_programs(drawn: Path, tmp_path: Path) -> None:
    done = cxr("import", "nih", drawn / "films", "--out", tmp_path / "m.parquet", "--ontology", "lung10", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert (report["source"], report["kept"]) == ("nih", len(load_manifest(tmp_path / "m.parquet")))
    assert set(report) == {"source", "kept", "patients", "dropped", "labels", "splits", "notes"}


def test_supine_films_are_dropped_on_the_command_line(tmp_path: Path) -> None:
    header = (
        "ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,MethodLabel,Labels"
    )
    films = [
        f"{view}{n}.png,0,20150101,S{view}{n},P{view}{n},1950,F,{view},Physician,['normal']"
        for view in ("PA", "AP_horizontal")
        for n in range(4)
    ]
    (tmp_path / "PADCHEST_x.csv").write_text("\n".join([header, *films]) + "\n")
    for supine, kept in (("keep", 8), ("drop", 4)):
        out = tmp_path / f"{supine}.parquet"
        of_the_docs = ("--labels", "physician", "--supine", supine, "--views", "PA,AP")
        done = cxr("import", "padchest", tmp_path, "--allow-missing-images", "--out", out, *of_the_docs)
        assert done.exit_code == 0, done.output
        assert len(load_manifest(out)) == kept


def test_a_run_file_makes_its_manifest(drawn: Path, tmp_path: Path) -> None:
    rules = {"source": "nih", "ontology": "lung10", "rules": [{"min_age": 16}]}
    run = {"name": "few", "data": {"manifest": str(tmp_path / "few.parquet"), "curate": rules}}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(run))
    done = cxr("curate", "-c", tmp_path / "few.yaml", drawn / "films")
    assert done.exit_code == 0, done.output
    assert load_manifest(tmp_path / "few.parquet").table["age"].min() >= 16


def test_a_pack_is_checked_and_mended(drawn: Path, tmp_path: Path) -> None:
    pack = ("pack", drawn / "nih.parquet", "--size", 64, "--out", tmp_path / "pack")
    assert cxr(*pack).exit_code == 0
    (images,) = (tmp_path / "pack").glob("*.npy")
    damaged = bytearray(images.read_bytes())
    damaged[-1] ^= 1
    images.write_bytes(damaged)
    done = cxr(*pack, "--verify")
    assert done.exit_code == 1
    assert "damaged" in done.output
    assert cxr(*pack, "--verify").exit_code == 0


def test_the_doctor_speaks_to_programs(drawn: Path) -> None:
    done = cxr("doctor", drawn / "nih.parquet", "--json")
    problems = json.loads(done.output)
    assert {"level", "check", "path", "count", "message", "fix"} == set(problems[0])
    assert done.exit_code == int(any(problem["level"] == "error" for problem in problems))


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (["import", "nih"], ConfigError, "--out"),
        (["import", "nih", ".", "--out", "m.parquet", "--readers", "any"], ConfigError, "has no option 'readers'"),
        (["import", "nih", ".", "--out", "m.parquet", "--views", "PA,oblique"], ConfigError, "no view 'OBLIQUE'"),
        (["import", "nih", ".", "--out", "m.parquet", "--name", "mine"], ConfigError, "called nih"),
        (["import", "folders", ".", "--out", "m.parquet", "--name", "nih"], ConfigError, "cannot be called 'nih'"),
        (["split", "m.parquet", "--keep"], ConfigError, "--keep wants --save"),
        (["split", "m.parquet", "--keep", "--save", "s.csv", "--like", "o.csv"], ConfigError, "no --like"),
        (["merge", "no.parquet", "none.parquet", "--out", "m.parquet"], DataError, "no.parquet"),
    ],
)
def test_a_wrong_wish_is_refused(args: list[str], error: type[Exception], says: str) -> None:
    done = CliRunner().invoke(data, args)
    assert isinstance(done.exception, error)
    assert says in f"{done.exception} {getattr(done.exception, 'hint', '')}"

"""The manifest keeps what it is given, survives being moved, and says in one line what is wrong with a file."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mtl.data import manifest_file as module
from cxr_mtl.data.manifest import LABEL, Manifest, make_manifest
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology, load_ontology
from cxr_mtl.types import ABSENT, PRESENT, UNCERTAIN, Box, Record

ONTOLOGY = load_ontology("nih14")


def record(name: str = "a", **changes: object) -> Record:
    values: dict[str, object] = {
        "image_path": f"images/{name}.png",
        "image_id": name,
        "patient_id": "1",
        "study_id": "1_0",
        "dataset": "nih",
        "labels": {"Effusion": PRESENT, "Mass": ABSENT, "Edema": UNCERTAIN},
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def make(root: Path, *records: Record) -> Manifest:
    return make_manifest(records or [record()], root, ONTOLOGY, {"source": "test", "seed": 3})


def test_labels_keep_absent_unknown_and_uncertain_apart(tmp_path: Path) -> None:
    row = make(tmp_path).labels()[0]
    named = dict(zip(ONTOLOGY.names, row, strict=True))
    assert (named.pop("Effusion"), named.pop("Mass"), named.pop("Edema")) == (1, 0, -1)
    assert named
    assert all(math.isnan(value) for value in named.values())


floats = st.floats(-1e4, 1e4, width=32)
boxes = st.builds(Box, st.sampled_from(ONTOLOGY.names), floats, floats, floats, floats, st.sampled_from(["", "R8"]))
records = st.builds(
    Record,
    image_path=st.text("abc/ é.", min_size=1),
    image_id=st.text("abc012", min_size=1),
    # Digits only: nothing on the way may read them as a number.
    patient_id=st.text("0123", min_size=1),
    study_id=st.text("01_", min_size=1),
    dataset=st.sampled_from(["nih", "vindr"]),
    split=st.sampled_from(["train", "val", "test", None]),
    view=st.sampled_from(["PA", "AP", "LATERAL", "UNKNOWN"]),
    age=st.floats(0, 100, width=32),
    sex=st.sampled_from(["M", "F", None]),
    width=st.none() | st.integers(1, 4000),
    height=st.none() | st.integers(1, 4000),
    boxes=st.lists(boxes, max_size=3).map(tuple),
    boxes_exhaustive=st.booleans(),
    labels=st.dictionaries(st.sampled_from(ONTOLOGY.names), st.sampled_from([PRESENT, ABSENT, UNCERTAIN])),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(records, min_size=1, max_size=5))
def test_records_come_back_from_disk_as_they_went(tmp_path_factory: pytest.TempPathFactory, went: list[Record]) -> None:
    folder = tmp_path_factory.mktemp("m")
    made = make(folder, *went)
    save_manifest(made, folder / "m.parquet")
    loaded = load_manifest(folder / "m.parquet")
    assert [made.record(i) for i in range(len(made))] == went
    assert [loaded.record(i) for i in range(len(loaded))] == went
    pd.testing.assert_frame_equal(loaded.table, made.table)
    assert (loaded.info, loaded.ontology) == (made.info, made.ontology)


def test_unknown_age_stays_unknown(tmp_path: Path) -> None:
    assert math.isnan(make(tmp_path).record(0).age)


def test_the_file_is_zstd_with_json_beside_and_no_nulls_for_unknown_labels(tmp_path: Path) -> None:
    save_manifest(make(tmp_path), tmp_path / "m.parquet")
    file = pq.ParquetFile(tmp_path / "m.parquet")
    group = file.metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
    assert all(file.read()[c].null_count == 0 for c in file.schema_arrow.names if c.startswith(LABEL))
    assert set(file.schema_arrow.metadata) == {b"cxr_mtl"}
    assert json.loads(file.schema_arrow.metadata[b"cxr_mtl"])["info"] == {"source": "test", "seed": 3}


def test_the_same_manifest_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_manifest(make(tmp_path), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def study(folder: Path) -> Path:
    """A folder with one film, and the manifest of it beside it."""
    (folder / "films/images").mkdir(parents=True)
    (folder / "films/images/a.png").touch()
    save_manifest(make(folder / "films"), folder / "m.parquet")
    return folder / "m.parquet"


def test_a_folder_with_films_and_manifest_can_be_moved(tmp_path: Path) -> None:
    study(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert load_manifest(tmp_path / "new/m.parquet").path(0) == tmp_path / "new/films/images/a.png"


@pytest.mark.parametrize("root", ["films", "."])
def test_a_manifest_can_be_moved_away_from_its_films(tmp_path: Path, root: str) -> None:
    saved = study(tmp_path / "here")
    if root == ".":
        saved = saved.rename(tmp_path / "here/films/m.parquet")
        save_manifest(make(tmp_path / "here/films"), saved)
    (tmp_path / "there").mkdir()
    moved = shutil.move(saved, tmp_path / "there/m.parquet")
    assert load_manifest(moved).path(0) == tmp_path / "here/films/images/a.png"


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = study(tmp_path)
    before = path.read_bytes()

    def fill_the_disk(table: pa.Table, draft: Path, **_: object) -> None:
        draft.write_bytes(b"PAR1 half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.pq, "write_table", fill_the_disk)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        save_manifest(make(tmp_path), path)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"films", "m.parquet"}


def test_who_reads_the_old_file_keeps_it_whole(tmp_path: Path) -> None:
    path = study(tmp_path)
    before, reader = path.read_bytes(), tmp_path / "same file"
    reader.hardlink_to(path)
    save_manifest(make(tmp_path, record("b")), path)
    assert reader.read_bytes() == before != path.read_bytes()


def test_where_selects_and_renumbers(tmp_path: Path) -> None:
    rows = [
        record("a", split="train"),
        record("b", split="val"),
        record("c", split="val", dataset="vindr"),
        record("d"),
    ]
    manifest = make(tmp_path, *rows)
    assert [manifest.where(split="val").record(i).image_id for i in range(2)] == ["b", "c"]
    assert manifest.where(split="val", dataset="vindr").path(0) == tmp_path / "images/c.png"
    assert len(manifest.where(split="test")) == 0
    assert len(manifest.where()) == 4
    assert manifest.splits.tolist() == ["train", "val", "val", None]


def test_patients_of_two_datasets_are_two_patients(tmp_path: Path) -> None:
    manifest = make(tmp_path, record("a"), record("b", dataset="vindr"), record("c"))
    assert manifest.patient_ids.tolist() == ["nih:1", "vindr:1", "nih:1"]


def test_frames_are_nan_where_unknown(tmp_path: Path) -> None:
    frames = make(tmp_path, record("a", width=1024, height=512), record("b")).frames
    np.testing.assert_array_equal(frames, [[1024, 512], [np.nan, np.nan]])


def test_a_label_outside_the_ontology_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images/a.png has a label 'Zebra', which ontology nih14 does not have"):
        make(tmp_path, record(labels={"Zebra": PRESENT}))


def test_no_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no film"):
        make_manifest([], tmp_path, ONTOLOGY, {})


def _rewrite(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path)


def _edit_metadata(path: Path, **changes: object) -> None:
    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[b"cxr_mtl"]) | changes
    _rewrite(path, table.replace_schema_metadata({b"cxr_mtl": json.dumps(meta).encode()}))


FAULTS = {
    "does not exist": lambda p, t: p.unlink(),
    "is not a readable Parquet file": lambda p, t: p.write_text("image_id,label\n"),
    "is not a readable Parquet": lambda p, t: p.write_bytes(p.read_bytes()[:-20]),
    "is a Parquet file but not a cxr_mtl manifest": lambda p, t: _rewrite(p, t.replace_schema_metadata({})),
    "but not a cxr_mtl manifest": lambda p, t: _rewrite(p, t.replace_schema_metadata({b"cxr_mtl": b"{"})),
    "lacks the column boxes, label:Mass": lambda p, t: _rewrite(p, t.drop_columns(["boxes", LABEL + "Mass"])),
    "has the column label:Zebra, which a manifest on ontology nih14 does not have": lambda p, t: _rewrite(
        p, t.append_column(LABEL + "Zebra", pa.array([0.0]))
    ),
    "has no rows": lambda p, t: _rewrite(p, t.slice(0, 0)),
    "the column age is string, not float": lambda p, t: _rewrite(
        p, t.set_column(t.column_names.index("age"), "age", pa.array(["old"]))
    ),
    "1 rows have no patient_id": lambda p, t: _rewrite(
        p, t.set_column(t.column_names.index("patient_id"), "patient_id", pa.array([None], pa.string()))
    ),
    "is a 'cxr-mtl.manifest/9'; this version reads": lambda p, t: _edit_metadata(p, schema="cxr-mtl.manifest/9"),
    "the ontology in its metadata cannot be read": lambda p, t: _edit_metadata(p, ontology={"name": "x"}),
}


@pytest.mark.parametrize("message", FAULTS)
def test_loading_says_what_is_wrong_in_one_line(tmp_path: Path, message: str) -> None:
    path = study(tmp_path)
    FAULTS[message](path, pq.read_table(path))
    with pytest.raises(DataError) as caught:
        load_manifest(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_the_ontology_travels_inside(tmp_path: Path) -> None:
    loaded = load_manifest(study(tmp_path)).ontology
    assert isinstance(loaded, Ontology)
    assert (loaded.names, loaded.edges, loaded.normal) == (ONTOLOGY.names, ONTOLOGY.edges, ONTOLOGY.normal)

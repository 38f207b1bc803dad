"""Kaggle's whole table against torchxrayvision, its known counts, and itself laid out as PhysioNet's VinDr-CXR."""

from __future__ import annotations

import importlib.util
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from vindr_files import ticks

from cxr_mtl.data.sources import import_source
from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.files import read_table
from cxr_mtl.data.sources.vinbigdata import LOCAL, read_vinbigdata
from cxr_mtl.data.sources.vindr import read_vindr
from cxr_mtl.ontology import load_ontology

THORAX = load_ontology("thorax")

# Class: films that one reader, and that two of three, mark.
COUNTS = {
    "Aortic enlargement": (3067, 2346),
    "Atelectasis": (186, 62),
    "Calcification": (452, 177),
    "Cardiomegaly": (2300, 1817),
    "Consolidation": (353, 121),
    "ILD": (386, 152),
    "Infiltration": (613, 245),
    "Lung Opacity": (1322, 547),
    "Nodule/Mass": (826, 405),
    "Pleural effusion": (1032, 634),
    "Pleural thickening": (1981, 882),
    "Pneumothorax": (96, 58),
    "Pulmonary fibrosis": (1617, 1017),
    "No finding": (10606, 10606),
}
THEIRS = {"Pleural effusion": "effusion", "Pleural thickening": "pleural_thickening"}
GROUP_ONLY = 154  # films where most readers mark an opacity, no two the same, nor the word itself


def metadata() -> Path:
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision is not installed")
    return Path(spec.origin).parent / "data"


@cache
def whole(readers: str) -> tuple[Found, Tally]:
    tally = Tally()
    return read_vinbigdata(metadata(), THORAX, tally, allow_missing_images=True, readers=readers), tally


def positives(found: Found, word: str) -> int:
    name = THORAX.find("vinbigdata", word)
    assert name is not None
    return int((found.stated[:, THORAX.index(name)] == 1).sum())


@pytest.mark.parametrize("readers", ["any", *(pytest.param(r, marks=pytest.mark.slow) for r in ("majority", "fusion"))])
def test_the_whole_table_has_the_known_counts(readers: str) -> None:
    found, tally = whole(readers)
    assert (len(found.rows), found.rows["image_id"].nunique()) == (15_000, 15_000)
    assert found.split_how is None
    for word, counts in COUNTS.items():
        extra = GROUP_ONLY if (word, readers) == ("Lung Opacity", "majority") else 0
        assert positives(found, word) == counts[readers == "majority"] + extra, word
    assert int(found.unlisted.sum()) == {"majority": 362}.get(readers, 1134)  # type: ignore[union-attr]
    for name in ("Pneumonia", "Edema", "Hernia"):
        assert np.isnan(found.stated[:, THORAX.index(name)]).all()
    told = next(note for note in tally.notes if "only one of several readers" in note)
    assert "Atelectasis 124 of 186" in told
    assert "Consolidation 232 of 353" in told
    assert "Lung Opacity 775 of 1,322" in told
    assert "Pleural Thickening 1,099 of 1,981" in told
    assert "Pneumothorax 38 of 96" in told
    assert "films have 3 readers (15,000 films)" in " ".join(tally.notes)


@pytest.mark.slow
def test_no_box_of_the_whole_table_is_lost_without_a_line() -> None:
    for readers, outvoted in (("any", 0), ("majority", 6867)):
        found, tally = whole(readers)
        kept = int(found.rows["boxes"].map(len).sum())
        dropped = {reason: d.count for reason, d in tally.dropped.items()}
        assert dropped.pop("box of Other lesion, which ontology thorax does not have") == 2203
        assert dropped.pop("box of a finding that too few readers mark", 0) == outvoted
        assert not dropped
        assert kept == 36_096 - 2203 - outvoted
    fused, _ = whole("fusion")
    sizes = Counter(box.reader.count("+") + 1 for row in fused.rows["boxes"] for box in row)
    assert sum(num * films for num, films in sizes.items()) == 36_096 - 2203
    assert set(sizes) == {1, 2, 3}
    hearts = sum(box.finding == "Cardiomegaly" for row in fused.rows["boxes"] for box in row)
    assert 2300 <= hearts < 2400  # of 5,427 boxes: all but one a film


def test_a_film_is_exhaustive_where_everything_it_shows_is_boxed() -> None:
    found, _ = whole("any")
    present = THORAX.propagate(found.stated)[:, [THORAX.index(name) for name in found.boxed]] == 1
    boxed = np.array([[any(b.finding == n for b in row) for n in found.boxed] for row in found.rows["boxes"]])
    exhaustive = found.rows["boxes_exhaustive"].to_numpy(bool)
    np.testing.assert_array_equal(exhaustive, ~(present & ~boxed).any(axis=1))
    assert exhaustive.sum() == 14_308


def test_labels_equal_torchxrayvision_s() -> None:
    xrv = pytest.importorskip("torchxrayvision")
    folder = metadata()
    theirs = xrv.datasets.VinBrain_Dataset(imgpath=str(folder))
    found, _ = whole("any")
    rows = pd.Index(found.rows["image_id"]).get_indexer(theirs.csv["image_id"])
    assert (len(rows), rows.min()) == (15_000, 0)
    columns = [name.casefold() for name in theirs.pathologies]
    assert sorted(THEIRS.get(word, word.casefold()) for word in LOCAL) == sorted(columns)
    for word in LOCAL:
        finding = THORAX.find("vinbigdata", word)
        ours = found.unlisted if finding is None else found.stated[:, THORAX.index(finding)]
        column = columns.index(THEIRS.get(word, word.casefold()))
        np.testing.assert_array_equal(np.asarray(ours)[rows], theirs.labels[:, column], err_msg=word)


@pytest.mark.slow
def test_import_of_the_whole_table() -> None:
    manifest, report = import_source("vinbigdata", metadata(), allow_missing_images=True)
    assert (report.kept, report.patients) == (15_000, 15_000)
    assert abs(report.splits["train"] / 15_000 - 0.7) < 0.01
    table_ids = set(read_table(metadata() / "vinbigdata-train.csv.gz")["image_id"])
    assert set(manifest.table["image_id"]) == table_ids


# --- It is of the films of VinDr-CXR's training half: laid out as that it must say the same --------------------------


def lay_out(root: Path, table: pd.DataFrame) -> None:
    films: dict[str, dict[str, list[str]]] = {}
    for name, reader, word in table[["image_id", "rad_id", "class_name"]].to_numpy().tolist():
        films.setdefault(name, {}).setdefault(reader, []).append(word)
    (root / "image_labels_train.csv").write_text(ticks(films))
    corners = ["x_min", "y_min", "x_max", "y_max"]
    table[["image_id", "rad_id", "class_name", *corners]].to_csv(root / "annotations_train.csv", index=False)
    table.to_csv(root / "train.csv", index=False)


@pytest.mark.parametrize("readers", ["any", "majority", "fusion"])
def test_both_layouts_of_the_same_films_say_the_same(tmp_path: Path, readers: str) -> None:
    path = metadata() / "vinbigdata-train.csv.gz"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    names = np.sort(table["image_id"].unique())[:1500]
    table = table[table["image_id"].isin(names)]
    lay_out(tmp_path, table)
    one = read_vindr(tmp_path, THORAX, Tally(), allow_missing_images=True, readers=readers)
    other = read_vinbigdata(tmp_path, THORAX, Tally(), allow_missing_images=True, readers=readers)
    assert one.rows["image_id"].tolist() == other.rows["image_id"].tolist()
    shared = [THORAX.index(name) for name in other.labelled]
    np.testing.assert_array_equal(one.stated[:, shared], other.stated[:, shared])
    assert one.rows["boxes"].tolist() == other.rows["boxes"].tolist()
    assert one.rows["boxes_exhaustive"].tolist() == other.rows["boxes_exhaustive"].tolist()
    assert ("vindr:" + one.rows["patient_id"]).tolist() == other.rows["patient_id"].tolist()
    only_vindr = [THORAX.index(name) for name in ("Pneumonia", "Tuberculosis", "Fracture")]
    assert (one.stated[:, only_vindr] == 0).all()
    assert np.isnan(other.stated[:, only_vindr]).all()

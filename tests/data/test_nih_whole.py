"""All of NIH, 112,120 films, against the counts that are known of it and against torchxrayvision's reading."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.sources import ImportReport, import_source
from cxr_mtl.data.split import check_patients

COUNTS = {  # facts/domain.md 4a, from NIH's corrected table
    "No Finding": 60361,
    "Infiltration": 19894,
    "Effusion": 13317,
    "Atelectasis": 11559,
    "Nodule": 6331,
    "Mass": 5782,
    "Pneumothorax": 5302,
    "Consolidation": 4667,
    "Pleural Thickening": 3385,
    "Cardiomegaly": 2776,
    "Emphysema": 2516,
    "Edema": 2303,
    "Fibrosis": 1686,
    "Pneumonia": 1431,
    "Hernia": 227,
}
BOX_COUNTS = {
    "Atelectasis": 180,
    "Effusion": 153,
    "Cardiomegaly": 146,
    "Infiltration": 123,
    "Pneumonia": 120,
    "Pneumothorax": 98,
    "Mass": 85,
    "Nodule": 79,
}


@pytest.fixture(scope="module")
def whole() -> tuple[Manifest, ImportReport]:
    """The whole table, as the package torchxrayvision carries it."""
    package = importlib.util.find_spec("torchxrayvision")
    if package is None or package.origin is None:
        pytest.skip("torchxrayvision, which carries NIH's whole table, is not installed")
    return import_source("nih", Path(package.origin).parent / "data", allow_missing_images=True)


@pytest.mark.slow
def test_all_of_nih(whole: tuple[Manifest, ImportReport]) -> None:
    manifest, report = whole
    assert (report.kept, report.patients, report.dropped) == (112120, 30805, {})
    assert {name: report.labels.loc[name, "present"] for name in COUNTS} == COUNTS
    assert {name: num for name, num in report.labels["boxes"].items() if num} == BOX_COUNTS
    assert manifest.table["view"].value_counts().to_dict() == {"PA": 67310, "AP": 44810}
    ages = manifest.table["age"]
    assert ((ages < 16).sum(), (ages == 0).sum(), ages.max()) == (4076, 14, 95)
    check_patients(manifest)


@pytest.mark.slow
def test_every_shared_label_equals_torchxrayvision(whole: tuple[Manifest, ImportReport]) -> None:
    """All 14 findings on all films; it has no column for No Finding."""
    xrv = pytest.importorskip("torchxrayvision")
    folder = Path(xrv.__file__).parent / "data"
    theirs = xrv.datasets.NIH_Dataset(
        str(folder), csvpath=str(folder / "Data_Entry_2017_v2020.csv.gz"), views=["PA", "AP"], unique_patients=False
    )
    manifest, _ = whole
    assert theirs.csv["Image Index"].str.removesuffix(".png").tolist() == manifest.table["image_id"].tolist()
    shared = {name: str(name).replace("_", " ") for name in theirs.pathologies}
    assert len(shared) == 14
    for column, (name, ours) in enumerate(shared.items()):
        place = manifest.ontology.index(ours)
        assert np.array_equal(theirs.labels[:, column], manifest.labels()[:, place]), name

"""NIH's adults and Kermany's children, each on its own ontology, train one model; each set is silent on the other's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.manifest import LABEL, Manifest
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.policy import learned_labels
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.split import split_by_patient
from cxr_mtl.losses.findings import masked_bce
from cxr_mtl.predict.predictor import LocalPredictor

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def merged(real_films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred real films of each set, imported on two ontologies and merged by the command line."""
    folder = tmp_path_factory.mktemp("merged")
    for source, ontology in (("nih", "nih14"), ("kermany", "kermany")):
        manifest, _ = import_source(source, real_films / source, ontology=ontology)
        save_manifest(_some(manifest, 160), folder / f"{source}.parquet")
    both = folder / "both.parquet"
    command = [sys.executable, "-m", "cxr_mtl", "data", "merge", folder / "nih.parquet", folder / "kermany.parquet"]
    done = subprocess.run([*command, "--out", both], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return both


def _some(manifest: Manifest, num: int) -> Manifest:
    rows = np.random.default_rng(0).permutation(len(manifest))[:num]
    part = replace(manifest, table=manifest.table.iloc[rows].reset_index(drop=True))
    return split_by_patient(part, {"train": 0.6, "val": 0.2, "test": 0.2}, 0)


SPOKEN = ("No Finding", "Pneumonia", "Bacterial", "Viral")
"""What Kermany's classes say of every film; a bacterial pneumonia was graded as no viral one."""
SILENT = (
    *("Lung Opacity", "Atelectasis", "Consolidation", "Infiltration", "Edema", "Lung Lesion", "Nodule", "Mass"),
    *("Emphysema", "Fibrosis", "Pleural", "Effusion", "Pneumothorax", "Pleural Thickening", "Cardiomegaly", "Hernia"),
)
"""What only NIH speaks of. Kermany's pneumonias imply an opacity, but no film of it could state that there is none."""


def _kermany(name: str) -> dict[str, float]:
    """The labels of one film, read off its file name."""
    kind = ("bacteria" in name) + 2 * ("virus" in name)
    assert kind or "IM-" in name or "NORMAL" in name
    return {name: float(value) for name, value in zip(SPOKEN, (kind == 0, kind > 0, kind == 1, kind == 2), strict=True)}


def test_each_set_teaches_what_it_states_and_nothing_else(merged: Path) -> None:
    manifest = load_manifest(merged)
    names = manifest.ontology.names
    assert sorted(names) == sorted(SPOKEN + SILENT)
    labels = pd.DataFrame(learned_labels(manifest, LabelsConfig()), columns=list(names))
    children = (manifest.table["dataset"] == "kermany").to_numpy(bool)
    assert labels.loc[children, list(SILENT)].isna().all(axis=None)
    files = manifest.table["image_path"][children]
    by_name = pd.DataFrame([_kermany(name) for name in files], index=files.index, columns=list(SPOKEN))
    assert (labels.loc[children, list(SPOKEN)] == by_name).all(axis=None)
    assert (by_name.nunique() == 2).all()
    # NIH states its fourteen of every film. Without pneumonia there is none by any germ; with one its germ is unknown.
    adults, germs = labels[~children], ["Bacterial", "Viral"]
    assert adults.drop(columns=germs).notna().all(axis=None)
    ill = adults["Pneumonia"] == 1
    assert 0 < ill.sum() < len(ill)
    assert adults.loc[ill, germs].isna().all(axis=None)
    assert (adults.loc[~ill, germs] == 0).all(axis=None)


def test_no_gradient_reaches_a_finding_through_films_that_are_silent_on_it(merged: Path) -> None:
    manifest = load_manifest(merged)
    labels = learned_labels(manifest, LabelsConfig())
    at = manifest.ontology.index
    children = (manifest.table["dataset"] == "kermany").to_numpy(bool)
    stated = manifest.table[LABEL + "Pneumonia"].to_numpy(float)
    for silent, rows in ((SILENT, children), (("Bacterial", "Viral"), ~children & (stated == 1))):
        assert rows.any()
        logits = torch.zeros(rows.sum(), labels.shape[1], requires_grad=True)
        masked_bce(logits, torch.from_numpy(labels[rows])).backward()
        assert logits.grad is not None
        columns = [at(name) for name in silent]
        assert not logits.grad[:, columns].any()
        spoken = [c for c in range(labels.shape[1]) if c not in columns and manifest.ontology.names[c] in SPOKEN]
        assert logits.grad[:, spoken].abs().sum(dim=0).all()


@pytest.mark.slow
def test_one_model_learns_both_and_answers_with_both(merged: Path, real_films: Path) -> None:
    tree = {
        "name": "both",
        "output": str(merged.parent / "runs"),
        "data": {"manifest": str(merged), "min_positives": 3},
        "model": {"encoder": "test_convnext", "image_size": 64, "fpn_channels": 16, "box_convs": 1},
        "train": {"epochs": 2, "batch_size": 16, "ema": 0.9, "warmup_epochs": 1},
    }
    (merged.parent / "both.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "cxr_mtl", "train", "-c", merged.parent / "both.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(merged.parent / "runs" / "both" / "best")
    assert {"Effusion", "Viral", "Bacterial", "Pneumonia", "No Finding"} <= set(bundle.trained)
    film = next((real_films / "kermany" / "images").glob("*virus*"))
    (answer,) = LocalPredictor(bundle).predict([film])
    calls = {finding["name"]: finding for finding in answer.to_dict()["findings"]}  # type: ignore[union-attr]
    assert all("probability" in calls[name] for name in ("Effusion", "Viral"))
    report = merged.parent / "report"
    command = [sys.executable, "-m", "cxr_mtl", "evaluate", bundle.folder, merged, "--split", "test", "--out", report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

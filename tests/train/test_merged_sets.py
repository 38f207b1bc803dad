"""NIH's adults and Kermany's children, each on its own ontology, train one model; each set is silent on the other's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config_data import LabelsConfig
from cxr_mtl.data.manifest import Manifest
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


def test_no_gradient_reaches_a_finding_through_films_that_are_silent_on_it(merged: Path) -> None:
    manifest = load_manifest(merged)
    labels = learned_labels(manifest, LabelsConfig())
    at = manifest.ontology.index
    for dataset, silent, spoken in (("kermany", "Effusion", "Viral"), ("nih", "Viral", "Effusion")):
        rows = (manifest.table["dataset"] == dataset).to_numpy(bool)
        logits = torch.zeros(rows.sum(), labels.shape[1], requires_grad=True)
        masked_bce(logits, torch.from_numpy(labels[rows])).backward()
        assert logits.grad is not None
        unknown = np.isnan(labels[rows])
        assert (logits.grad.numpy()[unknown] == 0).all()
        assert logits.grad[:, at(spoken)].abs().sum() > 0
        if dataset == "kermany":
            assert unknown[:, at(silent)].all()
        else:  # a film of NIH without pneumonia has none by any germ; with pneumonia its germ is unknown
            ill = labels[rows][:, at("Pneumonia")] == 1
            assert ill.any()
            assert (unknown[:, at(silent)] == ill).all()


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

"""Weak boxes are measured apart from learned ones, and only of findings that the findings head has learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from cxr_mtl.bundle import Bundle, load_bundle, save_bundle
from cxr_mtl.bundle.description import Description
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.evaluate.run import evaluate
from cxr_mtl.model.multitask import make_model
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Options


@pytest.fixture
def attentive(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    """The tiny bundle with attention pooling: three findings of its box head, the others weak."""
    tree = yaml.safe_load((tiny_bundle / "bundle.yaml").read_text())
    tree["encoder"]["pooling"] = "attention"
    description = Description.from_dict(tree)
    model = make_model(description.model, len(description.ontology.names), len(description.box_findings))
    save_bundle(tmp_path / "attentive", description, model.state_dict(), {"model_card.md": "# attentive\n"})
    return load_bundle(tmp_path / "attentive")


@pytest.mark.slow
def test_drawn_and_weak_boxes_are_two_numbers(attentive: Bundle, tmp_path: Path) -> None:
    assert attentive.box_findings == ("Cardiomegaly", "Effusion", "Nodule")
    assert "Mass" in attentive.weak_box_findings
    assert not {"Hernia", "Lung Opacity", "No Finding", "Effusion"} & set(attentive.weak_box_findings)
    write_study_set(tmp_path / "films", 60, 0, 96)
    manifest, _ = import_source("nih", tmp_path / "films", ontology="nih14", seed=0)
    save_manifest(manifest, tmp_path / "m.parquet")
    found = evaluate(attentive, tmp_path / "m.parquet", "test", tmp_path / "report", resamples=20, progress=False)
    drawn, weak = found["localization"], found["weak_localization"]
    assert set(drawn["findings"]) | set(drawn["skipped"]) == set(attentive.box_findings)
    assert set(weak["findings"]) | set(weak["skipped"]) == set(attentive.weak_box_findings)
    assert weak["findings"]
    assert "Weak boxes" in (tmp_path / "report" / "report.html").read_text()


def test_a_finding_that_the_head_never_learned_gets_no_weak_box_and_no_heat_map(
    attentive: Bundle, tmp_path: Path
) -> None:
    calibration = attentive.findings_calibration
    calibration.scale[attentive.ontology.index("Mass")] = np.nan
    assert "Mass" not in attentive.weak_box_findings
    write_study_set(tmp_path / "films", 2, 0, 96)
    film = next((tmp_path / "films" / "images").iterdir())
    (answer,) = LocalPredictor(attentive).predict([film], Options("sensitive", heatmaps=("Mass", "Edema")))
    assert {box.finding for box in answer.boxes if box.weak} <= set(attentive.weak_box_findings)  # type: ignore[union-attr]
    assert {heat.finding for heat in answer.heatmaps} <= {"Edema"}  # type: ignore[union-attr]

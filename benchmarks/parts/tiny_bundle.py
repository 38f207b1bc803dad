"""A bundle of untrained weights: right in shape, quick, and meaningless in what it finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cxr_mtl.bundle import Description, save_bundle
from cxr_mtl.config import ModelConfig
from cxr_mtl.metrics.calibrate import fit_calibration
from cxr_mtl.model.multitask import make_model
from cxr_mtl.ontology import load_ontology


def make_tiny_bundle(folder: Path) -> Path:
    """Writes it to ``folder``; the same weights each time."""
    ontology = load_ontology("nih14")
    rng = np.random.default_rng(0)
    presence = (rng.random((60, len(ontology.names))) < 0.3).astype(float)
    config = ModelConfig(encoder="test_convnext", image_size=64, fpn_channels=16, box_convs=1, drop_path=0.0)
    boxed = ("Cardiomegaly", "Effusion", "Nodule")
    torch.manual_seed(0)
    model = make_model(config, len(ontology.names), len(boxed))
    points = {"balanced": 0.5, "f1": 0.5, "sensitive": 0.2, "specific": 0.8}
    fitted = {"dataset": "none", "split": "val", "films": 60, "patients": 60, "split_sha256": "0"}
    trained = np.ones(len(ontology.names), bool)
    description = Description(
        name="tiny",
        version="0.1",
        model=config,
        ontology=ontology,
        trained=tuple(ontology.names),
        box_findings=boxed,
        findings_calibration=fit_calibration(presence, rng.normal(size=presence.shape), trained),
        hierarchy_calibration=fit_calibration(presence, rng.normal(size=presence.shape)),
        operating_points={point: dict.fromkeys(ontology.names, cut) for point, cut in points.items()},
        rules={point: {"rule": "none"} for point in points},
        box_min_score=0.0,
        fitted_on=fitted,
        config={},
    )
    save_bundle(folder, description, model.state_dict(), {"model_card.md": "# tiny\n"})
    return folder

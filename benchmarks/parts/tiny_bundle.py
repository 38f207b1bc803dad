"""Bundles of untrained weights: right in shape, as quick as trained ones, and meaningless in what they find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cxr_mtl.bundle import Description, save_bundle
from cxr_mtl.config import ModelConfig
from cxr_mtl.metrics.calibrate import fit_calibration
from cxr_mtl.model.multitask import make_model
from cxr_mtl.ontology import load_ontology

POINTS = {"balanced": 0.5, "f1": 0.5, "sensitive": 0.2, "specific": 0.8}


def make_tiny_bundle(folder: Path) -> Path:
    """The quickest that has all heads."""
    config = ModelConfig(encoder="test_convnext", image_size=64, fpn_channels=16, box_convs=1, drop_path=0.0)
    return make_untrained_bundle(folder, config, ("Cardiomegaly", "Effusion", "Nodule"))


def make_untrained_bundle(folder: Path, config: ModelConfig, boxed: Sequence[str], box_min_score: float = 0.0) -> Path:
    """Writes it to ``folder``; the same weights each time."""
    names = load_ontology("nih14").names
    rng = np.random.default_rng(0)
    presence = (rng.random((60, len(names))) < 0.3).astype(float)
    torch.manual_seed(0)
    model = make_model(config, len(names), len(boxed))
    description = Description(
        name="untrained",
        version="1.0",
        model=config,
        ontology=load_ontology("nih14"),
        trained=tuple(names),
        box_findings=tuple(boxed),
        findings_calibration=fit_calibration(presence, rng.normal(size=presence.shape), np.ones(len(names), bool)),
        hierarchy_calibration=fit_calibration(presence, rng.normal(size=presence.shape)),
        operating_points={point: dict.fromkeys(names, cut) for point, cut in POINTS.items()},
        rules={point: {"rule": "none"} for point in POINTS},
        box_min_score=box_min_score,
        fitted_on={"dataset": "none", "split": "val", "films": 60, "patients": 60, "split_sha256": "0"},
        config={},
    )
    save_bundle(folder, description, model.state_dict(), {"model_card.md": "# untrained\n"})
    return folder

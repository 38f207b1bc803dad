"""Shared by all rooms: where the real films are, and a tiny bundle that answers in milliseconds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared" / "data"

# Two threads a test process: torch's own choice would be one a core of a machine the tests share.
os.environ.setdefault("OMP_NUM_THREADS", "2")
# gradio_client, which asks the page in tests, would tell its maker.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# Machines are noisy: a slow example is no failure.
settings.register_profile("noisy", deadline=None)
settings.load_profile("noisy")


@pytest.fixture(scope="session")
def real_films() -> Path:
    """The folder of real films, kept outside the project."""
    if not SHARED.is_dir():
        pytest.skip("the real films (../shared/data) are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of untrained weights, small and quick: right in shape, meaningless in what it finds."""
    import torch

    from cxr_mtl.bundle import Description, save_bundle
    from cxr_mtl.config import ModelConfig
    from cxr_mtl.metrics.calibrate import fit_calibration
    from cxr_mtl.model.multitask import make_model
    from cxr_mtl.ontology import load_ontology

    ontology = load_ontology("nih14")
    names = ontology.names
    box_findings = ("Cardiomegaly", "Effusion", "Nodule")
    config = ModelConfig(encoder="test_convnext", image_size=64, fpn_channels=16, box_convs=1, drop_path=0.0)
    torch.manual_seed(0)
    model = make_model(config, len(names), len(box_findings))
    rng = np.random.default_rng(0)
    presence = (rng.random((60, len(names))) < 0.3).astype(float)
    trained = np.array([name != "Hernia" for name in names])
    calibration = fit_calibration(presence, rng.normal(size=presence.shape), trained)
    points = {"balanced": 0.5, "f1": 0.5, "sensitive": 0.2, "specific": 0.8}
    description = Description(
        name="tiny",
        version="0.1",
        model=config,
        ontology=ontology,
        trained=tuple(n for n in names if n != "Hernia"),
        box_findings=box_findings,
        findings_calibration=calibration,
        hierarchy_calibration=fit_calibration(presence, rng.normal(size=presence.shape)),
        operating_points={p: {n: cut for n in names if n != "Hernia"} for p, cut in points.items()},
        rules={p: {"rule": "of a test"} for p in points},
        box_min_score=0.0,
        fitted_on={"dataset": "none", "split": "val", "films": 60, "patients": 60, "split_sha256": "0"},
        config={},
    )
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    save_bundle(folder, description, model.state_dict(), {"model_card.md": "# tiny\n"})
    return folder

"""One rank, two ranks and accumulated passes learn the same: losses are means over the whole step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cxr_mtl.data.manifest import LABEL
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn films, a third of their labels unknown: ranks know different amounts."""
    folder = tmp_path_factory.mktemp("ranks")
    write_study_set(folder / "films", 90, 0, 64)
    manifest, _ = import_source("nih", folder / "films", ontology="nih14", seed=0)
    rng = np.random.default_rng(0)
    for name in manifest.ontology.names:
        column = manifest.table[LABEL + name]
        manifest.table[LABEL + name] = column.where(rng.random(len(column)) > 0.33)
    save_manifest(manifest, folder / "films.parquet")
    assert load_manifest(folder / "films.parquet").table[LABEL + "Effusion"].isna().any()
    return folder


def losses(folder: Path, name: str, *, ranks: int, loss: dict[str, object], **train: object) -> list[dict[str, float]]:
    tree = {
        "name": name,
        "output": str(folder / "runs"),
        "data": {"manifest": str(folder / "films.parquet"), "min_positives": 2},
        "model": {"encoder": "test_convnext", "image_size": 64, "fpn_channels": 16, "box_convs": 1, "drop_path": 0.0},
        "loss": loss,
        "train": {"epochs": 2, "batch_size": 16, "ema": 0.9, "warmup_epochs": 1, "precision": "fp32", **train},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree))
    start = (
        ["-m"] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "-m"]
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, "cxr_mtl", "train", "-c", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (folder / "runs" / name / "log.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if entry["event"] == "step"]


@pytest.mark.parametrize("loss", [{}, {"balance": "uncertainty", "conditional": 0.5}], ids=["plain", "weighted"])
def test_two_ranks_have_the_losses_of_one(films: Path, loss: dict[str, object]) -> None:
    kind = "weighted" if loss else "plain"
    one = losses(films, f"one-{kind}", ranks=1, loss=loss)
    two = losses(films, f"two-{kind}", ranks=2, loss=loss, zero_stage=2)
    assert len(one) == len(two) >= 6
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=2e-4)


def test_accumulated_passes_have_the_losses_of_one(films: Path) -> None:
    weighted = {"balance": "uncertainty"}
    whole = losses(films, "whole", ranks=1, loss=weighted)
    parts = losses(films, "parts", ranks=1, loss=weighted, accumulate=2)
    assert len(parts) == 2 * len(whole)
    for alone, first, second in zip(whole, parts[::2], parts[1::2], strict=True):
        mean = {head: (first[head] + second[head]) / 2 for head in first}
        assert mean == pytest.approx(alone, rel=2e-4)

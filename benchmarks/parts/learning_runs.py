"""The runs of the learning benchmark: what each arm changes, one run of it, and what it answered on the test films."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE = "three heads"
FINDINGS_ALONE: dict[str, Any] = {"loss.hierarchy": 0, "loss.boxes": 0}
LITE: dict[str, Any] = {"model.encoder": "tf_efficientnet_lite0", "model.encoder_args": {}}
# What each arm sets other than the reference: three heads, plain pooling, conditional tree, random weights.
ARMS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "findings alone": FINDINGS_ALONE,
    "tree alone": {"loss.findings": 0, "loss.boxes": 0},
    "boxes alone": {"loss.findings": 0, "loss.hierarchy": 0},
    "attention pooling": {"model.pooling": "attention"},
    "attention, no boxes": {"model.pooling": "attention", "loss.boxes": 0},
    "DINO": {"model.weights": "DINO"},
    "flat tree": {"model.tree": "flat"},
    "max tree": {"model.tree": "max"},
    "conditional first": {"loss.conditional": 0.5},
    "half the leaves": {"data.manifest": "half.parquet"},
    "half the leaves, flat": {"data.manifest": "half.parquet", "model.tree": "flat"},
    "a fifth of the leaves": {"data.manifest": "fifth.parquet"},
    "a fifth of the leaves, flat": {"data.manifest": "fifth.parquet", "model.tree": "flat"},
    "DenseNet-121": FINDINGS_ALONE | {"model.encoder": "densenet121", "model.encoder_args": {}, "model.drop_path": 0},
    "EfficientNet-Lite0": LITE,
    "EfficientNet-Lite0, ImageNet": LITE | {"model.weights": "IMAGENET"},
    "attention, no boxes, ImageNet": LITE
    | {"model.weights": "IMAGENET", "model.pooling": "attention", "loss.boxes": 0},
    "uncertainty weights": {"loss.balance": "uncertainty"},
    "asymmetric loss": {"loss.kind": "asymmetric"},
    "five looks": {"model.views": 5},
}
# Shares of the leaves' labels that are kept on training films; what a film's groups say is kept.
KEPT = {"half.parquet": 0.5, "fifth.parquet": 0.2}


def run_arm(arm: str, seed: int, base: dict[str, Any], work: Path) -> Path:
    """Train an arm from one random start and ask it for the test films; gives the file of its answers.

    A file that is there is not made again, so a benchmark that was stopped goes on.
    """
    out = work / f"{slug(arm)}-{seed}.npz"
    if out.is_file():
        return out
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from cxr_mtl.config import parse_config
    from cxr_mtl.data.manifest_file import load_manifest
    from cxr_mtl.evaluate.collect import collect
    from cxr_mtl.predict.predictor import LocalPredictor
    from cxr_mtl.train.loop import train

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    logging.basicConfig(level=logging.WARNING)
    tree = json.loads(json.dumps(base))
    for key, value in ARMS[arm].items():
        section, name = key.split(".")
        tree[section][name] = value
    tree |= {"name": f"{slug(arm)}-{seed}", "seed": seed, "output": str(work / "runs")}
    tree["data"]["manifest"] = str(work / tree["data"]["manifest"])
    if tree["model"].get("weights"):
        tree["model"]["weights"] = base["files"][tree["model"]["weights"]]
    tree.pop("files")
    started, cpu = time.monotonic(), time.process_time()
    folder = train(
        parse_config(tree, origin=arm), resume=(work / "runs" / tree["name"] / "checkpoints" / "latest").exists()
    )
    minutes, cpu = (time.monotonic() - started) / 60, (time.process_time() - cpu) / 60
    predictor = LocalPredictor(folder)
    answered = collect(predictor, load_manifest(work / "nih.parquet"), "test", batch_size=32, progress=False)
    tables = {
        f"{kind}_{f.name}": getattr(getattr(answered, kind), f.name)
        for kind in ("annotated", "proposed")
        for f in fields(answered.annotated)
    }
    part = out.with_suffix(".part.npz")
    np.savez_compressed(
        part,
        presence=answered.presence,
        probability=answered.probability,
        hierarchy=answered.hierarchy,
        conditional=answered.conditional,
        asked=answered.asked,
        frames=answered.frames,
        box_sizes=answered.box_sizes,
        patients=answered.manifest.patient_ids,
        located=np.array(predictor.bundle.located, np.str_),
        minutes=[minutes, cpu],
        **tables,
    )
    part.replace(out)
    return out


def slug(arm: str) -> str:
    return arm.lower().replace(" ", "_").replace(",", "")


def thin_labels(source: Path, target: Path, kept: float) -> None:
    """A manifest whose training films lack some labels of leaves, never of groups.

    Args:
        kept: share of the (film, leaf) labels that stay; drawn with a seed of their own.
    """
    from cxr_mtl.data.manifest import LABEL
    from cxr_mtl.data.manifest_file import load_manifest, save_manifest

    manifest = load_manifest(source)
    table = manifest.table.copy()
    train = (table["split"] == "train").to_numpy()
    rng = np.random.default_rng(0)
    tree = manifest.ontology
    inner = {name for finding in tree.findings for name in finding.parents}
    for finding in tree.findings:
        if finding.name not in inner and finding.parents:
            column = LABEL + finding.name
            table.loc[train & (rng.random(len(table)) >= kept), column] = np.nan
    save_manifest(replace(manifest, table=table), target)

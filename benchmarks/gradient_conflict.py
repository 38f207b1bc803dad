"""Do the three heads pull the encoder in different directions? Gradient methods of task balance pay only if they do.

    python benchmarks/gradient_conflict.py RUN_FOLDER... [--batches 40] [--json FILE]

RUN_FOLDER holds config.yaml and best/, as `cxr-mtl train` leaves it. For batches of its training films: the cosine
between the heads' gradients with respect to all encoder weights, from random weights and from the trained ones, and the
share of batches in which it is below zero, where methods such as PCGrad would cut something away.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config import RunConfig, load_config
from cxr_mtl.data.augment import augment
from cxr_mtl.data.loader import train_batches
from cxr_mtl.engine.distributed import ranks
from cxr_mtl.model.multitask import MultiTaskModel, make_model, normalise
from cxr_mtl.train.objective import HEADS, Objective
from cxr_mtl.train.study import Study, make_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN_FOLDER")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="three batches")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if not arguments.runs:
        print("gradient_conflict skipped: name one or more run folders.")
        return
    found: dict[str, list[np.ndarray]] = {}
    with ranks():
        for folder in arguments.runs:
            config = load_config(folder / "config.yaml")
            study = make_study(config, main=True)
            objective = Objective(
                config.loss,
                study.parents,
                len(study.box_findings),
                config.model.image_size,
                study.train.labels,
                study.train.has_boxes,
                tree=config.model.tree,
            )
            trained = load_bundle(folder / "best").model
            torch.manual_seed(config.seed)
            fresh = make_model(config.model, len(study.manifest.ontology.names), len(study.box_findings))
            number = 3 if arguments.quick else arguments.batches
            for state, model in (("random weights", fresh), ("trained", trained)):
                found.setdefault(state, []).append(cosines(model.train(), objective, study, config, number))
    rows = report({state: np.concatenate(parts) for state, parts in found.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps({"benchmark": "gradient_conflict", "rows": rows}, indent=2) + "\n")


def cosines(model: MultiTaskModel, objective: Objective, study: Study, config: RunConfig, number: int) -> np.ndarray:
    """(batches, pairs of heads)."""
    weights = list(model.encoder.parameters())
    batches = train_batches(study.train, batch_size=config.train.batch_size, seed=1, epoch=0)
    rows = []
    for batch in itertools.islice(batches, number):
        batch = augment(batch, config.augment, seed=1, epoch=0)
        losses = objective(model(normalise(batch.images), objective.box_rows(batch)), batch)
        pulls = [_flat(torch.autograd.grad(losses[head], weights, retain_graph=True)) for head in HEADS]
        pairs = itertools.combinations(pulls, 2)
        rows.append([torch.cosine_similarity(a, b, dim=0).item() for a, b in pairs])
    return np.array(rows)


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def report(found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    print(f"{'':<18}{'heads':<24}{'batches':>8}{'cosine, median':>16}{'quartiles':>18}{'below zero':>12}")
    for state, table in found.items():
        for column, (one, other) in zip(table.T, itertools.combinations(HEADS, 2), strict=True):
            low, middle, high = np.percentile(column, [25, 50, 75])
            below = float((column < 0).mean())
            quartiles = f"{low:+.3f} to {high:+.3f}"
            print(f"{state:<18}{one + ', ' + other:<24}{len(column):>8}{middle:>+16.3f}{quartiles:>18}{below:>12.0%}")
            name = f"{one}, {other}; {state}"
            rows.append({"name": name, "metric": "cosine", "value": middle, "unit": "", "low": low, "high": high})
            rows.append(
                {"name": name, "metric": "share below zero", "value": below, "unit": "", "low": None, "high": None}
            )
    return rows


if __name__ == "__main__":
    main()

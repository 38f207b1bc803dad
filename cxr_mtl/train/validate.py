"""Look at a split with some weights.  M films, C findings, D findings with boxes, K boxes, F features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mtl.data.loader import Examples, eval_batches
from cxr_mtl.engine.distributed import gather
from cxr_mtl.metrics.localize import Boxes, stack_boxes
from cxr_mtl.model.localize import flatten_levels, make_anchors, select_boxes
from cxr_mtl.model.multitask import MultiTaskModel, judge, pooled

EVAL_BATCH = 64

Features = NDArray[np.float32]
Proposed = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]  # boxes (K, 4), finding (K,), score (K,)
_Part = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], list[Proposed], Features]


@dataclass(frozen=True)
class Seen:
    """What a model said of every film of a split, in order of row, on every rank.

    Attributes:
        rows: (M,) of the manifest.
        labels: (M, C) 1, 0, nan.
        findings: (M, C) logits.
        hierarchy: (M, C) conditional logits.
        proposed: boxes of all films in the input frame; ``film`` counts rows, ``finding`` D.
        annotated: what was drawn on them.
        features: (M, F) of the encoder, pooled.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.float32]
    findings: NDArray[np.float64]
    hierarchy: NDArray[np.float64]
    proposed: Boxes
    annotated: Boxes
    features: Features


@torch.no_grad()
def look(
    model: MultiTaskModel, examples: Examples, num_box_findings: int, *, views: int = 1, rank: int = 0, world: int = 1
) -> Seen:
    """Run a model over a split, each film once over all ranks.

    Args:
        model: not wrapped, so that ranks may have different numbers of batches.
        num_box_findings: D.
        views: looks at each film.
    """
    model.eval()
    device = next(model.parameters()).device
    anchors = torch.cat(make_anchors(examples.pack.side, device))

    def batches() -> Iterator[_Part]:
        for batch in eval_batches(examples, batch_size=EVAL_BATCH, rank=rank, world=world):
            outputs = judge(model, batch.images.to(device), views)
            proposed: list[Proposed] = [_nothing()] * len(batch.index)
            if num_box_findings:
                proposed = [
                    (b.cpu().numpy(), f.cpu().numpy(), s.cpu().numpy())
                    for b, s, f in select_boxes(
                        flatten_levels(outputs.box_logits, num_box_findings),
                        flatten_levels(outputs.box_deltas, 4),
                        anchors,
                        examples.pack.side,
                    )
                ]
            features = pooled(outputs).cpu().numpy()
            yield batch.index.numpy(), _array(outputs.findings), _array(outputs.hierarchy), proposed, features

    parts = [part for shared in gather(list(batches())) for part in shared]
    rows = np.concatenate([part[0] for part in parts])
    order = np.argsort(rows)
    boxes = [film for part in parts for film in part[3]]
    rows = rows[order]
    return Seen(
        rows=rows,
        labels=examples.labels[rows],
        findings=np.concatenate([part[1] for part in parts])[order],
        hierarchy=np.concatenate([part[2] for part in parts])[order],
        proposed=stack_boxes(boxes[i] for i in order),
        features=np.concatenate([part[4] for part in parts])[order],
        annotated=stack_boxes((examples.boxes[r], f := examples.box_findings[r], np.ones(len(f))) for r in rows),
    )


def _nothing() -> Proposed:
    return np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)


def _array(values: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(values.double().cpu().numpy())

"""The loss of a batch: three heads, each over what is known of it.  B batch, C findings, D findings with boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cxr_mtl.config import LossConfig
from cxr_mtl.engine.distributed import mean_over_ranks
from cxr_mtl.losses.boxes import BoxLoss
from cxr_mtl.losses.findings import masked_bce, masked_log_bce
from cxr_mtl.model.hierarchy import log_probability
from cxr_mtl.model.localize import NUM_ANCHORS, flatten_levels, make_anchors
from cxr_mtl.types import Batch, Outputs

HEADS = ("findings", "hierarchy", "boxes")


class Objective(nn.Module):
    """Weighted sum of the heads' losses.

    Every head's outputs enter the sum on every rank, multiplied by 0 where nothing is known: a rank that skipped a head
    would reduce other gradients than its neighbours and stall ZeRO.
    """

    def __init__(
        self, weights: LossConfig, parents: tuple[tuple[int, ...], ...], num_box_findings: int, side: int
    ) -> None:
        super().__init__()
        self.weights = weights
        self.parents = parents
        self.num_box_findings = num_box_findings
        self.box_loss = BoxLoss(num_box_findings, make_anchors(side), NUM_ANCHORS) if num_box_findings else None

    def box_rows(self, batch: Batch) -> Tensor:
        """(R,) rows the box head is to look at: those with annotated boxes, or one, to keep the head in the graph."""
        rows = batch.has_boxes.nonzero().flatten()
        return rows if len(rows) else rows.new_zeros(1)

    def forward(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Losses by head, and their weighted sum as ``total``.

        Args:
            outputs: of the batch's images and of ``box_rows``.
            batch: labels (B, C), boxes and what is known of them.
        """
        counts = torch.stack([(~batch.labels.isnan()).sum(), batch.has_boxes.sum()])
        known, boxed = mean_over_ranks(counts)
        losses = {
            "findings": masked_bce(outputs.findings, batch.labels, known),
            "hierarchy": masked_log_bce(log_probability(outputs.hierarchy, self.parents), batch.labels, known),
            "boxes": self._boxes(outputs, batch) * (batch.has_boxes.sum() / boxed.clamp(min=1e-9)),
        }
        losses["total"] = torch.stack([getattr(self.weights, head) * losses[head] for head in HEADS]).sum()
        return losses

    def _boxes(self, outputs: Outputs, batch: Batch) -> Tensor:
        if self.box_loss is None:
            return outputs.findings.new_zeros(())
        logits = flatten_levels(outputs.box_logits, self.num_box_findings)
        deltas = flatten_levels(outputs.box_deltas, 4)
        rows = batch.has_boxes.nonzero().flatten().tolist()
        if not rows:
            logits, deltas = logits * 0, deltas * 0
        loss: Tensor = self.box_loss(
            logits,
            deltas,
            [batch.boxes[r] for r in rows],
            [batch.box_findings[r] for r in rows],
            batch.absent_known[batch.has_boxes],
        )
        return loss

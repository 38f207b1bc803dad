"""The loss of a batch: three heads, each over what is known of it.

N films of the manifest, B batch, C findings, D findings with boxes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_mtl.config import LossConfig
from cxr_mtl.config.model import Tree
from cxr_mtl.engine.distributed import mean_over_ranks
from cxr_mtl.losses.boxes import BoxLoss
from cxr_mtl.losses.findings import log1mexp, masked_asymmetric, masked_bce, masked_log_bce
from cxr_mtl.losses.tree import Parents, asked, max_constraint
from cxr_mtl.model.hierarchy import log_probability
from cxr_mtl.model.localize import NUM_ANCHORS, flatten_levels, make_anchors
from cxr_mtl.train.balance import Balance
from cxr_mtl.types import Batch, Outputs

HEADS = ("findings", "hierarchy", "boxes")


class Objective(nn.Module):
    """Weighted sum of the heads' losses.

    Every head's outputs enter the sum on every rank, multiplied by 0 where nothing is known: a rank that skipped a head
    would reduce other gradients than its neighbours and stall ZeRO.

    Each loss is a mean over what is known of the whole optimizer step, so that ranks, and forward passes that are
    accumulated, weigh alike what they know. How much that is follows from the rows of the step; no rank asks another.
    """

    def __init__(
        self,
        config: LossConfig,
        parents: Parents,
        num_box_findings: int,
        side: int,
        labels: NDArray[np.float32],
        has_boxes: NDArray[np.bool_],
        *,
        tree: Tree = "conditional",
        positives: NDArray[np.float32] | None = None,
    ) -> None:
        """Prepare for the films of a run.

        Args:
            config: the ``loss`` section.
            parents: for each of the C findings the indices of those that condition it.
            num_box_findings: D.
            side: of the input.
            labels: (N, C) targets to learn from; nan unknown.
            has_boxes: (N,) whether somebody drew boxes.
            tree: how the tree's logits compose.
            positives: (C,) weight of presence; None weighs presence and absence alike.
        """
        super().__init__()
        self.config, self.parents, self.tree = config, parents, tree
        self.num_box_findings = num_box_findings
        self.box_loss = BoxLoss(num_box_findings, make_anchors(side), NUM_ANCHORS) if num_box_findings else None
        self.balance = Balance(len(HEADS)) if config.balance == "uncertainty" else None
        self._seen: list[Tensor] = []  # losses by head of the optimizer step under way
        given = torch.from_numpy(labels)
        counts = [(~table.isnan()).sum(1) for table in (given, asked(given, parents))]
        self.known: Tensor
        # (N, 3) labels known, labels known on films with all parents, and 1 for a film with boxes
        known = torch.stack([*counts, torch.from_numpy(has_boxes)], 1).float()
        self.register_buffer("known", known, persistent=False)
        self.trained: Tensor
        self.register_buffer("trained", (~given.isnan()).any(0), persistent=False)
        self.positive_weight: Tensor | None
        weight = None if positives is None else torch.from_numpy(positives)
        self.register_buffer("positive_weight", weight, persistent=False)
        self.fixed: Tensor
        self.register_buffer("fixed", torch.tensor([getattr(config, head) for head in HEADS]), persistent=False)

    def box_rows(self, batch: Batch) -> Tensor:
        """(R,) rows the box head is to look at: those with annotated boxes, or one, to keep the head in the graph."""
        rows = batch.has_boxes.nonzero().flatten()
        return rows if len(rows) else rows.new_zeros(1)

    def forward(self, outputs: Outputs, batch: Batch, *, seed: int = 0, conditional: bool = False) -> dict[str, Tensor]:
        """Losses by head, and their weighted sum as ``total``.

        Args:
            outputs: of the batch's images and of ``box_rows``.
            batch: labels (B, C), boxes and what is known of them.
            seed: of the epoch; with a film's row it decides which anchors of the film are sampled.
            conditional: learn the tree's nodes only where all their parents are present.
        """
        share = len(batch.index) / len(batch.step)
        known, with_parents, boxed = self.known[batch.step.to(self.known.device)].sum(0) * share
        of_tree = with_parents if conditional else known
        losses = {
            "findings": self._presence(outputs.findings, batch.labels, known),
            "hierarchy": self._tree(outputs.hierarchy, batch.labels, of_tree, conditional),
            "boxes": self._boxes(outputs, batch, seed) / boxed.clamp(min=1e-9),
        }
        by_head = torch.stack([losses[head] for head in HEADS])
        weights = self.fixed if self.balance is None else self.fixed * self.balance.weights()
        losses["total"] = (weights * by_head).sum()
        self._seen.append(by_head.detach())
        return losses

    def settle(self) -> None:
        """After an optimizer step: learn from its losses how much each head is to count."""
        if self.balance is not None:
            self.balance.learn(mean_over_ranks(torch.stack(self._seen).mean(0)), (self.fixed > 0).tolist())
        self._seen.clear()

    def _presence(self, logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        loss = masked_bce if self.config.kind == "bce" else masked_asymmetric
        return loss(logits, self._smoothed(labels), known, self.positive_weight)

    def _tree(self, logits: Tensor, labels: Tensor, known: Tensor, conditional: bool) -> Tensor:
        if self.tree == "flat":
            return self._presence(logits, labels, known)
        if self.tree == "max":
            return self._presence(max_constraint(logits.float(), labels, self.parents, self.trained), labels, known)
        if conditional:
            return self._presence(logits, asked(labels, self.parents), known)
        log_p = log_probability(logits, self.parents)
        if self.config.kind == "asymmetric":
            return self._presence(log_p - log1mexp(log_p), labels, known)
        return masked_log_bce(log_p, self._smoothed(labels), known, self.positive_weight)

    def _smoothed(self, labels: Tensor) -> Tensor:
        return labels + self.config.smoothing * (1 - 2 * labels)

    def _boxes(self, outputs: Outputs, batch: Batch, seed: int) -> Tensor:
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
            [seed * len(self.known) + row for row in batch.draw[batch.has_boxes.cpu()].tolist()],
        )
        return loss

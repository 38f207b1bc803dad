"""Losses of the tree of findings.  B batch, C findings in topological order; ``parents`` as ``Ontology.parents``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Parents = Sequence[Sequence[int]]


def asked(labels: Tensor, parents: Parents) -> Tensor:
    """(B, C) labels, made unknown wherever not all parents are present: what a conditional logit answers for."""
    columns = [
        torch.where((labels[:, list(above)] == 1).all(1), labels[:, node], torch.nan) if above else labels[:, node]
        for node, above in enumerate(parents)
    ]
    return torch.stack(columns, 1)


def max_constraint(logits: Tensor, labels: Tensor, parents: Parents, trained: Tensor | None = None) -> Tensor:
    """What the max-constraint loss compares with a label (Giunchiglia and Lukasiewicz, C-HMCNN, 2020), in logits.

    A node answers with the highest logit of itself and all below it. Where it is absent, that is what must fall. Where
    it is present, only what is known to be present may rise: else a node would be learned through a child that is not
    there. The sigmoid is monotone, so the maximum of logits is that of probabilities, without their rounding.

    Args:
        logits: (B, C).
        labels: (B, C) 1 present, 0 absent, nan unknown.
        trained: (C,) bool; a node that no film teaches speaks for no other. None where all are.

    Returns:
        (B, C) logits.
    """
    lowest = torch.finfo(logits.dtype).min
    if trained is not None:
        logits = logits.masked_fill(~trained, lowest)
    # A present node itself may always rise; of an uncertain target (between 0 and 1) so may what is below.
    present = logits.masked_fill(~(labels > 0), lowest)
    highest, highest_present = list(logits.unbind(1)), list(present.unbind(1))
    for node in reversed(range(len(parents))):
        for parent in parents[node]:
            highest[parent] = torch.maximum(highest[parent], highest[node])
            highest_present[parent] = torch.maximum(highest_present[parent], highest_present[node])
    return torch.where(labels > 0, torch.stack(highest_present, 1), torch.stack(highest, 1))

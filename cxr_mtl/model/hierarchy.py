"""The tree of findings, which cannot contradict itself.  B batch, C findings in topological order.

The head gives one conditional logit a node: the finding given that all its parents are present. A finding implies each
of its parents, so its probability is that of its least probable parent, times the conditional:

    p(v) = sigmoid(z_v) * min over parents u of p(u)

which keeps p(child) <= p(parent) on every edge of a DAG, not only of a tree. On a tree it is the product along the path
(Chen et al., Deep hierarchical multi-label classification of chest X-ray images, MIDL 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_mtl.model.classify import ClassifyHead


class HierarchyHead(ClassifyHead):
    """Conditional logits of the tree; ``log_probability`` composes them."""


def log_probability(conditional: Tensor, parents: Sequence[Sequence[int]]) -> Tensor:
    """Compose conditional logits along the DAG, in log space and float32.

    Args:
        conditional: (B, C) logits.
        parents: for each of the C nodes the indices of its parents, all smaller than its own.

    Returns:
        (B, C) log p, at most 0, and never above that of any parent.
    """
    # Half precision would round log p near 0 and lose the small gradients of likely nodes.
    own = F.logsigmoid(conditional.float())
    columns: list[Tensor] = []
    for node, above in enumerate(parents):
        if above:
            limit = torch.stack([columns[parent] for parent in above]).amin(0)
            columns.append(own[:, node] + limit)
        else:
            columns.append(own[:, node])
    return torch.stack(columns, 1)

"""The tree of findings, which cannot contradict itself.  B batch, C findings in topological order.

``conditional``: the head gives a finding given that all its parents are present. A finding implies each of its parents,
so its probability is that of its least probable parent, times the conditional:

    p(v) = sigmoid(z_v) * min over parents u of p(u)

which keeps p(child) <= p(parent) on every edge of a DAG, not only of a tree. On a tree it is the product along the path
(Chen et al., Deep hierarchical multi-label classification of chest X-ray images, MIDL 2019).

``max``: p(v) is the highest sigmoid of the node and all below it (Giunchiglia and Lukasiewicz, C-HMCNN, 2020).
``flat``: p(v) = sigmoid(z_v), which may contradict itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr_mtl.config.model import Tree
from cxr_mtl.model.classify import ClassifyHead


class HierarchyHead(ClassifyHead):
    """One logit a node; ``log_probability`` composes them."""


def log_probability(logits: Tensor, parents: Sequence[Sequence[int]], tree: Tree = "conditional") -> Tensor:
    """Compose logits along the DAG, in log space and float32.

    Args:
        logits: (B, C).
        parents: for each of the C nodes the indices of its parents, all smaller than its own.
        tree: see above.

    Returns:
        (B, C) log p, at most 0, and never above that of any parent, but for ``flat``.
    """
    # Half precision would round log p near 0 and lose the small gradients of likely nodes.
    columns = list(F.logsigmoid(logits.float()).unbind(1))
    if tree == "conditional":
        for node, above in enumerate(parents):
            if above:
                columns[node] = columns[node] + torch.stack([columns[parent] for parent in above]).amin(0)
    elif tree == "max":
        for node in reversed(range(len(parents))):
            for parent in parents[node]:
                columns[parent] = torch.maximum(columns[parent], columns[node])
    return torch.stack(columns, 1)

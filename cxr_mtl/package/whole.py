"""A bundle as one network whose outputs are answers, for formats in which no code of ours runs.

Calibration, the tree of findings and the anchors of boxes are part of it, held to ``LocalPredictor`` by tests. What
stays outside: reading a file, the gate, operating points, and non-maximum suppression.

B films, C findings of the ontology, F findings and T nodes that were trained, D findings with boxes, N anchors, S input
side, H W places of the finer map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from cxr_mtl.bundle import Bundle
from cxr_mtl.metrics.calibrate import Calibration
from cxr_mtl.model.encoder import Encoder
from cxr_mtl.model.localize import decode, flatten_levels, make_anchors
from cxr_mtl.model.multitask import MEAN, SPREAD, ZOOMS, MultiTaskModel, normalise
from cxr_mtl.ontology import Ontology

Columns = list[Tensor | None]
"""C columns, (B,) each; None where never trained."""
Scales = list[tuple[float, float] | None]


class WholeNetwork(nn.Module):
    """Normalised films in, probabilities and boxes out.

    Attributes:
        findings: names of the columns of ``findings``: what an answer calls; F.
        nodes: names of the columns of ``hierarchy``; T.
        outputs: names of what ``forward`` gives, in order.
    """

    anchors: Tensor

    def __init__(self, bundle: Bundle, *, boxes: bool = True) -> None:
        """Take a bundle's network over; it is not changed.

        Args:
            bundle: on the CPU.
            boxes: False leaves the box head out, and the attention.
        """
        super().__init__()
        description, ontology = bundle.description, bundle.ontology
        self.size, self.tree = bundle.image_size, description.model.tree
        self.parents = ontology.parents_among(bundle.trained)
        self.trained = [name in bundle.trained for name in ontology.names]
        self.finding_scales = _scales(description.findings_calibration)
        self.node_scales = _scales(description.hierarchy_calibration)
        self.finding_columns, self.node_columns = self._answered(ontology)
        self.findings = [ontology.names[c] for c in self.finding_columns]
        self.nodes = [ontology.names[c] for c in self.node_columns]
        self.num_boxed = len(bundle.box_findings) if boxes else 0
        self.attends = boxes and bool(bundle.weak_box_findings)
        model = bundle.model.eval()
        self.model = MultiTaskModel(
            with_fixed_masks(model.encoder, self.size),
            model.findings,
            model.hierarchy,
            model.boxes if self.num_boxed else None,
        ).eval()
        if self.num_boxed:
            self.register_buffer("anchors", torch.cat(make_anchors(self.size)), persistent=False)
        self.zooms = [f"zoom_{i}" for i in range(description.model.views - 1)]
        for name, zoom in zip(self.zooms, ZOOMS, strict=False):
            self.register_buffer(name, _grid(zoom, self.size), persistent=False)
        boxed = ("boxes", "box_scores") if self.num_boxed else ()
        self.outputs = ("findings", "hierarchy", *boxed, *(("places",) if self.attends else ()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """What a bundle says of films.

        Args:
            images: (B, 1, S, S) from ``normalise``.

        Returns:
            findings: (B, F) calibrated probabilities.
            hierarchy: (B, T) the same along the tree, never above any parent's but for a ``flat`` tree.
            boxes: (B, N, 4) xyxy, pixels of the input, before non-maximum suppression; with a box head only.
            box_scores: (B, N, D) 0 to 1; with a box head only.
            places: (B, F, H, W) 0 to 1, how sure each place is of each finding; with attention pooling only.
        """
        first = self.model(images)
        findings, hierarchy = first.findings, first.hierarchy
        if self.zooms:
            more = [self.model.judge_findings(look) for look in self._looks(images)]
            findings = torch.stack([findings, *(look[0] for look in more)]).mean(0)
            hierarchy = torch.stack([hierarchy, *(look[1] for look in more)]).mean(0)
        answers = list(self.probabilities(findings, hierarchy))
        if self.num_boxed:
            boxes = decode(flatten_levels(first.box_deltas, 4), self.anchors)
            scores = flatten_levels(first.box_logits, self.num_boxed).sigmoid()
            answers += [clip_boxes_to_image(boxes, (self.size, self.size)), scores]
        if self.attends:
            head = self.model.findings
            answers.append(head.places(head.normed(first.features))[:, self.finding_columns].sigmoid())
        return tuple(answers)

    def probabilities(self, findings: Tensor, hierarchy: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) logits of the two heads to (B, F) and (B, T) probabilities, as ``LocalPredictor`` makes them."""
        own: Columns = [z if known else None for z, known in zip(hierarchy.unbind(1), self.trained, strict=True)]
        if self.tree == "max":
            own = compose_columns(own, self.parents, self.tree)
        tree = compose_columns(_calibrated(own, self.node_scales), self.parents, self.tree)
        alone = _calibrated(list(findings.unbind(1)), self.finding_scales)
        either = [mine if mine is not None else theirs for mine, theirs in zip(alone, tree, strict=True)]
        return _table(either, self.finding_columns), _table(tree, self.node_columns)

    def _answered(self, ontology: Ontology) -> tuple[list[int], list[int]]:
        """Columns of the ontology that have a probability: the findings that are called, and the tree's nodes."""
        nodes = [c for c, known in enumerate(self.trained) if known and self.node_scales[c]]
        findings = [
            c
            for c, known in enumerate(self.trained)
            if known and not ontology.findings[c].group and (self.finding_scales[c] or self.node_scales[c])
        ]
        return findings, nodes

    def _looks(self, images: Tensor) -> list[Tensor]:
        """The looks after the first, as ``multitask.looks`` makes them of whole grey levels."""
        levels = ((images * SPREAD + MEAN) * 255).round()
        grids = [getattr(self, name).expand(images.shape[0], -1, -1, -1) for name in self.zooms]
        return [normalise(F.grid_sample(levels, grid, padding_mode="zeros", align_corners=False)) for grid in grids]


class OneTable(nn.Module):
    """The probabilities alone, for formats that know one output: (B, F + T), findings before the tree's nodes.

    Attributes:
        columns: what each is, such as ``finding Effusion`` and ``node Pleural``.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.whole = WholeNetwork(bundle, boxes=False)
        self.columns = [f"finding {name}" for name in self.whole.findings] + [
            f"node {name}" for name in self.whole.nodes
        ]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, S, S) from ``normalise`` to (B, F + T)."""
        return torch.cat(self.whole(images), 1)


def with_fixed_masks(encoder: Encoder, size: int) -> Encoder:
    """A copy whose windows' masks (Swin) are those of films of this size, kept with the weights.

    timm makes them at each pass, on a device that a trace would write down as this machine's.
    """
    encoder = copy.deepcopy(encoder)
    blocks: list[Any] = [module for module in encoder.modules() if getattr(module, "dynamic_mask", False)]
    for block in blocks:
        block.get_attn_mask = partial(_keep_mask, block, block.get_attn_mask)
    with torch.no_grad():
        encoder(torch.zeros(1, 1, size, size))
    for block in blocks:
        del block.get_attn_mask
        block.dynamic_mask = False
    return encoder


def _keep_mask(block: Any, make: Callable[..., Tensor | None], *args: Any, **options: Any) -> Tensor | None:
    block.attn_mask = make(*args, **options)  # a buffer, which moves with the network
    mask: Tensor | None = block.attn_mask
    return mask


def cuts_of(bundle: Bundle, findings: list[str]) -> dict[str, dict[str, float]]:
    """The threshold of each finding, by operating point."""
    points = bundle.operating_points
    return {point: {name: cuts[name] for name in findings if name in cuts} for point, cuts in points.items()}


def compose_columns(own: Columns, parents: tuple[tuple[int, ...], ...], tree: str) -> Columns:
    """``metrics.hierarchy.compose``, column by column, so that what was never trained takes no part in it."""
    columns = list(own)
    if tree == "conditional":
        for child, mine in enumerate(own):
            above = [bound for bound in (columns[parent] for parent in parents[child]) if bound is not None]
            if mine is not None and above:
                columns[child] = mine * torch.stack(above).amin(0)
    elif tree == "max":
        for child in reversed(range(len(parents))):
            for parent in parents[child]:
                upper, lower = columns[parent], columns[child]
                if upper is not None and lower is not None:
                    columns[parent] = torch.maximum(upper, lower)
    return columns


def _scales(calibration: Calibration) -> Scales:
    pairs = zip(calibration.scale.tolist(), calibration.bias.tolist(), strict=True)
    return [None if math.isnan(scale) else (scale, bias) for scale, bias in pairs]


def _calibrated(logits: Columns, scales: Scales) -> Columns:
    return [
        None if z is None or platt is None else torch.sigmoid(platt[0] * z + platt[1])
        for z, platt in zip(logits, scales, strict=True)
    ]


def _table(columns: Columns, wanted: list[int]) -> Tensor:
    return torch.stack([column for column in (columns[c] for c in wanted) if column is not None], 1)


def _grid(zoom: float, size: int) -> Tensor:
    """(1, S, S, 2) where each pixel of ``multitask.zoomed`` comes from; made here, so that no batch size is traced."""
    matrix = torch.tensor([[[1 / zoom, 0, 0], [0, 1 / zoom, 0]]])
    return F.affine_grid(matrix, [1, 1, size, size], align_corners=False)

"""The whole network.  B batch, C findings, D findings that can have a box, S input side."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr_mtl.config import ModelConfig
from cxr_mtl.model.classify import LEVELS, ClassifyHead
from cxr_mtl.model.encoder import Encoder, make_encoder
from cxr_mtl.model.hierarchy import HierarchyHead
from cxr_mtl.model.localize import LocalizeHead, strides
from cxr_mtl.types import Outputs

# Films are normalised with one mean and spread, those of NIH's own to two digits; the encoder is not told the dataset.
MEAN, SPREAD = 0.5, 0.25
# Sizes of a film in the looks after the first, as shares of its own. Never a mirrored look: the heart is on the left.
ZOOMS = (0.9, 1.1, 0.95, 1.05)


class MultiTaskModel(nn.Module):
    """One encoder, three heads, one forward pass."""

    def __init__(
        self, encoder: Encoder, findings: ClassifyHead, hierarchy: HierarchyHead, boxes: LocalizeHead | None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.findings = findings
        self.hierarchy = hierarchy
        self.boxes = boxes

    def forward(self, images: Tensor, box_rows: Tensor | None = None) -> Outputs:
        """Run encoder and heads.

        Args:
            images: (B, 1, S, S), from ``normalise``.
            box_rows: (R,) rows that the box head is to look at; None for all. In training only films with annotated
                boxes are looked at, which saves most of the box head's cost.
        """
        maps = self.encoder(images)
        last = maps[-LEVELS:]
        if self.boxes is None:
            box_logits, box_deltas = [], []
        else:
            box_logits, box_deltas = self.boxes(maps if box_rows is None else [m[box_rows] for m in maps])
        return Outputs(self.findings(last), self.hierarchy(last), box_logits, box_deltas, last)

    def judge_findings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) logits of findings and of hierarchy alone; images as in ``forward``."""
        last = self.encoder(images)[-LEVELS:]
        return self.findings(last), self.hierarchy(last)


def make_model(
    config: ModelConfig, num_findings: int, num_box_findings: int, *, weights: Path | None = None
) -> MultiTaskModel:
    """Build the network a configuration describes.

    Args:
        config: the ``model`` section of a run.
        num_findings: C, all nodes of the ontology.
        num_box_findings: D; 0 builds no box head.
        weights: encoder weights to start from; a bundle that brings its own passes none.
    """
    encoder = make_encoder(
        config.encoder, config.encoder_args, drop_path=config.drop_path, weights=weights, pretrained=config.pretrained
    )
    channels = encoder.channels[-LEVELS:]
    boxes = None
    if num_box_findings:
        boxes = LocalizeHead(
            encoder.channels,
            num_box_findings,
            config.fpn_channels,
            config.box_convs,
            num_levels=len(strides(config.image_size)),
        )
    return MultiTaskModel(
        encoder,
        ClassifyHead(channels, num_findings, config.dropout, config.pooling),
        HierarchyHead(channels, num_findings, config.dropout, config.pooling),
        boxes,
    )


def judge(model: MultiTaskModel, images: Tensor, views: int) -> Outputs:
    """What a network says of films, the mean logits of several looks: validation, evaluation and prediction ask here.

    Args:
        model: in evaluation mode.
        images: (B, 1, S, S) uint8.
        views: looks at each film, 1 to 5, each at another size; boxes and features are those of the first.
    """
    own, *others = looks(images, views)
    first: Outputs = model(own)
    if not others:
        return first
    more = [model.judge_findings(look) for look in others]
    findings, hierarchy = zip((first.findings, first.hierarchy), *more, strict=True)
    first.findings, first.hierarchy = torch.stack(findings).mean(0), torch.stack(hierarchy).mean(0)
    return first


def pooled(outputs: Outputs) -> Tensor:
    """(B, F) means of the encoder's last two maps: what the network sees in films, whatever it makes of it."""
    return torch.cat([maps.float().mean((2, 3)) for maps in outputs.features], dim=1)


def looks(images: Tensor, views: int) -> list[Tensor]:
    """(B, 1, S, S) films, 0 to 255, as the network sees them at each of its looks; the first is the film as it is."""
    return [normalise(images), *(normalise(zoomed(images.float(), zoom)) for zoom in ZOOMS[: views - 1])]


def zoomed(images: Tensor, zoom: float) -> Tensor:
    """The films about their centre, larger or smaller in the same square; what comes from outside is 0."""
    matrix = torch.tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]], device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def normalise(images: Tensor) -> Tensor:
    """(B, 1, S, S), 0 to 255, to the float the network is trained on."""
    return (images.float() / 255 - MEAN) / SPREAD

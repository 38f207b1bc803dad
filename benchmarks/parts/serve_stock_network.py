"""The network as TorchServe's stock handlers load one: a file with one class, which is made without arguments."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from cxr_mtl.bundle import load_description
from cxr_mtl.model.multitask import make_model


class Network(nn.Module):
    """All three heads run; the handler's softmax takes the findings' logits."""

    def __init__(self) -> None:
        super().__init__()
        told = load_description(Path(__file__).parent)
        self.network = make_model(told.model, len(told.ontology.names), len(told.box_findings))

    def forward(self, images: Tensor) -> Tensor:
        findings: Tensor = self.network(images).findings
        return findings

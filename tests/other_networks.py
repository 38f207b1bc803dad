"""The tiny bundle with other networks, of random weights that tell films apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cxr_mtl.bundle import Bundle, load_bundle, save_bundle
from cxr_mtl.model.multitask import make_model

SWIN = {"embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "img_size": 64}


def varied(tiny_bundle: Path, **changes: Any) -> Bundle:
    """With these settings of ``model``; not on disk."""
    bundle = load_bundle(tiny_bundle)
    config = bundle.description.model.model_copy(update=changes)
    torch.manual_seed(1)
    model = make_model(config, len(bundle.ontology.names), len(bundle.box_findings)).eval()
    for head in (model.findings, model.hierarchy):
        torch.nn.init.normal_(head.linear.weight, std=0.5)
    return replace(bundle, description=replace(bundle.description, model=config), model=model)


def stored(tiny_bundle: Path, folder: Path, **changes: Any) -> Path:
    """The same, saved to a folder."""
    bundle = varied(tiny_bundle, **changes)
    save_bundle(folder, bundle.description, bundle.model.state_dict(), {"model_card.md": "# tiny\n"})
    return folder

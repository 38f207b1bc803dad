"""What the optimizer is given, and how the encoder is to compute."""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn

from cxr_mtl.config import TrainConfig
from cxr_mtl.model.encoder import Encoder


def make_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay; the first group learns at the full rate.

    Weights decay; norms, biases and what timm exempts (such as Swin's tables of positions) do not. With
    ``train.layer_decay`` each layer of an encoder learns at so much of the rate of the layer above it, and the topmost
    at so much of the heads' (Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2022).

    Args:
        model: with or without an ``Encoder`` somewhere inside.
        config: the ``train`` section.

    Returns:
        groups for torch's optimizers, each with its ``lr``, and with ``lr_scale``, its share of ``train.lr``.
    """
    decay = config.weight_decay
    encoders = {name: module for name, module in model.named_modules() if isinstance(module, Encoder)}
    exempt = {
        f"{name}.net.{kept}"
        for name, encoder in encoders.items()
        for kept in cast("Any", getattr(encoder.net, "no_weight_decay", set))()
    }
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers: list[dict[str, Any]] = []
    if config.layer_decay < 1:
        for encoder in encoders.values():
            kept = cast("Any", getattr(encoder.net, "no_weight_decay", set))()
            layers += param_groups_layer_decay(encoder.net, decay, kept, layer_decay=config.layer_decay)
    for group in layers:
        group["lr_scale"] *= config.layer_decay  # timm's topmost layer of a headless network has 1
    layered = {id(p) for group in layers for p in group["params"]}
    rest = {name: p for name, p in learned.items() if id(p) not in layered}
    decayed = [p for name, p in rest.items() if p.ndim > 1 and name not in exempt]
    others = [p for name, p in rest.items() if p.ndim <= 1 or name in exempt]
    groups = [
        {"params": decayed, "weight_decay": decay, "lr_scale": 1.0},
        {"params": others, "weight_decay": 0.0, "lr_scale": 1.0},
        *layers,
    ]
    return [group | {"lr": config.lr * group["lr_scale"]} for group in groups if group["params"]]


def prepare(model: nn.Module, config: TrainConfig) -> None:
    """Let the encoders compute as the run file says; names of weights stay what they are."""
    for encoder in [module for module in model.modules() if isinstance(module, Encoder)]:
        if config.checkpoint_activations:
            cast("Any", encoder.net).set_grad_checkpointing(True)
        if config.compile:
            encoder.compile()


def channels_last(value: Any) -> Any:
    """Films with the numbers of a pixel beside each other, an order that the layers after them keep; else the same.

    Of a list each is laid so. With one channel both orders are the same in memory, so torch takes such a tensor for one
    of the usual order unless it was made in the other.
    """
    if isinstance(value, list | tuple):
        return [channels_last(each) for each in value]
    if not isinstance(value, Tensor) or value.ndim != 4:
        return value
    return torch.empty_like(value, memory_format=torch.channels_last).copy_(value)

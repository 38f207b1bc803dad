"""Which weights learn at which rate, and which decay: held to timm's own groups."""

from __future__ import annotations

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from cxr_mtl.config import ModelConfig, TrainConfig
from cxr_mtl.engine.optimize import channels_last, make_groups, prepare
from cxr_mtl.model.multitask import MultiTaskModel, make_model


def network(encoder: str = "test_convnext") -> MultiTaskModel:
    return make_model(ModelConfig(encoder=encoder, image_size=64, fpn_channels=16, box_convs=1), 3, 2)


def told(groups: list[dict[str, object]], model: MultiTaskModel) -> dict[str, tuple[float, float]]:
    """Rate and decay by name; every parameter once."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in groups for p in g["params"]]  # type: ignore[attr-defined]
    assert sorted(name for name, _ in found) == sorted(names.values())
    return dict(found)  # type: ignore[arg-type]


def test_norms_biases_and_what_timm_exempts_do_not_decay() -> None:
    model = network("swin_tiny_patch4_window7_224")
    groups = make_groups(model, TrainConfig(lr=0.1, weight_decay=0.3))
    assert len(groups) == 2
    by_name = told(groups, model)
    assert {rate for rate, _ in by_name.values()} == {0.1}
    free = {name for name, (_, decay) in by_name.items() if not decay}
    assert "encoder.net.layers.0.blocks.0.attn.relative_position_bias_table" in free
    assert all(p.ndim > 1 or name in free for name, p in model.named_parameters())
    assert "findings.linear.weight" not in free


@pytest.mark.parametrize("encoder", ["test_convnext", "swin_tiny_patch4_window7_224"])
def test_layers_learn_as_timm_has_them_one_layer_below_the_heads(encoder: str) -> None:
    model = network(encoder)
    groups = make_groups(model, TrainConfig(lr=0.1, layer_decay=0.5, weight_decay=0.3))
    by_name = told(groups, model)
    exempt = getattr(model.encoder.net, "no_weight_decay", set)()
    for group in param_groups_layer_decay(model.encoder.net, 0.3, exempt, layer_decay=0.5):
        for p in group["params"]:
            name = next(n for n, q in model.named_parameters() if q is p)
            assert by_name[name] == pytest.approx((0.1 * 0.5 * group["lr_scale"], group["weight_decay"]))
    heads = {rate for name, (rate, _) in by_name.items() if not name.startswith("encoder.")}
    assert heads == {0.1}
    assert groups[0]["lr"] == 0.1
    deepest = [
        rate for name, (rate, _) in by_name.items() if name.startswith(("encoder.net.stem", "encoder.net.patch"))
    ]
    assert max(deepest) == min(rate for rate, _ in by_name.values())


@pytest.mark.slow
def test_compiling_renames_no_weight() -> None:
    model = network()
    names = list(model.state_dict())
    prepare(model, TrainConfig(compile=True, checkpoint_activations=True))
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(("encoder", "before"), [("test_convnext", None), ("resnet18", 0)])
def test_channels_last_reaches_every_convolution(encoder: str, before: int | None) -> None:
    """Also through the one channel of a film, of which torch cannot tell in which order it lies."""
    model = network(encoder).eval()
    images = torch.randn(2, 1, 64, 64)
    counts = [count_last(model, films) for films in (images, channels_last(images))]
    assert before is None or counts[0][0] == before
    assert counts[1][0] == counts[1][1]
    assert torch.equal(channels_last(images), images)
    (crops,) = channels_last([images])
    assert (crops.stride(1), images.stride(1)) == (1, 64 * 64)


def count_last(model: MultiTaskModel, images: torch.Tensor) -> tuple[int, int]:
    """Convolutions whose outputs lie with their channels last, and all of them."""
    found: list[bool] = []

    def look(module: nn.Module, given: object, out: torch.Tensor) -> None:
        found.append(out.is_contiguous(memory_format=torch.channels_last))

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return sum(found), len(found)

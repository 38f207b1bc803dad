"""Shapes, both families behind one verb, the tree's promise, and the box head against MONAI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.utils.anchor_utils import AnchorGenerator
from monai.apps.detection.utils.box_coder import BoxCoder
from timm.optim import param_groups_layer_decay
from torchvision.ops import box_iou

from cxr_mtl.config import ModelConfig
from cxr_mtl.errors import CheckpointError, ConfigError
from cxr_mtl.model.encoder import STRIDES, make_encoder
from cxr_mtl.model.hierarchy import log_probability
from cxr_mtl.model.localize import (
    ANCHOR_RATIOS,
    NUM_ANCHORS,
    LocalizeHead,
    anchor_scales,
    decode,
    flatten_levels,
    make_anchors,
    select_boxes,
    strides,
)
from cxr_mtl.model.multitask import judge, make_model, normalise, zoomed

SMALL_SWIN = {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4, "img_size": 64}
FAMILIES = [
    ("test_convnext", {}),
    ("swin_tiny_patch4_window7_224", SMALL_SWIN),
    ("test_resnet", {}),
    ("test_efficientnet", {}),
    ("mobilenetv2_035", {}),
    ("densenet121", {"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
]


@pytest.mark.parametrize(("name", "args"), FAMILIES)
def test_one_verb_for_every_family(name: str, args: dict[str, Any]) -> None:
    encoder = make_encoder(name, args)
    maps = encoder(torch.randn(2, 1, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, STRIDES, strict=True)
    ]


@pytest.mark.parametrize(("name", "args"), FAMILIES)
def test_one_pass_feeds_three_heads(name: str, args: dict[str, Any]) -> None:
    config = ModelConfig(encoder=name, encoder_args=args, image_size=64, drop_path=0, fpn_channels=16, box_convs=1)
    model = make_model(config, 5, 3)
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    out = model(normalise(torch.randint(0, 255, (2, 1, 64, 64), dtype=torch.uint8)))
    assert out.findings.shape == out.hierarchy.shape == (2, 5)
    assert flatten_levels(out.box_logits, 3).shape == (2, sum(map(len, make_anchors(64))), 3)
    assert calls == [1]
    total = out.findings.sum() + out.hierarchy.sum() + sum(m.sum() for m in [*out.box_logits, *out.box_deltas])
    total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("pooling", ["plain", "attention"])
def test_looks_are_averaged_and_leave_boxes_alone(pooling: Any) -> None:
    torch.manual_seed(0)
    model = make_model(
        ModelConfig(encoder="test_convnext", image_size=64, fpn_channels=16, pooling=pooling), 5, 3
    ).eval()
    films = torch.randint(0, 255, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        one, three, plain = judge(model, films, 1), judge(model, films, 3), model(normalise(films))
    assert torch.equal(one.findings, plain.findings)
    assert not torch.allclose(three.findings, one.findings)
    assert all(torch.equal(a, b) for a, b in zip(three.box_logits, one.box_logits, strict=True))
    # A film that is the same at every size but for its margin: the looks see nearly the same.
    with torch.no_grad():
        black = judge(model, films * 0, 5)
    assert torch.allclose(black.findings, judge(model, films * 0, 1).findings, atol=1e-4)


def test_a_look_keeps_the_films_centre_and_side() -> None:
    film = torch.zeros(1, 1, 64, 64)
    film[..., 40:48, 28:36] = 255.0
    larger = zoomed(film, 1.5)
    y, x = (larger[0, 0] > 127).nonzero().float().mean(0).tolist()
    assert (y - 31.5, x - 31.5) == pytest.approx((12 * 1.5, 0), abs=0.6)


@pytest.mark.parametrize(("side", "levels"), [(64, 3), (288, 3), (320, 4), (352, 4), (640, 5)])
def test_levels_grow_with_the_input(side: int, levels: int) -> None:
    head = LocalizeHead((8, 8, 8), 2, 8, 1, len(strides(side)))
    maps = [torch.zeros(1, 8, side // s, side // s) for s in STRIDES]
    logits, deltas = head(maps)
    anchors = make_anchors(side)
    assert len(logits) == len(anchors) == levels
    assert flatten_levels(deltas, 4).shape[1] == sum(map(len, anchors))
    # The largest anchor reaches a heart, some half of the film.
    assert max(float((a[:, 2] - a[:, 0]).max()) for a in anchors) > side * 0.4


@pytest.mark.parametrize(("name", "args"), FAMILIES)
def test_what_training_asks_of_an_encoder(name: str, args: dict[str, Any]) -> None:
    """Recomputed activations give the same gradients, half precision runs, and every weight has its layer."""
    torch.manual_seed(0)
    encoder: Any = make_encoder(name, args)
    images = torch.randn(2, 1, 64, 64)

    def gradients() -> list[torch.Tensor]:
        encoder.zero_grad()
        sum((m.square().mean() for m in encoder(images)), torch.zeros(())).backward()
        return [p.grad for p in encoder.parameters()]

    kept = gradients()
    encoder.net.set_grad_checkpointing(True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(kept, gradients(), strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(m.isfinite().all() for m in encoder(images))
    groups = param_groups_layer_decay(encoder.net, layer_decay=0.75)
    assert sum(len(group["params"]) for group in groups) == len(list(encoder.parameters()))
    assert len({group["lr_scale"] for group in groups}) > 3


def test_no_paths_to_drop_is_one_line() -> None:
    assert len(make_encoder("densenet121", FAMILIES[-1][1], drop_path=0).channels) == 3
    with pytest.raises(
        ConfigError, match=r"model.drop_path: densenet121 has no stochastic depth. Set model.drop_path=0"
    ):
        make_encoder("densenet121", drop_path=0.1)


def test_unknown_encoder_and_arguments_are_one_line() -> None:
    with pytest.raises(ConfigError, match="no model 'convnext_atom'"):
        make_encoder("convnext_atom")
    with pytest.raises(ConfigError, match="encoder_args"):
        make_encoder("test_convnext", {"colour": 3})


def test_local_weights_are_loaded_and_missing_ones_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import save_file

    torch.manual_seed(0)
    source = make_encoder("test_convnext")
    file = tmp_path / "weights.safetensors"
    save_file(source.net.state_dict(), file)
    torch.manual_seed(1)
    loaded = make_encoder("test_convnext", weights=file)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="is not there or not a safetensors file"):
        make_encoder("test_convnext", weights=tmp_path / "none.safetensors")


@st.composite
def dags(draw: st.DrawFn) -> list[list[int]]:
    size = draw(st.integers(1, 9))
    return [draw(st.lists(st.integers(0, i - 1), unique=True, max_size=3)) if i else [] for i in range(size)]


@settings(max_examples=50, deadline=None)
@given(dags(), st.integers(0, 1000), st.sampled_from([1.0, 20.0, 80.0]))
def test_child_is_never_likelier_than_a_parent(parents: list[list[int]], seed: int, spread: float) -> None:
    logits = torch.randn(4, len(parents), generator=torch.Generator().manual_seed(seed)) * spread
    logits.requires_grad_()
    log_p = log_probability(logits, parents)
    assert (log_p <= 0).all()
    for child, above in enumerate(parents):
        for parent in above:
            assert (log_p[:, child] <= log_p[:, parent]).all()
    log_p.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_tree_is_the_product_along_the_path() -> None:
    logits = torch.randn(5, 3)
    p = log_probability(logits, [[], [0], [1]]).exp()
    assert torch.allclose(p[:, 2], logits.sigmoid().prod(1), atol=1e-6)


@pytest.mark.parametrize("side", [64, 96, 224])
def test_anchors_equal_monais(side: int) -> None:
    sizes = tuple(tuple(s * stride for s in anchor_scales(side)) for stride in STRIDES)
    generator: Any = AnchorGenerator(sizes=sizes, aspect_ratios=(ANCHOR_RATIOS,) * 3, indexing="xy")
    maps = [torch.zeros(1, 1, side // s, side // s) for s in STRIDES]
    (expected,) = generator(torch.zeros(1, 1, side, side), maps)
    assert torch.allclose(torch.cat(make_anchors(side)), expected)


def test_decode_equals_monais() -> None:
    anchors = torch.cat(make_anchors(64))
    deltas = torch.randn(len(anchors), 4) * 2
    expected = BoxCoder(weights=(1.0,) * 4).decode_single(deltas, anchors)
    assert torch.allclose(decode(deltas, anchors), expected, atol=1e-3, rtol=1e-5)


def test_best_box_of_each_finding_equals_monais_selector() -> None:
    torch.manual_seed(0)
    side, findings = 64, 3
    anchors = make_anchors(side)
    n = sum(map(len, anchors))
    logits, deltas = torch.randn(1, n, findings) * 2, torch.randn(1, n, 4) * 0.2

    class Shape(torch.nn.Module):
        spatial_dims, num_classes, num_anchors, size_divisible = 2, findings, NUM_ANCHORS, 32
        cls_key, box_reg_key = "classification", "box_regression"

    detector: Any = RetinaNetDetector(Shape(), AnchorGenerator(((8,) * NUM_ANCHORS,), ((1.0,),)))
    detector.set_box_selector_parameters(0.0, n * findings, 0.5, n * findings)
    counts = [len(level) for level in anchors]
    (theirs,) = detector.postprocess_detections(
        {"classification": logits, "box_regression": deltas},
        [torch.cat(anchors)],
        [[side, side]],
        [c // NUM_ANCHORS for c in counts],
    )
    ((boxes, scores, finding),) = select_boxes(logits, deltas, torch.cat(anchors), side)
    assert (scores[:-1] >= scores[1:]).all()
    for d in range(findings):
        mine = (finding == d).nonzero()[0, 0]
        other = (theirs["labels"] == d).nonzero().flatten()
        best = other[theirs["labels_scores"][other].argmax()]
        assert scores[mine].item() == pytest.approx(theirs["labels_scores"][best].item(), abs=1e-6)
        assert torch.allclose(boxes[mine], theirs["boxes"][best], atol=1e-3)
        kept = boxes[finding == d]
        assert len(kept) <= 5
        overlap = box_iou(kept, kept) - torch.eye(len(kept))
        assert (overlap <= 0.5 + 1e-6).all()

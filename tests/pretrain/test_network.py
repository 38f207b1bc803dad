"""Student and teacher: same start, running mean, a head that waits, and an encoder that `train` can take whole."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cxr_mtl.config import ModelConfig, PretrainConfig
from cxr_mtl.model.encoder import make_encoder
from cxr_mtl.pretrain.network import Projector, follow, make_pair
from cxr_mtl.pretrain.record import save_encoder

SMALL = PretrainConfig(prototypes=16, hidden=8, bottleneck=4)
CONVNEXT = ModelConfig(encoder="test_convnext", image_size=64)
SWIN = ModelConfig(
    encoder="swin_tiny_patch4_window7_224",
    encoder_args={"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
    image_size=64,
)


def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 1, 64, 64, generator=generator), torch.randn(6, 1, 32, 32, generator=generator)]


@pytest.fixture
def pair() -> tuple[Projector, Projector]:
    torch.manual_seed(0)
    return make_pair(CONVNEXT, SMALL)


@pytest.mark.parametrize("model", [CONVNEXT, SWIN], ids=["convnext", "swin"])
def test_crops_of_two_sizes_go_through_and_the_encoder_is_handed_over_whole(model: ModelConfig, tmp_path: Path) -> None:
    student, teacher = make_pair(model, SMALL)
    features, logits = student(crops())
    assert (features.shape[0], logits.shape) == (10, (10, 16))
    weights = teacher.encoder.net.state_dict()
    save_encoder(weights, model, 3, tmp_path / "encoder.safetensors")
    taken = make_encoder(model.encoder, model.encoder_args, weights=tmp_path / "encoder.safetensors").net.state_dict()
    assert taken.keys() == weights.keys()
    assert all(torch.equal(taken[name], weights[name]) for name in weights)
    with safe_open(tmp_path / "encoder.safetensors", framework="pt") as file:
        assert file.metadata()["encoder"] == model.encoder
        assert str(tmp_path) not in str(file.metadata())
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_a_full_disk_leaves_no_half_of_an_encoder(pair: tuple[Projector, Projector], tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises((OSError, SafetensorError)):
            save_encoder(pair[1].encoder.net.state_dict(), CONVNEXT, 3, tmp_path / "encoder.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_pair_starts_alike_and_only_the_student_learns(pair: tuple[Projector, Projector]) -> None:
    student, teacher = pair
    mine, theirs = student.state_dict(), teacher.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_teacher_is_the_running_mean_of_the_students(pair: tuple[Projector, Projector]) -> None:
    student, teacher = pair
    mean: dict[str, Any] = {name: p.detach().clone() for name, p in student.named_parameters()}
    for step in range(3):
        with torch.no_grad():
            for p in student.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))
        follow(teacher, student, 0.9)
        mean = {name: 0.9 * mean[name] + 0.1 * p.detach() for name, p in student.named_parameters()}
    for name, p in teacher.named_parameters():
        assert torch.allclose(p, mean[name], atol=1e-5), name


@pytest.mark.parametrize("learns", [False, True])
def test_the_last_layer_waits(pair: tuple[Projector, Projector], learns: bool) -> None:
    student, _ = pair
    student.head_learns = learns
    student(crops())[1].square().sum().backward()
    last = student.head.last_layer.weight_v
    assert bool(last.grad.abs().sum() > 0) is learns
    assert student.head.layers[0].weight.grad.abs().sum() > 0


def test_two_levels_of_the_encoder_get_a_gradient(pair: tuple[Projector, Projector]) -> None:
    student, _ = pair
    student(crops())[1].square().sum().backward()
    assert all(p.grad is not None for p in student.encoder.parameters())

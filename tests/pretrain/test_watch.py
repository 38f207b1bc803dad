"""Collapse of either kind is seen, and said in one line; a healthy teacher is let be."""

from __future__ import annotations

import math

import pytest
import torch

from cxr_mtl.config import PretrainConfig
from cxr_mtl.errors import CollapseError
from cxr_mtl.pretrain.watch import check_collapse, effective_rank, entropy, sureness, watch

K = 16
UNIFORM = torch.full((32, K), 1 / K)
POINT = torch.eye(K)[torch.zeros(32, dtype=torch.long)]
HEALTHY = torch.eye(K)[torch.arange(32) % K]


@pytest.mark.parametrize(
    ("p", "own", "of_mean", "information"),
    [(UNIFORM, math.log(K), math.log(K), 0), (POINT, 0, 0, 0), (HEALTHY, 0, math.log(K), 1)],
    ids=["uniform", "point", "healthy"],
)
def test_what_the_figures_say(p: torch.Tensor, own: float, of_mean: float, information: float) -> None:
    seen = watch(sureness(p), len(p))
    assert seen.entropy == pytest.approx(own, abs=1e-6)
    assert seen.mean_entropy == pytest.approx(of_mean, abs=1e-6)
    assert seen.information == pytest.approx(information, abs=1e-6)


def test_a_student_that_knows_the_teacher_agrees_on_all_and_one_that_guesses_on_nothing() -> None:
    seen = watch(sureness(HEALTHY), len(HEALTHY))
    assert seen.agreement(loss=0.0) == pytest.approx(1)
    assert seen.agreement(loss=math.log(K)) == pytest.approx(0, abs=1e-6)


def test_entropy_is_torchs() -> None:
    p = torch.softmax(torch.randn(5, K, generator=torch.Generator().manual_seed(0)), 1)
    assert torch.allclose(entropy(p), torch.distributions.Categorical(probs=p).entropy(), atol=1e-6)


def test_the_mean_of_two_ranks_is_that_of_all() -> None:
    p = torch.softmax(3 * torch.randn(32, K, generator=torch.Generator().manual_seed(0)), 1)
    both = (sureness(p[:16]) + sureness(p[16:])) / 2
    assert watch(both, 32).information == pytest.approx(watch(sureness(p), 32).information, rel=1e-5)


def test_few_crops_can_say_all_that_few_crops_can() -> None:
    assert watch(sureness(torch.eye(K)[:4]), 4).information == pytest.approx(1)


@pytest.mark.parametrize("directions", [1, 3, 7])
def test_effective_rank_counts_directions(directions: int) -> None:
    steps = torch.eye(12)[:directions]
    assert effective_rank(5 + torch.cat([steps, -steps])) == pytest.approx(directions, rel=1e-6)


def test_films_that_are_all_alike_have_no_rank() -> None:
    assert effective_rank(torch.full((10, 4), 3.7)) == 0


@pytest.mark.parametrize(
    ("information", "rank", "says"),
    [(0.01, 50.0, "is 0.010, less than 0.05"), (0.3, 1.2, "is 1.200, less than 2"), (math.nan, 50.0, "is nan")],
)
def test_collapse_is_one_line_that_says_what_to_try(information: float, rank: float, says: str) -> None:
    config = PretrainConfig(min_information=0.05, min_rank=2)
    with pytest.raises(CollapseError) as caught:
        check_collapse(config, 3, information, rank)
    line = str(caught.value)
    assert says in line
    assert "teacher_temperature" in line
    assert "\n" not in line


def test_neither_warm_up_nor_a_healthy_run_is_stopped() -> None:
    check_collapse(PretrainConfig(collapse_after=2), 2, 0.0, 0.0)
    check_collapse(PretrainConfig(collapse_after=2), 30, 0.4, 60.0)

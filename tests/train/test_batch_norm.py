"""BatchNorm's statistics: one set for all ranks, and a mean of them that fits the mean of the weights."""

from __future__ import annotations

import multiprocessing
import os
import socket
from typing import Any

import pytest
import torch
from torch import nn

from cxr_mtl.engine.distributed import ranks, share_statistics
from cxr_mtl.model.encoder import make_encoder
from cxr_mtl.train.ema import WeightMean


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, affine=False))


def one_rank(rank: int, port: int, out: Any) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    with ranks():
        net = network()
        torch.manual_seed(rank)
        net(torch.randn(8, 1, 6, 6) * (1 + rank))
        own = {name: value.clone() for name, value in net.state_dict().items()}
        share_statistics(net)
        out.put((rank, [{k: v.numpy() for k, v in state.items()} for state in (own, net.state_dict())]))


@pytest.mark.slow
def test_two_ranks_have_the_mean_of_both() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    workers = [context.Process(target=one_rank, args=(rank, port, out)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(out.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    (own_0, shared_0), (own_1, shared_1) = found[0], found[1]
    for name in own_0:
        assert (shared_0[name] == shared_1[name]).all()
        if "running" in name:
            assert (own_0[name] != own_1[name]).any()
            assert shared_0[name] == pytest.approx((own_0[name] + own_1[name]) / 2, rel=1e-6)
        else:
            assert (shared_0[name] == own_0[name]).all()


def test_alone_nothing_changes() -> None:
    with ranks():
        net = network()
        net(torch.randn(4, 1, 6, 6))
        before = {name: value.clone() for name, value in net.state_dict().items()}
        share_statistics(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.slow
def test_the_mean_of_weights_has_statistics_that_fit_it() -> None:
    """The mean of a network that learns answers nearly as it would with the films' own statistics."""
    torch.manual_seed(0)
    net = make_encoder("test_resnet").net
    start, mean = make_encoder("test_resnet").net.state_dict(), WeightMean(net.state_dict(), 0.998)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    films = torch.randn(32, 1, 64, 64) * 2 + 1
    for step in range(1, 81):
        rows = torch.randint(0, 32, (8,))
        loss = (net(films[rows]).mean((1, 2, 3)) - films[rows].mean((1, 2, 3))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean.update(net.state_dict(), step)

    def error(state: dict[str, torch.Tensor]) -> float:
        judge = make_encoder("test_resnet").net
        judge.load_state_dict(state)
        with torch.no_grad():
            answered, exact = judge.eval()(films), judge.train()(films)
        return ((answered - exact).square().mean() / exact.var()).item()

    assert error(mean.mean) < 0.15
    assert error(mean.mean | {name: value for name, value in start.items() if "running" in name}) > 1

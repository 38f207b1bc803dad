"""A GPU's recorded network against the same network as torch runs it.

Without a GPU a stand-in takes the place of the graph, and computes again, in the same memory, what was recorded.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from cxr_mtl.config import ModelConfig
from cxr_mtl.model.multitask import MultiTaskModel, judge, make_model
from cxr_mtl.predict import recorded as recorded_module
from cxr_mtl.predict.device import device_of
from cxr_mtl.predict.recorded import MOST_FILMS, RecordedModel, record
from cxr_mtl.predict.request import out_of_memory
from cxr_mtl.types import Outputs

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SIDE = 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Graph:
    """Stands in for a ``torch.cuda.CUDAGraph``."""

    def __init__(self, model: MultiTaskModel, images: torch.Tensor, outputs: Outputs) -> None:
        self.model, self.images, self.outputs = model, images, outputs

    @torch.no_grad()
    def replay(self) -> None:
        for old, new in zip(tensors(self.outputs), tensors(self.model(self.images)), strict=True):
            old.copy_(new)


def tensors(outputs: Outputs) -> list[torch.Tensor]:
    return [outputs.findings, outputs.hierarchy, *outputs.box_logits, *outputs.box_deltas, *outputs.features]


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(recorded: RecordedModel, images: torch.Tensor) -> Any:
        outputs = recorded.model(images)
        return recorded_module._Recording(Graph(recorded.model, images, outputs), images, outputs)  # type: ignore[arg-type]

    if not torch.cuda.is_available():
        monkeypatch.setattr(RecordedModel, "_record", stand_in)


def make() -> MultiTaskModel:
    torch.manual_seed(0)
    return make_model(ModelConfig(encoder="test_convnext", image_size=SIDE), 7, 3).eval()


@pytest.fixture(scope="module")
def network() -> MultiTaskModel:
    return make().to(DEVICE)


def draw(films: int, seed: int = 0) -> torch.Tensor:
    pixels = torch.randint(0, 256, (films, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    return pixels.to(DEVICE, torch.uint8)


def same(one: Outputs, other: Outputs) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(mine.shape == its.shape and torch.allclose(mine, its, rtol=1e-4, atol=1e-5) for mine, its in pairs)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("films", [1, 2, 3, 7, MOST_FILMS, MOST_FILMS + 1])
@torch.no_grad()
def test_any_number_of_films_is_answered_as_torch_answers_them(network: MultiTaskModel, films: int, views: int) -> None:
    assert same(judge(RecordedModel(network), draw(films), views), judge(network, draw(films), views))


@torch.no_grad()
def test_an_answer_stays_as_it_is_when_the_next_film_comes(network: MultiTaskModel) -> None:
    recorded = RecordedModel(network)
    first = judge(recorded, draw(2), 1)
    judge(recorded, draw(2, seed=1), 1)
    assert same(first, judge(network, draw(2), 1))


def test_threads_that_ask_at_once_have_each_its_own_answer(network: MultiTaskModel) -> None:
    recorded = RecordedModel(network)

    @torch.no_grad()
    def ask(seed: int) -> Outputs:
        return judge(recorded, draw(1 + seed % 3, seed), 1)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(40)))
    with torch.no_grad():
        for seed, answer in enumerate(answers):
            assert same(answer, judge(network, draw(1 + seed % 3, seed), 1))


@torch.no_grad()
def test_weights_that_moved_are_recorded_anew() -> None:
    model = make().to(DEVICE)
    recorded = RecordedModel(model)
    judge(recorded, draw(2), 1)
    before = recorded._recordings[2]
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.5  # elsewhere, and other numbers
    assert same(judge(recorded, draw(2), 1), judge(model, draw(2), 1))
    assert recorded._recordings[2] is not before


@on_gpu
def test_a_network_that_answers_otherwise_when_recorded_is_not(
    network: MultiTaskModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(record(network, 2, SIDE), RecordedModel)
    monkeypatch.setattr(recorded_module, "_apart", lambda *_: float("nan"))
    assert record(network, 2, SIDE) is network
    assert "answers otherwise" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU records it")
def test_a_network_that_cannot_be_recorded_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = make()
    assert record(model, 2, SIDE) is model
    (line,) = caplog.messages
    assert line.startswith("The network cannot be recorded")


def test_a_server_without_a_gpu_answers_on_the_cpu() -> None:
    assert device_of(None) == "cpu"


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_that_torch_cannot_use_is_not_asked(
    there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device_of(1) == ("cuda:1" if there else "cpu")
    assert ("cannot use it" in caplog.text) is not there


@pytest.mark.parametrize(
    "says", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"]
)
def test_a_gpu_without_memory_is_the_films_refusal(says: str) -> None:
    assert out_of_memory(RuntimeError(says))

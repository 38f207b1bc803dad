"""A GPU's recorded network against the same network as torch runs it. Skipped where there is no GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cxr_mtl.config import ModelConfig
from cxr_mtl.model.multitask import MultiTaskModel, judge, make_model
from cxr_mtl.predict.recorded import MOST_FILMS, RecordedModel
from cxr_mtl.types import Outputs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SIDE = 64


@pytest.fixture(scope="module")
def network() -> MultiTaskModel:
    torch.manual_seed(0)
    return make_model(ModelConfig(encoder="test_convnext", image_size=SIDE), 7, 3).eval().cuda()


def draw(films: int, seed: int = 0) -> torch.Tensor:
    pixels = torch.randint(0, 256, (films, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    return pixels.to("cuda", torch.uint8)


def same(one: Outputs, other: Outputs) -> None:
    for name, value in vars(one).items():
        pairs = (
            zip(value, getattr(other, name), strict=True) if isinstance(value, list) else [(value, vars(other)[name])]
        )
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("films", [1, 2, 3, 7, MOST_FILMS, MOST_FILMS + 1])
@torch.no_grad()
def test_any_number_of_films_is_answered_as_torch_answers_them(network: MultiTaskModel, films: int, views: int) -> None:
    same(judge(RecordedModel(network), draw(films), views), judge(network, draw(films), views))


@torch.no_grad()
def test_an_answer_stays_as_it_is_when_the_next_film_comes(network: MultiTaskModel) -> None:
    recorded = RecordedModel(network)
    first = judge(recorded, draw(2), 1)
    judge(recorded, draw(2, seed=1), 1)
    same(first, judge(network, draw(2), 1))


def test_threads_that_ask_at_once_have_each_its_own_answer(network: MultiTaskModel) -> None:
    recorded = RecordedModel(network)

    @torch.no_grad()
    def ask(seed: int) -> Outputs:
        return judge(recorded, draw(1 + seed % 3, seed), 1)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(40)))
    with torch.no_grad():
        for seed, answer in enumerate(answers):
            same(answer, judge(network, draw(1 + seed % 3, seed), 1))

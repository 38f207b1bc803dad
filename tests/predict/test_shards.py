"""Which rank answers which films: each film exactly once, whatever the numbers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.errors import ConfigError
from cxr_mtl.predict.shards import MOST_FILMS, Rank, cut, rank_of

counts = st.integers(1, 20_000)
batches = st.integers(1, 600)


@given(films=counts, batch=batches, world=st.integers(1, 70))
def test_each_film_is_exactly_one_rank_s(films: int, batch: int, world: int) -> None:
    blocks = cut(films, batch)
    ranks = [blocks.of(Rank(number, world)) for number in range(world)]
    taken = Counter(row for own in ranks for block in own for row in blocks.rows(block))
    assert taken == Counter(range(films))
    shares = [sum(len(blocks.rows(block)) for block in own) for own in ranks]
    assert max(shares) - min(shares) <= blocks.size


@given(films=counts, batch=batches)
def test_blocks_are_whole_batches_and_neither_large_nor_few(films: int, batch: int) -> None:
    blocks = cut(films, batch)
    assert blocks.size % batch == 0
    assert blocks.size <= max(MOST_FILMS, batch)
    assert len(blocks.all) >= min(32, -(-films // batch))  # short lists, too, are something to share
    assert [row for block in blocks.all for row in blocks.rows(block)] == list(range(films))


@given(films=counts, batch=batches, first=st.integers(1, 9), then=st.integers(1, 9), data=st.data())
def test_what_other_ranks_left_is_done_by_however_many_come(
    films: int, batch: int, first: int, then: int, data: st.DataObject
) -> None:
    blocks = cut(films, batch)
    done: list[int] = []
    for number in range(first):
        own = blocks.of(Rank(number, first))
        done += own[: data.draw(st.integers(0, len(own)))]
    for number in range(then):
        done += [block for block in blocks.of(Rank(number, then)) if block not in done]
    assert sorted(done) == list(blocks.all)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, Rank()),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}, Rank(1, 4, 1, 2)),  # DeepSpeed
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, Rank(3, 4, 1, 2)),  # torchrun
        ({"RANK": "2", "WORLD_SIZE": "3"}, Rank(2, 3)),  # by hand, or of an array
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, Rank(5, 8, 1, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Rank()),  # a batch script outside srun
        ({"RANK": "0"}, Rank()),
    ],
)
def test_launchers_say_who_is_who(environment: dict[str, str], rank: Rank) -> None:
    assert rank_of(environment) == rank


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "-1", "WORLD_SIZE": "4"}, {"RANK": "one", "WORLD_SIZE": "4"}],
)
def test_ranks_that_cannot_be_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"RANK={environment['RANK']}, WORLD_SIZE=4"):
        rank_of(environment)

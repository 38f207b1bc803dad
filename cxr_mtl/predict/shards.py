"""Who answers which films. Pure.

Films are cut into blocks by their place in the list, whatever the number of ranks, and batches never cross a block: so
the same films share a forward pass however often a run was killed, and however many ranks it went on with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cxr_mtl.errors import ConfigError

MOST_FILMS = 256
"""In a block: what a kill costs at most, on each rank."""
BLOCKS = 64  # of a short list, so that ranks end at about the same time


@dataclass(frozen=True, slots=True)
class Rank:
    """One of several processes that share the work.

    Attributes:
        number: 0 for the first.
        world: how many there are.
        local: its number on its own machine.
        beside: how many are on its machine.
    """

    number: int = 0
    world: int = 1
    local: int = 0
    beside: int = 1


@dataclass(frozen=True, slots=True)
class Blocks:
    """A list of films, cut.

    Attributes:
        films: N.
        size: films in each block but the last.
    """

    films: int
    size: int

    @property
    def all(self) -> range:
        return range(-(-self.films // self.size))

    def of(self, rank: Rank) -> range:
        """The blocks of a rank: every ``world``-th, so that all come through the list at one pace."""
        return self.all[rank.number :: rank.world]

    def rows(self, block: int) -> range:
        return range(block * self.size, min((block + 1) * self.size, self.films))


def cut(films: int, batch: int) -> Blocks:
    """Blocks of whole batches."""
    wanted = min(MOST_FILMS, max(1, films // BLOCKS))
    return Blocks(films, batch * max(1, wanted // batch))


def rank_of(environment: Mapping[str, str]) -> Rank:
    """Which rank the launcher made this process: DeepSpeed's and torchrun's variables, or those of a step of SLURM.

    A job of SLURM that is not started by ``srun`` has no step, and is one rank.

    Raises:
        ConfigError: the variables do not fit together.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in environment else "LOCAL_SIZE",
        )
    elif "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
    else:
        return Rank()
    said = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
    try:
        values = [int(environment.get(name, default)) for name, default in zip(names, "0101", strict=True)]
    except ValueError:
        raise ConfigError(f"The ranks' variables are no numbers: {said}.") from None
    rank = Rank(*values)
    if not 0 <= rank.number < rank.world or rank.local < 0 or rank.beside < 1:
        raise ConfigError(f"The ranks' variables do not fit together: {said}.", hint="Ranks count from 0.")
    return rank

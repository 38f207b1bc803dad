"""Random numbers that belong to a film: the same on one rank and on several, and in a run that was resumed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Seed and epoch alone give the order of the films; these keep other numbers of the same seed and epoch apart from it.
AUGMENT, CROPS = 1, 2


def film_numbers(rows: NDArray[np.int64], draws: int, *, seed: int, epoch: int, stream: int) -> NDArray[np.float64]:
    """(B, draws) 0 to 1: rows of the table that a generator would fill, without filling the table.

    Args:
        rows: (B,) of the manifest.
        draws: numbers a film.
        seed: of the run.
        epoch: counted from 0.
        stream: what the numbers are for.
    """
    bits = np.random.PCG64DXSM([seed, epoch, stream])
    generator = np.random.Generator(bits)
    numbers = np.empty((len(rows), draws))
    at = 0
    for film, row in enumerate(rows.tolist()):
        bits.advance(row * draws - at)
        generator.random(out=numbers[film])
        at = (row + 1) * draws
    return numbers


def seed_of(*parts: int) -> int:
    """One seed, 0 to 2**32 - 1, from several numbers; any other number in any place gives quite another seed."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])

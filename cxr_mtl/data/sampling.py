"""Which films an epoch draws, and in what order: a pure function of seed and epoch.  M films, C findings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.config.learn import SamplingConfig

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def epoch_draw(
    datasets: Codes, patients: Codes, labels: NDArray[np.float32], config: SamplingConfig, seed: int, epoch: int
) -> Codes:
    """M films of an epoch, in its order.

    As films come, each is drawn once. Else each is expected so often as its share says, and is drawn that often,
    rounded up or down; what is rounded differs from epoch to epoch (systematic sampling).

    Args:
        datasets: (M,) a number for each dataset.
        patients: (M,) a number for each patient.
        labels: (M, C) 1 present, nan unknown.
        config: see there.

    Returns:
        (M,) places among the M films.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(datasets))
    if config == SamplingConfig():
        return order
    expected = expected_draws(datasets, patients, labels, config)
    # Along the shuffled films, one is drawn wherever the running sum passes a whole number (from a random start).
    passed = np.floor(np.cumsum(expected[order]) + rng.random()).astype(np.int64)
    drawn = np.repeat(order, np.diff(passed, prepend=0))
    drawn = np.resize(drawn, len(order)) if len(drawn) else order  # the random start may cost or bring one
    return rng.permutation(drawn)


def occurrence(drawn: Codes) -> Codes:
    """(M,) how often each place of a sequence holds what an earlier place held.

    >>> occurrence(np.array([3, 5, 3, 3, 5])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(drawn, kind="stable")
    first = np.flatnonzero(np.diff(drawn[order], prepend=-1))
    count = np.arange(len(drawn)) - np.repeat(first, np.diff(np.append(first, len(drawn))))
    out = np.empty_like(drawn)
    out[order] = count
    return out


def expected_draws(datasets: Codes, patients: Codes, labels: NDArray[np.float32], config: SamplingConfig) -> Floats:
    """(M,) how often an epoch of M draws each film, on average; the mean is 1."""
    weight = _sizes(patients) ** (config.patients - 1) * rarity(labels, config.rare)
    of_dataset = np.bincount(datasets, weight)[datasets]
    share = _sizes(datasets) ** config.datasets * weight / of_dataset
    return np.asarray(share * len(share) / share.sum())


def rarity(labels: NDArray[np.float32], rare: float) -> Floats:
    """(M,) repeat factor of each film: that of its rarest finding, sqrt(rare / share of films with it), at least 1.

    The share is of the films that the finding is known of (Gupta et al., LVIS, 2019).
    """
    present, known = labels == 1, ~np.isnan(labels)
    frequency = present.sum(0) / np.maximum(known.sum(0), 1)
    factor = np.sqrt(np.maximum(rare / np.maximum(frequency, 1e-9), 1.0))
    return np.asarray(np.where(present, factor, 1.0).max(1))


def _sizes(codes: Codes) -> Floats:
    """(M,) how many films share each film's code."""
    return np.asarray(np.bincount(codes)[codes], dtype=np.float64)

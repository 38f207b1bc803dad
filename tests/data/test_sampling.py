"""Which films an epoch draws: as asked on average, every epoch the same number, and by seed and epoch alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.config import SamplingConfig
from cxr_mtl.data.sampling import epoch_draw, expected_draws, occurrence, rarity

RNG = np.random.default_rng(0)
DATASETS = np.repeat([0, 1], [300, 60])
PATIENTS = np.concatenate(
    [np.repeat(np.arange(20), 10), 20 + np.arange(100), 120 + np.arange(60)]
)  # ten with ten films
LABELS = (RNG.random((360, 3)) < [0.5, 0.1, 0.02]).astype(np.float32)
LABELS[::7, 1] = np.nan


def draw(config: SamplingConfig, epoch: int = 0, seed: int = 0) -> np.ndarray:
    return epoch_draw(DATASETS, PATIENTS, LABELS, config, seed, epoch)


def test_as_they_come_is_every_film_once() -> None:
    first, second = draw(SamplingConfig()), draw(SamplingConfig(), epoch=1)
    assert sorted(first) == sorted(second) == list(range(360))
    assert (first != second).any()


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.9), st.integers(0, 50))
def test_an_epoch_has_as_many_films_whatever_is_asked(
    datasets: float, patients: float, rare: float, epoch: int
) -> None:
    config = SamplingConfig(datasets=datasets, patients=patients, rare=rare)
    drawn = draw(config, epoch)
    assert len(drawn) == 360
    assert (drawn == draw(config, epoch)).all()
    expected = expected_draws(DATASETS, PATIENTS, LABELS, config)
    assert expected.mean() == pytest.approx(1)
    times = np.bincount(drawn, minlength=360)
    # Rounded up or down; one more or less where the draw was filled up or cut to its length.
    assert (np.abs(times - expected) < 2).all()


def test_a_film_drawn_again_is_counted() -> None:
    drawn = np.array([3, 5, 3, 3, 5])
    assert occurrence(drawn).tolist() == [0, 0, 1, 2, 1]
    assert occurrence(draw(SamplingConfig())).max() == 0


def test_datasets_are_drawn_alike() -> None:
    drawn = draw(SamplingConfig(datasets=0))
    assert np.bincount(DATASETS[drawn]).tolist() == pytest.approx([180, 180], abs=1)
    half = expected_draws(DATASETS, PATIENTS, LABELS, SamplingConfig(datasets=0.5))
    assert half[DATASETS == 0].sum() / half[DATASETS == 1].sum() == pytest.approx((300 / 60) ** 0.5)


def test_a_patient_of_many_films_counts_as_one_of_few() -> None:
    expected = expected_draws(DATASETS, PATIENTS, LABELS, SamplingConfig(patients=0))
    of_patient = np.bincount(PATIENTS, expected)
    assert of_patient[:120] == pytest.approx(300 / 120)
    assert expected[DATASETS == 1] == pytest.approx(1)


def test_rare_findings_are_drawn_more_often() -> None:
    factor = rarity(LABELS, 0.1)
    share = np.nanmean(LABELS, axis=0)
    assert factor[LABELS[:, 2] == 1] == pytest.approx(np.sqrt(0.1 / share[2]))
    assert factor[(LABELS[:, 1:] != 1).all(1)] == pytest.approx(1)
    drawn = np.concatenate([draw(SamplingConfig(rare=0.1), epoch) for epoch in range(20)])
    expected = (LABELS[:, 2] == 1) @ factor / factor.sum()
    assert (LABELS[drawn, 2] == 1).mean() == pytest.approx(expected, rel=0.1)

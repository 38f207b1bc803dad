"""The reject gate: deterministic, blind to what does not matter, and a stop for what is no chest film."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance

from cxr_mtl.data.gate import fit
from cxr_mtl.data.gate.fit import Fitted, choose, fit_gate, vary
from cxr_mtl.data.gate.gate import Gate
from cxr_mtl.data.gate.negatives import KINDS, make_negatives
from cxr_mtl.data.gate.thumbs import FORMS, LOOKS, SIDE, cut_out, forms, glimpse, looks, reduced
from cxr_mtl.data.gate.usual import FOLDS, Usual, fit_usual
from cxr_mtl.data.synthetic import draw_film, plan_films
from cxr_mtl.data.transforms import to_input


@pytest.fixture(scope="module")
def chests() -> NDArray[np.uint8]:
    """(60, SIDE, SIDE) drawn films."""
    return np.stack([draw_film(plan, SIDE).pixels for plan in plan_films(60, seed=0)])


@pytest.fixture(scope="module")
def fitted(chests: NDArray[np.uint8]) -> Fitted:
    return quick_fit(chests, 0)


def quick_fit(chests: NDArray[np.uint8], seed: int) -> Fitted:
    """A fifth of the pictures is enough for drawn chests."""
    with mock.patch.object(fit, "_OF_A_KIND", 30):
        return fit_gate(chests[:45], chests[45:], seed)


def test_films_pass_and_what_is_none_is_stopped(fitted: Fitted, chests: NDArray[np.uint8]) -> None:
    fresh = np.stack([draw_film(plan, SIDE).pixels for plan in plan_films(90, seed=3)[60:]])
    assert fitted.gate.passes(fresh).mean() >= 0.95
    assert fitted.passed >= 0.95
    for kind in ("turned films", "inverted films", "leaves", "limbs", "body slices", "pages", "clouds"):
        assert fitted.stopped[kind] >= 0.9, kind
    assert set(fitted.stopped) == set(KINDS)


@pytest.mark.slow
def test_the_same_seed_fits_the_same_gate(fitted: Fitted, chests: NDArray[np.uint8]) -> None:
    again = quick_fit(chests, 0).gate
    assert all(np.array_equal(value, again.to_arrays()[name]) for name, value in fitted.gate.to_arrays().items())
    other = quick_fit(chests, 1).gate
    assert not np.array_equal(fitted.gate.hidden, other.hidden)


def test_a_gate_survives_its_arrays_and_refuses_others(fitted: Fitted, chests: NDArray[np.uint8]) -> None:
    arrays = fitted.gate.to_arrays()
    assert np.array_equal(Gate.from_arrays(arrays).scores(chests), fitted.gate.scores(chests))
    with pytest.raises(ValueError, match="last is"):
        Gate.from_arrays(arrays | {"last": np.zeros(3)})
    with pytest.raises(KeyError):
        Gate.from_arrays({name: value for name, value in arrays.items() if name != "cut"})


def test_the_cut_is_where_validation_films_pass_but_never_above_even_odds(fitted: Fitted) -> None:
    assert fitted.gate.cut[0] <= 0
    strict = replace(fitted.gate, cut=np.array([np.inf]))
    assert not strict.passes(np.zeros((1, SIDE, SIDE), np.uint8)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_follow_from_their_seed(kind: str, chests: NDArray[np.uint8]) -> None:
    first, again, other = (make_negatives(kind, 3, chests, seed) for seed in (0, 0, 1))
    assert first.shape == (3, SIDE, SIDE)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first[0])) > 8, "there is something to see"


def test_borders_and_shape_of_the_file_say_nothing(chests: NDArray[np.uint8]) -> None:
    film = chests[0]
    bars = np.pad(film, ((40, 40), (70, 10)))
    plain, barred = (glimpse([to_input(p.astype(np.float32) / 255, 224)]).thumbs[0] for p in (film, bars))
    # Bars are found to a pixel of the thumbnail, so a little remains.
    assert np.abs(forms(plain[None]) - forms(barred[None])).mean() < 0.25
    left = reduced(bars, SIDE)
    assert np.abs(forms(plain[None]) - forms(left[None])).mean() > 0.5


def test_contrast_says_nothing_but_inversion_does(chests: NDArray[np.uint8]) -> None:
    film = chests[1]
    soft, inverted = (film * 0.6 + 30).astype(np.uint8), 255 - film
    own, same, other = (forms(f[None])[0] for f in (film, soft, inverted))
    assert np.abs(own - same).mean() < 0.1
    assert np.abs(own - other).mean() > 3 * np.abs(own - same).mean()


def test_forms_are_oriented_gradients() -> None:
    """A cell holds the strength of its gradients; a ramp has one direction, and turned round the opposite one."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    picture = (128 + 60 * np.sin(x / 9) + 50 * np.cos(y / 13 + x / 40)).astype(np.uint8)
    small = np.asarray(reduced(picture, 64), float)
    ours = (forms(picture[None])[0] ** 2).reshape(16, 8).sum(1)
    gradient = np.hypot(*np.gradient(small)).reshape(4, 16, 4, 16).sum((1, 3)).ravel()
    assert np.corrcoef(ours, gradient)[0, 1] > 0.95
    ramp = np.tile(np.linspace(0, 255, SIDE), (SIDE, 1)).astype(np.uint8)
    for turned, way in ((ramp, 0), (ramp.T, 2), (ramp[:, ::-1], 4), (ramp.T[::-1], 6)):
        strongest = forms(np.ascontiguousarray(turned)[None])[0].reshape(16, 8).argmax(1)
        assert (strongest == way).all()


def test_looks_tell_blur_and_noise(chests: NDArray[np.uint8]) -> None:
    from scipy.ndimage import gaussian_filter

    film = chests[2]
    plain, blurred = looks(film), looks(gaussian_filter(film, 3))
    noisy = looks((film + np.random.default_rng(0).normal(0, 20, film.shape)).clip(0, 255).astype(np.uint8))
    assert plain.shape == (LOOKS,)
    assert (blurred[:2] < plain[:2]).all()
    assert (noisy[:2] > plain[:2]).all()
    assert np.isfinite(looks(np.zeros((2, 1), np.uint8))).all()


def test_empty_films_are_cut_to_something() -> None:
    for shape in ((1, 300), (300, 1), (40, 40)):
        square, box = to_input(np.zeros(shape, np.float32), 64)
        assert min(cut_out(square, box).shape) >= 1
    assert np.isfinite(forms(np.zeros((1, SIDE, SIDE), np.uint8))).all()
    assert forms(np.zeros((1, SIDE, SIDE), np.uint8)).shape == (1, FORMS)


def test_varied_films_differ_and_follow_from_the_seed(chests: NDArray[np.uint8]) -> None:
    first, again = vary(chests[:4], 5, 1.0), vary(chests[:4], 5, 1.0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, chests[:4])


def test_choose_keeps_order_and_all_that_fit() -> None:
    rows = np.arange(10, 30)
    assert np.array_equal(choose(rows, 50, 0), rows)
    some = choose(rows, 5, 0)
    assert len(set(some)) == 5
    assert np.array_equal(some, np.sort(some))
    assert np.array_equal(some, choose(rows, 5, 0))


def films(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Looks and 20 features, three of which carry most."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, LOOKS)), rng.normal(size=(count, 20)) * np.r_[5, 3, 2, np.full(17, 0.5)] + 1


@pytest.fixture(scope="module")
def usual() -> Usual:
    (train, _), (val, features) = films(500, 0), films(400, 1)
    return fit_usual(train, val, features, np.arange(400))


def test_one_film_in_a_hundred_is_warned_of(usual: Usual) -> None:
    share = (usual.novelty(*films(4000, 2)) > usual.limit).mean()
    assert 0.003 < share < 0.03


def test_either_distance_is_enough(usual: Usual) -> None:
    look, feature = films(50, 3)
    assert (usual.novelty(look + 6, feature) > usual.limit).all()
    assert (usual.novelty(look, feature + 6) > usual.limit).all()


def test_distances_are_mahalanobis(usual: Usual) -> None:
    look, feature = films(30, 4)
    theirs = EmpiricalCovariance().fit(films(500, 0)[0]).mahalanobis(look)
    assert usual.by_looks(look) ** 2 * LOOKS == pytest.approx(theirs, rel=0.02)
    known = EmpiricalCovariance().fit(films(400, 1)[1]).mahalanobis(feature)
    assert np.corrcoef(usual.by_features(feature) ** 2 * 20, known)[0, 1] > 0.99


def test_percentiles_run_from_0_to_100(usual: Usual) -> None:
    assert usual.percentile(-100) == 0
    assert usual.percentile(100) == 100
    assert usual.percentile(usual.limit) == pytest.approx(99, abs=0.1)
    assert np.array_equal(Usual.from_arrays(usual.to_arrays()).quantiles, usual.quantiles)
    with pytest.raises(ValueError, match="scales"):
        Usual.from_arrays(usual.to_arrays() | {"scales": np.zeros((1, 2))})
    with pytest.raises(ValueError, match="quantiles holds what is no number"):
        Usual.from_arrays(usual.to_arrays() | {"quantiles": np.full(101, np.nan)})


def test_as_many_patients_as_folds_are_enough_however_their_films_are_shared_out() -> None:
    look, feature = films(54, 5)
    patients = np.r_[np.zeros(50, int), 1, 2, 3, 4]
    assert len(np.unique(patients)) == FOLDS
    assert np.isfinite(fit_usual(films(200, 6)[0], look, feature, patients).quantiles).all()


def test_few_films_of_many_features_still_give_a_distance() -> None:
    rng = np.random.default_rng(0)
    look = rng.normal(size=(50, LOOKS))
    small = fit_usual(rng.normal(size=(200, LOOKS)), look, rng.normal(size=(50, 300)), np.arange(50) // 2)
    assert np.isfinite(small.novelty(look, rng.normal(size=(50, 300)))).all()

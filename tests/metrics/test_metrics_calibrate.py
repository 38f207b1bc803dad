"""Platt's fit against scikit-learn, its prior, and the thresholds against a search over all cuts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from cxr_mtl.metrics import calibrate
from cxr_mtl.metrics.calibrate import (
    POINTS,
    Calibration,
    choose_operating_points,
    choose_thresholds,
    fit_calibration,
    fit_platt,
)
from cxr_mtl.metrics.classify import auroc, ece

NAN = float("nan")


def drawn(films: int, scale, bias, seed: int = 0):
    """Presence that follows sigmoid(scale * logit + bias), one column a finding."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 2, (films, len(np.atleast_1d(scale))))
    return (rng.random(logit.shape) < expit(np.asarray(scale) * logit + np.asarray(bias))).astype(float), logit


def test_without_its_prior_the_fit_is_logistic_regression(monkeypatch):
    monkeypatch.setattr(calibrate, "PRIOR_LOG_SCALE", 1e6)
    monkeypatch.setattr(calibrate, "PRIOR_BIAS", 1e6)
    presence, logit = drawn(500, 0.6, -1.0)
    oracle = LogisticRegression(C=np.inf, tol=1e-9).fit(logit, presence[:, 0])
    scale, bias = fit_platt(presence[:, 0], logit[:, 0])
    assert (scale, bias) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), abs=2e-3)


def test_the_fit_is_where_the_documented_loss_is_least():
    presence, logit = drawn(60, 0.3, -2.0)
    y, z = presence[:, 0], logit[:, 0]

    def loss(scale, bias):
        s = scale * z + bias
        return np.sum(np.log1p(np.exp(s)) - y * s) + np.log(scale) ** 2 / (2 * 0.5**2) + bias**2 / (2 * 2**2)

    scale, bias = fit_platt(y, z)
    around = [loss(scale * a, bias + b) for a in (0.99, 1, 1.01) for b in (-0.01, 0, 0.01)]
    assert min(around) == around[4]


def test_many_films_recover_the_truth_and_calibrate_others():
    truth = [0.5, 1.0, 2.0], [-2.0, 0.0, 1.5]
    fitted = fit_calibration(*drawn(4000, *truth))
    np.testing.assert_allclose(fitted.scale, truth[0], rtol=0.12)
    np.testing.assert_allclose(fitted.bias, truth[1], atol=0.2)
    presence, logit = drawn(4000, *truth, seed=1)
    for c in (0, 2):
        assert ece(presence[:, c], fitted.apply(logit)[:, c]) < 0.5 * ece(presence[:, c], expit(logit[:, c]))


def test_no_film_leaves_the_logits_as_they_are():
    assert fit_platt(np.zeros(0), np.zeros(0)) == (1.0, 0.0)


def test_few_separable_films_stay_near_identity():
    # Without the prior the scale of separable films goes to infinity and every probability to 0 or 1.
    scale, bias = fit_platt(np.repeat([0.0, 1.0], 5), np.repeat([-1.0, 1.0], 5))
    assert 1 < scale < 3
    assert abs(bias) < 1e-4


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_no_fit_changes_a_ranking(seed, films):
    rng = np.random.default_rng(seed)
    presence = rng.choice([0.0, 1.0, NAN], (films, 2))
    logit = rng.normal(size=(films, 2)) * 3 - presence.clip(0) * 4  # worse than chance
    probability = fit_calibration(presence, logit).apply(logit)
    for c in range(2):
        np.testing.assert_equal(auroc(presence[:, c], probability[:, c]), auroc(presence[:, c], logit[:, c]))


def test_a_rare_finding_takes_the_pooled_fit():
    presence, logit = drawn(800, [0.5, 0.5, 0.5], [-1.0, -1.0, -1.0])
    presence[:, 2] = np.where(np.arange(800) < 4, 1.0, np.where(np.arange(800) < 400, 0.0, NAN))
    fitted = fit_calibration(presence, logit)
    known = ~np.isnan(presence)
    assert fitted.pooled.tolist() == [False, False, True]
    assert (fitted.scale[2], fitted.bias[2]) == fit_platt(presence[known], logit[known])
    assert (fitted.num_positive[2], fitted.num_negative[2]) == (4, 396)


def test_a_finding_never_trained_is_nan_and_spoils_no_pool():
    presence, logit = drawn(100, [1.0, 1.0], [0.0, 0.0])
    presence[:, 1] = NAN
    logit[:, 0] = 50.0
    fitted = fit_calibration(presence, logit, [False, True])
    assert np.isnan(fitted.apply(logit)[:, 0]).all()
    assert (fitted.scale[1], fitted.bias[1]) == (1.0, 0.0)


def test_calibration_survives_the_bundle():
    presence, logit = drawn(100, [1.0, 0.5], [0.0, -1.0])
    fitted = fit_calibration(presence, logit, [True, False])
    body = fitted.to_dict(("Effusion", "Mass"))
    assert list(body) == ["Effusion"]
    again = Calibration.from_dict(body, ("Mass", "Effusion"))
    np.testing.assert_array_equal(again.apply(logit[:, ::-1]), fitted.apply(logit)[:, ::-1])


@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_thresholds_are_the_best_of_all_cuts(seed, films):
    rng = np.random.default_rng(seed)
    presence = (np.arange(films) % 3 == 0).astype(float)
    probability = rng.integers(0, 12, films) / 11
    chosen = choose_thresholds(presence, probability)
    fpr, tpr, _ = roc_curve(presence, probability, drop_intermediate=False)
    found = np.array([[chosen[p].sensitivity, chosen[p].specificity] for p in POINTS])
    assert found[0].sum() == pytest.approx((tpr + 1 - fpr).max())
    assert found[2, 1] == pytest.approx((1 - fpr)[tpr >= 0.9].max())
    assert found[3, 0] == pytest.approx(tpr[1 - fpr >= 0.95].max())
    positives = presence.sum()
    calls = tpr * positives + fpr * (films - positives)
    f1 = 2 * tpr * positives / (calls + positives)
    for point, rate in zip(POINTS, found, strict=True):
        called = probability >= chosen[point].threshold
        assert rate == pytest.approx([called[presence == 1].mean(), (~called)[presence == 0].mean()])
        if point == "f1":
            called_right = (called & (presence == 1)).sum()
            assert 2 * called_right / (called.sum() + positives) == pytest.approx(f1.max())


def test_cuts_lie_between_probabilities_so_that_rounding_turns_no_call():
    chosen = choose_thresholds([0, 0, 1, 1], [0.1, 0.2, 0.4, 0.9])
    assert chosen["balanced"].threshold == pytest.approx(0.3)
    assert (chosen["balanced"].sensitivity, chosen["balanced"].specificity) == (1, 1)


def test_a_useless_score_can_still_be_specific():
    chosen = choose_thresholds([0, 1, 0, 1], [1.0, 1.0, 1.0, 1.0])
    assert (chosen["specific"].sensitivity, chosen["specific"].specificity) == (0, 1)
    assert chosen["specific"].threshold > 1
    assert (chosen["sensitive"].sensitivity, chosen["sensitive"].threshold) == (1, 0)


@pytest.mark.parametrize("presence", [[1, 1], [0, NAN], []])
def test_one_class_has_no_threshold(presence):
    assert choose_thresholds(presence, [0.1, 0.9][: len(presence)]) == {}


def test_operating_points_cover_every_trained_finding_and_say_what_is_borrowed():
    presence, logit = drawn(200, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    presence[:, 1] = 0
    probability = expit(logit)
    probability[:, 2] = NAN
    points = choose_operating_points(presence, probability, ("Mass", "Hernia", "Edema"))
    assert set(points) == set(POINTS)
    for point, by_finding in points.items():
        assert set(by_finding) == {"Mass", "Hernia"}
        pooled = choose_thresholds(presence[:, :2].ravel(), probability[:, :2].ravel())[point]
        hernia = by_finding["Hernia"]
        assert (hernia.threshold, hernia.pooled) == (pooled.threshold, True)
        assert np.isnan(hernia.sensitivity)
        assert hernia.specificity == (probability[:, 1] < hernia.threshold).mean()
        assert hernia.to_dict()["sensitivity"] is None
        assert by_finding["Mass"] == choose_thresholds(presence[:, 0], probability[:, 0])[point]


def test_a_set_without_any_positive_falls_back_to_one_half():
    points = choose_operating_points(np.zeros((9, 1)), np.full((9, 1), 0.2), ("Mass",))
    assert points["balanced"]["Mass"].threshold == 0.5

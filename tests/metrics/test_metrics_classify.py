"""AUROC, average precision, rates, Brier and ECE against scikit-learn and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import calibration, metrics
from torchmetrics.classification import BinaryAUROC, BinaryCalibrationError

from cxr_mtl.metrics.classify import (
    auprc,
    auroc,
    brier,
    ece,
    outcomes,
    per_finding,
    rates,
    reliability,
    roc_curve,
)

NAN = float("nan")


def two_class(draw_size: int = 40):
    """Presence with both classes, and scores with many ties."""
    return st.integers(2, draw_size).flatmap(
        lambda n: st.tuples(
            arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0])).filter(lambda y: 0 < y.sum() < len(y)),
            arrays(np.float64, n, elements=st.integers(-4, 4).map(float)),
        )
    )


@given(two_class())
def test_areas_equal_scikit_learn_with_ties(case):
    presence, score = case
    assert auroc(presence, score) == pytest.approx(metrics.roc_auc_score(presence, score), abs=1e-12)
    assert auprc(presence, score) == pytest.approx(metrics.average_precision_score(presence, score), abs=1e-12)


@given(two_class())
def test_auroc_equals_torchmetrics(case):
    presence, score = case
    probability = 1 / (1 + np.exp(-score))
    oracle = BinaryAUROC(thresholds=None)(torch.from_numpy(probability), torch.from_numpy(presence).long())
    assert auroc(presence, probability) == pytest.approx(float(oracle), abs=1e-6)


@given(two_class(), st.floats(0.1, 10), st.floats(-5, 5))
def test_areas_ignore_monotone_maps_and_order(case, slope, shift):
    presence, score = case
    mapped = np.exp(slope * score / 4 + shift)
    order = np.random.default_rng(0).permutation(len(score))
    for metric in (auroc, auprc):
        assert metric(presence[order], mapped[order]) == pytest.approx(metric(presence, score), abs=1e-12)


@given(two_class())
def test_unknown_and_uncertain_films_change_nothing(case):
    presence, score = case
    more = np.concatenate([presence, [NAN, -1.0, 1.0, 0.0]])
    with_more = np.concatenate([score, [99.0, 99.0, NAN, NAN]])
    for metric in (auroc, auprc, brier, ece):
        assert metric(more, with_more) == metric(presence, score)


@pytest.mark.parametrize("presence", [[1, 1], [0, 0], [], [NAN, NAN], [-1, 1]])
@pytest.mark.parametrize("metric", [auroc, auprc])
def test_one_class_is_undefined_not_half(metric, presence):
    assert np.isnan(metric(presence, [0.1, 0.9][: len(presence)]))


def test_per_finding_goes_by_column():
    presence = np.array([[1, 0, NAN], [0, 0, 1], [1, 0, 0]])
    score = np.array([[0.9, 0.1, 0.2], [0.1, 0.2, 0.7], [0.8, 0.3, NAN]])
    np.testing.assert_array_equal(per_finding(auroc, presence, score), [1.0, NAN, NAN])


@given(two_class())
def test_roc_curve_equals_scikit_learn_and_encloses_the_area(case):
    presence, score = case
    fpr, tpr = roc_curve(presence, score)
    oracle = metrics.roc_curve(presence, score, drop_intermediate=False)
    np.testing.assert_allclose(np.stack([fpr, tpr]), np.stack(oracle[:2]), atol=1e-12)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(presence, score), abs=1e-12)


def test_roc_curve_of_one_class_is_empty():
    assert [len(x) for x in roc_curve([1, NAN], [0.5, 0.5])] == [0, 0]


@given(two_class(), st.integers(-4, 4))
def test_rates_equal_scikit_learn(case, threshold):
    presence, score = case
    found = rates(*outcomes(presence, score, threshold).sum(axis=1))
    called = score >= threshold
    options = {"zero_division": np.nan}
    assert found["sensitivity"] == metrics.recall_score(presence, called)
    assert found["specificity"] == metrics.recall_score(presence, called, pos_label=0)
    np.testing.assert_equal(float(found["ppv"]), metrics.precision_score(presence, called, **options))
    np.testing.assert_equal(float(found["npv"]), metrics.precision_score(presence, called, pos_label=0, **options))
    assert found["f1"] == pytest.approx(metrics.f1_score(presence, called))


def test_outcomes_leave_out_what_is_unknown():
    cells = outcomes([[1, NAN], [0, -1], [1, 0]], [[0.5, 0.9], [0.5, 0.9], [NAN, 0.1]], [0.5, NAN])
    assert cells.sum(axis=1).tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]


@given(two_class())
def test_brier_equals_scikit_learn(case):
    presence, score = case
    probability = 1 / (1 + np.exp(-score))
    assert brier(presence, probability) == pytest.approx(metrics.brier_score_loss(presence, probability), abs=1e-12)


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_equal_width_ece_equals_torchmetrics(size, seed):
    rng = np.random.default_rng(seed)
    probability, presence = rng.random(size), (rng.random(size) < 0.4).astype(float)
    # torchmetrics' binary error bins the probability of the finding, as we do.
    oracle = BinaryCalibrationError(n_bins=15, norm="l1")(
        torch.from_numpy(probability), torch.from_numpy(presence).long()
    )
    assert ece(presence, probability, equal_width=True) == pytest.approx(float(oracle), abs=1e-5)


@given(st.integers(20, 300), st.integers(2, 20), st.integers(0, 2**32 - 1))
def test_equal_mass_bins_equal_scikit_learn(size, bins, seed):
    assume(math.gcd(size - 1, bins) == 1)  # else an edge is a film, which rounding puts on either side
    rng = np.random.default_rng(seed)
    probability, presence = rng.random(size) ** 3, (rng.random(size) < 0.4).astype(float)
    table = reliability(presence, probability, bins=bins)
    frequency, mean = calibration.calibration_curve(presence, probability, n_bins=bins, strategy="quantile")
    np.testing.assert_allclose([table.frequency, table.probability], [frequency, mean], atol=1e-12)
    assert table.count.sum() == size
    np.testing.assert_array_equal(np.bincount(table.bin), table.count)


def test_equal_mass_sees_what_equal_width_hides():
    # A rare finding whose probabilities say the opposite of the truth, all below 1/15: one bin of equal width is blind.
    probability = np.repeat([0.0, 0.06], 100)
    presence = np.repeat([0.0, 1.0, 0.0], [94, 6, 100])
    assert ece(presence, probability, equal_width=True) == pytest.approx(0.0, abs=1e-12)
    assert ece(presence, probability) == pytest.approx(0.06)


def test_no_usable_film_has_no_calibration_error():
    assert np.isnan(ece([NAN], [0.5]))
    assert np.isnan(brier([NAN], [0.5]))

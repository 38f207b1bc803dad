"""Bootstrap by patient: every resample against scikit-learn on the films that it really holds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from cxr_mtl.metrics import intervals
from cxr_mtl.metrics.intervals import Estimate, estimate, patient_resamples, resampled_ranking

NAN = float("nan")


def study(seed: int, films: int, patients: int, findings: int = 3):
    """Presence with unknowns, scores with ties, and patients with several films."""
    rng = np.random.default_rng(seed)
    presence = rng.choice([0.0, 1.0, NAN, -1.0], (films, findings), p=[0.55, 0.3, 0.1, 0.05])
    score = rng.integers(0, 6, (films, findings)) + 0.5 * (presence == 1)
    return presence, score.astype(float), rng.integers(patients, size=films).astype(str)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12))
def test_every_resample_equals_scikit_learn(seed, films, patients):
    presence, score, ids = study(seed, films, patients)
    draws = patient_resamples(ids, 70, seed)  # more than one block
    ranked = resampled_ranking(presence, score, draws)
    for r in range(0, len(draws), 9):
        weight = draws.counts[draws.patient, r]
        for c in range(presence.shape[1]):
            keep = (presence[:, c] == 0) | (presence[:, c] == 1)
            # The oracle is given the films themselves, each as often as it was drawn.
            label, value = (np.repeat(x[keep, c], weight[keep]) for x in (presence, score))
            if len(set(label)) == 2:
                assert ranked.auroc[r, c] == pytest.approx(metrics.roc_auc_score(label, value), abs=1e-12)
                assert ranked.auprc[r, c] == pytest.approx(metrics.average_precision_score(label, value), abs=1e-12)
            else:
                assert np.isnan(ranked.auroc[r, c])
                assert np.isnan(ranked.auprc[r, c])


def test_scikit_learn_weights_agree_on_a_large_sample():
    rng = np.random.default_rng(5)
    presence = (rng.random((3000, 2)) < [0.02, 0.4]).astype(float)
    score, ids = rng.normal(size=presence.shape) + presence, rng.integers(900, size=3000)
    draws = patient_resamples(ids, 5, 0)
    ranked = resampled_ranking(presence, score, draws)
    for r in range(6):
        weight = draws.counts[draws.patient, r]
        for c in range(2):
            oracle = metrics.roc_auc_score(presence[:, c], score[:, c], sample_weight=weight)
            assert ranked.auroc[r, c] == pytest.approx(oracle, abs=1e-12)
            oracle = metrics.average_precision_score(presence[:, c], score[:, c], sample_weight=weight)
            assert ranked.auprc[r, c] == pytest.approx(oracle, abs=1e-12)


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1))
def test_resamples_draw_whole_patients_after_the_sample_itself(ids):
    draws = patient_resamples(ids, 20, 3)
    assert len(draws) == 21
    assert (draws.counts[:, 0] == 1).all()
    assert (draws.counts.sum(axis=0) == len(set(ids))).all()
    assert draws.num_patients == len(set(ids))
    owner = {}
    assert all(owner.setdefault(p, k) == k for p, k in zip(ids, draws.patient, strict=True))
    assert len(set(owner.values())) == len(owner)


def test_a_short_run_is_a_prefix_of_a_long_one_and_the_seed_matters():
    ids = [str(i) for i in range(50)]
    long, short = patient_resamples(ids, 100, 7).counts, patient_resamples(ids, 10, 7).counts
    np.testing.assert_array_equal(long[:, :11], short)
    assert (patient_resamples(ids, 10, 8).counts != short).any()


def test_films_of_one_patient_widen_the_interval():
    rng = np.random.default_rng(0)
    presence = (np.arange(100) % 2).astype(float).repeat(8)
    score = (rng.normal(size=100) + presence[::8]).repeat(8)  # eight copies of the same film a patient
    by_patient, by_film = (
        estimate(resampled_ranking(presence[:, None], score[:, None], patient_resamples(ids, 400, 0)).auroc[:, 0])
        for ids in (np.arange(100).repeat(8), np.arange(800))
    )
    assert by_patient.value == by_film.value
    assert by_patient.high - by_patient.low > 2 * (by_film.high - by_film.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    truth, hits = 0.7602, 0  # P(X + 1 > Y), X and Y normal
    for _ in range(60):
        presence = (np.arange(200) % 2).astype(float)[:, None]
        draws = patient_resamples(np.arange(200), 200, int(rng.integers(2**31)))
        found = estimate(resampled_ranking(presence, rng.normal(size=(200, 1)) + presence, draws).auroc[:, 0])
        hits += found.low <= truth <= found.high
    assert 51 <= hits <= 60


def test_sums_equal_adding_up_the_drawn_films():
    rng = np.random.default_rng(2)
    ids, values = rng.integers(9, size=40), rng.normal(size=(40, 3))
    draws = patient_resamples(ids, 130, 0)
    by_hand = np.array([values.repeat(draws.counts[draws.patient, r], axis=0).sum(axis=0) for r in range(131)])
    np.testing.assert_allclose(draws.sums(values), by_hand, atol=1e-10)
    rows = rng.integers(40, size=15)
    np.testing.assert_allclose(
        draws.sums(values[rows], rows), [draws.counts[draws.patient[rows], r] @ values[rows] for r in range(131)]
    )


def test_one_patient_gives_a_value_without_an_interval():
    draws = patient_resamples(["p"] * 4, 100, 0)
    found = estimate(resampled_ranking([[1], [0], [1], [0]], [[4.0], [1], [3], [2]], draws).auroc[:, 0])
    assert found.to_dict() == {"value": 1.0, "ci95": [None, None]}


def test_a_resample_with_one_class_is_left_out_and_counted():
    presence, score = np.zeros((10, 1)), np.arange(10.0)[:, None]
    presence[9] = 1
    draws = patient_resamples(np.arange(10), 200, 0)
    found = estimate(resampled_ranking(presence, score, draws).auroc[:, 0])
    without = int((draws.counts[9, 1:] == 0).sum() + (draws.counts[9, 1:] == 10).sum())
    assert found == Estimate(1.0, 1.0, 1.0, left_out=without)
    assert without > 20
    assert found.to_dict()["left_out"] == without


def test_estimate_is_the_percentile_interval():
    drawn = np.concatenate([[0.5], np.linspace(0, 1, 1001)])
    found = estimate(drawn)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.025, 0.975))
    assert estimate(np.full(9, NAN)).to_dict() == {"value": None, "ci95": [None, None], "left_out": 8}


def test_blocks_cover_every_resample_once():
    draws = patient_resamples(np.arange(30), 2 * intervals.BLOCK + 5, 0)
    whole = np.concatenate([weights for _, weights in draws.blocks()], axis=1)
    np.testing.assert_array_equal(whole, draws.counts)

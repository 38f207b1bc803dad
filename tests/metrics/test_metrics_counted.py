"""Calibration and calls in a resample against the films really repeated; studies against pandas."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, confusion_matrix

from cxr_mtl.metrics.classify import brier, ece, reliability
from cxr_mtl.metrics.counted import count_finding
from cxr_mtl.metrics.intervals import estimate, patient_resamples
from cxr_mtl.metrics.study import Studies, group_studies

NAN = float("nan")


def films(seed, count=50):
    rng = np.random.default_rng(seed)
    presence = rng.choice([0.0, 1.0, NAN, -1.0], count, p=[0.5, 0.3, 0.15, 0.05])
    probability = np.where(rng.random(count) < 0.05, NAN, rng.integers(0, 25, count) / 24)
    return presence, probability, rng.integers(12, size=count).astype(str)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_a_resample_equals_the_films_really_repeated(seed):
    presence, probability, ids = films(seed)
    draws = patient_resamples(ids, 4, seed)
    found = count_finding(presence, probability, [0.3, 0.7], draws)
    bins = reliability(presence, probability).bin
    keep = bins >= 0
    for r in range(len(draws)):
        rows = np.repeat(np.flatnonzero(keep), draws.counts[draws.patient[keep], r])
        label, given_ = presence[rows], probability[rows]
        assert (found.known[r], found.positive[r]) == (len(rows), label.sum())
        if not len(rows):
            assert np.isnan([found.brier[r], found.ece[r], found.prevalence[r]]).all()
            continue
        assert found.brier[r] == pytest.approx(brier_score_loss(label, given_, labels=[0, 1]))
        gaps = [abs((given_ - label)[bins[rows] == b].sum()) for b in range(bins.max() + 1)]
        assert found.ece[r] == pytest.approx(sum(gaps) / len(rows))
        for t, cut in enumerate((0.3, 0.7)):
            tn, fp, fn, tp = confusion_matrix(label, given_ >= cut, labels=[0, 1]).ravel()
            assert found.cells[r, t].tolist() == [tp, fp, tn, fn]
            np.testing.assert_equal(found.rates(t)["sensitivity"][r], tp / (tp + fn) if tp + fn else NAN)
    assert found.ece[0] == pytest.approx(ece(presence, probability))
    assert found.brier[0] == pytest.approx(brier(presence, probability))


@pytest.mark.parametrize("presence", [[], [NAN, -1]])
def test_nothing_known_is_undefined(presence):
    found = count_finding(presence, [0.5] * len(presence), [0.5], patient_resamples(["a"] * len(presence), 9, 0))
    assert found.known[0] == 0
    assert np.isnan([found.brier[0], found.ece[0], found.rates(0)["ppv"][0]]).all()


def test_one_patient_and_one_probability():
    found = count_finding([1, 0, 0, 0], [0.25] * 4, [], patient_resamples(["a"] * 4, 9, 0))
    assert found.ece[0] == 0
    assert found.bin_known.tolist() == [[4]]
    assert estimate(found.brier).to_dict() == {"value": pytest.approx(0.1875), "ci95": [None, None]}


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_studies_equal_pandas(seed, count):
    rng = np.random.default_rng(seed)
    patient = rng.integers(4, size=count).astype(str)
    study = rng.choice(np.array(["s1", "s2", "s3", None], object), count)
    presence = rng.choice([0.0, 1.0, NAN, -1.0], (count, 2))
    probability = np.where(rng.random((count, 2)) < 0.2, NAN, rng.random((count, 2)))
    studies = group_studies(patient, study)
    key = pd.Series([f"{p}/{s or i}" for i, (p, s) in enumerate(zip(patient, study, strict=True))])
    whole = pd.DataFrame(probability).groupby(key.values, sort=False)
    stated = pd.DataFrame(np.where(presence < 0, NAN, presence)).groupby(key.values, sort=False)
    np.testing.assert_allclose(studies.mean(probability), whole.mean())
    np.testing.assert_array_equal(studies.highest(probability), whole.max())
    np.testing.assert_array_equal(studies.presence(presence), stated.max())
    assert studies.sizes.tolist() == whole.size().tolist()
    draws = patient_resamples(patient, 3, 0)
    own = studies.resamples(draws)
    assert own.counts is draws.counts
    assert own.patient.tolist() == [draws.patient[rows[0]] for rows in whole.indices.values()]


def test_a_study_is_one_patients_and_a_film_without_one_its_own():
    studies = group_studies(["a", "a", "b", "b", "b"], ["1", "1", "1", None, ""])
    assert studies.sizes.tolist() == [2, 1, 1, 1]
    nothing = group_studies([], [])
    assert Studies.mean(nothing, np.zeros((0, 2))).shape == (0, 2)
    assert len(nothing) == 0

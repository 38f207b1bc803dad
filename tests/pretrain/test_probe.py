"""The probe votes as scikit-learn's neighbours do, and who does not know does not vote."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from cxr_mtl.pretrain.probe import SHARPNESS, knn_scores


def test_neighbours_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    known, judged = rng.normal(size=(60, 8)) + 3, rng.normal(size=(20, 8)) + 3
    presence = (rng.random((60, 3)) < 0.4).astype(float)
    middle = known.mean(0)
    for finding, truth in enumerate(presence.T):
        theirs = KNeighborsClassifier(
            7, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / SHARPNESS)
        )
        expected = theirs.fit(known - middle, truth).predict_proba(judged - middle)[:, 1]
        assert knn_scores(known, presence, judged, 7)[:, finding] == pytest.approx(expected)


def test_who_does_not_know_does_not_vote() -> None:
    known = np.array([[1.0, 0], [0.9, 0.1], [-1, 0], [-1, 0.1]])
    presence = np.array([[np.nan, 1.0], [1.0, np.nan], [0.0, np.nan], [0.0, np.nan]])
    scores = knn_scores(known, presence, np.array([[1.0, 0.0], [-1.0, 0.05]]), 2)
    assert scores[0].tolist() == [1, 1]
    assert scores[1, 0] == 0
    assert np.isnan(scores[1, 1])


def test_more_neighbours_than_films_are_all_films() -> None:
    scores = knn_scores(np.eye(3), np.array([[1.0], [0], [0]]), np.eye(3), 50)
    assert scores.shape == (3, 1)
    assert scores[0] > scores[1]

"""What frozen features know: films judged by their nearest neighbours.  M known films, N judged films, C findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cxr_mtl.data.loader import Examples, eval_batches
from cxr_mtl.engine.distributed import gather
from cxr_mtl.metrics.classify import auroc, per_finding
from cxr_mtl.metrics.counts import known_mean

Floats = NDArray[np.float64]

MOST_FILMS = 5000  # of a split that are looked at; more would cost more than they tell
SHARPNESS = 0.1  # of a neighbour's vote: exp(cosine / this), as in Wu et al., 2018
PIXEL_SIDE, PIXEL_PARTS = 32, 50  # the features to beat: principal components of the films, so small
BATCH = 128


@dataclass(frozen=True)
class Probe:
    """Films with labels.

    Attributes:
        known: training films, whose labels vote.
        judged: validation films.
        findings: (C,) columns of the labels that can be measured.
    """

    known: Examples
    judged: Examples
    findings: NDArray[np.int64]

    def score(self, known: Floats, judged: Floats, neighbours: int) -> float:
        """Macro AUROC over findings of the judged films by their neighbours among the known.

        Args:
            known: (M, E) features of ``known``'s films.
            judged: (N, E) of ``judged``'s.
        """
        votes, truth = (films.labels[films.rows][:, self.findings].astype(float) for films in (self.known, self.judged))
        scores = knn_scores(known, votes, judged, neighbours)
        return float(known_mean(per_finding(auroc, truth, scores)))


def knn_scores(known: Floats, presence: Floats, judged: Floats, neighbours: int) -> Floats:
    """Share of a film's nearest neighbours that show a finding, each weighed by how near it is.

    Args:
        known: (M, E) features of films with labels.
        presence: (M, C) 1, 0, nan.
        judged: (N, E).
        neighbours: of each film; those whose label is unknown do not vote.

    Returns:
        (N, C) 0 to 1; nan where no neighbour knows.
    """
    middle = known.mean(0)  # all films look much alike; it is in what they differ from the mean that they are near
    cosine = _directions(judged - middle) @ _directions(known - middle).T  # (N, M)
    count = min(neighbours, len(known))
    nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
    weight = np.exp(np.take_along_axis(cosine, nearest, 1) / SHARPNESS)[:, :, None]
    votes = presence[nearest]  # (N, count, C)
    with np.errstate(invalid="ignore"):
        scores = (weight * np.nan_to_num(votes)).sum(1) / (weight * ~np.isnan(votes)).sum(1)
    return np.asarray(scores)


@torch.no_grad()
def look(features: Callable[[Tensor], Tensor], examples: Examples, *, rank: int = 0, world: int = 1) -> Floats:
    """(M, E) features of the films of a split, in order of row, on every rank.

    Args:
        features: (b, 1, S, S) uint8 to (b, E).
    """
    parts = [
        (batch.index.numpy(), features(batch.images).double().cpu().numpy())
        for batch in eval_batches(examples, batch_size=BATCH, rank=rank, world=world)
    ]
    found = [part for shared in gather(parts) for part in shared]
    order = np.argsort(np.concatenate([rows for rows, _ in found]))
    return np.asarray(np.concatenate([values for _, values in found])[order])


def pixel_features(known: Examples, judged: Examples) -> tuple[Floats, Floats]:
    """What needs no network: (M, E) and (N, E) principal components of the known films, scaled alike."""
    from sklearn.decomposition import PCA  # a second to import

    small = [
        np.concatenate([_shrink(batch.images) for batch in eval_batches(films, batch_size=BATCH)])
        for films in (known, judged)
    ]
    parts = PCA(min(PIXEL_PARTS, *small[0].shape), whiten=True, random_state=0).fit(small[0])
    return parts.transform(small[0]), parts.transform(small[1])


def _shrink(films: Tensor) -> Floats:
    small = F.adaptive_avg_pool2d(films.float() / 255, PIXEL_SIDE)
    return np.asarray(small.flatten(1).double().numpy())


def _directions(features: Floats) -> Floats:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))

"""How unlike a film is to those that the model learned from.  N films, F features of the encoder, P axes of them.

Two distances, because neither sees all: by its looks (blur, noise, exposure), and by what the encoder makes of it
(other bodies, other cuts, missing parts). Each in spreads of the validation films; the larger counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.gate.thumbs import LOOKS, Floats

WARN_ABOVE = 99
"""Percent of validation films that are less novel than a film that is warned of."""
AXES = 64
FOLDS = 5
"""Parts of the validation patients, each measured by the others; with fewer patients there is no gate."""


@dataclass(frozen=True)
class Usual:
    """What was fitted.

    Attributes:
        looks: (LOOKS,) mean of training films.
        whiten: (LOOKS, LOOKS) makes their differences from it alike in all directions.
        features: (F,) mean of validation films: of the training films the encoder knows too much.
        axes: (F, P) along which the features differ most.
        variances: (P,) along those.
        rest: (1,) variance along each other axis.
        scales: (2, 2) mean and spread of validation films' distance by looks, and by features.
        quantiles: (101,) novelty of validation films, by percent.
    """

    looks: Floats
    whiten: Floats
    features: Floats
    axes: Floats
    variances: Floats
    rest: Floats
    scales: Floats
    quantiles: Floats

    @property
    def limit(self) -> float:
        """Novelty above which a film is warned of."""
        return float(self.quantiles[WARN_ABOVE])

    def novelty(self, looks: Floats, features: Floats) -> Floats:
        """(N,) the larger of both distances, in spreads above the mean validation film.

        Args:
            looks: (N, LOOKS).
            features: (N, F).
        """
        apart = np.stack([self.by_looks(looks), self.by_features(features)], axis=1)
        return np.asarray(((apart - self.scales[:, 0]) / self.scales[:, 1]).max(1))

    def by_looks(self, looks: Floats) -> Floats:
        """(N,) Mahalanobis distance."""
        return np.asarray(np.sqrt((((looks - self.looks) @ self.whiten) ** 2).mean(1)))

    def by_features(self, features: Floats) -> Floats:
        """(N,) Mahalanobis distance under a covariance of a few axes and one variance for the rest."""
        apart = features - self.features
        along = apart @ self.axes
        rest = np.maximum((apart**2).sum(1) - (along**2).sum(1), 0) / self.rest
        return np.asarray(np.sqrt(((along**2 / self.variances).sum(1) + rest) / features.shape[1]))

    def percentile(self, novelty: float) -> float:
        """Percent of validation films that are less novel."""
        return round(float(np.interp(novelty, self.quantiles, np.arange(101), left=0, right=100)), 1)

    def to_arrays(self) -> dict[str, Floats]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats]) -> Self:
        """Raises KeyError or ValueError where the arrays are not what ``to_arrays`` makes."""
        usual = cls(**{field.name: np.asarray(arrays[field.name], np.float64) for field in fields(cls)})
        num, kept = usual.axes.shape
        wanted = {"looks": (LOOKS,), "whiten": (LOOKS, LOOKS), "features": (num,), "variances": (kept,), "rest": (1,)}
        check_arrays(usual.to_arrays(), wanted | {"scales": (2, 2), "quantiles": (101,)})
        return usual


def check_arrays(arrays: Mapping[str, Floats], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError: the first array of another shape, or with something that is no number."""
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].shape}, not {shape}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds what is no number")


def fit_usual(train: Floats, val: Floats, features: Floats, patients: NDArray[np.int64]) -> Usual:
    """Learn what is usual.

    A validation film's distance by its features is to the films of other patients, for among its own it would look more
    usual than any film to come.

    Args:
        train: (M, LOOKS) of training films.
        val: (N, LOOKS) of validation films.
        features: (N, F) of the same.
        patients: (N,) a number for each patient; of at least ``FOLDS``.
    """
    mean, spread = train.mean(0), train.std(0) + 1e-3
    covariance = np.cov((train - mean) / spread, rowvar=False) + 1e-3 * np.eye(LOOKS)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance)) / spread[:, None]
    one = np.tile([0.0, 1.0], (2, 1))
    usual = Usual(mean, whiten, *_axes(features), one, np.zeros(101))
    fold = np.unique(patients, return_inverse=True)[1] % FOLDS
    apart = np.empty(len(features))
    for k in range(FOLDS):
        others = Usual(mean, whiten, *_axes(features[fold != k]), one, np.zeros(101))
        apart[fold == k] = others.by_features(features[fold == k])
    both = np.stack([usual.by_looks(val), apart], axis=1)
    scales = np.stack([both.mean(0), both.std(0) + 1e-6], axis=1)
    novelty = ((both - scales[:, 0]) / scales[:, 1]).max(1)
    return replace(usual, scales=scales, quantiles=np.percentile(novelty, np.arange(101)))


def _axes(features: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, axes, variances and the rest's variance: probabilistic PCA (Tipping and Bishop, 1999)."""
    mean = features.mean(0)
    kept = min(AXES, len(features) // 4, features.shape[1] - 1)
    _, size, axes = np.linalg.svd(features - mean, full_matrices=False)
    variances = size**2 / (len(features) - 1)
    rest = variances[kept:].sum() / (features.shape[1] - kept) + 1e-9
    return mean, axes[:kept].T, np.maximum(variances[:kept], rest), np.array([rest])

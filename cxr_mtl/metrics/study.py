"""From films to studies: what a reader is asked of is the examination, not each of its films. N films, S studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_mtl.metrics.counts import Floats, ratio
from cxr_mtl.metrics.intervals import Resamples


@dataclass(frozen=True, slots=True)
class Studies:
    """Which films belong together.

    Attributes:
        film: (N,) films, a study's after one another.
        start: (S,) where in ``film`` each study begins.
    """

    film: NDArray[np.intp]
    start: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def sizes(self) -> NDArray[np.intp]:
        """(S,) films of each study."""
        return np.diff(self.start, append=len(self.film))

    def presence(self, values: ArrayLike) -> Floats:
        """(S, C) from films' (N, C): present if any film states it, else absent if any does, else nan."""
        stated = np.asarray(values, np.float64)
        known = np.where((stated == 0) | (stated == 1), stated, np.nan)
        return np.asarray(self._reduce(np.fmax, known))

    def highest(self, probability: ArrayLike) -> Floats:
        """(S, C) the highest of a study's films; nan where none has a number."""
        return np.asarray(self._reduce(np.fmax, np.asarray(probability, np.float64)))

    def mean(self, probability: ArrayLike) -> Floats:
        """(S, C) the mean of a study's films that have a number; nan where none has."""
        given = np.asarray(probability, np.float64)
        return ratio(self._reduce(np.add, np.nan_to_num(given)), self._reduce(np.add, (~np.isnan(given)).astype(float)))

    def resamples(self, films: Resamples) -> Resamples:
        """The same draws of patients, with studies for their rows."""
        return replace(films, patient=films.patient[self.film[self.start]])

    def _reduce(self, function: np.ufunc, values: Floats) -> Floats:
        ordered = values[self.film]
        return function.reduceat(ordered, self.start, axis=0) if len(self) else ordered


Together = Callable[[Studies, ArrayLike], Floats]
"""How the probabilities of a study's films become one: ``Studies.mean`` or ``Studies.highest``."""


def group_studies(patient_ids: Sequence[str], study_ids: Sequence[str | None]) -> Studies:
    """Films of one patient with one study id are a study; a film without a study id is a study of its own.

    The id alone would not do: CheXpert calls every patient's first study ``study1``.
    """
    keys = [
        (patient, 0, study) if isinstance(study, str) and study else (patient, 1, str(i))
        for i, (patient, study) in enumerate(zip(patient_ids, study_ids, strict=True))
    ]
    number: dict[tuple[str, int, str], int] = {}
    index = np.array([number.setdefault(key, len(number)) for key in keys], np.intp)
    film = np.argsort(index, kind="stable").astype(np.intp)
    start = np.searchsorted(index[film], np.arange(len(number)))
    return Studies(film, start.astype(np.intp))

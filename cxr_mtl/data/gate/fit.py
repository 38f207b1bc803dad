"""Fit the gate: films against pictures that are none, in seconds.  N films; never imported where films are answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.neural_network import MLPClassifier

from cxr_mtl.data.gate.gate import Gate
from cxr_mtl.data.gate.negatives import KINDS, make_negatives
from cxr_mtl.data.gate.thumbs import SIDE, cut_out, forms, reduced
from cxr_mtl.data.geometry import Letterbox

MIN_TRAIN, MIN_VAL = 200, 50
"""Films; with fewer there is no gate."""
MAX_TRAIN, MAX_VAL = 1500, 1000
"""Films; of more, so many are drawn."""

_VARIED = 2  # copies of each film, as another site might have cut and exposed it
_OF_A_KIND = 150  # pictures that are no films
_HIDDEN, _ROUNDS, _DECAY = 32, 20, 1.0
_PASS = 0.995  # of validation films, varied too


@dataclass(frozen=True)
class Fitted:
    """A gate, and what it reached on validation films and on pictures made anew.

    Attributes:
        gate: to be stored.
        passed: share of the validation films, as they are.
        stopped: share of the pictures that are none, by kind.
    """

    gate: Gate
    passed: float
    stopped: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "cut": round(float(self.gate.cut[0]), 4),
            "validation_films_passed": round(self.passed, 4),
            "drawn_pictures_stopped": {kind: round(share, 4) for kind, share in self.stopped.items()},
        }


def choose(rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most so many of some rows, the same for the same seed, in order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def fit_gate(
    train: NDArray[np.uint8], val: NDArray[np.uint8], seed: int, *, without: frozenset[str] = frozenset()
) -> Fitted:
    """Learn what films look like, and choose the cut on validation films.

    The cut is where 99.5 % of the validation films pass, each also in four varied copies; but never above even odds, so
    that a hospital whose films are cut otherwise is not shut out by a gate that could do without.

    Args:
        train: (M, SIDE, SIDE) thumbnails of films that the model learns from.
        val: (N, SIDE, SIDE) of films that it is validated on.
        seed: of everything random.
        without: kinds of pictures to leave out of the fit, to see what the gate makes of kinds that it never met.
    """
    varied = vary(np.repeat(train, _VARIED, axis=0), seed, 1.0)
    others = [make_negatives(kind, _OF_A_KIND, train, seed) for kind in KINDS if kind not in without]
    films = forms(np.concatenate([train, varied]))
    seen = np.concatenate([films, *(forms(pictures) for pictures in others)])
    centre, spread = seen.mean(0), seen.std(0) + 1e-2
    network = MLPClassifier((_HIDDEN,), alpha=_DECAY, random_state=seed % 2**32)
    answers = np.arange(len(seen)) < len(films)
    for _ in range(_ROUNDS):
        network.partial_fit((seen - centre) / spread, answers, classes=[False, True])
    (hidden, last), (hidden_bias, last_bias) = network.coefs_, network.intercepts_
    gate = Gate(centre, spread, hidden, hidden_bias, last[:, 0], last_bias, np.zeros(1))
    trial = np.concatenate([val, vary(np.repeat(val, 4, axis=0), seed + 1, 0.7)])
    gate = replace(gate, cut=np.minimum(np.quantile(gate.scores(trial), [1 - _PASS]), 0.0))
    stopped = {kind: float(1 - gate.passes(make_negatives(kind, _OF_A_KIND, val, seed + 1)).mean()) for kind in KINDS}
    return Fitted(gate, float(gate.passes(val).mean()), stopped)


def vary(thumbs: NDArray[np.uint8], seed: int, much: float) -> NDArray[np.uint8]:
    """(N, SIDE, SIDE) films as they might have been taken: nearer, off the centre, a little aslant, darker or harder.

    Args:
        thumbs: (N, SIDE, SIDE).
        seed: of the changes.
        much: how far they go; 1 is as far as a film of a child or of a patient in bed may be off.
    """
    rng, middle = np.random.default_rng([seed, 7]), SIDE / 2
    whole = Letterbox(SIDE, SIDE, SIDE)
    out = np.empty_like(thumbs)
    for i, thumb in enumerate(thumbs):
        zoom, stretch, angle = np.exp(rng.uniform(-0.3, 0.3) * much), np.exp(rng.uniform(-0.22, 0.22) * much), 0.17
        turn = rng.uniform(-angle, angle) * much
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * [
            zoom * stretch,
            zoom / stretch,
        ]
        moved = middle + rng.uniform(-0.1, 0.1, 2) * SIDE * much - matrix @ [middle, middle]
        numbers = (*matrix[0], moved[0], *matrix[1], moved[1])
        film = Image.fromarray(thumb).transform(
            (SIDE, SIDE), Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR
        )
        value = (np.asarray(film) / 255) ** np.exp(rng.uniform(-0.6, 0.6) * much)
        value = (value - 0.5) * rng.uniform(1 - 0.4 * much, 1 + 0.4 * much) + 0.5 + rng.uniform(-0.15, 0.15) * much
        out[i] = reduced(cut_out((value.clip(0, 1) * 255).astype(np.uint8), whole), SIDE)
    return out

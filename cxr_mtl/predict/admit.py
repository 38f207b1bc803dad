"""Is it a film that the model should judge? By its pixels; what its DICOM header says was asked when it was read.

Every bundle has the fixed checks. Those with a gate ask it, too: whether the picture is a frontal chest film, and how
unlike it is to the films that the model learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.gate.gate import Gate
from cxr_mtl.data.gate.thumbs import Floats, Glimpses, cut_out, glimpse
from cxr_mtl.data.gate.usual import WARN_ABOVE
from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.data.read import named
from cxr_mtl.data.refuse import refuse
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import ImageError
from cxr_mtl.types import Radiograph

# Bits a pixel. Films have more than twice as many; writing, masks and drawings have few greys.
MIN_BITS = 2.5
MIN_CONTRAST = 8  # grey levels of 256 between the darkest and the brightest hundredth
DIGITS = 3

_UPRIGHT = "Send a frontal chest film (PA or AP), whole and upright, dense parts bright."


@dataclass(frozen=True, slots=True)
class Novelty:
    """How unlike a film is to those that the model learned from.

    Attributes:
        score: 0 for the mean validation film, in spreads of those films.
        percentile: percent of validation films with a lower score.
        limit: score above which a film is warned of.
    """

    score: float
    percentile: float
    limit: float

    def to_dict(self) -> dict[str, float]:
        return {"score": self.score, "percentile": self.percentile, "limit": self.limit}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warning, if it is one to give."""
        if self.score <= self.limit:
            return ()
        usual = f"score {self.score:.1f}, {WARN_ABOVE} % of validation films are below {self.limit:.1f}"
        return (f"unlike the films that this model learned from: {usual}",)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A film that may be judged, as the model sees it.

    Attributes:
        film: as it was read.
        square: (S, S) the model's input.
        box: where the film lies in it.
        looks: (LOOKS,) for ``novelties``; None where the bundle has no gate.
    """

    film: Radiograph
    square: NDArray[np.uint8]
    box: Letterbox
    looks: Floats | None


def admit_film(bundle: Bundle, film: Radiograph, source: Path | bytes) -> Admitted:
    """Make a film the model's input and look at it, see ``admit``; a refusal begins with the name of ``source``."""
    square, box = to_input(film.pixels, bundle.image_size)
    try:
        return Admitted(film, square, box, admit(bundle, square, box))
    except ImageError as error:
        raise named(source, error) from error


def admit(bundle: Bundle, square: NDArray[np.uint8], box: Letterbox) -> Floats | None:
    """Look at a film before the model does.

    Args:
        bundle: whose gate is asked.
        square: (S, S) the model's input.
        box: where the film lies in it.

    Returns:
        (LOOKS,) its looks, for ``novelties``; None where the bundle has no gate.

    Raises:
        ImageError: ``blank``, ``not_chest``, ``turned`` or ``inverted``; the message lacks the film's name.
    """
    check_greys(cut_out(square, box))
    if bundle.gate is None:
        return None
    seen = glimpse([(square, box)])
    if not bundle.gate.gate.passes(seen.thumbs)[0]:
        raise _refusal(bundle.gate.gate, seen)
    return np.asarray(seen.looks[0])


def novelties(bundle: Bundle, looks: Sequence[Floats | None], features: Floats) -> list[Novelty | None]:
    """Of films, after the model saw them; None without a gate, or for one that was not admitted by it.

    Args:
        bundle: whose gate is asked.
        looks: B, as ``admit`` gave them.
        features: (B, F) of the encoder, pooled.
    """
    known = [i for i, seen in enumerate(looks) if seen is not None]
    found: list[Novelty | None] = [None] * len(looks)
    if bundle.gate is None or not known:
        return found
    usual, limit = bundle.gate.usual, novelty_limit(bundle)
    scores = usual.novelty(np.stack([seen for seen in looks if seen is not None]), features[known])
    for i, score in zip(known, scores.tolist(), strict=True):
        found[i] = Novelty(round(score, DIGITS), usual.percentile(score), limit)
    return found


def novelty_limit(bundle: Bundle) -> float:
    """Novelty above which a film is warned of; nan without a gate."""
    return round(bundle.gate.usual.limit, DIGITS) if bundle.gate else float("nan")


def check_greys(film: NDArray[np.uint8]) -> None:
    """Refuse what no gate is needed for: one grey, or a drawing's few.

    Args:
        film: (h, w) without its empty border.

    Raises:
        ImageError: ``blank`` or ``not_chest``.
    """
    counts = np.bincount(film.ravel(), minlength=256) / film.size
    filled = np.flatnonzero((np.cumsum(counts) > 0.01) & (np.cumsum(counts[::-1])[::-1] > 0.01))
    if not len(filled) or filled[-1] - filled[0] < MIN_CONTRAST:
        raise refuse("blank", "is blank: one grey almost everywhere", "Send the film as it was exposed.")
    if bits(film) < MIN_BITS:
        raise refuse(
            "not_chest", "has hardly any shades of grey, as a drawing or writing has, and a film has not", _UPRIGHT
        )


def bits(film: NDArray[np.uint8]) -> float:
    """Entropy of the greys: 0 for one alone, 8 for all 256 alike."""
    counts = np.bincount(film.ravel())
    shares = counts[counts > 0] / film.size
    return float(-(shares * np.log2(shares)).sum())


def _refusal(gate: Gate, seen: Glimpses) -> ImageError:
    """Say what is wrong, if the picture would pass the other way round."""
    thumb = seen.thumbs[0]
    ways = {
        "on its side, head to the right": np.rot90(thumb, 1),
        "upside down": np.rot90(thumb, 2),
        "on its side, head to the left": np.rot90(thumb, 3),
        "inverted": 255 - thumb,
    }
    scores = gate.scores(np.stack(list(ways.values())))
    best = list(ways)[int(scores.argmax())]
    if scores.max() < gate.cut[0]:
        return refuse("not_chest", "does not look like the frontal chest films that this model learned from", _UPRIGHT)
    if best == "inverted":
        hint = "Send it with bone and heart bright, or as DICOM, which says it."
        return refuse("inverted", "looks like a chest film with its greys inverted", hint)
    return refuse("turned", f"looks like a chest film that is {best}", "Turn it upright and send it again.")

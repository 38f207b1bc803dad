"""Box numbers of results.json, the model's beside those of boxes at random. Pure. D findings with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from cxr_mtl.evaluate.collect import Answered, Floats
from cxr_mtl.evaluate.results import Row, number, numbers
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.detect import FALSE_PER_FILM, Localization, localization
from cxr_mtl.metrics.intervals import Resamples
from cxr_mtl.metrics.localize import TIOBB, TIOU, random_boxes

RANDOM_DRAWS = 10  # one draw of random boxes on a few dozen films says little


def boxes(findings: Sequence[str], answered: Answered, draws: Resamples, seed: int) -> Row:
    """Everything about boxes.

    Args:
        findings: the D findings, in order.
        seed: of the random boxes.
    """
    rng = np.random.default_rng(seed)
    found = localization(answered.annotated, answered.proposed, answered.asked, draws)
    chance = [
        localization(answered.annotated, random_boxes(answered.frames, answered.box_sizes, rng), answered.asked, draws)
        for _ in range(RANDOM_DRAWS)
    ]
    # Where a resample is not defined it is so in every draw, so the mean is nan there and nowhere else.
    mean = Localization(**{f.name: np.mean([getattr(c, f.name) for c in chance], axis=0) for f in fields(Localization)})
    measured = [d for d in range(len(findings)) if not np.isnan(found.precision[0, d])]
    names = [findings[d] for d in measured]
    return {
        "findings": {
            name: {
                "n_boxes": int((answered.annotated.finding == d).sum()),
                "n_images": len(set(answered.annotated.film[answered.annotated.finding == d])),
                "n_absent": int(answered.asked[:, d].sum()) - len(set(_films(answered, d))),
            }
            for name, d in zip(names, measured, strict=True)
        },
        "skipped": [name for name in findings if name not in names],
        **_numbers(names, measured, found),
        "random": {
            **_numbers(names, measured, mean),
            "draws": RANDOM_DRAWS,
            "box_size": f"median of the finding's boxes on films of: {answered.box_sizes_from}",
        },
    }


def _films(answered: Answered, d: int) -> list[int]:
    return [int(film) for film in answered.annotated.film[answered.annotated.finding == d]]


def _numbers(names: Sequence[str], rows: Sequence[int], found: Localization) -> Row:
    return {
        "accuracy_at_tiou": _accuracy(names, TIOU, found.iou[:, rows]),
        "accuracy_at_tiobb": _accuracy(names, TIOBB, found.iobb[:, rows]),
        "pointing_game": _mean(names, found.pointing[:, rows]),
        "map40": _mean(names, found.precision[:, rows]),
        "froc": number(known_mean(found.froc[:, rows], axis=1).mean(axis=1))
        | {"at": numbers([str(rate) for rate in FALSE_PER_FILM], known_mean(found.froc[:, rows], axis=1))},
    }


def _mean(names: Sequence[str], drawn: Floats) -> dict[str, Any]:
    """Mean over findings, and each finding, from (1 + R, D)."""
    return number(known_mean(drawn, axis=1)) | {"findings": numbers(names, drawn)}


def _accuracy(names: Sequence[str], thresholds: Sequence[float], drawn: Floats) -> dict[str, Row]:
    """The same at each threshold, from (1 + R, D, T)."""
    return {
        str(t): {"mean": number(known_mean(drawn[:, :, i], axis=1)), "findings": numbers(names, drawn[:, :, i])}
        for i, t in enumerate(thresholds)
    }

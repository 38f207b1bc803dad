"""Box numbers over resamples of patients. D findings that can have a box, R resamples after the sample itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxr_mtl.metrics.counts import Floats, Ranking, Steps, ratio
from cxr_mtl.metrics.intervals import Resamples
from cxr_mtl.metrics.localize import TIOBB, TIOU, Boxes, Flags, best_boxes, match_boxes

FALSE_PER_FILM = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class Localization:
    """Every box number of every finding in every resample; nan where the finding has no annotated box.

    Attributes:
        iou: (1 + R, D, len(TIOU)) share of annotated (film, finding) whose best box reaches T(IoU).
        iobb: (1 + R, D, len(TIOBB)) the same for intersection over the proposed box's area.
        pointing: (1 + R, D) share whose best box has its centre inside an annotated box.
        precision: (1 + R, D) average precision at IoU .4.
        froc: (1 + R, D, len(FALSE_PER_FILM)) share of annotated boxes found at so many false boxes a film.
    """

    iou: Floats
    iobb: Floats
    pointing: Floats
    precision: Floats
    froc: Floats


def localization(annotated: Boxes, proposed: Boxes, asked: Flags, resamples: Resamples) -> Localization:
    """Judge the proposed boxes of N films.

    Args:
        annotated: boxes that readers drew.
        proposed: boxes of the model, however low the score.
        asked: (N, D) where a box can be called right or wrong, as ``localize.askable``.
        resamples: of the same N films.
    """
    num_findings = asked.shape[1]
    pairs = best_boxes(annotated, proposed)
    reached = [pairs.iou >= t for t in TIOU] + [pairs.iobb >= t for t in TIOBB] + [pairs.pointed > 0]
    own = np.eye(num_findings)[pairs.finding]
    table = np.stack([own, *(own * hit[:, None] for hit in reached)], axis=1)  # (M, questions, D)
    questions = 1 + len(reached)
    sums = resamples.sums(table.reshape(len(own), questions * num_findings), pairs.film)
    sums = sums.reshape(len(resamples), questions, num_findings)
    share = np.moveaxis(ratio(sums[:, 1:], sums[:, :1]), 1, 2)
    precision, froc = _ranked(annotated, proposed, asked, resamples)
    return Localization(
        iou=share[..., : len(TIOU)],
        iobb=share[..., len(TIOU) : -1],
        pointing=share[..., -1],
        precision=precision,
        froc=froc,
    )


def _ranked(annotated: Boxes, proposed: Boxes, asked: Flags, resamples: Resamples) -> tuple[Floats, Floats]:
    num_findings = asked.shape[1]
    drawn = resamples.sums(np.eye(num_findings)[annotated.finding], annotated.film)
    films = resamples.sums(asked)
    called = proposed.keep(asked[proposed.film, proposed.finding])
    right = match_boxes(annotated, called)
    rankings = [
        Ranking(right[own], called.score[own], resamples.patient[called.film[own]], resamples.num_patients)
        for own in (called.finding == d for d in range(num_findings))
    ]
    precision = np.empty((len(resamples), num_findings))
    froc = np.empty((len(resamples), num_findings, len(FALSE_PER_FILM)))
    for part, weights in resamples.blocks():
        for d, order in enumerate(rankings):
            steps = order.steps(weights)
            precision[part, d] = voc_precision(steps, drawn[part, d])
            froc[part, d] = found_at(steps, drawn[part, d], films[part, d]).T
    return precision, froc


def voc_precision(steps: Steps, drawn: Floats) -> Floats:
    """(R,) area under the interpolated precision-recall curve, VOC 2010: the precision at a recall is the best reached
    at that recall or a higher one.

    Args:
        drawn: (R,) annotated boxes, found or not.
    """
    tp = steps.tp
    precision = np.nan_to_num(ratio(tp, tp + steps.fp))
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    return ratio((steps.found * best).sum(axis=0), drawn)


def found_at(steps: Steps, drawn: Floats, films: Floats, rates: Sequence[float] = FALSE_PER_FILM) -> Floats:
    """(len(rates), R) share of annotated boxes found with no more than so many false boxes a film, on average.

    Args:
        drawn: (R,) annotated boxes.
        films: (R,) films that the finding was asked of.
    """
    tp = steps.tp
    found = [np.where(steps.fp <= rate * films, tp, 0.0).max(axis=0, initial=0.0) for rate in rates]
    return ratio(np.stack(found), drawn)

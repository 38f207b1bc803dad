"""Is the box where the finding is? N films, D findings that can have a box, K boxes, T thresholds.

Three questions, each beside a box of the usual size at a random place:

- of each annotated (film, finding), does the one best box overlap an annotated one? (accuracy at T(IoU) and T(IoBB),
  pointing game)
- how do all proposed boxes rank, right ones before wrong ones? (average precision at IoU .4, VOC 2010's)
- how many annotated boxes are found at how many false ones a film? (FROC)

Where nobody drew a box although the finding is present, nothing can be said. So the second and third question are asked
only of films with a box of that finding, and of films without the finding: ``askable``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_mtl.metrics.counts import Floats, ratio

Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]

TIOU = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
TIOBB = (0.1, 0.25, 0.5, 0.75, 0.9)
MATCH_IOU = 0.4


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of many films in one table; a film's boxes share that film's frame, whichever it is.

    Attributes:
        film: (K,) 0 to N - 1.
        finding: (K,) 0 to D - 1.
        xyxy: (K, 4).
        score: (K,) higher is surer; 1 for an annotated box.
    """

    film: Indices
    finding: Indices
    xyxy: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.film)

    def keep(self, rows: NDArray[np.bool_] | Indices) -> Boxes:
        return Boxes(self.film[rows], self.finding[rows], self.xyxy[rows], self.score[rows])


def make_boxes(rows: Iterable[tuple[int, int, Sequence[float], float]]) -> Boxes:
    """From (film, finding, xyxy, score) a box."""
    table = list(rows)
    return Boxes(
        film=np.array([r[0] for r in table], np.intp),
        finding=np.array([r[1] for r in table], np.intp),
        xyxy=np.array([r[2] for r in table], np.float64).reshape(-1, 4),
        score=np.array([r[3] for r in table], np.float64),
    )


def stack_boxes(films: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Boxes:
    """From each film's boxes (K, 4), finding (K,) and score (K,)."""
    parts = [(np.reshape(b, (-1, 4)), np.ravel(f), np.ravel(s)) for b, f, s in films]
    if not parts:
        return make_boxes([])
    return Boxes(
        film=np.repeat(np.arange(len(parts)), [len(b) for b, _, _ in parts]),
        finding=np.concatenate([f for _, f, _ in parts]).astype(np.intp),
        xyxy=np.concatenate([b for b, _, _ in parts]).astype(np.float64),
        score=np.concatenate([s for _, _, s in parts]).astype(np.float64),
    )


def area(xyxy: ArrayLike) -> Floats:
    """(...,) of (..., 4); 0 for a box turned inside out."""
    boxes = np.asarray(xyxy, np.float64)
    sides: Floats = (boxes[..., 2:] - boxes[..., :2]).clip(min=0).prod(axis=-1)
    return sides


def intersection(first: ArrayLike, second: ArrayLike) -> Floats:
    """(...,) common area of boxes (..., 4) that broadcast."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    corner = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return area(np.concatenate(corner, axis=-1))


def overlap(first: ArrayLike, second: ArrayLike) -> Floats:
    """(...,) intersection over union of boxes (..., 4) that broadcast; 0 where both have no area."""
    common = intersection(first, second)
    return np.nan_to_num(ratio(common, area(first) + area(second) - common))


def iou_matrix(first: ArrayLike, second: ArrayLike) -> Floats:
    """(K, M) intersection over union of (K, 4) and (M, 4)."""
    return overlap(np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None])


def _meet(proposed: Boxes, annotated: Boxes) -> tuple[Indices, Indices]:
    """Every (proposed, annotated) pair of one film and finding, as two columns of rows in the order of ``proposed``."""
    base = 1 + max(proposed.finding.max(initial=0), annotated.finding.max(initial=0))
    key, wanted = annotated.film * base + annotated.finding, proposed.film * base + proposed.finding
    order = np.argsort(key, kind="stable")
    start = np.searchsorted(key[order], wanted, side="left")
    count = np.searchsorted(key[order], wanted, side="right") - start
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(np.arange(len(wanted)), count), order[np.repeat(start, count) + within]


def _first(*keys: ArrayLike) -> Indices:
    """Rows that come first of their last key, when sorted by the keys before it (the most significant last)."""
    order: Indices = np.lexsort([np.asarray(k) for k in keys])
    group = np.asarray(keys[-1])[order]
    new: Flags = np.append(True, group[1:] != group[:-1])[: len(group)]
    return order[new]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Every (film, finding) that has an annotated box, and how its one best proposed box does. M pairs.

    Attributes:
        film: (M,).
        finding: (M,).
        iou: (M,) best over the annotated boxes; 0 where nothing was proposed.
        iobb: (M,) intersection over the area of the proposed box, best over the annotated ones.
        pointed: (M,) whether the centre of the proposed box is inside an annotated one.
    """

    film: Indices
    finding: Indices
    iou: Floats
    iobb: Floats
    pointed: Floats


def best_boxes(annotated: Boxes, proposed: Boxes) -> Pairs:
    """Judge the highest scored proposed box of every annotated (film, finding)."""
    base = 1 + max(proposed.finding.max(initial=0), annotated.finding.max(initial=0))
    keys = np.unique(annotated.film * base + annotated.finding)
    best = proposed.keep(_first(-proposed.score, proposed.film * base + proposed.finding))
    row, truth = _meet(best, annotated)
    box, target = best.xyxy[row], annotated.xyxy[truth]
    centre = (box[:, :2] + box[:, 2:]) / 2
    inside = ((centre >= target[:, :2]) & (centre <= target[:, 2:])).all(axis=1)
    where = np.searchsorted(keys, (best.film * base + best.finding)[row])
    found = np.zeros((3, len(keys)))
    for measure, value in zip(
        found, (overlap(box, target), np.nan_to_num(ratio(intersection(box, target), area(box))), inside), strict=True
    ):
        np.maximum.at(measure, where, value)
    return Pairs(keys // base, keys % base, *found)


def match_boxes(annotated: Boxes, proposed: Boxes, min_iou: float = MATCH_IOU) -> Flags:
    """Which proposed boxes are right, by VOC's rule.

    A proposed box is held to the annotated box it overlaps most. Of those that reach ``min_iou`` with the same
    annotated box the highest scored is right, the others are wrong: two boxes on one lesion are one hit and one false
    alarm.

    Returns:
        (K,) for the proposed boxes.
    """
    row, truth = _meet(proposed, annotated)
    iou = overlap(proposed.xyxy[row], annotated.xyxy[truth])
    nearest = _first(-iou, row)
    claim = nearest[iou[nearest] >= min_iou]
    right = np.zeros(len(proposed), bool)
    right[row[claim[_first(-proposed.score[row[claim]], truth[claim])]]] = True
    return right


def askable(presence: ArrayLike, annotated: Boxes, exhaustive: ArrayLike) -> Flags:
    """(N, D) where a proposed box can be called right or wrong.

    Yes where the finding has a box; where it is stated absent; where boxes were drawn exhaustively and it is not stated
    present. No where it is present without a box, or unknown.

    Args:
        presence: (N, D) 1 present, 0 absent, nan unknown.
        exhaustive: (N, D) whether a missing box means that the finding is absent.
    """
    stated = np.asarray(presence, np.float64)
    drawn = np.zeros(stated.shape, bool)
    drawn[annotated.film, annotated.finding] = True
    absent: Flags = (stated == 0) | (np.asarray(exhaustive, bool) & (stated != 1))
    return drawn | absent


def median_sizes(annotated: Boxes, frames: ArrayLike, num_findings: int) -> Floats:
    """(D, 2) median width and height of each finding's boxes as shares of (N, 2) frames; nan for one without a box."""
    share = (annotated.xyxy[:, 2:] - annotated.xyxy[:, :2]) / np.asarray(frames, np.float64)[annotated.film]
    own = [share[annotated.finding == d] for d in range(num_findings)]
    return np.array([np.median(s, axis=0) if len(s) else [np.nan, np.nan] for s in own]).reshape(-1, 2)


def random_boxes(frames: ArrayLike, sizes: ArrayLike, rng: np.random.Generator) -> Boxes:
    """One box for every film and finding, of the finding's usual size, anywhere within the frame, with a random score.

    Args:
        frames: (N, 2) width and height.
        sizes: (D, 2) as ``median_sizes``; a finding with nan gets no box.
    """
    frame, share = np.asarray(frames, np.float64), np.asarray(sizes, np.float64)
    film, finding = (i.ravel() for i in np.indices((len(frame), len(share))))
    side = frame[film] * share[finding]
    corner = rng.random(side.shape) * (frame[film] - side)
    boxes = Boxes(film, finding, np.concatenate([corner, corner + side], axis=1), rng.random(len(film)))
    return boxes.keep(np.flatnonzero(~np.isnan(side).any(axis=1)))


@dataclass(frozen=True, slots=True)
class BoxThreshold:
    """From which score a box is worth showing, and what that gave on the films it was chosen on."""

    score: float
    f1: float
    precision: float
    recall: float


def choose_box_threshold(annotated: Boxes, proposed: Boxes, asked: Flags, min_iou: float = MATCH_IOU) -> BoxThreshold:
    """The score cut with the highest F1 over all findings together; nan where nothing is annotated or proposed.

    Of equal cuts the lower is taken. For one finding alone, pass its boxes alone.

    Args:
        annotated: of validation films.
        proposed: of the same films.
        asked: (N, D) as ``askable``.
    """
    called = proposed.keep(asked[proposed.film, proposed.finding])
    if not len(annotated) or not len(called):
        return BoxThreshold(np.nan, np.nan, np.nan, np.nan)
    level, index = np.unique(called.score, return_inverse=True)
    hits = np.bincount(index, match_boxes(annotated, called, min_iou), len(level))
    tp, count = np.cumsum(hits[::-1])[::-1], np.cumsum(np.bincount(index)[::-1])[::-1]
    f1 = 2 * tp / (count + len(annotated))
    i = int(np.argmax(np.round(f1, 12)))
    cut = (level[i] + level[i - 1]) / 2 if i else level[0]
    return BoxThreshold(float(cut), float(f1[i]), float(tp[i] / count[i]), float(tp[i] / len(annotated)))

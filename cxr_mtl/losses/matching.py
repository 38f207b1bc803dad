"""Which anchors the box loss looks at, for all films at once.  R films, N anchors, T boxes of all films together.

MONAI's ATSSMatcher and HardNegativeSampler choose film by film, in hundreds of small steps, at many of which a GPU is
waited for. What is chosen here is what they choose, and a test says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import torch
from monai.data.box_utils import box_iou, boxes_center_distance
from torch import Tensor

CANDIDATES = 4  # nearest anchors a level that a box may match, for each anchor shape
MOST_MATCHED = 16  # matched anchors of a film that are learned at most
NEGATIVES = 3  # anchors that show nothing, for each matched one that is learned
LEAST_NEGATIVES = 16
POOL = 10  # negatives are drawn from so many times as many, those that look most like a finding
NOT = float("-inf")


def match_anchors(boxes: Sequence[Tensor], anchors: Tensor, places: Sequence[int], num_anchors: int) -> Tensor:
    """Adaptive training sample selection (Zhang et al., Bridging the gap, CVPR 2020).

    A box takes, of the anchors nearest to it on each level, those that overlap it more than the mean of these by their
    standard deviation; an anchor that several boxes take goes to the one that it overlaps most.

    Args:
        boxes: R tensors (K, 4) xyxy.
        anchors: (N, 4), level by level.
        places: of each level.
        num_anchors: at a place.

    Returns:
        (R, N) index of the anchor's box among all T, film after film; -1 for none.
    """
    every = torch.cat(list(boxes))
    best = anchors.new_full((len(boxes), len(anchors)), NOT)
    matched = torch.full_like(best, -1, dtype=torch.int64)
    counts = [len(b) for b in boxes]
    firsts = [0, *accumulate(counts[:-1])]
    for turn in range(max(counts)):  # each film's first box, then the second of those that have one, ...
        films = torch.tensor([r for r, count in enumerate(counts) if count > turn], device=anchors.device)
        box = torch.tensor([f + turn for f, n in zip(firsts, counts, strict=True) if n > turn], device=anchors.device)
        quality = _quality(every[box], anchors, places, num_anchors)
        better = quality > best[films]
        best[films] = quality.where(better, best[films])
        matched[films] = box[:, None].where(better, matched[films])
    return matched


def _quality(boxes: Tensor, anchors: Tensor, places: Sequence[int], num_anchors: int) -> Tensor:
    """(K, N) overlap with the anchors that each of K boxes takes; -inf with the others."""
    distance = cast("Tensor", boxes_center_distance(boxes, anchors)[0])
    overlap = cast("Tensor", box_iou(boxes, anchors))
    nearest, start = [], 0
    for num in places:
        level = distance[:, start : start + num * num_anchors]
        # No more than the level has places: MONAI's bound, which only the coarsest levels of small inputs meet.
        nearest.append(level.topk(min(CANDIDATES * num_anchors, num), 1, largest=False).indices + start)
        start += num * num_anchors
    candidates = torch.cat(nearest, 1)
    theirs = overlap.gather(1, candidates)
    taken = theirs >= (theirs.mean(1) + theirs.std(1))[:, None]
    return torch.full_like(overlap, NOT).scatter(1, candidates, theirs.where(taken, theirs.new_tensor(NOT)))


def sample_anchors(scores: Tensor, matched: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Matched anchors of every film, and those that show nothing but look most as if they did.

    Args:
        scores: (R, N) how much an anchor looks like showing something.
        matched: (R, N) at least 0 for matched anchors.
        seeds: R numbers that the anchors drawn of a film follow from.

    Returns:
        (S,) films and (S,) anchors.
    """
    found = matched >= 0
    film, anchor = found.nonzero(as_tuple=True)
    num_anchors = matched.shape[1]
    most = min(num_anchors, MOST_MATCHED * NEGATIVES * POOL)
    hard = scores.masked_fill(found, NOT).topk(most, 1).indices
    kept, rows, ranks, start = [], [], [], 0
    for row, (num, seed) in enumerate(zip(found.sum(1).tolist(), seeds, strict=True)):
        random = torch.Generator().manual_seed(seed)
        positives = torch.randperm(num, generator=random)[:MOST_MATCHED]
        left = num_anchors - num
        wanted = min(left, max(NEGATIVES * max(1, len(positives)), LEAST_NEGATIVES))
        negatives = torch.randperm(min(left, wanted * POOL), generator=random)[:wanted]
        kept.append(positives + start)
        rows.append(torch.full_like(negatives, row))
        ranks.append(negatives)
        start += num
    chosen, rows_of, rank = (torch.cat(part).to(scores.device) for part in (kept, rows, ranks))
    return torch.cat([film[chosen], rows_of]), torch.cat([anchor[chosen], hard[rows_of, rank]])

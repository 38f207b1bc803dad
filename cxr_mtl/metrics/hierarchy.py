"""Does the tree of findings hold together? N films, C findings in topological order, E edges (child, parent).

``parents`` is one tuple of indices a finding, as ``Ontology.parents``; a finding may have several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_mtl.metrics.classify import auroc, per_finding
from cxr_mtl.metrics.counts import Floats, known_mean, ratio

Parents = Sequence[Sequence[int]]
TOLERANCE = 1e-6


def own_logits(logits: ArrayLike, trained: ArrayLike, parents: Parents, tree: str = "conditional") -> Floats:
    """What each finding answers with before calibration: its logit; of ``max`` the highest of itself and all below it.

    Args:
        logits: (N, C).
        trained: (C,) False where the finding was never trained.

    Returns:
        (N, C) nan where never trained.
    """
    own = np.where(np.asarray(trained, bool), np.asarray(logits, np.float64), np.nan)
    return compose(own, parents, tree) if tree == "max" else np.asarray(own)


def asked_presence(presence: ArrayLike, parents: Parents, tree: str = "conditional") -> Floats:
    """(N, C) presence that ``own_logits`` answer for: of ``conditional``, known only where all parents are present."""
    return given_parents(presence, parents) if tree == "conditional" else np.asarray(presence, np.float64)


def compose(own: ArrayLike, parents: Parents, tree: str = "conditional") -> Floats:
    """From each finding's own probability to probabilities along the tree; a finding never trained bounds no other.

    ``conditional``: p(v) = own(v) * min over parents p(u). ``max``: p(v) = max over v and all below it of own. So no
    finding is ever more probable than any of its parents. ``flat``: p(v) = own(v), with no such promise.

    Args:
        own: (N, C) 0 to 1; nan where never trained. Of ``conditional``, given that all parents are present.

    Returns:
        (N, C) nan where the finding itself was never trained.
    """
    probability = np.array(own, np.float64)
    if tree == "conditional":
        for child in range(len(parents)):
            probability[:, child] *= _bound(probability, parents[child])
    elif tree == "max":
        for child in reversed(range(len(parents))):
            for parent in parents[child]:
                raised = np.fmax(probability[:, parent], probability[:, child])
                probability[:, parent] = np.where(np.isnan(probability[:, parent]), np.nan, raised)
    return probability


def either(findings: ArrayLike, tree: ArrayLike) -> Floats:
    """(N, C) probability from the findings head; from the tree where a run learned the tree alone."""
    own = np.asarray(findings, np.float64)
    return np.asarray(np.where(np.isnan(own), np.asarray(tree, np.float64), own))


def decompose(probability: ArrayLike, parents: Parents) -> Floats:
    """The inverse: (N, C) probability of each finding given that all its parents are present, at most 1."""
    whole = np.asarray(probability, np.float64)
    bounds = np.stack([_bound(whole, above) for above in parents], axis=1)
    return np.asarray(np.minimum(ratio(whole, bounds), 1.0))


def _bound(probability: Floats, above: Sequence[int]) -> Floats:
    """(N,) probability of the least probable parent; 1 where there is none, or none was trained."""
    if not above:
        return np.ones(len(probability))
    least: Floats = np.nan_to_num(np.fmin.reduce(probability[:, list(above)], axis=1), nan=1.0)
    return least


def violations(probability: ArrayLike, edges: Sequence[tuple[int, int]], eps: float = TOLERANCE) -> Floats:
    """(N, E) 1 where a child is more probable than its parent by more than ``eps``, else 0; nan where one is nan."""
    given = np.asarray(probability, np.float64)
    pairs = np.asarray(edges, np.intp).reshape(-1, 2)
    gap = given[:, pairs[:, 0]] - given[:, pairs[:, 1]]
    return np.where(np.isnan(gap), np.nan, gap > eps)


def violation_rate(probability: ArrayLike, edges: Sequence[tuple[int, int]], eps: float = TOLERANCE) -> float:
    """Share of (film, edge) at which the child is the more probable; nan where there is no edge."""
    return float(known_mean(violations(probability, edges, eps)))


def given_parents(presence: ArrayLike, parents: Parents) -> Floats:
    """(N, C) presence, made unknown wherever not all parents are present: what the conditional head answers for."""
    stated = np.asarray(presence, np.float64)
    asked = stated.copy()
    for child, above in enumerate(parents):
        asked[~(stated[:, list(above)] == 1).all(axis=1), child] = np.nan
    return asked


def conditional_auroc(presence: ArrayLike, conditional: ArrayLike, parents: Parents) -> Floats:
    """(C,) AUROC of each finding among the films where all its parents are present; nan for a root."""
    value = per_finding(auroc, given_parents(presence, parents), conditional)
    return np.where([bool(above) for above in parents], value, np.nan)


def depth_auroc(auroc_of: ArrayLike, depth: Sequence[int]) -> Floats:
    """Mean AUROC of the findings at each depth; nan where none is defined.

    Args:
        auroc_of: (..., C) AUROC of each finding.
        depth: C depths, 0 for a root.

    Returns:
        (..., max depth + 1).
    """
    value, level = np.asarray(auroc_of, np.float64), np.asarray(depth)
    return np.stack([known_mean(value[..., level == d], axis=-1) for d in range(int(level.max()) + 1)], axis=-1)


def closure(parents: Parents) -> NDArray[np.bool_]:
    """(C, C) whether the column is the row's own finding or one of its ancestors."""
    reach = np.eye(len(parents), dtype=bool)
    for child, above in enumerate(parents):
        for parent in above:
            reach[child] |= reach[parent]
    return reach


def hierarchical_counts(presence: ArrayLike, called: ArrayLike, parents: Parents) -> Floats:
    """Sizes of the ancestor-closed sets of each film: what was called rightly, what was called, what is present.

    Both sets take in all ancestors, so a near miss under the right parent earns a part. A finding whose presence stays
    unknown after closing counts in neither set.

    Args:
        presence: (N, C) 1 present, 0 absent, nan unknown.
        called: (N, C) bool.

    Returns:
        (N, 3).
    """
    stated, reach = np.asarray(presence, np.float64), closure(parents)
    truth = (stated == 1) @ reach
    answer = (np.asarray(called, bool) @ reach) & (truth | (stated == 0))
    return np.stack([(truth & answer).sum(axis=1), answer.sum(axis=1), truth.sum(axis=1)], axis=1).astype(np.float64)


def hierarchical_rates(counts: ArrayLike) -> dict[str, Floats]:
    """Hierarchical precision, recall and F from (..., 3) summed counts; nan where a set is empty."""
    right, called, present = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return {"hp": ratio(right, called), "hr": ratio(right, present), "hf": ratio(2 * right, called + present)}

"""What real tables bring: nothing known, one class, one patient, no film, ties, infinite scores, boxes without area."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision
from torchvision.ops import box_iou

from cxr_mtl.metrics.classify import auprc, auroc, enough, reliability, roc_curve
from cxr_mtl.metrics.counts import TILE, running_sum
from cxr_mtl.metrics.detect import FALSE_PER_FILM, localization
from cxr_mtl.metrics.hierarchy import (
    closure,
    conditional_auroc,
    hierarchical_counts,
    hierarchical_rates,
    violation_rate,
)
from cxr_mtl.metrics.intervals import estimate, patient_resamples, resampled_ranking
from cxr_mtl.metrics.localize import best_boxes, make_boxes, match_boxes

NAN, INF = float("nan"), float("inf")
NONE = make_boxes([])
PARENTS = ((), (), (0,), (1, 2))


@given(
    arrays(np.float64, 30, elements=st.sampled_from([0.0, 1.0])).filter(lambda y: 0 < y.sum() < 30),
    arrays(np.float64, 30, elements=st.sampled_from([-INF, -1.0, -0.0, 0.0, 1.0, INF])),
)
def test_infinite_scores_rank_as_the_largest_numbers(presence, score):
    finite = np.nan_to_num(score, posinf=9, neginf=-9)
    assert auroc(presence, score) == pytest.approx(metrics.roc_auc_score(presence, finite), abs=1e-12)
    assert auprc(presence, score) == pytest.approx(metrics.average_precision_score(presence, finite), abs=1e-12)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_unknown_labels_equal_torchmetrics_ignored_ones(seed):
    rng = np.random.default_rng(seed)
    presence = rng.choice([0.0, 1.0, NAN, -1.0], (60, 5), p=[0.4, 0.3, 0.2, 0.1])
    probability = rng.integers(0, 9, (60, 5)) / 8
    target = torch.from_numpy(np.where((presence == 0) | (presence == 1), presence, -1)).long()
    found = resampled_ranking(presence, probability, patient_resamples(range(60), 0, 0))
    for ours, theirs in ((found.auroc, multilabel_auroc), (found.auprc, multilabel_average_precision)):
        oracle = theirs(torch.from_numpy(probability), target, num_labels=5, average="none", ignore_index=-1)
        np.testing.assert_allclose(ours[0], oracle.numpy(), atol=1e-6)


def test_no_film_no_finding_one_patient_and_nothing_known_are_undefined_not_wrong():
    no_film = resampled_ranking(np.zeros((0, 3)), np.zeros((0, 3)), patient_resamples([], 5, 0))
    assert no_film.auroc.shape == (1, 3)
    assert np.isnan(no_film.auroc).all()
    assert resampled_ranking(np.zeros((4, 0)), np.zeros((4, 0)), patient_resamples(list("abcd"), 5, 0)).auprc.shape == (
        6,
        0,
    )
    unknown = resampled_ranking(np.full((4, 1), NAN), np.ones((4, 1)), patient_resamples(list("abcd"), 5, 0))
    assert estimate(unknown.auroc[:, 0]).to_dict() == {"value": None, "ci95": [None, None], "left_out": 5}
    one = resampled_ranking([[1], [0]], [[0.9], [0.1]], patient_resamples(["a", "a"], 5, 0))
    assert estimate(one.auroc[:, 0]).to_dict() == {"value": 1.0, "ci95": [None, None]}
    assert [len(x) for x in roc_curve([], [])] == [0, 0]
    assert len(reliability([], []).count) == 0


@given(arrays(np.float64, (40, 4), elements=st.sampled_from([0.0, 1.0, NAN, -1.0])), st.integers(1, 12))
def test_enough_counts_both_classes_where_there_is_a_score(presence, least):
    score = np.ones((40, 4))
    score[:5, 0], score[:, 3] = NAN, NAN
    by_hand = [min(((presence[:, c] == v) & ~np.isnan(score[:, c])).sum() for v in (0, 1)) >= least for c in range(4)]
    assert enough(presence, score, least).tolist() == by_hand
    assert not by_hand[3]


@pytest.mark.parametrize("rows", [0, 1, TILE - 1, TILE, TILE + 1, 5 * TILE, 5 * TILE + 7])
def test_running_sums_are_exact(rows):
    values = np.random.default_rng(rows).integers(0, 2**18, (rows, 3)).astype(np.float32)
    np.testing.assert_array_equal(running_sum(values), np.cumsum(values.astype(np.float64), axis=0))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_hierarchical_rates_are_micro_averages_of_closed_sets(seed):
    rng = np.random.default_rng(seed)
    reach = closure(PARENTS)
    presence, called = (rng.random((12, 4)) < 0.3 for _ in range(2))
    truth, answer = presence @ reach, called @ reach
    found = hierarchical_rates(hierarchical_counts(truth.astype(float), called, PARENTS).sum(axis=0))
    oracle = metrics.precision_recall_fscore_support(truth, answer, average="micro", zero_division=np.nan)
    np.testing.assert_allclose([found["hp"], found["hr"]], oracle[:2], atol=1e-12)
    if truth.any() or answer.any():
        assert found["hf"] == pytest.approx(oracle[2])


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_violations_and_conditional_auroc_equal_a_loop(seed, films):
    rng = np.random.default_rng(seed)
    presence = rng.choice([0.0, 1.0, NAN], (films, 4), p=[0.2, 0.7, 0.1])
    probability = np.where(rng.random((films, 4)) < 0.1, NAN, rng.integers(0, 4, (films, 4)) / 3)
    edges = [(child, parent) for child, above in enumerate(PARENTS) for parent in above]
    seen = [
        row[child] > row[parent] + 1e-6
        for row in probability
        for child, parent in edges
        if not np.isnan(row[child] + row[parent])
    ]
    np.testing.assert_equal(violation_rate(probability, edges), np.mean(seen) if seen else NAN)
    found = conditional_auroc(presence, probability, PARENTS)
    assert np.isnan(found[:2]).all()
    for child in (2, 3):
        rows = [
            i
            for i in range(films)
            if all(presence[i, p] == 1 for p in PARENTS[child])
            and presence[i, child] in (0, 1)
            and not np.isnan(probability[i, child])
        ]
        label = presence[rows, child]
        if len(set(label)) == 2:
            assert found[child] == pytest.approx(metrics.roc_auc_score(label, probability[rows, child]), abs=1e-12)
        else:
            assert np.isnan(found[child])


def hostile_boxes(seed, films=5, findings=2):
    """Boxes without area, inside out, outside of one another, with a few scores only and so with many ties."""
    rng = np.random.default_rng(seed)

    def box():
        kind, corner, side = rng.integers(6), rng.integers(0, 30, 2), rng.integers(1, 30, 2)
        side = side * [1, 0] if kind == 0 else -side if kind == 1 else side
        return np.concatenate([corner, corner + side]).astype(float)

    annotated = [(f, d, box(), 1.0) for f in range(films) for d in range(findings) for _ in range(rng.integers(0, 3))]
    proposed = [
        (f, d, box(), rng.integers(0, 3) / 2)
        for f in range(films)
        for d in range(findings)
        for _ in range(rng.integers(0, 4))
    ]
    return make_boxes(annotated), make_boxes(proposed)


def iou_of(first, second):
    """torchvision's, where the box has an area."""
    sides = np.minimum(first[2:] - first[:2], second[2:] - second[:2])
    if (sides <= 0).any():
        return 0.0
    return float(box_iou(torch.from_numpy(first)[None], torch.from_numpy(second)[None])[0, 0])


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_best_box_is_judged_as_by_a_loop_whatever_the_boxes(seed):
    annotated, proposed = hostile_boxes(seed)
    pairs = best_boxes(annotated, proposed)
    wanted = sorted(set(zip(annotated.film.tolist(), annotated.finding.tolist(), strict=True)))
    assert list(zip(pairs.film.tolist(), pairs.finding.tolist(), strict=True)) == wanted
    for m, key in enumerate(wanted):
        own = [k for k in range(len(proposed)) if (proposed.film[k], proposed.finding[k]) == key]
        targets = [annotated.xyxy[k] for k in range(len(annotated)) if (annotated.film[k], annotated.finding[k]) == key]
        if not own:
            assert (pairs.iou[m], pairs.iobb[m], pairs.pointed[m]) == (0, 0, 0)
            continue
        box = proposed.xyxy[max(own, key=lambda k: (proposed.score[k], -k))]  # of equal scores the first
        size = np.prod((box[2:] - box[:2]).clip(min=0))
        common = [np.prod((np.minimum(box[2:], t[2:]) - np.maximum(box[:2], t[:2])).clip(min=0)) for t in targets]
        centre = (box[:2] + box[2:]) / 2
        assert pairs.iou[m] == pytest.approx(max(iou_of(box, t) for t in targets))
        assert pairs.iobb[m] == pytest.approx(max(common) / size if size else 0)
        assert pairs.pointed[m] == any((centre >= t[:2]).all() and (centre <= t[2:]).all() for t in targets)


def voc_2010(right, score, drawn):
    """Area under the precision-recall curve made to fall, from the list of boxes cut at every score there is."""
    points = [
        ((right & (score >= cut)).sum() / drawn, right[score >= cut].mean()) for cut in sorted(set(score), reverse=True)
    ]
    area, before = 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_precision_and_froc_equal_a_loop_over_all_cuts(seed):
    annotated, proposed = hostile_boxes(seed)
    asked = np.random.default_rng(seed).random((5, 2)) < 0.8
    asked[annotated.film, annotated.finding] = True
    found = localization(annotated, proposed, asked, patient_resamples(range(5), 0, 0))
    called = proposed.keep(asked[proposed.film, proposed.finding])
    right = match_boxes(annotated, called)
    for d in range(2):
        drawn, own = (annotated.finding == d).sum(), called.finding == d
        if not drawn:
            assert np.isnan(found.precision[0, d])
            assert np.isnan(found.froc[0, d]).all()
            continue
        assert found.precision[0, d] == pytest.approx(voc_2010(right[own], called.score[own], drawn))
        for i, rate in enumerate(FALSE_PER_FILM):
            reached = [0.0]
            for cut in set(called.score[own]):
                shown = own & (called.score >= cut)
                if (shown & ~right).sum() <= rate * asked[:, d].sum():
                    reached.append((shown & right).sum() / drawn)
            assert found.froc[0, d, i] == pytest.approx(max(reached))


@pytest.mark.slow  # importing MONAI takes seconds
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_froc_equals_monai_at_the_rates_its_curve_has(seed):
    from monai.metrics.froc import compute_froc_curve_data

    annotated, proposed = hostile_boxes(seed, films=8, findings=1)
    right = match_boxes(annotated, proposed)
    if not right.any() or right.all():
        return
    found = localization(annotated, proposed, np.ones((8, 1), bool), patient_resamples(range(8), 0, 0)).froc[0, 0]
    # MONAI takes a target that was missed as one found with probability 0, and no score of 0 for a find.
    score = proposed.score + 1
    hits = np.concatenate([score[right], np.zeros(1 + len(annotated) - right.sum())])
    rate, sensitivity = compute_froc_curve_data(score[~right], hits, len(annotated), 8)
    for i, most in enumerate(FALSE_PER_FILM):
        assert found[i] == pytest.approx(sensitivity[rate <= most].max())


def test_no_box_and_no_finding_with_boxes():
    draws = patient_resamples(range(3), 4, 0)
    none = localization(NONE, NONE, np.zeros((3, 0), bool), draws)
    assert none.precision.shape == (5, 0)
    assert none.froc.shape == (5, 0, len(FALSE_PER_FILM))
    assert len(best_boxes(NONE, NONE).film) == 0
    assert match_boxes(NONE, NONE).tolist() == []
    assert np.isnan(localization(NONE, NONE, np.ones((3, 1), bool), draws).pointing).all()

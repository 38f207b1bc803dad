"""Boxes against torchvision and torchmetrics, and by hand. Frames are wide, so that swapped axes show."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from cxr_mtl.metrics.detect import FALSE_PER_FILM, localization
from cxr_mtl.metrics.intervals import estimate, patient_resamples
from cxr_mtl.metrics.localize import (
    TIOBB,
    TIOU,
    askable,
    best_boxes,
    choose_box_threshold,
    iou_matrix,
    make_boxes,
    match_boxes,
    median_sizes,
    random_boxes,
    stack_boxes,
)

NAN = float("nan")
NONE = make_boxes([])
UNIT = (0.0, 0.0, 10.0, 10.0)


def random_xyxy(rng, count):
    corner = rng.integers(0, 40, (count, 2))
    return np.concatenate([corner, corner + rng.integers(0, 25, (count, 2))], axis=1).astype(float)


def random_case(seed, films=6, findings=2, apart=False):
    """Annotated boxes and proposals near them and elsewhere, no two scores alike; all films may be asked."""
    rng = np.random.default_rng(seed)
    annotated, proposed = [], []
    for film in range(films):
        for finding in range(findings):
            for k in range(rng.integers(0, 3)):
                corner = np.array([300 * k if apart else rng.integers(30), rng.integers(30)])
                side = rng.integers(10, 40, 2)
                annotated.append((film, finding, np.concatenate([corner, corner + side]).astype(float), 1.0))
                for _ in range(rng.integers(0, 3)):
                    near = corner + rng.normal(0, 4, 2)
                    proposed.append(
                        (film, finding, np.concatenate([near, near + side * rng.uniform(0.6, 1.5, 2)]), 0.0)
                    )
            if rng.random() < 0.5:
                proposed.append((film, finding, (100.0, 0.0, 130.0, 30.0), 0.0))
    scores = rng.permutation(len(proposed)) / max(len(proposed), 1)
    return make_boxes(annotated), make_boxes([(*p[:3], s) for p, s in zip(proposed, scores, strict=True)])


@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 8))
def test_iou_equals_torchvision(seed, k, m):
    rng = np.random.default_rng(seed)
    first, second = random_xyxy(rng, k), random_xyxy(rng, m)
    oracle = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    np.testing.assert_allclose(iou_matrix(first, second), np.nan_to_num(oracle), atol=1e-12)


def test_the_best_box_is_the_surest_not_the_nearest():
    annotated = make_boxes([(0, 0, UNIT, 1), (0, 0, (40, 0, 60, 10), 1), (0, 1, UNIT, 1), (2, 0, UNIT, 1)])
    proposed = make_boxes(
        [
            (0, 0, (42, 0, 62, 10), 0.9),  # of the second box: 180 of 220
            (0, 0, UNIT, 0.8),
            (0, 1, (8, 8, 12, 12), 0.3),  # 4 of 112, a quarter of itself; its centre is the corner
            (1, 0, UNIT, 0.9),  # nothing is annotated there
        ]
    )
    pairs = best_boxes(annotated, proposed)
    assert list(zip(pairs.film.tolist(), pairs.finding.tolist(), strict=True)) == [(0, 0), (0, 1), (2, 0)]
    np.testing.assert_allclose(pairs.iou, [180 / 220, 4 / 112, 0])
    np.testing.assert_allclose(pairs.iobb, [0.9, 0.25, 0])
    assert pairs.pointed.tolist() == [1, 1, 0]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_best_boxes_equal_a_loop(seed):
    annotated, proposed = random_case(seed)
    pairs = best_boxes(annotated, proposed)
    assert len(pairs.film) == len(set(zip(annotated.film, annotated.finding, strict=True)))
    for film, finding, iou in zip(pairs.film, pairs.finding, pairs.iou, strict=True):
        own = [k for k in range(len(proposed)) if (proposed.film[k], proposed.finding[k]) == (film, finding)]
        target = annotated.xyxy[(annotated.film == film) & (annotated.finding == finding)]
        best = max(own, key=lambda k: proposed.score[k], default=None)
        assert iou == (0 if best is None else iou_matrix(proposed.xyxy[[best]], target).max())


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_matching_equals_voc_by_loop(seed):
    annotated, proposed = random_case(seed)
    taken, right = set(), np.zeros(len(proposed), bool)
    for k in np.argsort(-proposed.score):
        rivals = np.flatnonzero((annotated.film == proposed.film[k]) & (annotated.finding == proposed.finding[k]))
        iou = iou_matrix(proposed.xyxy[[k]], annotated.xyxy[rivals])[0]
        if len(rivals) and iou.max() >= 0.4 and rivals[iou.argmax()] not in taken:
            taken.add(rivals[iou.argmax()])
            right[k] = True
    np.testing.assert_array_equal(match_boxes(annotated, proposed), right)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_average_precision_equals_torchmetrics_where_annotated_boxes_are_apart(seed):
    # COCO lets a box fall back on its second nearest target, VOC does not: with targets apart they agree.
    annotated, proposed = random_case(seed, apart=True)
    recall = np.linspace(0, 1, 2521).tolist()  # 2520 / n is whole for n up to 10: the steps of recall are hit
    oracle = MeanAveragePrecision(iou_thresholds=[0.4], rec_thresholds=recall, class_metrics=True)

    def films(boxes, scored):
        for film in range(6):
            own = boxes.film == film
            body = {
                "boxes": torch.from_numpy(boxes.xyxy[own]).float(),
                "labels": torch.from_numpy(boxes.finding[own]),
            }
            yield body | ({"scores": torch.from_numpy(boxes.score[own])} if scored else {})

    oracle.update(list(films(proposed, True)), list(films(annotated, False)))
    found = localization(annotated, proposed, np.ones((6, 2), bool), patient_resamples(range(6), 1, 0)).precision[0]
    result = oracle.compute()
    by_class = dict(zip(np.atleast_1d(result["classes"]), np.atleast_1d(result["map_per_class"]), strict=True))
    for finding in range(2):
        if (annotated.finding == finding).any():
            assert found[finding] == pytest.approx(float(by_class[finding]), abs=1e-3)
        else:
            assert np.isnan(found[finding])


def test_localization_by_hand():
    annotated = make_boxes([(0, 0, UNIT, 1), (1, 0, UNIT, 1), (2, 0, UNIT, 1)])
    proposed = make_boxes(
        [
            (0, 0, UNIT, 0.9),  # right
            (3, 0, UNIT, 0.8),  # false: absent there
            (1, 0, (0, 0, 10, 20), 0.7),  # right: IoU .5
            (4, 0, UNIT, 0.95),  # not asked: present without a box
        ]
    )
    asked = askable([[1], [1], [1], [0], [1]], annotated, [[False]] * 5)
    found = localization(annotated, proposed, asked, patient_resamples(range(5), 50, 0))
    np.testing.assert_allclose(found.iou[0, 0], [2 / 3] * 5 + [1 / 3] * 2)
    np.testing.assert_allclose(found.iobb[0, 0], [2 / 3] * 3 + [1 / 3] * 2)
    # The second box's centre (5, 10) lies on the edge of its target, and so still in it.
    assert found.pointing[0, 0] == pytest.approx(2 / 3)
    assert found.precision[0, 0] == pytest.approx((1 + 2 / 3) / 3)
    # Four films are asked, so up to .125 false a film none may be; at .25 one may, and both right boxes are found.
    np.testing.assert_allclose(found.froc[0, 0], [1 / 3] + [2 / 3] * (len(FALSE_PER_FILM) - 1))
    assert found.iou.shape == (51, 1, len(TIOU))
    assert found.iobb.shape == (51, 1, len(TIOBB))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_resample_equals_films_really_repeated(seed):
    annotated, proposed = random_case(seed)
    rng = np.random.default_rng(seed)
    presence = rng.choice([0.0, 1.0, NAN], (6, 2))
    asked = askable(presence, annotated, rng.random(presence.shape) < 0.5)
    draws = patient_resamples([0, 0, 1, 2, 3, 3], 3, seed)
    whole = localization(annotated, proposed, asked, draws)
    for r in range(4):
        films = np.repeat(np.arange(6), draws.counts[draws.patient, r])

        def copied(boxes, films=films):
            return make_boxes(
                (new, boxes.finding[k], boxes.xyxy[k], boxes.score[k])
                for new, old in enumerate(films)
                for k in np.flatnonzero(boxes.film == old)
            )

        copy = localization(copied(annotated), copied(proposed), asked[films], patient_resamples(films * 0, 0, 0))
        for name in ("iou", "iobb", "pointing", "precision", "froc"):
            np.testing.assert_allclose(getattr(whole, name)[r], getattr(copy, name)[0], atol=1e-12, err_msg=name)


def test_perfect_boxes_are_perfect_and_no_boxes_are_nothing():
    annotated, _ = random_case(3, films=20, apart=True)
    asked, draws = np.ones((20, 2), bool), patient_resamples(range(20), 20, 0)
    perfect, nothing = (localization(annotated, boxes, asked, draws) for boxes in (annotated, NONE))
    for name in ("iou", "iobb", "pointing", "precision", "froc"):
        assert (getattr(perfect, name) == 1).all(), name
        assert (getattr(nothing, name) == 0).all(), name


def test_without_annotated_boxes_nothing_is_defined():
    found = localization(
        NONE, make_boxes([(0, 0, UNIT, 0.5)]), np.ones((2, 1), bool), patient_resamples(range(2), 5, 0)
    )
    assert np.isnan(found.iou).all()
    assert np.isnan(found.precision).all()
    assert np.isnan(found.froc).all()
    assert np.isnan(estimate(found.pointing[:, 0]).value)


def test_askable_says_where_a_missing_box_means_something():
    presence = [[1, 0, NAN], [1, 0, NAN], [1, -1, 0]]
    drawn = make_boxes([(0, 0, UNIT, 1), (1, 2, UNIT, 1), (2, 2, UNIT, 1)])
    assert askable(presence, drawn, [[False] * 3, [True] * 3, [True] * 3]).tolist() == [
        [True, True, False],  # unknown, and not exhaustive
        [False, True, True],  # present without a box, exhaustive or not: where it is stays unknown
        [False, True, True],  # a box outweighs a label that says absent
    ]


def test_random_boxes_have_the_usual_size_and_lie_within_the_frame():
    frames = np.array([[1000.0, 500.0]] * 400)
    annotated = make_boxes([(0, 0, (0, 0, 100, 50), 1), (1, 0, (0, 0, 300, 50), 1), (2, 0, (0, 0, 200, 150), 1)])
    sizes = median_sizes(annotated, frames, 2)
    np.testing.assert_allclose(sizes, [[0.2, 0.1], [NAN, NAN]])
    boxes = random_boxes(frames, sizes, np.random.default_rng(0))
    assert len(boxes) == 400
    assert set(boxes.finding) == {0}
    np.testing.assert_allclose(boxes.xyxy[:, 2:] - boxes.xyxy[:, :2], [[200, 50]] * 400)
    assert (boxes.xyxy[:, :2] >= 0).all()
    assert (boxes.xyxy[:, 2:] <= frames).all()
    np.testing.assert_allclose(boxes.xyxy[:, :2].mean(axis=0), [400, 225], rtol=0.1)
    np.testing.assert_array_equal(boxes.xyxy, random_boxes(frames, sizes, np.random.default_rng(0)).xyxy)


def test_box_threshold_is_the_best_f1():
    annotated = make_boxes([(f, 0, UNIT, 1) for f in range(3)])
    away = (50.0, 50.0, 60.0, 60.0)
    proposed = make_boxes(
        [(0, 0, UNIT, 0.9), (1, 0, UNIT, 0.7), (2, 0, away, 0.5), (3, 0, away, 0.3), (2, 0, UNIT, 0.1), (4, 0, UNIT, 1)]
    )
    asked = np.array([[True]] * 4 + [[False]])
    cut = choose_box_threshold(annotated, proposed, asked)
    assert (cut.score, cut.f1, cut.precision, cut.recall) == pytest.approx((0.6, 0.8, 1, 2 / 3))
    assert np.isnan(choose_box_threshold(NONE, proposed, asked).score)
    assert np.isnan(choose_box_threshold(annotated, NONE, asked).score)


def test_stacking_films_equals_naming_rows():
    stacked = stack_boxes([([UNIT], [1], [0.5]), ([], [], []), ([UNIT, (1, 2, 3, 4)], [0, 1], [0.2, 0.3])])
    rows = make_boxes([(0, 1, UNIT, 0.5), (2, 0, UNIT, 0.2), (2, 1, (1, 2, 3, 4), 0.3)])
    for name in ("film", "finding", "xyxy", "score"):
        np.testing.assert_array_equal(getattr(stacked, name), getattr(rows, name))
    assert len(stack_boxes([])) == 0

"""The tree of findings, on a DAG: lung 0; pleura 1; opacity 2 under lung; effusion 3 under pleura and opacity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxr_mtl.metrics.classify import auroc
from cxr_mtl.metrics.hierarchy import (
    closure,
    compose,
    conditional_auroc,
    decompose,
    depth_auroc,
    either,
    given_parents,
    hierarchical_counts,
    hierarchical_rates,
    own_logits,
    violation_rate,
    violations,
)

NAN = float("nan")
PARENTS = ((), (), (0,), (1, 2))
EDGES = ((2, 0), (3, 1), (3, 2))


@given(arrays(np.float64, (5, 4), elements=st.floats(0, 1)))
def test_composed_probabilities_never_violate(conditional):
    assert violation_rate(compose(conditional, PARENTS), EDGES, eps=0) == 0


def test_compose_by_hand():
    np.testing.assert_allclose(compose([[0.8, 0.3, 0.5, 0.5]], PARENTS), [[0.8, 0.3, 0.4, 0.15]])


@pytest.mark.parametrize("tree", ["conditional", "max"])
@given(arrays(np.float64, (5, 4), elements=st.floats(0, 1)))
def test_no_tree_violates_but_the_flat_one(tree, own):
    whole = compose(own, PARENTS, tree)
    assert violation_rate(whole, EDGES, eps=0) == 0
    np.testing.assert_array_equal(compose(own, PARENTS, "flat"), own)
    back = decompose(whole, PARENTS)
    assert ((back >= 0) & (back <= 1))[~np.isnan(back)].all()
    np.testing.assert_allclose(np.nan_to_num(compose(np.nan_to_num(back), PARENTS)), whole, atol=1e-12)


def test_the_highest_below_by_hand():
    own = [[0.1, 0.3, 0.5, 0.4], [0.1, NAN, 0.2, 0.9]]
    np.testing.assert_allclose(compose(own, PARENTS, "max"), [[0.5, 0.4, 0.5, 0.4], [0.9, NAN, 0.9, 0.9]])


def test_what_was_never_trained_raises_no_parent():
    logits, trained = [[0.0, 0.0, 0.0, 9.0]], [True, True, True, False]
    np.testing.assert_array_equal(own_logits(logits, trained, PARENTS, "max"), [[0, 0, 0, NAN]])
    np.testing.assert_array_equal(own_logits(logits, [True] * 4, PARENTS, "max"), [[9, 9, 9, 9]])
    np.testing.assert_array_equal(own_logits(logits, [True] * 4, PARENTS), logits)


def test_a_tree_alone_answers_for_its_findings():
    np.testing.assert_array_equal(either([[0.2, NAN]], [[0.9, 0.7]]), [[0.2, 0.7]])


def test_an_untrained_parent_sets_no_bound_and_an_untrained_finding_stays_unknown():
    np.testing.assert_allclose(compose([[0.8, NAN, 0.5, 0.5]], PARENTS), [[0.8, NAN, 0.4, 0.2]])
    np.testing.assert_allclose(compose([[NAN, 0.3, 0.5, NAN]], PARENTS), [[NAN, 0.3, 0.5, NAN]])


def test_violations_by_hand():
    flat = [[0.5, 0.9, 0.6, 0.7], [0.5, NAN, 0.5 + 1e-9, 0.2]]
    np.testing.assert_array_equal(violations(flat, EDGES), [[1, 0, 1], [0, NAN, 0]])
    assert violation_rate(flat, EDGES) == pytest.approx(2 / 5)
    assert np.isnan(violation_rate(flat, []))


def test_conditional_auroc_is_the_auroc_among_films_with_all_parents():
    rng = np.random.default_rng(0)
    presence = rng.choice([0.0, 1.0, NAN], (300, 4), p=[0.3, 0.6, 0.1])
    score = rng.random((300, 4)) + 0.3 * (presence == 1)
    both = (presence[:, 1] == 1) & (presence[:, 2] == 1)
    found = conditional_auroc(presence, score, PARENTS)
    assert np.isnan(found[:2]).all()
    assert found[2] == auroc(presence[presence[:, 0] == 1, 2], score[presence[:, 0] == 1, 2])
    assert found[3] == auroc(presence[both, 3], score[both, 3])


def test_given_parents_asks_a_root_of_everyone_and_leaves_its_argument_alone():
    presence = np.array([[1.0, 0.0, 1.0, 1.0], [NAN, 1.0, 0.0, 0.0]])
    before = presence.copy()
    np.testing.assert_array_equal(given_parents(presence, PARENTS), [[1, 0, 1, NAN], [NAN, 1, NAN, NAN]])
    np.testing.assert_array_equal(presence, before)


def test_depth_auroc_averages_what_is_defined():
    value = np.array([[0.6, 0.8, NAN, 0.9], [0.6, NAN, 0.7, NAN]])
    np.testing.assert_allclose(depth_auroc(value, (0, 0, 1, 2)), [[0.7, NAN, 0.9], [0.6, 0.7, NAN]])


def test_closure_reaches_all_ancestors():
    assert [set(np.flatnonzero(row)) for row in closure(PARENTS)] == [{0}, {1}, {0, 2}, {0, 1, 2, 3}]


def test_hierarchical_sets_by_hand():
    presence = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [1, NAN, 0, NAN]], float)
    called = np.array([[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 1, 0]], bool)
    counts = hierarchical_counts(presence, called, PARENTS)
    # Film 3: pleura is unknown, so calling it is neither right nor wrong; opacity is wrong, its parent lung right.
    assert counts.tolist() == [[2, 2, 4], [2, 4, 2], [1, 2, 1]]
    rates = hierarchical_rates(counts.sum(axis=0))
    assert {k: float(v) for k, v in rates.items()} == pytest.approx({"hp": 5 / 8, "hr": 5 / 7, "hf": 10 / 15})


def test_a_present_child_makes_unknown_ancestors_present():
    assert hierarchical_counts([[NAN, NAN, NAN, 1]], [[0, 0, 0, 1]], PARENTS).tolist() == [[4, 4, 4]]


def test_calling_the_truth_is_perfect_and_calling_nothing_has_no_precision():
    presence = np.array([[1.0, 0.0, 1.0, 0.0]])
    perfect = hierarchical_rates(hierarchical_counts(presence, presence == 1, PARENTS)[0])
    assert {k: float(v) for k, v in perfect.items()} == {"hp": 1, "hr": 1, "hf": 1}
    nothing = hierarchical_rates(hierarchical_counts(presence, presence > 1, PARENTS)[0])
    assert np.isnan(nothing["hp"])
    assert nothing["hr"] == 0

"""What follows from labels, on drawn ontologies and films: propagation along the DAG, completion within one dataset."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cxr_mtl.ontology import Ontology, load_ontology

NAN = float("nan")
PRESENCES = [1.0, 0.0, -1.0, NAN]
DATASETS = ("here", "there")


@st.composite
def ontologies(draw: st.DrawFn) -> Ontology:
    """A DAG of 2 to 9 findings besides the normal one; names, groups and allowances wherever they are permitted."""
    count = draw(st.integers(2, 9))
    findings: list[dict[str, Any]] = []
    above: dict[str, set[str]] = {}
    for i in range(count):
        parents = draw(st.lists(st.sampled_from([f"F{j}" for j in range(i)]), unique=True, max_size=3)) if i else []
        named = draw(st.sets(st.sampled_from(DATASETS)))
        findings.append({"name": f"F{i}", "parents": parents, "names": dict.fromkeys(sorted(named), f"f{i}")})
        above[f"F{i}"] = set(parents).union(*(above[parent] for parent in parents))
    for finding in findings:
        below = [other for other in findings if finding["name"] in above[other["name"]]]
        if below and draw(st.booleans()):
            finding["group"] = True
            covered = [d for d in DATASETS if all(d in other["names"] for other in below)]
            finding["complete_in"] = [dataset for dataset in covered if draw(st.booleans())]
    allows = [f["name"] for f in findings if not f["parents"] and draw(st.integers(0, 3)) == 0]
    normal = {"name": "Normal", "names": {"here": "normal"}}
    return Ontology.from_dict(
        {
            "name": "drawn",
            "version": "1",
            "normal": "Normal",
            "normal_allows": allows,
            "findings": draw(st.permutations([normal, *findings])),
        }
    )


@st.composite
def with_table(draw: st.DrawFn) -> tuple[Ontology, NDArray[np.float64]]:
    ontology = draw(ontologies())
    row = st.lists(st.sampled_from(PRESENCES), min_size=len(ontology.names), max_size=len(ontology.names))
    return ontology, np.array(draw(st.lists(row, min_size=1, max_size=5)))


@st.composite
def with_labels(draw: st.DrawFn) -> tuple[Ontology, dict[str, float], str]:
    ontology = draw(ontologies())
    labels = draw(st.dictionaries(st.sampled_from(ontology.names), st.sampled_from([1.0, 0.0, -1.0])))
    return ontology, labels, draw(st.sampled_from([*DATASETS, "elsewhere"]))


shipped = functools.cache(load_ontology)


def as_row(ontology: Ontology, labels: dict[str, float]) -> NDArray[np.float64]:
    return np.array([[labels.get(name, NAN) for name in ontology.names]])


def as_labels(ontology: Ontology, table: NDArray[Any]) -> dict[str, float]:
    return dict(zip(ontology.names, map(float, table[0]), strict=True))


# --- propagate --------------------------------------------------------------------------------------------------------


def slow_propagate(ontology: Ontology, table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rules one film and one edge at a time, until nothing changes."""
    out = table.copy()
    for row in out:
        for _ in ontology.names:
            for child, parent in ontology.edges:
                if row[child] == 1:
                    row[parent] = 1
        for child, name in enumerate(ontology.names):
            if np.isnan(row[child]) and any(row[ontology.index(above)] == 0 for above in ontology.ancestors(name)):
                row[child] = 0
    return out


@settings(deadline=None, max_examples=60)
@given(with_table())
def test_propagate_equals_the_slow_way(drawn: tuple[Ontology, NDArray[np.float64]]) -> None:
    ontology, table = drawn
    untouched = table.copy()
    np.testing.assert_array_equal(ontology.propagate(table), slow_propagate(ontology, table))
    np.testing.assert_array_equal(table, untouched)


@settings(deadline=None, max_examples=60)
@given(with_table())
def test_propagate_keeps_its_promises(drawn: tuple[Ontology, NDArray[np.float64]]) -> None:
    ontology, table = drawn
    out = ontology.propagate(table)
    np.testing.assert_array_equal(ontology.propagate(out), out)
    # A stated presence stays.
    assert (out[table == 1] == 1).all()
    for child, parent in ontology.edges:
        # What a present finding implies is present; what needs an absent one is not known to be anything else.
        assert (out[out[:, child] == 1, parent] == 1).all()
        below_absent = out[out[:, parent] == 0, child]
        assert np.isin(below_absent, [0, -1]).all()
    for column, name in enumerate(ontology.names):
        below = [ontology.index(other) for other in ontology.descendants(name)]
        above = [ontology.index(other) for other in ontology.ancestors(name)]
        implied = (table[:, below] == 1).any(axis=1)
        # Nothing becomes present for another reason, and nothing stated changes for another reason.
        np.testing.assert_array_equal(out[:, column] == 1, (table[:, column] == 1) | implied)
        stated = ~np.isnan(table[:, column]) & ~implied
        np.testing.assert_array_equal(out[stated, column], table[stated, column])
        # What is unknown stays so unless a rule reaches it.
        free = np.isnan(table[:, column]) & ~implied & ~(out[:, above] == 0).any(axis=1)
        assert np.isnan(out[free, column]).all()


def test_propagate_by_example() -> None:
    thorax = load_ontology("thorax")
    present = as_labels(thorax, thorax.propagate(as_row(thorax, {"Hydropneumothorax": 1.0, "Pleural": 0.0})))
    assert {name for name, value in present.items() if value == 1} == {
        *("Hydropneumothorax", "Effusion", "Pneumothorax", "Pleural")
    }
    assert np.isnan(present["Pleural Thickening"])
    # One absent parent of two is enough; an uncertain finding is left alone, and is no bar to what lies below it.
    absent = as_labels(thorax, thorax.propagate(as_row(thorax, {"Pneumothorax": 0.0, "Effusion": 1.0})))
    assert absent["Hydropneumothorax"] == 0
    uncertain = as_labels(thorax, thorax.propagate(as_row(thorax, {"Lung Opacity": 0.0, "Lung Lesion": -1.0})))
    assert (uncertain["Lung Lesion"], uncertain["Nodule"]) == (-1, 0)
    raised = as_labels(thorax, thorax.propagate(as_row(thorax, {"Pneumonia": 1.0, "Lung Opacity": -1.0})))
    assert raised["Lung Opacity"] == 1


def test_smoothed_labels_say_nothing_and_stay() -> None:
    lung10 = load_ontology("lung10")
    labels = as_labels(lung10, lung10.propagate(as_row(lung10, {"Edema": 0.7, "Pleural": 0.1})))
    assert (labels["Edema"], labels["Pleural"]) == (0.7, 0.1)
    assert np.isnan(labels["Lung"])
    assert np.isnan(labels["Effusion"])


# CheXpert's training table: of the films with the finding, what the parent's column says, counted on the real file.
CHEXPERT = [
    ("Edema", "Lung Opacity", {1.0: 27_455, NAN: 23_439, -1.0: 904, 0.0: 448}),
    ("Atelectasis", "Lung Opacity", {1.0: 14_146, NAN: 18_279, -1.0: 602, 0.0: 349}),
    ("Pneumonia", "Lung Opacity", {1.0: 4_025, NAN: 1_653, -1.0: 232, 0.0: 129}),
    ("Cardiomegaly", "Enlarged Cardiomediastinum", {1.0: 1_901, NAN: 24_616, -1.0: 311, 0.0: 172}),
]


@pytest.mark.parametrize(("child", "parent", "counts"), CHEXPERT)
def test_propagate_mends_chexpert(child: str, parent: str, counts: dict[float, int]) -> None:
    thorax = load_ontology("thorax")
    table = np.full((sum(counts.values()), len(thorax.names)), np.nan, dtype=np.float32)
    table[:, thorax.index(child)] = 1
    table[:, thorax.index(parent)] = np.repeat(list(counts), list(counts.values()))
    out = thorax.propagate(table)
    assert out.dtype == np.float32
    assert (out[:, thorax.index(parent)] == 1).all()
    assert (out == 1).sum() == len(table) * 2


def test_propagate_takes_all_public_films_at_once() -> None:
    thorax = load_ontology("thorax")
    rng = np.random.default_rng(0)
    table = rng.choice(np.array(PRESENCES, dtype=np.float32), size=(100_000, len(thorax.names)))
    start = time.perf_counter()
    thorax.propagate(table)
    # About 0.05 s on a free core. A loop over films would take minutes.
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("shape", [(3,), (3, 2), (1, 1, 44)])
def test_propagate_wants_one_column_a_finding(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected \\(N, 44\\)"):
        load_ontology("thorax").propagate(np.zeros(shape))


def test_propagate_of_no_films() -> None:
    assert load_ontology("thorax").propagate(np.zeros((0, 44))).shape == (0, 44)


# --- complete ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(with_labels())
def test_complete_keeps_its_promises(drawn: tuple[Ontology, dict[str, float], str]) -> None:
    ontology, labels, dataset = drawn
    before = dict(labels)
    out = ontology.complete(labels, dataset)
    assert labels == before
    assert labels.items() <= out.items()
    assert ontology.complete(out, dataset) == out
    named = set(ontology.labelled_by(dataset))
    for name in out.keys() - labels.keys():
        finding = ontology[name]
        if name == ontology.normal:
            assert out[name] == 0
            assert any(v == 1 and other not in ontology.normal_allows for other, v in labels.items())
        elif out[name] == 1:
            assert finding.group
            assert any(labels.get(below) == 1 for below in ontology.descendants(name))
        else:
            # Absence is said by the dataset itself, through its normal film or through the group's labels.
            by_normal = name in named and labels.get("Normal") == 1 and name not in ontology.normal_allows
            assert by_normal or (finding.group and dataset in finding.complete_in)
            assert not any(labels.get(below) in (1, -1) for below in ontology.descendants(name) & named)


@settings(deadline=None, max_examples=60)
@given(with_labels())
def test_a_normal_film_shows_nothing_that_its_dataset_looks_for(
    drawn: tuple[Ontology, dict[str, float], str],
) -> None:
    ontology, labels, dataset = drawn
    out = ontology.complete({**labels, "Normal": 1.0}, dataset)
    assert out["Normal"] == 1
    busy = {above for name, value in labels.items() if value != 0 for above in ontology.ancestors(name)}
    allowed = {*ontology.normal_allows}.union(*(ontology.descendants(name) for name in ontology.normal_allows))
    assert all(out.get(name) != 0 for name in busy - labels.keys())
    for name in set(ontology.labelled_by(dataset)) - busy - allowed - labels.keys() - {"Normal"}:
        assert out[name] == 0
    for name in set(ontology.names) - set(ontology.labelled_by(dataset)) - labels.keys() - {"Normal"}:
        assert name not in out or ontology[name].group


@pytest.mark.parametrize("name", ["thorax", "nih14", "lung10", "kermany"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_dataset_calls_absent_what_it_has_no_word_for(name: str, data: st.DataObject) -> None:
    """The project's first rule, on the shipped files: films as their tables state them, completed and propagated."""
    ontology = shipped(name)
    dataset = data.draw(st.sampled_from(sorted({d for finding in ontology.findings for d in finding.names})))
    named = ontology.labelled_by(dataset)
    seen = data.draw(st.sets(st.sampled_from(named)))
    stated = {finding: float(finding in seen) for finding in named}
    out = as_labels(ontology, ontology.propagate(as_row(ontology, ontology.complete(stated, dataset))))
    for finding, value in out.items():
        if value == 0 and finding not in named and not ontology[finding].group:
            assert any(out[above] == 0 and above in named for above in ontology.ancestors(finding))

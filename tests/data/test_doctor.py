"""Each fault of a table, planted alone in a sound set, is found, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doctor_set import FRAME, MASS, NUM, ONTOLOGY, SICK, WELL, changed, manifest, sound, write_films

from cxr_mtl.data.doctor import Problem, examine
from cxr_mtl.data.doctor.tables import examine_table
from cxr_mtl.data.manifest import make_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.types import Box, Record


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films"))


def test_a_sound_set_has_no_problem(films: Path) -> None:
    assert examine(manifest(films, sound())) == []


def box(*xyxy: float, finding: str = "Effusion") -> dict[str, object]:
    return {"boxes": (Box(finding, *xyxy),)}


def of_all(**fields: Any) -> dict[int, dict[str, Any]]:
    return dict.fromkeys(range(NUM), fields)


def by_kind(**fields: Callable[[int], Any]) -> dict[int, dict[str, Any]]:
    """What each of the three kinds of film (0 effusion, 1 nothing, 2 mass) is changed to."""
    return {i: {name: value(i % 3) for name, value in fields.items()} for i in range(NUM)}


HALVED = {i: box(0, 50, 400 + i, 450) for i in range(0, NUM, 3)}
ALL_IN_TEST = {i: {"dataset": "abroad"} for i in range(24, NUM)}

# What is changed in which films; then the problem: check, level, count, path.
FAULTS: dict[str, tuple[dict[int, dict[str, Any]], str, str, int, str]] = {
    "label": ({12: {"labels": SICK | {"Mass": 0.5}}}, "label-value", "error", 1, "12.png"),
    "patient": ({12: {"patient_id": "p0"}}, "patient-overlap", "error", 2, "0.png"),
    "row": ({13: {"image_path": "10.png"}}, "row-repeated", "error", 1, "10.png"),
    "id": ({13: {"image_id": "i0"}}, "id-repeated", "error", 1, "13.png"),
    "split": ({12: {"split": "holdout"}, 13: {"split": "holdout"}}, "split-name", "error", 2, "12.png"),
    "no split": ({12: {"split": None}}, "no-split", "warning", 1, "12.png"),
    "no parent": ({12: {"labels": SICK | {"Pleural": 0.0}}}, "child-without-parent", "warning", 1, "12.png"),
    "normal": ({12: {"labels": SICK | {"No Finding": 1.0}}}, "normal-with-findings", "warning", 1, "12.png"),
    "unlabelled": ({13: {"labels": {}}}, "unlabelled", "warning", 1, "13.png"),
    "silent dataset": (
        {i: {"labels": {}, "dataset": "abroad"} for i in (1, 13, 25)}, "dataset-unlabelled", "warning", 3, "1.png",
    ),
    "flat box": ({12: box(10, 10, 10, 20)}, "box-no-area", "error", 1, "12.png"),
    "far box": ({12: box(900, 10, 1100, 20)}, "box-outside", "error", 1, "12.png"),
    "zebra": ({12: box(1, 1, 20, 20, finding="Zebra")}, "box-finding", "error", 1, "12.png"),
    "no frame": ({12: {"width": None}}, "box-frame-unknown", "error", 1, "12.png"),
    "box of none": ({12: box(1, 1, 20, 20, finding="Mass")}, "box-label-absent", "warning", 1, "12.png"),
    "unknown box": ({12: box(1, 1, 20, 20, finding="Nodule")}, "box-label-unknown", "warning", 1, "12.png"),
    "uncertain box": ({12: {"labels": SICK | {"Effusion": -1.0}}}, "box-label-unknown", "warning", 1, "12.png"),
    "tiny box": ({12: box(1, 1, 4, 5)}, "box-size", "warning", 1, "12.png"),
    "huge box": ({12: box(0, 0, FRAME, FRAME)}, "box-size", "warning", 1, "12.png"),
    "boxes of 512": (HALVED, "box-frame-size", "error", 12, "0.png"),
    "lateral": ({12: {"view": "LATERAL"}}, "lateral", "warning", 1, "12.png"),
    "view": ({12: {"view": "UNKNOWN"}}, "view-unknown", "warning", 1, "12.png"),
    "child": ({12: {"age": 15.5}, 13: {"age": 16}, 14: {"age": float("nan")}}, "child", "warning", 1, "12.png"),
    "kermany": (of_all(dataset="kermany", age=float("nan")), "child", "warning", NUM, "0.png"),
    "old": ({12: {"age": 150}, 13: {"age": 110}}, "age-range", "warning", 1, "12.png"),
    "unborn": ({12: {"age": -1}, 13: {"age": 16}}, "age-range", "warning", 1, "12.png"),
    "ages": (
        {12: {"age": 30}, 13: {"patient_id": "p12", "age": 61}}, "age-differs", "warning", 2, "12.png",
    ),
    "study ages": (
        {12: {"age": 30}, 15: {"patient_id": "p12", "study_id": "s12", "age": 33}},
        "age-differs", "warning", 2, "12.png",
    ),
    "sex": ({12: {"sex": "M"}, 13: {"patient_id": "p12"}}, "sex-differs", "warning", 2, "12.png"),
    "study in two": ({12: {"study_id": "s0"}}, "study-across-splits", "error", 2, "0.png"),
    "study of two": ({3: {"study_id": "s0"}}, "study-patients", "warning", 2, "0.png"),
    "study of classes": (
        {13: {"patient_id": "p12", "study_id": "s12"}}, "study-contradicts", "warning", 2, "12.png",
    ),
    "nameless": ({i: {"patient_id": f"i{i}"} for i in range(NUM)}, "patient-unknown", "warning", NUM, "0.png"),
    "view tells": (by_kind(view=lambda kind: "PA" if kind else "AP"), "shortcut", "error", 2, ""),
    "abroad": (ALL_IN_TEST, "split-is-dataset", "warning", 12, "24.png"),
    "nih boxes": (of_all(dataset="nih"), "boxed-in-train", "warning", 8, "0.png"),
    "rsna": (
        {i: {"dataset": "nih" if i in (12, *range(30, NUM)) else "rsna", "boxes": ()} for i in range(NUM)},
        "leak-same-films", "error", 29, "0.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_table_is_found_and_nothing_else(films: Path, fault: str) -> None:
    changes, check, level, count, path = FAULTS[fault]
    problems = examine(manifest(films, changed(changes)), decode=fault == "row")
    assert [(p.check, p.level, p.count, p.path) for p in problems] == [(check, level, count, path)]
    assert problems[0].message
    assert problems[0].fix


def test_a_finding_with_one_answer_is_named_once(films: Path) -> None:
    (problem,) = examine(manifest(films, changed({i: {"labels": WELL} for i in (14, 17, 20, 23)})), decode=False)
    assert (problem.check, problem.level, problem.count) == ("one-sided", "warning", 1)
    assert problem.message == "in val never present: Mass"
    everywhere = [replace(r, labels={**r.labels, "Hernia": 0.0}) for r in sound()]
    (problem,) = examine(manifest(films, everywhere), decode=False)
    assert problem.message == "in the manifest never present: Hernia"


@pytest.mark.parametrize(("split", "level"), [("train", "warning"), ("val", "error"), ("test", "warning")])
def test_an_empty_split_is_found(films: Path, split: str, level: str) -> None:
    other = {"train": "val", "val": "train", "test": "train"}[split]
    records = [replace(r, split=other) if r.split == split else r for r in sound()]
    assert [(p.check, p.level, p.message) for p in examine(manifest(films, records), decode=False)] == [
        ("split-empty", level, f"no film is in {split}")
    ]


def test_a_set_without_any_split_is_one_warning(films: Path) -> None:
    (problem,) = examine(manifest(films, [replace(r, split=None) for r in sound()]), decode=False)
    assert (problem.check, problem.level, problem.count) == ("no-split", "warning", NUM)


def test_a_finding_that_a_dataset_or_an_age_tells_is_a_shortcut(films: Path) -> None:
    """Sick children of one hospital against well adults of another: a model would learn the age."""
    apart = by_kind(dataset=lambda kind: "b" if kind else "a", age=lambda kind: 50 if kind else 8)
    found = {p.check: p for p in examine(manifest(films, changed(apart)), decode=False)}
    assert set(found) == {"shortcut", "child"}
    assert (found["shortcut"].level, found["shortcut"].count) == ("error", 2)
    assert "by dataset alone" in found["shortcut"].message
    assert "Effusion (present:absent in a 12:0, b 0:24)" in found["shortcut"].message
    by_age = by_kind(age=lambda kind: 50 if kind else 8)
    (problem,) = [p for p in examine(manifest(films, changed(by_age)), decode=False) if p.check != "child"]
    assert (problem.check, problem.level, problem.count) == ("shortcut", "error", 2)
    assert "by age alone" in problem.message
    # Where a few are on the other side it can mostly be guessed, and where many are there is nothing to tell.
    for others, expected in ((2, ["warning"]), (6, [])):
        mixed = by_age | {i * 3: {"age": 50} for i in range(others)}
        problems = [p for p in examine(manifest(films, changed(mixed)), decode=False) if p.check != "child"]
        assert [p.level for p in problems] == expected


def test_unknown_views_and_ages_are_no_group(films: Path) -> None:
    apart = by_kind(view=lambda kind: "PA" if kind else "UNKNOWN", age=lambda kind: 50 if kind else float("nan"))
    assert [p.check for p in examine(manifest(films, changed(apart)), decode=False)] == ["view-unknown"]


def test_children_without_ages_are_known_by_their_source(films: Path) -> None:
    """Kermany's films under a name of the user's own; a stated age counts for more than the source."""
    records = changed(
        of_all(dataset="ward 3", age=float("nan")) | {i: {"dataset": "ward 3", "age": 40} for i in (0, 1)}
    )
    sources = {"ward 3": {"source": "kermany"}}
    (problem,) = examine(make_manifest(records, films, ONTOLOGY, {"datasets": sources}), decode=False)
    assert (problem.check, problem.count, problem.path) == ("child", NUM - 2, "2.png")
    adults = {"ward 3": {"source": "csv"}}
    assert examine(make_manifest(records, films, ONTOLOGY, {"datasets": adults}), decode=False) == []


def test_only_laterals_are_left_out_by_what_is_said_of_laterals(films: Path) -> None:
    (problem,) = examine(manifest(films, changed({12: {"view": "LATERAL"}})), decode=False)
    (views,) = [word for word in problem.fix.split() if "," in word]
    assert {*views.split(","), "LATERAL"} == {"PA", "AP", "UNKNOWN", "LATERAL"}


def shortcuts(records: list[Record]) -> list[Problem]:
    return [p for p in examine(make_manifest(records, Path(), ONTOLOGY, {}), decode=False) if p.check == "shortcut"]


def test_what_the_tree_implies_is_a_shortcut_as_well() -> None:
    """PA films state effusions, AP films no pleural disease: neither is stated both ways, both are learned so."""
    stated = by_kind(
        labels=lambda kind: {"Pleural": 0.0} if kind else {"Effusion": 1.0}, view=lambda kind: "AP" if kind else "PA"
    )
    (problem,) = shortcuts(changed(stated))
    assert (problem.level, problem.count) == ("error", 2)
    for name in ("Pleural (present:absent in PA 12:0, AP 0:24)", "Effusion (present:absent in PA 12:0, AP 0:24)"):
        assert name in problem.message


def test_an_implied_parent_that_its_dataset_cannot_exclude_is_not_learned_and_no_shortcut() -> None:
    """One dataset speaks of effusions, half of them present; what is pleural besides, the other alone can say."""
    apart = {
        i: {"dataset": "b", "labels": {"Pleural": 0.0}}
        if i % 3
        else {"dataset": "a", "labels": {"Effusion": float(i % 2)}}
        for i in range(NUM)
    }
    doubled = changed(apart) + [
        replace(r, image_path=f"+{r.image_path}", image_id=f"+{r.image_id}") for r in changed(apart)
    ]
    assert sum(r.labels.get("Effusion") == 1 for r in doubled) == 12, "enough to be told of, were it learned"
    assert not [p for p in shortcuts(doubled) if "Pleural (" in p.message]


def many(num: int, **fields: Callable[[int], Any]) -> list[Record]:
    """Sound films in number, without files: half in train, a quarter each in val and test."""
    records = []
    for i in range(num):
        split = ("train", "train", "val", "test")[i % 4]
        labels = (SICK, WELL, MASS)[i // 4 % 3]
        record = Record(f"{i}.png", f"i{i}", f"p{i}", f"s{i}", "clinic", split, "PA", 50, "F", labels=labels)
        records.append(replace(record, **{name: value(i) for name, value in fields.items()}))
    return records


def tabled(records: list[Record]) -> list[tuple[str, str, int]]:
    problems = list(examine_table(make_manifest(records, Path(), ONTOLOGY, {})))
    return [(p.check, p.level, p.count) for p in problems]


def test_a_patient_with_very_many_films_is_found() -> None:
    """A placeholder for everyone without a number; 40 films in a large set are a long illness."""
    assert tabled(many(600)) == []
    train = many(600, patient_id=lambda i: "unknown" if i % 4 == 0 and i < 260 else f"p{i}")
    assert tabled(train) == [("patient-films", "warning", 65)]
    assert tabled(many(600, patient_id=lambda i: "long" if i % 4 == 0 and i < 160 else f"p{i}")) == []


def test_a_finding_that_is_rare_in_train_and_frequent_in_test_is_found() -> None:
    shifted = many(800, labels=lambda i: (SICK, WELL, MASS)[i // 4 % 3] if i % 4 == 3 or i % 5 == 0 else MASS)
    (problem,) = examine_table(make_manifest(shifted, Path(), ONTOLOGY, {}))
    assert (problem.check, problem.level, problem.count) == ("prevalence-shift", "warning", 4)
    assert "in test" in problem.message
    for told in ("Effusion 33.5% against 6.8%", "Mass 33.0% against", "Pleural", "No Finding"):
        assert told in problem.message
    few = many(40, labels=lambda i: (SICK, WELL, MASS)[i // 4 % 3] if i % 4 == 3 or i % 5 == 0 else MASS)
    assert "prevalence-shift" not in {check for check, _, _ in tabled(few)}, "too few to be sure"


def test_study_ids_that_count_within_a_patient_are_no_fault() -> None:
    """CheXpert's are study1, study2, ... of each patient."""
    assert tabled(many(120, study_id=lambda _: "study1")) == []
    assert tabled(many(120, study_id=lambda _: "")) == []


def test_films_of_one_study_may_differ_in_what_is_not_stated() -> None:
    pairs = many(120, patient_id=lambda i: f"p{i % 4} {i // 12}", study_id=lambda i: f"s{i % 4} {i // 12}")
    half = [replace(r, labels={"Effusion": 1.0} if i % 2 else {"Mass": 0.0}) for i, r in enumerate(pairs)]
    assert "study-contradicts" in {check for check, _, _ in tabled(pairs)}
    assert "study-contradicts" not in {check for check, _, _ in tabled(half)}


def test_a_problem_is_one_line_and_json(films: Path) -> None:
    (problem,) = examine(manifest(films, changed({3: {"view": "LATERAL"}})), decode=False)
    assert str(problem).startswith("warning: lateral: 1 of 36 films are lateral views")
    assert ", first: 3.png. " in str(problem)
    assert "\n" not in str(problem)
    assert Problem(**json.loads(json.dumps(problem.to_dict()))) == problem


def test_the_real_tables(real_films: Path) -> None:
    """What is known of them: some are of children, and films with boxes are in the lists' training part."""
    whole, _ = import_source("nih", real_films / "nih", ontology="nih14")
    problems = examine(whole, decode=False)
    assert [(p.level, p.check, p.count) for p in problems] == [
        ("warning", "boxed-in-train", 561),
        ("warning", "child", 108),
    ]
    children, _ = import_source("kermany", real_films / "kermany", ontology="kermany")
    assert [(p.level, p.check, p.count) for p in examine(children, decode=False)] == [("warning", "child", 890)]


def test_labels_of_two_kinds_of_films_are_no_shortcut_when_both_have_both(films: Path) -> None:
    halves = {i: {"dataset": "a" if i % 2 else "b", "view": "AP" if i % 4 < 2 else "PA"} for i in range(NUM)}
    assert examine(manifest(films, changed(halves)), decode=False) == []

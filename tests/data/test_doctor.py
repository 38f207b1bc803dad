"""Each fault, planted alone in a sound set, is found, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_mtl.data.doctor import Problem, examine
from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box, Record

ONTOLOGY = load_ontology("nih14")
SIDE, FRAME = 256, 1024
SICK = {"No Finding": 0.0, "Pleural": 1.0, "Effusion": 1.0, "Mass": 0.0}
WELL = {"No Finding": 1.0, "Pleural": 0.0, "Effusion": 0.0, "Mass": 0.0}
MASS = {"No Finding": 0.0, "Pleural": 0.0, "Effusion": 0.0, "Mass": 1.0}


def write_film(path: Path, seed: int, width: int = SIDE, height: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(grey).save(path, compress_level=0)


def sound() -> list[Record]:
    """Three films a split: 0, 3 and 6 show an effusion, with its box; 1, 4 and 7 nothing; 2, 5 and 8 a mass."""
    records = []
    for i in range(9):
        labels = (SICK, WELL, MASS)[i % 3]
        boxes = (Box("Effusion", 0, 100.5, FRAME, 900),) if labels is SICK else ()
        split = ("train", "val", "test")[i // 3]
        records.append(
            Record(
                f"{i}.png", str(i), f"p{i}", f"s{i}", "nih", split, "PA", 50, "F", FRAME, FRAME, boxes, labels=labels
            )
        )
    return records


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    for i in range(9):
        write_film(root / f"{i}.png", i)
    return root


def manifest(root: Path, records: list[Record]) -> Manifest:
    return make_manifest(records, root, ONTOLOGY, {})


def test_a_sound_set_has_no_problem(films: Path) -> None:
    assert examine(manifest(films, sound())) == []


def box(*xyxy: float, finding: str = "Effusion") -> dict[str, object]:
    return {"boxes": (Box(finding, *xyxy),)}


# What is changed in film 3 (or all of several), and what is to be said of it.
TABLE_FAULTS: dict[str, tuple[dict[int, dict[str, object]], str, int, str]] = {
    "label-value": ({3: {"labels": SICK | {"Mass": 0.5}}}, "error", 1, "3.png"),
    "patient-overlap": ({3: {"patient_id": "p0"}}, "error", 2, "0.png"),
    "row-repeated": ({3: {"image_path": "0.png"}}, "error", 1, "0.png"),
    "id-repeated": ({3: {"image_id": "0"}}, "error", 1, "3.png"),
    "split-name": ({3: {"split": "holdout"}, 4: {"split": "holdout"}}, "error", 2, "3.png"),
    "no-split": ({3: {"split": None}}, "warning", 1, "3.png"),
    "child-without-parent": ({3: {"labels": SICK | {"Pleural": 0.0}}}, "warning", 1, "3.png"),
    "normal-with-findings": ({3: {"labels": SICK | {"No Finding": 1.0}}}, "warning", 1, "3.png"),
    "box-no-area": ({3: box(10, 10, 10, 20)}, "error", 1, "3.png"),
    "box-outside": ({3: box(900, 10, 1100, 20)}, "error", 1, "3.png"),
    "box-finding": ({3: box(1, 1, 2, 2, finding="Zebra")}, "error", 1, "3.png"),
    "box-frame-unknown": ({3: {"width": None}}, "error", 1, "3.png"),
    "box-label-absent": ({3: box(1, 1, 2, 2, finding="Mass")}, "warning", 1, "3.png"),
    "lateral": ({3: {"view": "LATERAL"}}, "warning", 1, "3.png"),
    "child": ({3: {"age": 15.5}, 4: {"age": 16}, 5: {"age": float("nan")}}, "warning", 1, "3.png"),
}
# A finding that is moved out of a split has one answer there; that is a fault of its own, tested below.
SPLIT_MOVES = {"split-name", "no-split"}


@pytest.mark.parametrize("check", TABLE_FAULTS)
def test_a_fault_of_the_table_is_found_and_nothing_else(films: Path, check: str) -> None:
    changes, level, count, path = TABLE_FAULTS[check]
    records = [replace(record, **changes.get(i, {})) for i, record in enumerate(sound())]  # type: ignore[arg-type]
    problems = examine(manifest(films, records))
    if check in SPLIT_MOVES:
        problems = [p for p in problems if p.check != "one-sided"]
    assert [(p.check, p.level, p.count, p.path) for p in problems] == [(check, level, count, path)]
    assert problems[0].message
    assert problems[0].fix


def _drop_half(root: Path) -> None:
    (root / "3.png").write_bytes((root / "3.png").read_bytes()[: SIDE * SIDE // 2])


FILM_FAULTS: dict[str, tuple[Callable[[Path], object], str, str, int, str]] = {
    "missing": (lambda root: (root / "3.png").unlink(), "file-missing", "error", 1, "3.png"),
    "truncated": (_drop_half, "file-unreadable", "error", 1, "3.png"),
    "text": (lambda root: (root / "3.png").write_text("a note"), "file-unreadable", "error", 1, "3.png"),
    "folder": (lambda root: ((root / "3.png").unlink(), (root / "3.png").mkdir()), "file-missing", "error", 1, "3.png"),
    "copied": (lambda root: shutil.copy(root / "4.png", root / "3.png"), "copy", "warning", 2, "3.png"),
    "leaked": (lambda root: shutil.copy(root / "0.png", root / "3.png"), "copy-across-splits", "error", 2, "0.png"),
    "cropped": (lambda root: write_film(root / "3.png", 9, 256, 300), "box-frame-aspect", "error", 1, "3.png"),
    "small": (lambda root: write_film(root / "3.png", 9, 223, 223), "small", "warning", 1, "3.png"),
    "blank": (lambda root: Image.new("L", (SIDE, SIDE), 7).save(root / "3.png"), "blank", "error", 1, "3.png"),
}


@pytest.mark.parametrize("fault", FILM_FAULTS)
def test_a_fault_of_a_film_is_found_and_nothing_else(films: Path, tmp_path: Path, fault: str) -> None:
    plant, check, level, count, path = FILM_FAULTS[fault]
    root = shutil.copytree(films, tmp_path / "films")
    plant(root)
    problems = examine(manifest(root, sound()))
    assert [(p.check, p.level, p.count, p.path) for p in problems] == [(check, level, count, path)]


def test_films_that_may_differ_in_shape_do(films: Path, tmp_path: Path) -> None:
    """A film without boxes may have any aspect, and a side rounded to a pixel is no crop."""
    root = shutil.copytree(films, tmp_path / "films")
    write_film(root / "4.png", 9, 256, 400)
    write_film(root / "3.png", 10, 256, 255)
    assert examine(manifest(root, sound())) == []


def test_a_finding_with_one_answer_is_named_once(films: Path) -> None:
    records = sound()
    records[5] = replace(records[5], labels=WELL)
    (problem,) = examine(manifest(films, records))
    assert (problem.check, problem.level, problem.count) == ("one-sided", "warning", 1)
    assert problem.message == "in val never present: Mass"
    everywhere = [replace(r, labels=r.labels | {"Hernia": 0.0}) for r in sound()]
    (problem,) = examine(manifest(films, everywhere))
    assert problem.message == "in the manifest never present: Hernia"


@pytest.mark.parametrize(
    ("split", "level"), [("train", "warning"), ("val", "error"), ("test", "warning")], ids=["train", "val", "test"]
)
def test_an_empty_split_is_found(films: Path, split: str, level: str) -> None:
    other = {"train": "val", "val": "train", "test": "train"}[split]
    records = [replace(r, split=other) if r.split == split else r for r in sound()]
    assert [(p.check, p.level, p.message) for p in examine(manifest(films, records))] == [
        ("split-empty", level, f"no film is in {split}")
    ]


def test_a_set_without_any_split_is_one_warning(films: Path) -> None:
    (problem,) = examine(manifest(films, [replace(r, split=None) for r in sound()]))
    assert (problem.check, problem.level, problem.count) == ("no-split", "warning", 9)


def test_errors_come_first_and_all_faults_together_are_all_found(films: Path, tmp_path: Path) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    (root / "8.png").unlink()
    _drop_half(root)
    records = sound()
    records[0] = replace(records[0], view="LATERAL", age=3, labels=SICK | {"Pleural": 0.0})
    records[6] = replace(records[6], boxes=(Box("Effusion", 5, 5, 5, 9), Box("Effusion", 5, 5, 5000, 9)))
    problems = examine(manifest(root, records))
    levels = [p.level for p in problems]
    assert levels == sorted(levels)
    assert {p.check for p in problems} == {
        "file-missing", "file-unreadable", "box-no-area", "box-outside", "lateral", "child", "child-without-parent",
    }  # fmt: skip


def test_without_decoding_films_are_only_looked_for(films: Path, tmp_path: Path) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    _drop_half(root)
    (root / "4.png").unlink()
    problems = examine(manifest(root, sound()), decode=False)
    assert [(p.check, p.path) for p in problems] == [("file-missing", "4.png")]


def test_progress_counts_every_film_once(films: Path) -> None:
    steps: list[int] = []
    examine(manifest(films, sound()), threads=2, progress=steps.append)
    assert sum(steps) == 9


def test_a_problem_is_one_line_and_json(films: Path) -> None:
    (problem,) = examine(manifest(films, [replace(r, view="LATERAL") if i == 3 else r for i, r in enumerate(sound())]))
    assert str(problem).startswith("warning: lateral: 1 of 9 films are lateral views")
    assert ", first: 3.png. " in str(problem)
    assert "\n" not in str(problem)
    assert Problem(**json.loads(json.dumps(problem.to_dict()))) == problem


def test_the_real_films(real_films: Path) -> None:
    """What is known of them: some are of children, and NIH has one film twice."""
    whole, _ = import_source("nih", real_films / "nih", ontology="nih14")
    problems = examine(whole, decode=False)
    assert [(p.level, p.check, p.count) for p in problems] == [("warning", "child", 108)]

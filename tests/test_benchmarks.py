"""The benchmarks that need no films run, and write what they print."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxr_mtl.engine.distributed import ranks

REPO = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_train_speed_runs(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    command = [sys.executable, "benchmarks/train_speed.py", "--quick", "--ranks", "2", "--json", str(file)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(file.read_text())
    assert {"benchmark", "machine", "versions", "rows", "ratios"} == found.keys()
    assert all(row["value"] > 0 for row in found["rows"])
    # Of one figure alone, mean and ends are computed in other orders.
    assert all(row["low"] * (1 - 1e-9) <= row["value"] <= row["high"] * (1 + 1e-9) for row in found["rows"])
    names = {row["name"] for row in found["rows"]}
    for rival in ("torch DDP", "accelerate", "Lightning Fabric", "our engine, ZeRO 0"):
        assert f"one linear head, {rival}, test_convnext, 64 px, 2 ranks" in names
    assert "the engine over DDP, three heads, test_convnext, 64 px, 2 ranks: CPU" in found["ratios"]
    assert "the engine over DDP, three heads" in done.stdout


@pytest.mark.slow
def test_evaluate_runs_and_all_ways_come_to_the_same_numbers(tmp_path: Path) -> None:
    file = tmp_path / "evaluate.json"
    command = [sys.executable, "benchmarks/evaluate.py", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(file.read_text())
    assert {"benchmark", "machine", "versions", "rows", "ratios"} == found.keys()
    assert all(row["low"] <= row["value"] <= row["high"] for row in found["rows"])
    apart = {row["name"]: row["value"] for row in found["rows"] if row["metric"].endswith("largest difference")}
    assert apart["scikit-learn"] < 1e-9
    assert apart["the loop"] < 1e-9
    assert any("scikit-learn loop" in name and ratio > 5 for name, ratio in found["ratios"].items())
    assert "4 run" in done.stdout, "what was extrapolated from how many"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks" / "parts"))
    return importlib.import_module("train_rivals")


def test_drawn_films_have_boxes_inside_them(parts: Any) -> None:
    films = parts.draw_films(64, 12, 1 / 3)
    assert films.has_boxes.sum() == 4
    assert [len(b) > 0 for b in films.boxes] == films.has_boxes.tolist()
    boxes = torch.cat(films.boxes)
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert boxes.min() >= 0
    assert boxes.max() <= 64


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the rivals
def test_rivals_do_the_same_work(parts: Any) -> None:
    """From the same weights, on the same batches, all come to the same losses: nobody saves a step, or the clipping."""
    losses: dict[str, list[float]] = {}
    with ranks() as (rank, world):
        task = parts.make_tasks("test_convnext", 64, 3, 2, rank, world)["one linear head"]
        for name in (*parts.MAKERS, "our engine, ZeRO 0", "our engine, ZeRO 1"):
            seen: list[float] = losses.setdefault(name, [])

            def loss(answer: Any, batch: Any, seen: list[float] = seen) -> torch.Tensor:
                value: torch.Tensor = task.loss(answer, batch)
                seen.append(value.item())
                return value

            (rival,) = parts.make_rivals(replace(task, loss=loss), [name], world)
            for turn in range(8):
                torch.manual_seed(turn)  # of dropped paths
                rival.step(task.batches[turn % 2])
    ddp = losses["torch DDP"]
    assert ddp[-1] < ddp[0]
    for name, values in losses.items():
        assert values == pytest.approx(ddp, rel=2e-3), name


def test_intervals_hold_what_other_starts_would_have_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts alone differ here, by a known spread: the interval of their mean is that of three draws, not of two."""
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    measures = importlib.import_module("parts.learning_measures")
    summary, difference = measures.summary, measures.difference
    rng = np.random.default_rng(0)
    values = rng.normal(0.7, 0.02, 3)
    starts = [np.full(4001, value) for value in values]
    found = summary(starts, seed=0)
    assert found.value == pytest.approx(values.mean())
    drawn = np.mean(list(itertools.product(values - values.mean(), repeat=3)), axis=1) * np.sqrt(3 / 2)
    assert drawn.std() == pytest.approx(values.std(ddof=1) / np.sqrt(3))  # what the widening is for
    # One draw in 27 takes the same start thrice, so the ends of 95 % are the ends of all.
    assert (found.low, found.high) == pytest.approx((values.mean() + drawn.min(), values.mean() + drawn.max()))
    apart = difference(starts, [start - 0.1 for start in starts], seed=0)
    assert apart.value == pytest.approx(0.1)
    assert apart.low < 0.1 < apart.high
    alone = summary(starts[:1], seed=0)
    assert alone.low == alone.high == alone.value


@pytest.fixture
def explain(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    return importlib.import_module("explain")


def test_a_map_is_judged_by_its_peak_its_mass_and_its_margin(explain: Any) -> None:
    heat = torch.zeros(20, 40)
    heat[10, 30], heat[1, 1] = 3.0, 1.0
    box = np.array([[0.7, 0.4, 0.9, 0.6]])  # of 40 by 20 places: columns 28 to 35, rows 8 to 11
    assert explain.judge_map(heat, box) == (1.0, 0.75, 0.0)
    heat[1, 1] = 9.0
    assert explain.judge_map(heat, box) == (0.0, 0.25, 1.0)
    assert explain.judge_map(torch.zeros(20, 40), box) == (0.0, 0.0, 0.0)
    assert explain.mask(box, (20, 40)).sum() == 8 * 4


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_explain_runs(tiny_bundle: Path, real_films: Path, tmp_path: Path) -> None:
    file = tmp_path / "explain.json"
    command = [sys.executable, "benchmarks/explain.py", "--quick", "--candidates", "--json", str(file)]
    command += ["--films", str(real_films / "nih"), "--bundle", str(tiny_bundle), "--methods", "grad_cam", "occlusion"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {(row["name"], row["metric"]): row for row in json.loads(file.read_text())["rows"]}
    assert rows["tiny, the boxes themselves", "pointing game"]["value"] == 1
    assert 0 < rows["tiny, a random point", "pointing game"]["value"] < 0.5
    assert 0 <= rows["tiny, grad_cam", "share of the map inside"]["value"] <= 1
    assert rows["tiny, occlusion", "CPU ms a map"]["value"] > rows["tiny, grad_cam", "CPU ms a map"]["value"]


DRAWS_ITS_OWN = {"data", "train_speed", "evaluate", "faults"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({file.stem for file in (REPO / "benchmarks").glob("*.py")} - DRAWS_ITS_OWN))
def test_make_bench_goes_on_where_there_is_nothing_to_measure(name: str, tmp_path: Path) -> None:
    """Without films or a trained bundle beside it, a benchmark says so and exits with 0."""
    done = subprocess.run(
        [sys.executable, REPO / "benchmarks" / f"{name}.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "skipped" in done.stdout

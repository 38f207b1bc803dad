"""The benchmarks that need no films run, and write what they print."""

from __future__ import annotations

import http.server
import importlib
import importlib.util
import itertools
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
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
def test_large_bodies_at_once_are_answered(tmp_path: Path) -> None:
    pytest.importorskip("ts")
    file = tmp_path / "bodies.json"
    command = [sys.executable, "benchmarks/bodies.py", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "200: 1  415: 2" in done.stdout
    assert {row["name"] for row in json.loads(file.read_text())["rows"]} == {
        "body",
        "small film",
        "front end",
        "workers",
    }


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


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """benchmarks/serve.py; its parts by name."""
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    return lambda part: importlib.import_module(part if part == "serve" else f"parts.serve_{part}")


def test_serve_is_skipped_without_torchserve(
    serve: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve.py"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        serve("serve").main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("serve skipped, for want of ts, model_archiver, psutil. ")


def test_an_answer_of_a_server_is_right_or_not(serve: Any) -> None:
    films = serve("films")
    right = {"Mass": 0.25, "Edema": 0.75}
    near = {"findings": [{"name": "Mass", "probability": 0.2504, "call": "negative"}, {"name": "Hernia"}]}
    near["findings"].append({"name": "Edema", "probability": 0.75, "call": "positive"})
    assert films.apart(films.read_answer(near), right, 2) == pytest.approx(0.0004)
    assert films.apart(films.read_answer([{"findings": {"Mass": 0.25, "Edema": 0.5}}]), right, 2) == 0.25
    assert films.apart(films.read_answer({"Mass": 0.25}), right, 1) == 0
    for wrong in ({"Mass": 0.25}, {"Mass": 0.25, "Mess": 0.75}, {"error": "no"}, [], None, "text"):
        assert films.apart(films.read_answer(wrong), right, 2) == float("inf")
        assert films.read_calls(wrong) == {}
    assert films.read_calls(near) == {"Mass": "negative", "Edema": "positive"}
    report, window = serve("report"), serve("measure").Window(1, 1, 1, 1, 1, 1, 1, 1, 10, (), 1e-4)
    assert report._judgement([window], 1e-3) == "10 right (within 1e-04)"
    assert report._judgement([window, replace(window, changed=1)], 1e-3).startswith("WRONG, 0 of 20 refused, 1 with")
    found, server = report.Found("of a test"), serve("servers").Server("ours", "as packaged", lambda: None, "ours")
    found.add(server, 1, 0, window)
    assert found.failures == [], "so that it ends with 0"
    for bad in ({"changed": 1}, {"wrong": 0.01}, {"refused": ("503",)}, {"answered": 0}):
        found.add(server, 4, 0, replace(window, **bad))
        assert found.failures.pop().startswith(
            ("ours (as packaged), 4 callers: WRONG", "ours (as packaged), 4 callers: NO")
        )
        assert found.failures == []


def test_goals_of_serving_are_judged_against_the_best(serve: Any) -> None:
    """Ours as packaged, a rival with its better setting at each number of callers, ratios within a round."""
    servers, report, measure = serve("servers"), serve("report"), serve("measure")
    found = report.Found("of a test")

    def add(name: str, setting: str, callers: int, rates: tuple[float, ...], p50: float = 1.0) -> None:
        server = servers.Server(name, setting, lambda: None, "ours")
        for number, rate in enumerate(rates):
            window = measure.Window(rate, p50, 1, 1, 1, 1, 1, 1, 10, (), 0.0)
            found.add(server, callers, number, window)

    add("TorchServe, ours, eager", "as packaged", 16, (20.0, 10.0))
    add("TorchServe, ours, eager", "as packaged", 1, (9.0, 9.0), p50=50)
    add("TorchServe, ours, eager", "w2 t1 b4", 16, (99.0, 99.0))
    add("TorchServe, stock", "default", 16, (2.0, 1.0))
    add("FastAPI", "w1 t2 b4", 16, (5.0, 5.0))
    add("FastAPI", "w2 t1 b1", 16, (10.0, 5.0))
    add("FastAPI", "w1 t2 b4", 1, (8.0, 8.0), p50=100)
    add("FastAPI", "w2 t1 b1", 1, (8.5, 8.5), p50=200)
    for number, rate in enumerate((25.0, 12.5)):
        found.add_limit("eager", number, {("forward", "w2 t1 b8"): {"rate": rate, "p50": 1.0, "cpu": 1.0}})
    assert list(found.ratios().values()) == pytest.approx([10, 2, 0.8, 0.5])
    assert [goal for _, _, goal in found.goals()] == [">= 5", ">= 1.7", ">= 0.85", "<= 0.6"]
    assert len({row["name"] for row in found.rows()}) == 9


@pytest.mark.slow
def test_callers_see_refusals_and_wrong_answers(serve: Any, tmp_path: Path) -> None:
    """A server that refuses one film and answers the other with the wrong number is caught at both."""

    class Liar(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            good = self.rfile.read(int(self.headers["Content-Length"])) == b"good"
            body = b'{"findings": [{"name": "Mass", "probability": 0.5, "call": "positive"}]}'
            self.send_response(200 if good else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    for name in ("good", "bad"):
        (tmp_path / name).write_text(name)
    servers, measure = serve("servers"), serve("measure")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running = servers.Running(f"http://127.0.0.1:{server.server_port}/x", psutil.Process())
        films, right = [tmp_path / "good", tmp_path / "bad"], [{"Mass": 0.25}, {"Mass": 0.5}]
        kind = servers.Server("a liar", "", lambda: None, "ours")
        calls = [{"Mass": "negative"}, {"Mass": "positive"}]
        window = measure.measure(kind, running, films, right, 2, 0.2, 0.5, calls)
        server.shutdown()
    assert (window.wrong, window.changed) == (0.25, 1)
    assert len(window.refused) > 0
    assert window.refused[0].startswith("503")
    assert 0 < window.p50 <= window.p95 <= window.p99 < 500
    assert window.rate == pytest.approx(window.answered / 0.5, rel=0.5)
    assert window.whole > 10


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_serve_runs_and_every_answer_is_right(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("ts")
    file = tmp_path / "serve.json"
    command = [sys.executable, "benchmarks/serve.py", "--quick", "--bundle", str(tiny_bundle), "--json", str(file)]
    command += ["--servers", "ours", "FastAPI", "LitServe", "--films", str(tmp_path)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {(row["name"], row["metric"]): row["value"] for row in json.loads(file.read_text())["rows"]}
    for server in ("TorchServe, ours, eager, as packaged", "FastAPI, w1 t2 b4"):
        for callers in ("1 caller", "4 callers", "16 callers"):
            assert rows[f"{server}, {callers}", "requests/s"] > 0
            assert rows[f"{server}, {callers}", "not answered with 200"] == 0
            assert rows[f"{server}, {callers}", "largest difference of a probability"] < 1e-3
            assert rows[f"{server}, {callers}", "answers with another call"] == 0
            assert rows[f"{server}, {callers}", "CPU time a request"] > 0
    assert "WRONG" not in done.stdout
    assert ("LitServe, w1 t2 b4" in done.stdout) != ("LitServe (not installed" in done.stdout)


def test_gaps_and_recoveries_are_counted_from_right_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    load, told = (importlib.import_module(f"parts.fault_{part}") for part in ("load", "report"))
    right = [load.Answer(end - 0.5, end, 200, "", "1.0", good=True) for end in (1.0, 2.0, 7.0, 7.5)]
    refused = load.Answer(2.0, 4.0, 503, "full")
    answers = [right[2], refused, *right[:2], right[3]]
    assert load.longest_gap(answers, 3.0, 8.0) == 5.0, "since the last one before the fault"
    assert load.longest_gap(answers, 7.2, 8.0) == 0.5
    assert load.longest_gap(answers, 7.6, 60.0) == 52.5, "none came any more"
    rows = {
        "a roll-over": told.Row(1, right, gaps=[0.5]),
        "a flood": told.Row(1, [*right, refused], [3.0], gaps=[5.0]),
    }
    assert told.report(rows, [(1.0, 2.0)], {}) == []
    calm, flooded = capsys.readouterr().out.splitlines()[2:4]
    assert calm.split()[-4:] == ["none", "needed", "0.5", "0.5"]
    assert flooded.split()[-4:] == ["3.0", "3.0", "5.0", "5.0"]
    rows["a roll-over"].answers = [load.Answer(1, 2, None, "ReadError"), load.Answer(1, 2, 200, "", wrong=True)]
    rows["a flood"].recoveries = [float("inf")]
    bad = told.report(rows, [(1.0, 2.0)], {})
    assert bad == ["a roll-over: 1 wrong", "a roll-over: 1 lost", "a flood: it did not answer again"]


def test_a_fault_that_did_nothing_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    load, told = (importlib.import_module(f"parts.fault_{part}") for part in ("load", "report"))
    right = load.Answer(1, 2, 200, "", "1.0", good=True)
    died, full, newer = load.Answer(1, 2, 507, "died"), load.Answer(1, 2, 503, "full"), replace(right, version="1.1")
    killed, memory, flood, rolled = [*told.WORKER_ENDS, "flood past the queue", told.BOTH_ANSWER]
    ended = {"under way": (9, ""), "under way, answered": (9, ""), "exit code": (0, "")}
    rows = {
        killed: told.Row(1, [right, died], [0.1], [7.0]),
        memory: told.Row(1, [right, died], [0.1], [8.0]),
        flood: told.Row(1, [right, full], [1.0]),
        rolled: told.Row(1, [right, newer]),
        "SIGTERM": told.Row(1, [right], figures=ended),
    }
    assert told.report(rows, [(1.0, 2.0)], {}) == []
    assert capsys.readouterr().out.splitlines()[2].split()[-4:] == ["7.0", "7.0", "0.1", "0.1"]
    for row in rows.values():
        row.answers, row.whole = [right], []
    rows["SIGTERM"].figures |= {"under way, answered": (8, ""), "exit code": (1, "")}
    assert told.report(rows, [(1.0, 2.0)], {}) == [
        f"{killed}: it did nothing: no 500 or 507",
        f"{killed}: it did nothing: the worker went on",
        f"{memory}: it did nothing: no 507",
        f"{memory}: it did nothing: the worker went on",
        f"{flood}: it did nothing: no 503",
        f"{rolled}: it did nothing: one version gave all answers",
        "SIGTERM: 1 under way were not answered",
        "SIGTERM: exit code 1",
    ]
    rows[killed].whole = [float("inf")]
    assert f"{killed}: a worker did not come back" in told.report(rows, [(1.0, 2.0)], {})


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_under_load_large_films_are_answered_and_a_sigterm_ends_the_server_in_order(tmp_path: Path) -> None:
    pytest.importorskip("ts")
    file = tmp_path / "faults.json"
    command = [sys.executable, "benchmarks/faults.py", "--quick", "--only", "many large films at once"]
    done = subprocess.run(
        [*command, "--json", str(file)], cwd=REPO, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = {(row["name"], row["metric"]): row["value"] for row in json.loads(file.read_text())["rows"]}
    assert rows["many large films at once", "right"] >= 12
    assert not any(rows["many large films at once", column] for column in ("503", "507", "500", "400", "other"))
    ended = {metric: value for (name, metric), value in rows.items() if name == "SIGTERM under load"}
    # What was lost or wrong is told by the exit code; one that was only about to be sent may be refused.
    assert ended["under way, answered"] >= ended["under way"] - 2 > 4
    assert ended["later, connection refused"] > 0
    assert ended["exit code"] == 0
    assert 0 < ended["until the process was gone"] < 45


DRAWS_ITS_OWN = {"data", "bodies", "train_speed", "evaluate", "faults", "serve", "fuzz", "engines"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({file.stem for file in (REPO / "benchmarks").glob("*.py")} - DRAWS_ITS_OWN))
def test_make_bench_goes_on_where_there_is_nothing_to_measure(name: str, tmp_path: Path) -> None:
    """Without films or a trained bundle beside it, a benchmark says so and exits with 0."""
    done = subprocess.run(
        [sys.executable, REPO / "benchmarks" / f"{name}.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "skipped" in done.stdout

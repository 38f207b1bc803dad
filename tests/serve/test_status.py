"""``serve --status``: percentiles out of histograms, and what is said of servers in every state. Live: test_survive."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cxr_mtl.cli import app
from cxr_mtl.errors import ConfigError, ServeError
from cxr_mtl.predict.meters import METERS
from cxr_mtl.serve import command, state
from cxr_mtl.serve.look import STEPS, Look, Model, Worker, look
from cxr_mtl.serve.scrape import Histogram, Quantile, read_metrics, scrape
from cxr_mtl.serve.show import as_json, as_text
from cxr_mtl.serve.state import ServerInfo, is_being_changed, only_starter

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)  # TorchServe's
SCRAPED = """\
# TYPE cxr_films_total counter
cxr_films_total{model_name="cxr_mtl",model_version="1.0",code="ok",Hostname="vm",} 4.0
cxr_films_total{model_name="cxr_mtl",model_version="1.0",code="lateral",Hostname="vm",} 7.0
cxr_films_total{model_name="cxr_mtl",model_version="2.0",code="ok",Hostname="vm",} 100.0
cxr_model_seconds_bucket{model_name="cxr_mtl",model_version="1.0",Hostname="vm",le="0.1",} 3.0
cxr_model_seconds_bucket{model_name="cxr_mtl",model_version="1.0",Hostname="vm",le="0.25",} 5.0
cxr_model_seconds_bucket{model_name="cxr_mtl",model_version="1.0",Hostname="vm",le="+Inf",} 6.0
cxr_model_seconds_count{model_name="cxr_mtl",model_version="1.0",Hostname="vm",} 6.0
cxr_model_seconds_sum{model_name="cxr_mtl",model_version="1.0",Hostname="vm",} 1.25E1
odd{text="a \\"quoted\\" } and , word",} NaN
bare 3 1700000000000
not a sample
"""


def histogram(values: list[float], bounds: tuple[float, ...] = BOUNDS) -> Histogram:
    counts = tuple(float(sum(value <= bound for value in values)) for bound in bounds)
    return Histogram(bounds, counts, sum(values))


@settings(max_examples=50)
@given(
    st.lists(st.floats(0, 20, exclude_min=True), min_size=1, max_size=80),
    st.sampled_from([0.5, 0.95, 0.99, 1.0]) | st.floats(0.001, 1),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    """The value of that rank, by numpy, is between the bounds that are given, and the estimate too."""
    true = float(np.quantile(values, share, method="inverted_cdf"))
    found = histogram(values).quantile(share)
    assert found is not None
    assert found.low < true <= found.high
    assert found.low <= found.value <= found.high or math.isinf(found.value)
    assert (found.low, found.high) in list(zip((0.0, *BOUNDS[:-1]), BOUNDS, strict=True))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=10, max_size=10).filter(any), st.floats(0.001, 1))
def test_it_is_linear_within_a_bucket(amounts: list[int], share: float) -> None:
    """Values spread evenly over each bucket: the estimate is the quantile of the piecewise linear distribution."""
    bounds = (*np.arange(1.0, 11.0).tolist(), math.inf)
    cumulative = np.cumsum(amounts)
    found = Histogram(bounds, (*cumulative.astype(float).tolist(), float(cumulative[-1])), 0.0).quantile(share)
    assert found is not None
    # Where nothing was counted the distribution is flat, so the first place that reaches the rank is meant.
    heights, places = np.unique(np.concatenate([[0], cumulative]), return_index=True)
    previous = [int(np.flatnonzero(np.asarray(amounts[:place]))[-1]) if place else 0 for place in places]
    rank = share * cumulative[-1]
    at = int(np.searchsorted(heights, rank))
    expected = previous[at] + (rank - heights[at - 1]) / (heights[at] - heights[at - 1])
    assert found.value == pytest.approx(expected)


def test_a_histogram_of_nothing_has_no_quantile() -> None:
    assert histogram([]).quantile(0.5) is None
    assert Histogram((), (), 0.0).quantile(0.5) is None


@settings(max_examples=25)
@given(st.lists(st.floats(0.001, 30), min_size=1, max_size=40), st.lists(st.floats(0.001, 30), max_size=40))
def test_histograms_of_two_hosts_add_up(here: list[float], there: list[float]) -> None:
    lines = []
    for host, values in (("a", here), ("b", there)):
        for bound, count in zip(BOUNDS, histogram(values).counts, strict=True):
            text = "+Inf" if math.isinf(bound) else str(bound)
            lines.append(f'x_bucket{{Hostname="{host}",le="{text}",}} {count}')
    both = read_metrics("\n".join(lines)).histogram("x")
    assert (both.bounds, both.counts) == (BOUNDS, histogram(here + there).counts)


def test_lines_of_another_form_are_left_out() -> None:
    read = read_metrics('# HELP x y\nx 1\nx{a="b"} 2\nx nan\nfoo bar\nx{ 3\n\n')
    assert [sample.labels for sample in read.samples] == [{}, {"a": "b"}, {}]


def test_metrics_are_read_by_name_and_label() -> None:
    metrics = read_metrics(SCRAPED)
    assert metrics.by("cxr_films_total", "code", model_version="1.0") == {"lateral": 7.0, "ok": 4.0}
    assert metrics.total("cxr_films_total") == 111
    assert metrics.total("cxr_films") == 0
    assert metrics.total("bare") == 3
    passes = metrics.histogram("cxr_model_seconds", model_name="cxr_mtl", model_version="1.0")
    assert (passes.count, passes.total) == (6, 12.5)
    assert passes.quantile(0.75) == Quantile(pytest.approx(0.2125), 0.1, 0.25)
    (odd,) = (sample for sample in metrics.samples if sample.name == "odd")
    assert odd.labels["text"] == r"a \"quoted\" } and , word"
    assert len(metrics.samples) == 10


def test_a_port_without_metrics_is_one_line() -> None:
    with pytest.raises(ServeError, match=r"The metrics port http://127\.0\.0\.1:9/metrics did not answer"):
        scrape("http://127.0.0.1:9/metrics")


def model(**changed: Any) -> Model:
    seconds = dict.fromkeys(STEPS, histogram([]))
    plain = Model(
        name="cxr_mtl",
        version="1.0",
        default=True,
        workers=(Worker(11, True, 3 << 28, None), Worker(12, True, 5 << 30, "gpuId::0")),
        wanted=2,
        waiting=3,
        room=61,
        engine={"name": "torch", "precision": "float32", "device": "cpu", "threads": 1},
        requests={"200": 1200.0, "415": 2.0},
        films={"ok": 1200.0, "unsupported": 2.0},
        second_looks=60.0,
        seconds=seconds | {"answer": histogram([0.06] * 90 + [0.3] * 6 + [12.0] * 4)},
    )
    return replace(plain, **changed)


def server(folder: Path, **changed: Any) -> Look:
    urls = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3/metrics")
    info = ServerInfo(*urls, folder / "key_file.json", 10, folder / "logs", ("cxr_mtl",))
    front: Mapping[str, float] = {"2xx": 5.0, "4xx": 2.0, "5xx": 0.0}
    plain = Look(info, "up", False, 7980.0, 1 << 28, (model(),), True, front, {"cxr_mtl": 0.0013})
    return replace(plain, **changed)


def test_the_table_says_all_of_it(tmp_path: Path) -> None:
    text = as_text(server(tmp_path))
    assert "\x1b" not in text
    for said in (
        "2 h 13 min, process 10, 256 MiB",
        "3 of 64",
        "1.3 ms",
        "torch float32 cpu x 1",
        "768 MiB",
        "5.0 GiB",
        "gpuId::0",
        "1,200 x 200, 2 x 415",
        "2 x unsupported",
        "60 (5.0% of ok)",
        "2 of 2",
        "cxr_answer_seconds",
    ):
        assert said in text, said
    (answer,) = (line for line in text.splitlines() if "cxr_answer_seconds" in line)
    assert "> 10 s" in answer, "beyond the last bound nothing is known"
    assert "~ 63.9 ms" in answer
    assert "~ 458 ms" in answer
    (passes,) = (line for line in text.splitlines() if "cxr_model_seconds" in line)
    assert passes.split()[-3:] == ["-", "-", "-"]


def test_a_terminal_gets_colours_within_its_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = as_text(server(tmp_path), terminal=True)
    assert "\x1b[32m" in text
    plain = [line for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines() if "│" in line]
    assert plain
    assert max(map(len, plain)) <= 80


DOWN = model(workers=(Worker(11, True, 1, None), Worker(12, False, None, None)))
LOADING = model(version="1.1", default=False, workers=(Worker(13, False, 1, None),), wanted=1)


@pytest.mark.parametrize(
    ("changed", "healthy", "said"),
    [
        ({}, True, "up"),
        ({"models": (DOWN,)}, False, "1 of 2"),
        ({"models": (model(workers=()),)}, False, "0 of 2"),
        ({"models": (model(), LOADING), "rolling": True}, True, "a version is taking over"),
        ({"models": (model(), LOADING)}, False, "0 of 1"),
        ({"models": (DOWN, LOADING), "rolling": True}, False, "not ready"),
        ({"state": "draining"}, False, "draining"),
        ({"state": "starting", "models": ()}, False, "starting"),
        ({"state": "silent", "models": ()}, False, "does not answer"),
        ({"counted": False}, True, "The metrics port does not answer"),
        ({"models": (model(engine=None),)}, True, "not asked: busy"),
        ({"models": (model(engine=None),), "state": "draining"}, False, "not asked: draining"),
        ({"models": (model(engine=None),), "rolling": True}, True, "not asked: rolling over"),
        ({"models": (model(engine=None, workers=()),)}, False, "not asked: no worker is ready"),
    ],
)
def test_health_and_what_is_said_of_it(tmp_path: Path, changed: dict[str, Any], healthy: bool, said: str) -> None:
    found = server(tmp_path, **changed)
    assert found.healthy is healthy
    assert said in as_text(found)
    assert json.loads(as_json(found))["healthy"] is healthy


def test_programs_get_bounds_and_no_numbers_that_json_lacks(tmp_path: Path) -> None:
    said = json.loads(as_json(server(tmp_path)), parse_constant=lambda word: pytest.fail(word))
    answer = said["models"][0]["seconds"]["answer"]
    assert answer["source"] == "cxr_answer_seconds"
    assert answer["p50"] == {"estimate": 0.063889, "above": 0.05, "at_most": 0.075}
    assert answer["p99"] == {"estimate": None, "above": 10.0, "at_most": None}
    assert said["models"][0]["seconds"]["model"]["p50"] is None
    assert said["models"][0]["queue"] == {"waiting": 3, "room": 61}


def test_the_steps_are_histograms_that_a_server_has() -> None:
    assert set(STEPS.values()) <= {meter.name for meter in METERS if meter.kind == "histogram"}


def test_without_a_server_it_says_so_and_ends_with_1(tmp_path: Path) -> None:
    asked = ["serve", "--model-store", str(tmp_path), "--status"]
    plain, as_programs = CliRunner().invoke(app, asked), CliRunner().invoke(app, [*asked, "--json"])
    assert (plain.exit_code, plain.output) == (1, f"{tmp_path}: no server is running.\n")
    assert (as_programs.exit_code, json.loads(as_programs.output)["state"]) == (1, "down")
    assert look(tmp_path) is None
    with pytest.raises(ConfigError, match="--json is of --status"):
        command.serve(tmp_path, tell=print, as_json=True)


def test_a_start_or_roll_over_is_seen_from_outside_without_its_lock(tmp_path: Path) -> None:
    assert not is_being_changed(tmp_path)
    with only_starter(tmp_path):
        assert is_being_changed(tmp_path)
    assert not is_being_changed(tmp_path)


def test_a_lock_of_another_disk_with_the_same_number_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_starter(tmp_path):
        pass
    listed = tmp_path / "locks"
    listed.write_text(f"1: FLOCK  ADVISORY  WRITE {os.getpid()} 00:2a:{(tmp_path / 'lock').stat().st_ino} 0 EOF\n")
    monkeypatch.setattr(state, "_LOCKS", listed)
    assert not is_being_changed(tmp_path)
    with only_starter(tmp_path):
        assert is_being_changed(tmp_path), "wherever the list says that it lies"

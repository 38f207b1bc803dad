"""A server under load while things break: versions that change, workers that die, floods, damaged archives, a stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from dashboard import dashboard_fits
from typer.testing import CliRunner

from cxr_mtl.cli import app
from cxr_mtl.errors import ConfigError, ServeError
from cxr_mtl.package.mar import build_archive
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve import command, torchserve
from cxr_mtl.serve.drain import wait_until_idle
from cxr_mtl.serve.management import Management
from cxr_mtl.serve.torchserve import ServerInfo

pytestmark = pytest.mark.slow
pytest.importorskip("ts")
REPO = Path(__file__).resolve().parents[2]
CALLERS = 4


@dataclass
class Place:
    """The one server of this file, its archives 1.0 and 1.0.1, and what asks it."""

    info: ServerInfo
    store: Path
    state_dir: Path
    second: Path
    scratch: Path
    load: Callable[[int], Any]

    def models(self) -> dict[tuple[str, str], bool]:
        """Which answer those who name no version, by name and version."""
        current = torchserve.status(self.state_dir)
        assert current is not None
        return {(model.name, model.version): model.default for model in current.models}

    def worker(self) -> psutil.Process:
        current = torchserve.status(self.state_dir)
        assert current is not None
        assert current.ready
        return psutil.Process(current.models[0].pids[0])


@pytest.fixture(scope="module")
def fault_load() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPO / "benchmarks"))
        import parts.fault_load

        yield parts.fault_load


@pytest.fixture(scope="module")
def place(fault_load: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    scratch = tmp_path_factory.mktemp("survive")
    from parts.tiny_bundle import make_tiny_bundle

    first = make_tiny_bundle(scratch / "first")
    second = fault_load.next_version(first, scratch / "second")
    films = fault_load.draw_films(6, 400)
    right = {version: fault_load.right_answers(b, films) for version, b in (("1.0", first), ("1.0.1", second))}
    assert not any(fault_load.same(one, two) for one, two in zip(*right.values(), strict=True))
    store = scratch / "store"
    build_archive(first, store)
    state_dir = torchserve.state_dir_of(store)
    info = torchserve.start(store, port=0, control=True, wait=200)
    url = f"{info.url}/predictions/cxr_mtl"
    try:
        yield Place(
            info,
            store,
            state_dir,
            build_archive(second, scratch / "archive"),
            scratch,
            lambda number: fault_load.Load(url, info.key_file, films, right, number),
        )
    finally:
        torchserve.stop(state_dir)


def told(store: Path, *rest: Any, **options: Any) -> str:
    said: list[str] = []
    assert command.serve(store, *rest, tell=said.append, **options) == 0
    return "\n".join(said)


def test_a_damaged_archive_leaves_the_old_one_serving(place: Place) -> None:
    damaged = place.scratch / "damaged.mar"
    damaged.write_bytes(place.second.read_bytes()[:-3000])
    changed = place.scratch / "changed.mar"
    spoil(place.second, changed, "bundle.yaml", b"\n# changed")
    before = sorted(place.store.iterdir())
    with place.load(CALLERS) as load:
        with pytest.raises(ServeError, match=r"damaged\.mar is no model archive"):
            told(place.store, damaged, roll=True)
        with pytest.raises(
            ServeError, match=r"cxr_mtl 1\.0\.1 does not load: bundle\.yaml is not the file that was arch"
        ):
            told(place.store, changed, roll=True)
        with pytest.raises(ServeError, match=r"cxr_mtl 1\.0 is what is served already"):
            told(place.store, place.store / "cxr_mtl.mar", roll=True)
    by_hand = CliRunner().invoke(app, ["serve", "--model-store", str(place.store), "--roll-over"])
    assert "holds nothing newer" in by_hand.output
    assert all(answer.good and answer.version == "1.0" for answer in load.answers())
    assert place.models() == {("cxr_mtl", "1.0"): True}
    assert sorted(place.store.iterdir()) == before


def spoil(archive: Path, target: Path, name: str, more: bytes) -> None:
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(target, "w") as after:
        for entry in before.namelist():
            after.writestr(entry, before.read(entry) + (more if entry == name else b""))


def test_another_version_takes_over_and_no_request_fails(place: Place) -> None:
    with place.load(CALLERS) as load:
        time.sleep(1)
        looks: list[tuple[int, dict[str, Any]]] = []
        with ThreadPoolExecutor(1) as pool:
            rolling = pool.submit(told, place.store, place.second, roll=True)
            while not rolling.done():
                looks.append(status(place))
                time.sleep(0.3)
        said = rolling.result()
        rolled = time.monotonic()
        time.sleep(1)
    assert said == "cxr_mtl 1.0.1 answers now; 1.0 is gone."
    assert all(answer.good for answer in load.answers())
    assert {answer.version for answer in load.answers()} == {"1.0", "1.0.1"}
    assert any(found["rolling_over"] for _, found in looks)
    # A version that still loads is no worker that is down.
    assert [found for code, found in looks if code] == []
    later = [answer for answer in load.answers() if answer.sent >= rolled]
    assert later
    assert {answer.version for answer in later} == {"1.0.1"}
    assert place.models() == {("cxr_mtl", "1.0.1"): True}
    said = told(place.store, status=True)
    assert re.search(r"^cxr_mtl +1\.0\.1 +yes +1 of 1 +0 of 64 ", said, flags=re.MULTILINE)
    assert "1.0 " not in said, "the version that is gone"
    assert (place.store / "cxr_mtl-1.0.1.mar").is_file()
    assert (place.store / "cxr_mtl.mar").is_file(), "letting a version go deletes no archive"


def status(place: Place) -> tuple[int, dict[str, Any]]:
    """Exit code of ``--status --json``, and what it says."""
    said: list[str] = []
    code = command.serve(place.store, tell=said.append, status=True, as_json=True)
    return code, json.loads(said[0])


def test_the_status_agrees_with_callers_and_with_the_processes(place: Place, fault_load: Any) -> None:
    _, before = status(place)
    with place.load(1) as load:
        time.sleep(1)
    url, headers = f"{place.info.url}/predictions/cxr_mtl", {"Authorization": f"Bearer {read_key(place.info.key_file)}"}
    (film,) = fault_load.draw_films(1, 400)
    with httpx.Client(headers=headers, trust_env=False, timeout=60) as client:
        # Which calls something on any film, so that there is a count of it.
        called = client.post(url, files={"data": film}, data={"operating_point": "sensitive"})
        assert [called.status_code, client.put(url, content=b"no film").status_code] == [200, 415]
    time.sleep(0.7)  # Metrics pass through the front end's reader of logs.
    code, after = status(place)
    assert (code, after["state"], after["healthy"], after["rolling_over"]) == (0, "up", True, False)
    (model,), (old,) = after["models"], before["models"]
    answered = len(load.answers()) + 1
    assert model["requests"]["200"] - old["requests"]["200"] == answered
    assert model["films"]["unsupported"] - old["films"].get("unsupported", 0) == 1
    waited = sum(answer.ended - answer.sent for answer in load.answers())
    assert model["seconds"]["answer"]["count"] - old["seconds"]["answer"]["count"] == answered + 1
    spent = model["seconds"]["answer"]["sum"] - old["seconds"]["answer"]["sum"]
    assert 0 < spent < waited + 2, "the client's times have the way and the queue in them, too"
    (worker,) = model["workers"]
    process = place.worker()
    assert worker["pid"] == process.pid
    assert worker["memory_bytes"] == pytest.approx(process.memory_info().rss, rel=0.2)
    assert model["engine"]["name"] == "torch"
    assert 0 < after["uptime_seconds"] < 900
    dashboard_fits(httpx.get(place.info.metrics_url, trust_env=False).text)


def test_the_management_port_takes_nothing_but_archives_of_the_store(place: Place) -> None:
    manager = {"Authorization": f"Bearer {read_key(place.info.key_file, 'management')}"}
    outside = place.scratch / "outside.mar"
    outside.write_bytes(place.second.read_bytes())
    for url in (outside, outside.as_uri(), f"../{outside.name}", "http://127.0.0.1:1/outside.mar"):
        answer = httpx.post(
            f"{place.info.management_url}/models", params={"url": str(url)}, headers=manager, trust_env=False
        )
        assert answer.status_code == 404
    inference = {"Authorization": f"Bearer {read_key(place.info.key_file)}"}
    for address, headers in (
        (place.info.url, manager),
        (place.info.url, inference),
        (place.info.management_url, inference),
    ):
        answer = httpx.post(f"{address}/models", params={"url": "cxr_mtl.mar"}, headers=headers, trust_env=False)
        assert answer.status_code in (400, 404, 405)
    assert place.models() == {("cxr_mtl", "1.0.1"): True}


def test_a_worker_that_is_killed_comes_back_and_every_request_gets_a_status(place: Place) -> None:
    with place.load(CALLERS) as load:
        time.sleep(0.5)
        place.worker().kill()
        killed = time.monotonic()
        while (seen := status(place))[0] == 0 and time.monotonic() < killed + 5:
            pass
        assert (seen[0], seen[1]["healthy"], seen[1]["models"][0]["workers_down"]) == (1, False, 1)
        assert load.recovery(killed) < 60
    statuses = Counter(answer.status for answer in load.answers())
    assert set(statuses) <= {200, 500, 507}
    assert statuses[500] + statuses[507] <= CALLERS, "only what the worker held"
    assert not any(answer.wrong for answer in load.answers())


def test_a_flood_is_refused_at_once_and_what_waited_is_answered(place: Place) -> None:
    worker = place.worker()
    worker.suspend()
    try:
        with place.load(120) as crowd:
            time.sleep(2)
            worker.resume()
    finally:
        worker.resume()
    answers = crowd.answers()
    assert {answer.status for answer in answers} == {200, 503}
    assert sum(answer.good for answer in answers) >= 64
    assert not any(answer.wrong for answer in answers)
    assert max(answer.ended - answer.sent for answer in answers if answer.status == 503) < 15


def test_a_version_that_is_still_asked_for_is_not_let_go(place: Place) -> None:
    with place.load(CALLERS), Management(place.info) as management:
        time.sleep(0.5)
        assert not wait_until_idle(management, lambda model: model.version == "1.0.1", 3.0)
    with Management(place.info) as management:
        assert wait_until_idle(management, lambda _: True, 10.0)


def test_a_stop_answers_what_was_asked(place: Place) -> None:
    """The worker stands still while the stop is told, so that requests are under way; then it goes on."""
    worker = place.worker()
    worker.suspend()
    load = place.load(CALLERS)
    with load, ThreadPoolExecutor(1) as pool:
        time.sleep(1)
        stopped = time.monotonic()
        stopping = pool.submit(told, place.store, stop=True)
        time.sleep(1)
        code, seen = status(place)
        assert (code, seen["state"]) == (1, "draining")
        worker.resume()
        assert stopping.result(timeout=60) == f"{place.store}: stopped."
        took = time.monotonic() - stopped
        load.end()
    under_way = [answer for answer in load.answers() if answer.sent < stopped]
    assert len(under_way) == CALLERS
    assert all(answer.good for answer in under_way)
    assert took < 45
    assert not psutil.pid_exists(place.info.pid)
    assert told(place.store, stop=True) == f"{place.store}: no server was running."


def test_sigterm_in_the_foreground_stops_it_and_the_newest_version_was_the_default(place: Place) -> None:
    """The store holds both versions by now."""
    arguments = [
        sys.executable,
        "-m",
        "cxr_mtl",
        "serve",
        "--model-store",
        str(place.store),
        "--port",
        "0",
        "--foreground",
    ]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPO)}
    ) as held:
        assert held.stdout is not None
        try:
            said = [held.stdout.readline() for _ in range(7)]
            assert said[0].startswith("Serving cxr_mtl at ")
            assert place.models() == {("cxr_mtl", "1.0.1"): True, ("cxr_mtl", "1.0"): False}
            third = retitle(place.second, place.scratch / "third.mar")
            with pytest.raises(ServeError, match="started without control over its models"):
                told(place.store, third, roll=True)
            assert sorted(path.name for path in place.store.glob("*.mar")) == ["cxr_mtl-1.0.1.mar", "cxr_mtl.mar"]
            back = told(place.store, place.store / "cxr_mtl.mar", roll=True)
            assert back == "cxr_mtl 1.0 answers now; 1.0.1 stays loaded for who asks for it by version."
            pid = torchserve.status(place.state_dir).info.pid  # type: ignore[union-attr]
        finally:
            held.send_signal(signal.SIGTERM)
        assert held.stdout.readline() == f"{place.store}: stopped.\n"
        assert held.wait(timeout=60) == 0
    assert not psutil.pid_exists(pid)


def retitle(archive: Path, target: Path) -> Path:
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(target, "w") as after:
        for entry in before.namelist():
            content = before.read(entry)
            if entry == "MAR-INF/MANIFEST.json":
                content = content.replace(b'"1.0.1"', b'"3.0"')
            after.writestr(entry, content)
    return target


def test_who_was_told_wrongly_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one each"):
        told(tmp_path, stop=True, roll=True)
    with pytest.raises(ConfigError, match="to be served how"):
        told(tmp_path, tmp_path / "x.mar")
    with pytest.raises(ServeError, match="no server is running"):
        told(tmp_path, roll=True)

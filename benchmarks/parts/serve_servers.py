"""The servers of benchmarks/serve.py: how each is started with a setting, where it answers, and how it is ended."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import httpx
import psutil
import torch
from parts.serve_client import BOUNDARY, make_body
from parts.serve_peer import HOST, RIVALS, Setting

from cxr_mtl.bundle import DESCRIPTION, load_bundle
from cxr_mtl.errors import ServeError
from cxr_mtl.package.mar import build_archive
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.java import find_java
from cxr_mtl.serve.machine import pick_workers
from cxr_mtl.serve.settings import free_ports

PARTS = Path(__file__).resolve().parent
REPO = PARTS.parents[1]
CALLERS = (1, 4, 16)
OURS, STOCK = "TorchServe, ours", "TorchServe, stock"
AS_PACKAGED = "as packaged"
FAST = {"openvino": 1e-3, "openvino_bf16": 0.05}  # engines, and how far their probabilities may be from eager's
ENGINES = ("eager", *FAST)
EAGER_ERROR = 1e-3
PATIENCE = 180  # s until a server must answer


class Failed(Exception):
    """A server did not start; says why."""


@dataclass(frozen=True)
class Running:
    """A server that was started. ``form`` is the field its film goes into, empty for a bare body."""

    url: str
    process: psutil.Process
    headers: dict[str, str] = field(default_factory=dict)
    form: str = ""


@dataclass(frozen=True)
class Server:
    """One server with one setting; ``right`` names the answers that it should give, within ``tolerance``."""

    name: str
    setting: str
    start: Callable[[], AbstractContextManager[Running]]
    right: str
    tolerance: float = EAGER_ERROR
    fewest: int = 0  # probabilities of an answer; 0 for all


def archive(bundle: Path, store: Path, engine: str, manifest: Path | None) -> None:
    """Our archive in a store of its own."""
    build_archive(bundle, store, engine=engine, films=manifest)


@contextmanager
def ours(store: Path, workers: int | None = None) -> Iterator[Running]:
    """As ``cxr-mtl serve`` starts it."""
    info = torchserve.start(store, port=0, wait=PATIENCE, workers=workers or pick_workers())
    try:
        headers = {"Authorization": f"Bearer {read_key(info.key_file)}"}
        yield Running(f"{info.url}/predictions/cxr_mtl", psutil.Process(info.pid), headers)
    finally:
        torchserve.stop(torchserve.state_dir_of(store))


def stock_archive(bundle: Path, store: Path) -> None:
    """The same network for the stock handler, as its documentation tells: a class, a state dict, a handler."""
    store.mkdir()
    weights = {f"network.{name}": value for name, value in load_bundle(bundle).model.state_dict().items()}
    torch.save(weights, store / "weights.pth")
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "stock", "--version", "1"]
    command += ["--handler", str(PARTS / "serve_stock_handler.py"), "--export-path", str(store)]
    command += ["--model-file", str(PARTS / "serve_stock_network.py"), "--serialized-file", str(store / "weights.pth")]
    command += ["--extra-files", str(bundle / DESCRIPTION)]
    environment = os.environ | {"TMPDIR": str(store)}
    subprocess.run(command, env=environment, check=True, capture_output=True)


@contextmanager
def stock(store: Path, film: Path) -> Iterator[Running]:
    """TorchServe as it is: its own workers, threads, batches and token; only ports are given."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as temp:
        ports = free_ports(6)
        keys = ("inference", "management", "metrics")
        lines = [f"{key}_address=http://{HOST}:{port}" for key, port in zip(keys, ports, strict=False)]
        lines += [f"grpc_inference_port={ports[3]}", f"grpc_management_port={ports[4]}"]
        config = Path(temp, "config.properties")
        config.write_text("\n".join([*lines, f"initial_worker_port={ports[5]}", ""]))
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"]
        command += ["--ts-config", str(config), "--model-store", str(store), "--models", "stock=stock.mar"]
        environment = dict.fromkeys(("TEMP", "TMP", "TMPDIR", "LOG_LOCATION", "METRICS_LOCATION"), temp)
        environment["JAVA_HOME"] = str(find_java())
        key_file = Path(temp, "key_file.json")
        with process(command, environment, cwd=Path(temp), log=Path(temp, "console.log")) as started:
            wait_until(partial(_readable, key_file), started, Path(temp, "console.log"))
            key = {"Authorization": f"Bearer {read_key(key_file)}"}
            running = Running(f"http://{HOST}:{ports[0]}/predictions/stock", started, key)
            wait_until(partial(answers, running, film), started, Path(temp, "console.log"))
            yield running


@contextmanager
def rival(name: str, interpreter: str, setting: Setting, film: Path) -> Iterator[Running]:
    """A rival's script, with its own interpreter."""
    script, form, path = RIVALS[name].script, RIVALS[name].form, "/predict"
    if name == "BentoML" and setting.batch > 1:
        form, path = "films", "/batched"
    here = replace(setting, port=free_ports(1)[0])
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as temp:
        quiet = {"BENTOML_HOME": temp, "BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0"}
        quiet["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray leaves one in the home folder
        command, log = [interpreter, str(PARTS / script), temp], Path(temp, "console.log")
        with process(command, here.environment() | quiet, cwd=PARTS, log=log) as started:
            running = Running(f"http://{HOST}:{here.port}{path}", started, form=form)
            wait_until(partial(answers, running, film), started, log)
            yield running


@contextmanager
def process(command: list[str], more: dict[str, str], *, cwd: Path, log: Path) -> Iterator[psutil.Process]:
    """Started with our sources on its path, ended with all that it started."""
    environment = os.environ | {"PYTHONPATH": str(REPO)} | more
    with log.open("wb") as file:
        started = psutil.Popen(command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield started
    finally:
        _end(started)


def _end(started: psutil.Process) -> None:
    """Asks the first process to end what it started, then what is left, then asks no more."""
    left = started.children(recursive=True) if started.is_running() else []
    started.terminate()
    _, slow = psutil.wait_procs([started], timeout=15)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        _, left = psutil.wait_procs([*slow, *left], timeout=0)
        for member in left:
            with suppress(psutil.NoSuchProcess):
                end(member)
        slow, (_, left) = [], psutil.wait_procs(left, timeout=10)


def _readable(key_file: Path) -> bool:
    try:
        return bool(read_key(key_file))
    except ServeError:
        return False


def answers(running: Running, film: Path) -> bool:
    """Whether it answers one film."""
    kind = f"multipart/form-data; boundary={BOUNDARY}" if running.form else "image/png"
    body = make_body(film.read_bytes(), running.form)
    headers = running.headers | {"Content-Type": kind}
    try:
        return httpx.post(running.url, content=body, headers=headers, timeout=60, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(ready: Callable[[], bool], started: psutil.Process, log: Path) -> None:
    """Until ``ready``.

    Raises:
        Failed: it ended, or the time is up; with the last line that it wrote.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and started.is_running() and started.status() != psutil.STATUS_ZOMBIE:
        if ready():
            return
        time.sleep(0.3)
    said = log.read_text(errors="replace").strip().splitlines()
    raise Failed(said[-1] if said else "it said nothing")


def versions(interpreter: str) -> dict[str, str]:
    """Of the rivals' packages, as their interpreter sees them; empty where there is none."""
    names = [package for rival in RIVALS.values() for package in rival.packages]
    ask = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.metadata['Name'].lower(): d.version for d in reversed(list(m.distributions()))}\n"
        "print(json.dumps({name: found.get(name, '') for name in sys.argv[1:]}))"
    )
    done = subprocess.run([interpreter, "-c", ask, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found

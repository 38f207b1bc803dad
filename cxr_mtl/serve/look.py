"""How a running server is: what its management and metrics ports and its processes say, put together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cxr_mtl.errors import ServeError
from cxr_mtl.predict import meters
from cxr_mtl.serve.management import Management, ModelStatus
from cxr_mtl.serve.scrape import Histogram, Metrics, scrape
from cxr_mtl.serve.state import DRAIN_MARK, ServerInfo, is_being_changed, load_state

STEPS = {"answer": meters.ANSWER.name, "preprocess": meters.PREPROCESS.name, "model": meters.MODEL.name}
"""What is timed, and the histogram that has it."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One process that answers. ``memory`` is what it has to itself and shares, in bytes; None once it is gone."""

    pid: int
    ready: bool
    memory: int | None
    gpu: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """One version of one model, and what it did since the server started.

    Attributes:
        wanted: workers that there should be.
        engine: what computes its answers, by its own words; None where it was not asked or had no time to say.
        requests: that reached it, by HTTP status.
        films: by code, ``ok`` where answered.
        second_looks: films that were looked at again in float32.
        seconds: of each of ``STEPS``.
    """

    name: str
    version: str
    default: bool
    workers: tuple[Worker, ...]
    wanted: int
    waiting: int
    room: int
    engine: Mapping[str, Any] | None
    requests: Mapping[str, float]
    films: Mapping[str, float]
    second_looks: float
    seconds: Mapping[str, Histogram]

    @property
    def down(self) -> int:
        """Workers that are missing or not ready."""
        return max(self.wanted, len(self.workers)) - sum(worker.ready for worker in self.workers)


@dataclass(frozen=True, slots=True)
class Look:
    """A server at one moment.

    Attributes:
        state: ``up``, ``starting``, ``draining``, or ``silent`` where its process is there and does not answer.
        rolling: whether a version is taking over.
        uptime: seconds since the front end began.
        memory: of the front end, in bytes.
        counted: whether the metrics port answered; without, every count is 0.
        front_end: answers of the front end by the first digit of their status, management's among them.
        waits: mean seconds in the queue by model, over all its versions.
    """

    info: ServerInfo
    state: str
    rolling: bool
    uptime: float
    memory: int
    models: tuple[Model, ...]
    counted: bool
    front_end: Mapping[str, float]
    waits: Mapping[str, float]

    @property
    def healthy(self) -> bool:
        """Whether it takes requests and no worker is down; of a version that is only taking over some may be."""
        settled = [model for model in self.models if model.default or not self.rolling]
        return self.state == "up" and not any(model.down for model in settled)


def look(state_dir: Path) -> Look | None:
    """How the server of a state folder is; None where none runs.

    Raises:
        ServeError: its state file is damaged.
    """
    state = load_state(state_dir)
    process = state.process() if state else None
    if state is None or process is None:
        return None
    changing, draining = is_being_changed(state_dir), (state_dir / DRAIN_MARK).exists()
    metrics, counted = _scrape(state.info)
    with Management(state.info) as management:
        # A worker that is asked uses its processor, and a drain waits until none does.
        ask = None if draining or changing else management
        models = tuple(_model(model, metrics, ask) for model in _told(management))
    changing = changing or is_being_changed(state_dir)  # It may have begun, or ended, while we asked.
    answering = {model.name for model in models if any(worker.ready for worker in model.workers)}
    up = answering >= set(state.info.models)
    try:
        uptime, memory = time.time() - process.create_time(), process.memory_info().rss
    except psutil.NoSuchProcess:  # It ended while we looked.
        return None
    return Look(
        info=state.info,
        state=_state(draining, changing, up, bool(models)),
        rolling=changing and up,
        uptime=max(uptime, 0.0),
        memory=memory,
        models=models,
        counted=counted,
        front_end={f"{digit}xx": metrics.total(f"Requests{digit}XX") for digit in (2, 4, 5)},
        waits=_waits(metrics),
    )


def _told(management: Management) -> tuple[ModelStatus, ...]:
    """What the server says of its models; nothing where it is not up yet, or too busy to say.

    TorchServe refuses now and then while a version loads.
    """
    for pause in (0.2, 0.5, 0.0):
        try:
            return management.models()
        except ServeError:
            time.sleep(pause)
    return ()


def _state(draining: bool, changing: bool, up: bool, told: bool) -> str:
    """``up``: each model that it was started with has a worker; ``told``: it says what models it has."""
    if draining:
        return "draining"
    if changing and not up:
        return "starting"
    return "up" if told else "silent"


def _scrape(info: ServerInfo) -> tuple[Metrics, bool]:
    try:
        return scrape(info.metrics_url), True
    except ServeError:
        return Metrics([]), False


def _model(found: ModelStatus, metrics: Metrics, management: Management | None) -> Model:
    labels = {"model_name": found.name, "model_version": found.version}
    workers = zip(found.pids, found.workers, found.gpus, strict=True)
    idle = management if not found.waiting and "READY" in found.workers else None
    return Model(
        name=found.name,
        version=found.version,
        default=found.default,
        workers=tuple(Worker(pid, said == "READY", _memory(pid), gpu or None) for pid, said, gpu in workers),
        wanted=found.wanted,
        waiting=found.waiting,
        room=found.room,
        engine=idle.engine(found.name, found.version) if idle else None,
        requests=metrics.by(meters.REQUESTS.name, "status", **labels),
        films=metrics.by(meters.FILMS.name, "code", **labels),
        second_looks=metrics.total(meters.AGAIN.name, **labels),
        seconds={step: metrics.histogram(name, **labels) for step, name in STEPS.items()},
    )


def _waits(metrics: Metrics) -> dict[str, float]:
    """TorchServe tells versions apart only where a caller names one, so these are of all versions together."""
    asked = metrics.by("ts_inference_requests_total", "model_name")
    waited = metrics.by("ts_queue_latency_microseconds", "model_name")
    return {name: waited.get(name, 0.0) / count / 1e6 for name, count in asked.items() if count}


def _memory(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid > 0 else None
    except psutil.Error:
        return None

"""A look at a server in words: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cxr_mtl.serve.look import STEPS, Look, Model
from cxr_mtl.serve.scrape import Quantile

SCHEMA = "cxr-mtl.status/1"
SHARES = (0.5, 0.95, 0.99)
_PLAIN_WIDTH = 160
_COLOURS = {"up": "green", "starting": "yellow", "draining": "yellow", "silent": "red"}
_STATES = {
    "up": "up",
    "starting": "starting",
    "draining": "draining: it answers what was asked, and then ends",
    "silent": "its process is there, but does not answer",
}


def as_text(look: Look, *, terminal: bool = False) -> str:
    """Tables; on a terminal as wide as it is and with colours, else plain and wide."""
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=None if terminal else _PLAIN_WIDTH, highlight=False)
    console.print(_whole(look, box.ROUNDED if terminal else None))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def as_json(look: Look | None) -> str:
    """All of it, ``"state": "down"`` where there is no server; null for what is unknown or beyond the last bound."""
    down = {"schema": SCHEMA, "state": "down", "healthy": False}
    return json.dumps(_plain(look) if look else down, indent=1, allow_nan=False)


def _whole(look: Look, frame: box.Box | None) -> Group:
    tables = [_models, _workers, *([_counts, _latency] if look.counted else [])] if look.models else []
    parts: list[RenderableType] = [_server(look)]
    for make in tables:
        parts += ["", make(look, frame)]
    return Group(*parts, "", *_notes(look))


def _server(look: Look) -> Table:
    info, grid = look.info, Table.grid(padding=(0, 2))
    rows: dict[str, str | Text] = {
        "server": Text(_STATES[look.state], _COLOURS[look.state]),
        "since": f"{_span(look.uptime)}, process {info.pid}, {_bytes(look.memory)} in the front end",
        "predictions": info.url,
        "management": info.management_url,
        "metrics": info.metrics_url,
        "keys": str(info.key_file),
        "logs": str(info.log_dir),
    }
    if look.rolling:
        rows["roll-over"] = Text("a version is taking over", "yellow")
    for name, said in rows.items():
        grid.add_row(name, said)
    return grid


def _models(look: Look, frame: box.Box | None) -> Table:
    table = _table(frame, "model", "version", "default", "ready", "queue", "wait", "engine")
    for model in look.models:
        ready = sum(worker.ready for worker in model.workers)
        colour = "red" if model.down else "green"
        table.add_row(
            model.name,
            model.version,
            "yes" if model.default else "no",
            Text(f"{ready} of {max(model.wanted, len(model.workers))}", colour),
            f"{model.waiting} of {model.waiting + model.room}",
            _seconds(look.waits[model.name]) if model.name in look.waits else "-",
            _engine(model, look),
        )
    return table


def _workers(look: Look, frame: box.Box | None) -> Table:
    table = _table(frame, "worker", "of", "state", "memory", "GPU")
    for model in look.models:
        for worker in model.workers:
            table.add_row(
                str(worker.pid),
                f"{model.name} {model.version}",
                Text("ready", "green") if worker.ready else Text("not ready", "red"),
                "-" if worker.memory is None else _bytes(worker.memory),
                worker.gpu or "none",
            )
    return table


def _counts(look: Look, frame: box.Box | None) -> Table:
    table = _table(frame, "of", "requests by status", "films by code", "second looks")
    for model in look.models:
        answered = model.films.get("ok", 0.0)
        share = f" ({model.second_looks / answered:.1%} of ok)" if answered else ""
        table.add_row(
            f"{model.name} {model.version}",
            _tally(model.requests),
            _tally(model.films),
            f"{model.second_looks:,.0f}{share}",
        )
    return table


def _latency(look: Look, frame: box.Box | None) -> Table:
    table = _table(frame, "of", "histogram", "count", *(f"p{share * 100:.0f}" for share in SHARES))
    for model in look.models:
        for step, histogram in model.seconds.items():
            quantiles = [_quantile(histogram.quantile(share)) for share in SHARES]
            table.add_row(f"{model.name} {model.version}", STEPS[step], f"{histogram.count:,.0f}", *quantiles)
    return table


def _notes(look: Look) -> list[Text]:
    notes = []
    if look.counted and look.models:
        front = ", ".join(f"{count:,.0f} x {digits}" for digits, count in look.front_end.items())
        notes += [
            "All counts and times are since the server's start. Wait is the mean in the queue, which no histogram has.",
            "Percentiles are estimates: values are taken to lie evenly in their bucket of the histogram.",
            f"Front end: {front}; management's own questions and what never reached a model are in these.",
        ]
    elif look.models:
        notes.append("The metrics port does not answer: nothing is known of requests, films and latency.")
    return [Text(note, "dim") for note in notes]


def _table(frame: box.Box | None, *columns: str) -> Table:
    table = Table(box=frame, title=None, header_style="bold", pad_edge=frame is not None, padding=(0, 1))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _engine(model: Model, look: Look) -> str:
    if said := model.engine:
        return f"{said.get('name')} {said.get('precision')} {said.get('device')} x {said.get('threads')}"
    if not any(worker.ready for worker in model.workers):
        return "not asked: no worker is ready"
    if look.state != "up":
        return f"not asked: {look.state}"
    return "not asked: rolling over" if look.rolling else "not asked: busy"


def _tally(counted: Mapping[str, float]) -> str:
    return ", ".join(f"{count:,.0f} x {label}" for label, count in counted.items()) or "none"


def _quantile(quantile: Quantile | None) -> str:
    """An estimate, or only the bound where the histogram has no other."""
    if quantile is None:
        return "-"
    if math.isinf(quantile.high):
        return f"> {_seconds(quantile.low)}"
    return f"< {_seconds(quantile.high)}" if quantile.low == 0 else f"~ {_seconds(quantile.value)}"


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def _span(seconds: float) -> str:
    minutes, days = int(seconds // 60), int(seconds // 86400)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{days} d {minutes // 60 % 24} h" if days else f"{minutes // 60} h {minutes % 60} min"


def _bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _plain(look: Look) -> dict[str, Any]:
    info = look.info
    return {
        "schema": SCHEMA,
        "state": look.state,
        "healthy": look.healthy,
        "rolling_over": look.rolling,
        "url": info.url,
        "management_url": info.management_url,
        "metrics_url": info.metrics_url,
        "key_file": str(info.key_file),
        "log_dir": str(info.log_dir),
        "pid": info.pid,
        "uptime_seconds": round(look.uptime, 1),
        "memory_bytes": look.memory,
        "metrics_answered": look.counted,
        "front_end_answers": dict(look.front_end),
        "mean_queue_seconds": dict(look.waits),
        "models": [_plain_model(model) for model in look.models],
    }


def _plain_model(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "default": model.default,
        "workers": [{"pid": w.pid, "ready": w.ready, "memory_bytes": w.memory, "gpu": w.gpu} for w in model.workers],
        "workers_wanted": model.wanted,
        "workers_down": model.down,
        "queue": {"waiting": model.waiting, "room": model.room},
        "engine": dict(model.engine) if model.engine else None,
        "requests": dict(model.requests),
        "films": dict(model.films),
        "second_looks": model.second_looks,
        "seconds": {
            step: {"source": STEPS[step], "count": histogram.count, "sum": histogram.total}
            | {f"p{share * 100:.0f}": _bounded(histogram.quantile(share)) for share in SHARES}
            for step, histogram in model.seconds.items()
        },
    }


def _bounded(quantile: Quantile | None) -> dict[str, float | None] | None:
    if quantile is None:
        return None
    said = {"estimate": quantile.value, "above": quantile.low, "at_most": quantile.high}
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in said.items()}

"""One server, or none, under load: what callers saw, and what it cost in CPU time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from parts.serve_films import Answer, Calls, apart, read_answer, read_calls
from parts.serve_servers import PARTS, REPO, Running, Server

MIB = 1 << 20
LAYOUTS = ((1, 2), (2, 1))  # processes, threads of each


@dataclass(frozen=True)
class Window:
    """What was measured of a server while a number of callers asked it; times in ms, memory in MiB.

    ``wrong`` is the largest difference from a right probability; infinite where an answer is none, or no request was
    answered. ``changed`` counts different answers of ours that call a finding otherwise than float32 eager does.
    """

    rate: float
    p50: float
    p95: float
    p99: float
    cpu: float
    worker: float
    whole: float
    caller_cpu: float
    answered: int
    refused: tuple[str, ...]
    wrong: float
    changed: int = 0


def measure(
    server: Server,
    running: Running,
    films: Sequence[Path],
    right: Sequence[Answer],
    callers: int,
    ramp: float,
    seconds: float,
    calls: Sequence[Calls] = (),
) -> Window:
    """A window of ``seconds``, after ``ramp`` seconds of the same load; ``calls`` are the right ones of who calls."""
    job = {"url": running.url, "headers": running.headers, "form": running.form, "films": [str(film) for film in films]}
    job |= {"callers": callers, "ramp": ramp, "seconds": seconds}
    command = [sys.executable, str(PARTS / "serve_client.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin
        assert client.stdout
        client.stdin.write(json.dumps(job))
        client.stdin.close()
        client.stdout.readline()
        before = cpu_seconds(running.process)
        client.stdout.readline()
        after = cpu_seconds(running.process)
        worker, whole = memory(running.process)
        seen = json.loads(client.stdout.readline())
    spent = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
    waits, answered = 1000 * np.array(seen["waits"]), len(seen["waits"])
    p50, p95, p99 = np.percentile(waits, (50, 95, 99)).tolist() if answered else [float("inf")] * 3
    fewest = server.fewest or len(right[0])
    bodies = [(film, _json(body)) for film, body in seen["answers"]]
    differences = [apart(read_answer(body), right[film], fewest) for film, body in bodies]
    return Window(
        rate=answered / seen["seconds"],
        p50=p50,
        p95=p95,
        p99=p99,
        cpu=1000 * spent / max(answered, 1),
        worker=worker,
        whole=whole,
        caller_cpu=1000 * seen["cpu"] / max(answered, 1),
        answered=answered,
        refused=tuple(seen["refused"]),
        wrong=max(differences, default=float("inf")),
        changed=sum(read_calls(body) != calls[film] for film, body in bodies) if calls else 0,
    )


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def family(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def cpu_seconds(root: psutil.Process) -> dict[int, float]:
    """Of a server's processes, by pid."""
    found = {}
    for member in family(root):
        with suppress(psutil.Error):
            times = member.cpu_times()
            found[member.pid] = times.user + times.system
    return found


def memory(root: psutil.Process) -> tuple[float, float]:
    """MiB of the largest process but a Java, which is a worker, and of all: shared pages count in parts (PSS)."""
    sizes = {}
    for member in family(root):
        with suppress(psutil.Error):
            sizes[member.name(), member.pid] = member.memory_full_info().pss / MIB
    workers = [size for (name, _), size in sizes.items() if name != "java"]
    return max(workers, default=float("nan")), sum(sizes.values())


def measure_limit(
    bundle: Path, films: Sequence[Path], batches: dict[str, Sequence[int]], seconds: float
) -> dict[tuple[str, str], dict[str, float]]:
    """Without a server, by what is measured (``forward``, ``answer``) and how."""
    found = {}
    for processes, threads in LAYOUTS:
        with workers(bundle, films, processes, threads) as started:
            for kind, sizes in batches.items():
                for batch in sizes:
                    for worker in started:
                        worker.stdin.write(json.dumps({"kind": kind, "batch": batch, "seconds": seconds}) + "\n")
                        worker.stdin.flush()
                    said = [json.loads(worker.stdout.readline()) for worker in started]
                    found[kind, f"w{processes} t{threads} b{batch}"] = {
                        "rate": sum(one["rate"] for one in said),
                        "p50": sum(one["p50"] for one in said) / processes,
                        "cpu": sum(one["cpu"] for one in said) / processes,
                    }
    return found


@contextmanager
def workers(bundle: Path, films: Sequence[Path], processes: int, threads: int) -> Iterator[list[Any]]:
    """Processes that wait for jobs; they end when their stdin does."""
    command = [sys.executable, str(PARTS / "serve_limit.py"), str(bundle), str(threads), *map(str, films)]
    here = {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": str(threads)}
    started: list[Any] = [
        psutil.Popen(command, env=os.environ | here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        yield started
    finally:
        for worker in started:
            worker.stdin.close()
            worker.wait()
            worker.stdout.close()

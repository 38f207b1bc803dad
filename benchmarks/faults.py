"""What a server does when things break under load: answers, refusals, losses and the time until it answers again.

    python benchmarks/faults.py [--quick] [--json FILE] [--minutes M] [--bundle DIR --films DIR]

Some callers ask a TorchServe of ours all the time. Each answer is compared with the one that the bundle gave in this
process before; nobody retries. Meanwhile, in turn: its worker is killed, has no memory left; callers flood the queue;
slow and vanishing clients connect; damaged archives are rolled over to, then a good one; the disk of the logs is full;
and at the end it is stopped. `recovery` is the time from the fault to the first right answer to a request that was sent
after it. Without --bundle, a tiny network of random weights answers.

Ends with 1 if an answer was wrong, if a connection broke without a status, or if the server did not answer again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from parts.fault_kinds import KINDS, Ground
from parts.fault_load import Answer, Load, draw_bundle, draw_films, next_version, right_answers

from cxr_mtl.bundle import load_description
from cxr_mtl.errors import ServeError
from cxr_mtl.package.mar import build_archive
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.drain import drain

NO_FAULT, DRAIN = "no fault", "stop, with drain"
MANY = 10_000
COLUMNS = ("right", "503", "507", "500", "400", "other", "wrong", "lost")


@dataclass
class Row:
    """What was counted while one kind of fault was done, and until the server had recovered from it."""

    times: int = 0
    answers: list[Answer] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)

    def count(self) -> dict[str, int]:
        kinds = Counter(map(kind_of, self.answers))
        return {column: kinds[column] for column in COLUMNS}


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="cxr-mtl-faults-") as scratch, small_disk(Path(scratch) / "disk") as disk:
        rows, memory, notes = run(arguments, Path(scratch), disk)
    bad = report(rows, memory, notes)
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(rows, memory), indent=2) + "\n")
    if bad:
        sys.exit(f"faults: {'; '.join(bad)}.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each fault once: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--minutes", type=float, default=4.0, help="how long faults are done, each at least once")
    parser.add_argument("--bundle", type=Path, help="of the model that answers")
    parser.add_argument("--films", type=Path, help="folder of films to ask with, where the bundle refuses drawn ones")
    parser.add_argument("--callers", type=int, default=4, help="who ask at once, all the time")
    return parser.parse_args()


def run(
    arguments: argparse.Namespace, scratch: Path, disk: Path | None
) -> tuple[dict[str, Row], list[tuple[float, float]], dict[str, str]]:
    """Counts by kind of fault; MiB of front end and workers before and after; notes."""
    first = arguments.bundle or draw_bundle(scratch / "first")
    second = next_version(first, scratch / "second")
    films = draw_films(6, 400)
    if arguments.films:
        films = [file.read_bytes() for file in sorted(arguments.films.iterdir()) if file.is_file()][:12]
    right = {load_description(bundle).version: right_answers(bundle, films) for bundle in (first, second)}
    archives = [build_archive(bundle, scratch / f"archive {i}") for i, bundle in enumerate((first, second))]
    store = scratch / "store"
    archives[0] = build_archive(first, store)
    # Beside the store where the logs' disk is to run full, so that nothing else of the server's lies on it.
    state_dir = (disk or scratch) / "state"
    rows: dict[str, Row] = {}
    info = torchserve.start(store, port=0, state_dir=state_dir, control=True, wait=300)
    try:
        url = f"{info.url}/predictions/{info.models[0]}"

        def callers(number: int) -> Load:
            return Load(url, info.key_file, films, right, number)

        with callers(arguments.callers) as load:
            ground = Ground(info, state_dir, store, scratch, load, callers, archives, disk)
            memory = [steady(ground, rows, 2.0 if arguments.quick else 10.0)]
            do_faults(ground, rows, 0.0 if arguments.quick else 60 * arguments.minutes)
            while not arguments.quick and len(load.answers()) < MANY:
                steady(ground, rows, 5.0)
            memory.append(steady(ground, rows, 2.0))
            do_drain(ground, rows)
    finally:
        torchserve.stop(state_dir)
    return rows, memory, ground.notes


def do_faults(ground: Ground, rows: dict[str, Row], seconds: float) -> None:
    """Every kind in turn until the time is up; a turn that was begun is ended."""
    end = time.monotonic() + seconds
    while True:
        for name, do in KINDS.items():
            steady(ground, rows, 1.0)
            row, started = rows.setdefault(name, Row()), time.monotonic()
            try:
                fault = do(ground)
            except ServeError as error:
                ground.notes[name] = f"not done: {error.message}"
                continue
            row.times += 1
            row.recoveries.append(ground.load.recovery(fault))
            time.sleep(0.5)
            row.answers += ground.load.answers(started, time.monotonic())
        if time.monotonic() >= end:
            return


def steady(ground: Ground, rows: dict[str, Row], seconds: float) -> tuple[float, float]:
    """Nothing happens; gives the memory at its end."""
    started = time.monotonic()
    time.sleep(seconds)
    row = rows.setdefault(NO_FAULT, Row())
    row.times += 1
    row.answers += ground.load.answers(started, time.monotonic())
    return ground.memory()


def do_drain(ground: Ground, rows: dict[str, Row]) -> None:
    """Stops the server as `cxr-mtl serve --stop` does. Who asks once the door is shut is refused, not lost."""
    started = time.monotonic()
    drained = drain(ground.state_dir, 30.0)
    torchserve.stop(ground.state_dir)
    took = time.monotonic() - started
    ground.load.end()
    under_way = [answer for answer in ground.load.answers(started) if answer.sent < started]
    later = [answer for answer in ground.load.answers(started) if answer.sent >= started]
    rows[DRAIN] = Row(1, under_way + [answer for answer in later if answer.status is not None])
    kept = sum(answer.good for answer in under_way)
    ground.notes[DRAIN] = (
        f"{kept} of {len(under_way)} requests under way were answered (drained: {drained}); gone after {took:.1f} s, "
        f"{sum(answer.status is None for answer in later)} later ones found the door shut"
    )


def kind_of(answer: Answer) -> str:
    if answer.good or answer.wrong:
        return "right" if answer.good else "wrong"
    status = "lost" if answer.status is None else str(answer.status)
    return status if status in COLUMNS else "other"


def report(rows: dict[str, Row], memory: list[tuple[float, float]], notes: dict[str, str]) -> list[str]:
    """Prints the table; returns what must not be."""
    print(
        f"{'':<32}{'times':>6}{'asked':>7}"
        + "".join(f"{c:>7}" for c in COLUMNS)
        + f"{'recovery s: median':>20}{'worst':>7}"
    )
    bad = []
    for name, row in rows.items():
        counted = row.count()
        line = f"{name:<32}{row.times:>6}{len(row.answers):>7}" + "".join(f"{counted[c]:>7}" for c in COLUMNS)
        if row.recoveries:
            line += f"{median(row.recoveries):>20.1f}{max(row.recoveries):>7.1f}"
        print(line)
        said = Counter(f"{answer.status} {answer.said[:60]}".strip() for answer in row.answers if not answer.good)
        if said:
            notes[f"  not right, {name}"] = "; ".join(f"{number} x {words}" for words, number in said.most_common())
        bad += [f"{name}: {counted[column]} {column}" for column in ("wrong", "lost") if counted[column]]
        bad += [f"{name}: it did not answer again"] * (math.inf in row.recoveries)
    asked = sum(len(row.answers) for row in rows.values())
    (front, workers), (front_after, workers_after) = memory[0], memory[-1]
    print(f"\n{asked} requests. Memory in MiB, first and last: front end {front:.0f}, {front_after:.0f}; ", end="")
    print(f"worker {workers:.0f}, {workers_after:.0f}.")
    for name, note in notes.items():
        print(f"{name}: {note}.")
    bad += [f"{name}: {note}" for name, note in notes.items() if "WAS TAKEN" in note]
    return bad


def as_json(rows: dict[str, Row], memory: list[tuple[float, float]]) -> dict[str, Any]:
    figures = [one(name, column, number) for name, row in rows.items() for column, number in row.count().items()]
    for name, row in rows.items():
        if row.recoveries:
            span = {"low": min(row.recoveries), "high": max(row.recoveries)}
            figures.append(one(name, "recovery", median(row.recoveries), "s") | span)
    for i, who in enumerate(("front end", "worker")):
        figures += [
            one(who, f"memory {when}", sizes[i], "MiB") for when, sizes in zip(("first", "last"), memory, strict=True)
        ]
    machine = {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    versions = {name: version(name) for name in ("cxr-mtl", "torch", "torchserve")}
    return {"benchmark": "faults", "machine": machine, "versions": versions, "rows": figures, "ratios": {}}


def one(name: str, metric: str, value: float, unit: str = "requests") -> dict[str, Any]:
    return {"name": name, "metric": metric, "value": value, "unit": unit, "low": value, "high": value}


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of 8 MiB in memory for the logs, to be run full; None where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


if __name__ == "__main__":
    main()

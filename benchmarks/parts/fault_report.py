"""What was counted at each kind of fault, as a table and as JSON."""

from __future__ import annotations

import math
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from types import MappingProxyType
from typing import Any

from parts.fault_load import Answer

NEEDS = MappingProxyType(
    {
        "worker killed mid-request": ("500", "507"),
        "worker out of memory": ("507",),
        "flood past the queue": ("503",),
    }
)
"""What some of the callers must have got, else the fault did nothing; of a worker's end, one of the two."""
WORKER_ENDS = ("worker killed mid-request", "worker out of memory")
BOTH_ANSWER = "roll-over to the other version"
COLUMNS = ("right", "503", "507", "500", "400", "other", "wrong", "lost")


@dataclass
class Row:
    """What was counted while one kind of fault was done, and until the server had recovered from it.

    Attributes:
        recoveries: seconds, of the times that needed one; infinite where it did not answer again.
        whole: seconds until every worker was ready again, of the times that one ended.
        gaps: the longest time between two right answers, in seconds, of each time.
        figures: what is counted for this fault alone, with its unit.
    """

    times: int = 0
    answers: list[Answer] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    figures: dict[str, tuple[float, str]] = field(default_factory=dict)

    def count(self) -> dict[str, int]:
        kinds = Counter(map(kind_of, self.answers))
        return {column: kinds[column] for column in COLUMNS}

    def faults(self, name: str) -> list[str]:
        """What must not be: of the server, or of a fault that did not come about."""
        counted, figures = self.count(), {what: value for what, (value, _) in self.figures.items()}
        bad = [f"{counted[column]} {column}" for column in ("wrong", "lost") if counted[column]]
        bad += ["it did not answer again"] * (math.inf in self.recoveries)
        bad += ["a worker did not come back"] * (math.inf in self.whole)
        if not self.times:
            return bad
        if needs := NEEDS.get(name):
            bad += [f"it did nothing: no {' or '.join(needs)}"] * (not any(counted[status] for status in needs))
        if name in WORKER_ENDS:
            bad += ["it did nothing: the worker went on"] * (len(self.whole) < self.times)
        if name == BOTH_ANSWER:
            versions = {answer.version for answer in self.answers if answer.good}
            bad += ["it did nothing: one version gave all answers"] * (len(versions) < 2)
        if cut := figures.get("under way", 0) - figures.get("under way, answered", 0):
            bad.append(f"{cut} under way were not answered")
        if code := figures.get("exit code", 0):
            bad.append(f"exit code {code}")
        return bad


def kind_of(answer: Answer) -> str:
    if answer.good or answer.wrong:
        return "right" if answer.good else "wrong"
    status = "lost" if answer.status is None else str(answer.status)
    return status if status in COLUMNS else "other"


def report(rows: Mapping[str, Row], memory: Sequence[tuple[float, float]], notes: Mapping[str, str]) -> list[str]:
    """Prints the table; returns what must not be."""
    columns = f"{'all workers, s':>18}{'recovery, s':>18}{'longest gap, s':>16}"
    print(f"{'':<32}{'':>13}" + " " * 7 * len(COLUMNS) + columns)
    print(
        f"{'':<32}{'times':>6}{'asked':>7}"
        + "".join(f"{c:>7}" for c in COLUMNS)
        + f"{'median  worst':>18}" * 2
        + f"{'':>2}",
        end="",
    )
    print(f"{'median  worst':>14}")
    said, bad = dict(notes), []
    for name, row in rows.items():
        counted = row.count()
        line = f"{name:<32}{row.times:>6}{len(row.answers):>7}" + "".join(f"{counted[c]:>7}" for c in COLUMNS)
        line += _median_and_worst(row.whole, "", 18)
        print(line + _median_and_worst(row.recoveries, "none needed", 18) + _median_and_worst(row.gaps, "", 16))
        words = Counter(f"{answer.status} {answer.said[:60]}".strip() for answer in row.answers if not answer.good)
        if words:
            said[f"  not right, {name}"] = "; ".join(f"{number} x {what}" for what, number in words.most_common())
        bad += [f"{name}: {fault}" for fault in row.faults(name)]
    asked = sum(len(row.answers) for row in rows.values())
    (front, workers), (front_after, workers_after) = memory[0], memory[-1]
    print(f"\n{asked} requests. Memory in MiB, first and last: front end {front:.0f}, {front_after:.0f}; ", end="")
    print(f"worker {workers:.0f}, {workers_after:.0f}.")
    for name, note in said.items():
        print(f"{name}: {note}.")
    return bad


def as_json(rows: Mapping[str, Row], memory: Sequence[tuple[float, float]], notes: Mapping[str, str]) -> dict[str, Any]:
    figures = [_one(name, column, [number]) for name, row in rows.items() for column, number in row.count().items()]
    for name, row in rows.items():
        figures.append(_one(name, "times", [row.times], "times"))
        figures += [_one(name, "recovery", row.recoveries, "s")] if row.recoveries else []
        figures += [_one(name, "until every worker was ready again", row.whole, "s")] if row.whole else []
        figures += [_one(name, "longest gap between right answers", row.gaps, "s")] if row.gaps else []
        figures += [_one(name, what, [value], unit) for what, (value, unit) in row.figures.items()]
    for i, who in enumerate(("front end", "worker")):
        for when, sizes in zip(("first", "last"), (memory[0], memory[-1]), strict=True):
            figures.append(_one(who, f"memory {when}", [round(sizes[i])], "MiB"))
    machine = f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    versions = {name: version(name) for name in ("cxr-mtl", "torch", "torchserve")}
    said = {"benchmark": "faults", "machine": machine, "versions": versions, "rows": figures, "ratios": {}}
    return said | {"notes": dict(notes)}


def _median_and_worst(values: Sequence[float], without: str, width: int) -> str:
    return f"{median(values):>{width - 7}.1f}{max(values):>7.1f}" if values else f"{without:>{width}}"


def _one(name: str, metric: str, values: Sequence[float], unit: str = "requests") -> dict[str, Any]:
    low, value, high = (round(of(values), 3) for of in (min, median, max))
    return {"name": name, "metric": metric, "value": value, "unit": unit, "low": low, "high": high}

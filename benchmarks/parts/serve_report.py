"""What benchmarks/serve.py found, as a table, as rows and as the ratios that its goals are about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from parts.serve_measure import Window
from parts.serve_peer import RIVALS
from parts.serve_servers import AS_PACKAGED, CALLERS, FAST, OURS, STOCK, Server

ALONE, ANSWER = "forward", "answer"
LIMITS = {ALONE: "no server, the network alone", ANSWER: "no server, bytes to answer"}
FEW, MANY = CALLERS[0], CALLERS[-1]
# Unit and window's field of each row.
METRICS = {
    "requests/s": ("1/s", "rate"),
    "p50": ("ms", "p50"),
    "p95": ("ms", "p95"),
    "p99": ("ms", "p99"),
    "CPU time a request": ("ms", "cpu"),
    "memory of the largest worker": ("MiB", "worker"),
    "memory of all its processes": ("MiB", "whole"),
    "CPU time of the caller a request": ("ms", "caller_cpu"),
    "largest difference of a probability": ("1", "wrong"),
    "answers with another call": ("answers", "changed"),
}
Key = tuple[str, str, int]  # a server, its setting, callers
How = tuple[str, str, str]  # an engine, one of LIMITS, processes with threads and batch
Rounds = dict[int, Any]


@dataclass
class Found:
    """Windows and limits by round, of the films and network that ``what`` names; ``failures`` is what must not be."""

    what: str
    windows: dict[Key, dict[int, Window]] = field(default_factory=dict)
    limits: dict[How, dict[int, dict[str, float]]] = field(default_factory=dict)
    servers: dict[str, Server] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, server: Server, callers: int, number: int, window: Window) -> None:
        self.servers[server.name] = server
        self.windows.setdefault((server.name, server.setting, callers), {})[number] = window
        if fault := _fault([window], server.tolerance):
            self.failures.append(f"{server.name} ({server.setting}), {_callers(callers)}: {fault}")

    def add_limit(self, engine: str, number: int, measured: dict[tuple[str, str], dict[str, float]]) -> None:
        for (kind, how), numbers in measured.items():
            self.limits.setdefault((engine, kind, how), {})[number] = numbers

    def best(self, names: Iterable[str], callers: int, by: str = "rate") -> Key | None:
        """Of servers, with any setting: the most requests a second, or the shortest ``by``."""
        keys = [key for key in self.windows if key[0] in names and key[2] == callers]
        sign = 1 if by == "rate" else -1
        return max(keys, key=lambda key: sign * _median(self.windows[key], by), default=None)

    def best_limit(self, engine: str, kind: str) -> How | None:
        keys = [key for key in self.limits if key[:2] == (engine, kind)]
        return max(keys, key=lambda key: median(one["rate"] for one in self.limits[key].values()), default=None)

    def engines(self) -> list[str]:
        """Of our archives, in the order they ran."""
        return list(dict.fromkeys(engine for engine, _, _ in self.limits))

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for (name, setting, callers), rounds in self.windows.items():
            title = f"{name}, {setting}, {_callers(callers)}"
            for metric, (unit, of) in METRICS.items():
                rows.append(_row(title, metric, [getattr(one, of) for one in rounds.values()], unit))
            rows.append(_row(title, "not answered with 200", [len(one.refused) for one in rounds.values()], "requests"))
        for (engine, kind, how), limits in self.limits.items():
            title = f"{LIMITS[kind]}, {engine}, {how}"
            rows.append(_row(title, "films/s", [one["rate"] for one in limits.values()], "1/s"))
            rows.append(_row(title, "p50 of a batch", [one["p50"] for one in limits.values()], "ms"))
            rows.append(_row(title, "CPU time a film", [one["cpu"] for one in limits.values()], "ms"))
        return rows

    def goals(self) -> list[tuple[str, float, str]]:
        """What ours is to reach in each engine: the comparison in words, its ratio, the goal."""
        goals = []
        for engine in self.engines():
            many, few = ((f"{OURS}, {engine}", AS_PACKAGED, callers) for callers in (MANY, FEW))
            if many not in self.windows or few not in self.windows:
                continue
            ours = f"ours, {engine}"
            if (key := (STOCK, "default", MANY)) in self.windows:
                goals.append((f"requests/s, {ours} / stock, {_callers(MANY)}", self._ratio(many, key), ">= 5"))
            if best := self.best(RIVALS, MANY):
                goals.append((f"requests/s, {ours} / {_named(best)}", self._ratio(many, best), ">= 1.7"))
            for kind, goal in ((ALONE, ">= 0.85"), (ANSWER, "")):
                if how := self.best_limit(engine, kind):
                    share = _ratio(self.windows[many], self.limits[how], lambda w: w.rate, lambda limit: limit["rate"])
                    goals.append((f"requests/s, {ours}, {_callers(MANY)} / {LIMITS[kind]}, {how[2]}", share, goal))
            if best := self.best(RIVALS, FEW, "p50"):
                goals.append((f"p50, {ours} / {_named(best)}", self._ratio(few, best, "p50"), "<= 0.6"))
        return goals

    def ratios(self) -> dict[str, float]:
        return {words: value for words, value, _ in self.goals()}

    def _ratio(self, one: Key, other: Key, of: str = "rate") -> float:
        take: Callable[[Any], float] = lambda window: float(getattr(window, of))  # noqa: E731
        return _ratio(self.windows[one], self.windows[other], take, take)


def report(found: Found) -> None:
    """Print a table for each number of callers, the limits and the goals."""
    print(f"{found.what}. w workers, t threads of each, b films at once at most; * a rival's best setting.")
    for callers in CALLERS:
        _table(found, callers)
    print(f"\n{'no server':<44}{'films/s':>9}{'spread':>15}{'p50 ms':>9}{'CPU ms':>8}")
    for (engine, kind, how), rounds in found.limits.items():
        rates = [one["rate"] for one in rounds.values()]
        p50, cpu = (median(one[of] for one in rounds.values()) for of in ("p50", "cpu"))
        star = "*" if found.best_limit(engine, kind) == (engine, kind, how) else " "
        print(f"{star} {LIMITS[kind]}, {engine}, {how}".ljust(58)[:58], end="")
        print(f"{median(rates):>9.1f}{_spread(rates):>15}{p50:>9.0f}{cpu:>8.0f}")
    print("\nGoals, of our fast mode; medians over rounds of the ratio in the same round:")
    for words, value, goal in found.goals():
        verdict = ""
        if goal and any(f"ours, {engine}" in words for engine in FAST):
            sign, bound = goal.split()
            verdict = "met" if (value >= float(bound) if sign == ">=" else value <= float(bound)) else "MISSED"
        print(f"  {words:<100}{value:>7.2f}  {goal:<8}{verdict}")
    for failure in found.failures:
        print(f"  {failure}")


def _table(found: Found, callers: int) -> None:
    head = f"{'requests/s':>11}{'spread':>15}{'p50':>7}{'p95':>7}{'p99':>7}{'CPU':>6}{'worker':>8}{'all':>7}"
    print(f"\n{_callers(callers):<46}{head}{'  to best rival':>15}{'  to limit':>10}  answers")
    print(f"{'':<46}{'':>26}{'ms':>7}{'ms':>7}{'ms':>7}{'ms':>6}{'MiB':>8}{'MiB':>7}")
    best = found.best(RIVALS, callers)
    stars = {found.best([name], callers) for name in RIVALS}
    for key, rounds in found.windows.items():
        name, setting, of = key
        if of != callers:
            continue
        windows = list(rounds.values())
        rates = [one.rate for one in windows]
        line = f"{'*' if key in stars else ' '} {name}, {setting}".ljust(46)
        line += f"{median(rates):>11.1f}{_spread(rates):>15}"
        line += "".join(f"{_median(rounds, of):>7.0f}" for of in ("p50", "p95", "p99"))
        line += f"{_median(rounds, 'cpu'):>6.0f}{_median(rounds, 'worker'):>8.0f}{_median(rounds, 'whole'):>7.0f}"
        line += f"{_ratio(rounds, found.windows[best], _rate, _rate):>14.2f}x" if best else f"{'':>15}"
        engine = next((engine for engine in FAST if name == f"{OURS}, {engine}"), "eager")
        how = found.best_limit(engine, ALONE)
        line += f"{100 * _ratio(rounds, found.limits[how], _rate, lambda one: one['rate']):>8.0f} %" if how else ""
        print(f"{line}  {_judgement(windows, found.servers[name].tolerance)}")
    callers_cpu = median(
        one.caller_cpu for key, of in found.windows.items() if key[2] == callers for one in of.values()
    )
    print(f"  the callers themselves: {callers_cpu:.1f} CPU ms a request")


def _judgement(windows: list[Window], tolerance: float) -> str:
    """Whether all requests were answered with 200 and right: probabilities within a bound and, of ours, same calls."""
    worst, asked = max(one.wrong for one in windows), sum(one.answered for one in windows)
    return _fault(windows, tolerance) or f"{asked} right (within {worst:.0e})"


def _fault(windows: list[Window], tolerance: float) -> str:
    """What was not as it must be; nothing where all was."""
    worst, refused = max(one.wrong for one in windows), sum(len(one.refused) for one in windows)
    asked = sum(one.answered for one in windows) + refused
    if not asked:
        return "NO ANSWER in the window"
    changed = sum(one.changed for one in windows)
    if refused or changed or worst > tolerance:
        return f"WRONG, {refused} of {asked} refused, {changed} with another call (within {worst:.0e})"
    return ""


def _rate(window: Window) -> float:
    return window.rate


def _median(rounds: dict[int, Window], of: str) -> float:
    return median(getattr(one, of) for one in rounds.values())


def _ratio(ours: Rounds, theirs: Rounds, take: Callable[[Any], float], other: Callable[[Any], float]) -> float:
    """The median over the rounds that both ran in."""
    common = [take(ours[number]) / other(theirs[number]) for number in ours if number in theirs]
    return median(common) if common else math.nan


def _named(key: Key) -> str:
    return f"best rival ({key[0]} {key[1]}), {_callers(key[2])}"


def _callers(count: int) -> str:
    return f"{count} caller{'s' * (count > 1)}"


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def _spread(values: list[float]) -> str:
    low, high = _quartiles(values)
    return f"{low:.1f} to {high:.1f}"


def _row(name: str, metric: str, values: list[float], unit: str) -> dict[str, Any]:
    low, high = _quartiles(values)
    return {"name": name, "metric": metric, "value": median(values), "unit": unit, "low": low, "high": high}

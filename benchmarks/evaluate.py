"""How long the numbers of an evaluation take, and whether others come to the same: scikit-learn, torchmetrics, loops.

    python benchmarks/evaluate.py [--quick] [--json FILE]

Curves: AUROC and average precision of 14 findings with 95 % intervals from 1,000 resamples of patients, on as many rows
as NIH's official test list has, and on 100,000. A loop sorts every resample anew; so many take minutes to hours, so a
few are run, what they give is held to ours, and the time of 1,000 is extrapolated, which the table says. Then
everything that an evaluation of so many rows writes down but for boxes.

Boxes: matching, mAP at IoU .4 and FROC of 10,000 films, once and with 1,000 resamples.

Ours and the rivals take turns in one process. Times are medians over the rounds, by the clock and of CPU (all threads).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from parts import evaluate_rivals as rivals

from cxr_mtl.metrics.detect import Localization, localization
from cxr_mtl.metrics.intervals import Ranked, Resamples, estimate, patient_resamples, resampled_ranking

GOAL, CLOSE = 50, 1e-9
OURS = "cxr_mtl"
Times = dict[str, list[tuple[float, float]]]


class Report:
    """Rows and ratios, printed as they come."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ratios: dict[str, float] = {}

    def table(self, what: str, times: Times, notes: dict[str, str], goal: int | None = None) -> None:
        """One line a rival: seconds by the clock and of CPU, and how many times ours."""
        print(f"\n{what}\n{'':<46}{'clock s':>10}{'CPU s':>10}{'to ours, clock':>16}{'CPU':>8}")
        for name, seconds in times.items():
            line = f"  {name + notes.get(name, ''):<44}"
            for i, kind in enumerate(("clock", "CPU")):
                own = [s[i] for s in seconds]
                self.rows.append(
                    {"name": f"{name}{notes.get(name, '')}", "metric": f"{what}, {kind}", "value": median(own)}
                    | {"unit": "s", "low": min(own), "high": max(own)}
                )
                line += f"{median(own):>10.2f}"
            if name != OURS:
                for i, kind in enumerate(("clock", "CPU")):
                    ratio = median(s[i] for s in seconds) / median(s[i] for s in times[OURS])
                    self.ratios[f"{what}: {name} / {OURS}, {kind}"] = ratio
                    line += f"{ratio:>{16 if i == 0 else 8}.0f}"
                line += f"   goal {goal}" if goal else ""
            print(line)

    def differ(self, what: str, name: str, most: float, limit: float | None = None) -> None:
        """Say how far apart two ways to one number are; stop where they are not the same number."""
        self.rows.append({"name": name, "metric": f"{what}, largest difference", "value": most, "unit": ""})
        self.rows[-1] |= {"low": most, "high": most}
        print(f"  largest difference to {name}: {most:.1e}")
        if limit is not None and not most <= limit:
            sys.exit(f"evaluate: {what}: {name} differs by {most}, more than {limit}.")


def main() -> None:
    arguments = parse()
    report = Report()
    sizes = [(2000, 300)] if arguments.quick else [(25596, 2797), (100000, 27475)]
    resamples, rounds, few = (40, 2, 2) if arguments.quick else (1000, 3, 3)
    for rows, patients in sizes:
        curves(report, rivals.draw_curves(rows, patients), resamples, rounds, few)
    films, proposals = (300, 2) if arguments.quick else (10000, 3)
    boxes(report, rivals.draw_boxes(films, max(films // 3, 2), proposals), resamples, 1 if arguments.quick else 2, few)
    if arguments.json:
        names = ("cxr-mtl", "numpy", "scipy", "scikit-learn", "torch", "torchmetrics", "pycocotools")
        text = {
            "benchmark": "evaluate",
            "machine": machine(),
            "versions": {name: version(name) for name in names},
            "rows": report.rows,
            "ratios": report.ratios,
        }
        arguments.json.write_text(json.dumps(text, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows and resamples: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def curves(report: Report, drawn: rivals.Curves, resamples: int, rounds: int, few: int) -> None:
    """Ours whole, of the loops a few resamples a round; then the whole evaluation once."""
    what = f"AUROC and AUPRC of 14 findings, {len(drawn.presence):,} rows, {resamples:,} resamples"
    loops = {"scikit-learn loop": rivals.by_scikit_learn, "torchmetrics loop": rivals.by_torchmetrics}
    times: Times = {name: [] for name in (OURS, *loops)}
    gaps: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(rounds):
        (draws, found), seconds = timed(lambda: ours(drawn, resamples))
        times[OURS].append(seconds)
        for name, rival in loops.items():
            own = range(turn * few, (turn + 1) * few)  # the first is the sample itself
            answers, seconds = timed(partial(of_resamples, partial(rival, drawn), draws, own))
            times[name].append((seconds[0] * resamples / few, seconds[1] * resamples / few))
            for r, answer in zip(own, answers, strict=True):
                gaps[name].append(float(np.abs(answer - [found.auroc[r], found.auprc[r]]).max()))
    note = f", {rounds * few} run"
    report.table(what, times, dict.fromkeys(loops, note), GOAL)
    report.differ(what, "scikit-learn", max(gaps["scikit-learn loop"]), CLOSE)
    report.differ(what, "torchmetrics (single precision)", max(gaps["torchmetrics loop"]), 1e-3)
    _, seconds = timed(lambda: rivals.whole_evaluation(drawn, draws))
    everything = f"findings, tree, studies and subgroups, {len(drawn.presence):,} rows, {resamples:,} resamples"
    report.table(everything, {OURS: [seconds]}, {})


def ours(drawn: rivals.Curves, resamples: int) -> tuple[Any, Ranked]:
    """Draw, rank and take every interval."""
    draws = patient_resamples(drawn.patient, resamples, 0)
    found = resampled_ranking(drawn.presence, drawn.probability, draws)
    for column in (*found.auroc.T, *found.auprc.T):
        estimate(column)
    return draws, found


def boxes(report: Report, drawn: rivals.Drawn, resamples: int, rounds: int, few: int) -> None:
    films = len(drawn.asked)
    size = f"{films:,} films, {len(drawn.annotated):,} annotated and {len(drawn.proposed):,} proposed boxes"
    loop, coco = "loop over films", "torchmetrics, mAP alone"
    once: Times = {name: [] for name in (OURS, loop, coco)}
    many: Times = {name: [] for name in (OURS, loop)}
    every, note = np.arange(films), f", {rounds * few} run"
    gap = coco_gap = 0.0
    for turn in range(rounds):
        found, seconds = timed(lambda: judged(drawn, 0))
        once[OURS].append(seconds)
        matched, first = timed(partial(rivals.match_by_loop, drawn))
        answer, second = timed(partial(rivals.rank_by_loop, matched, every))
        once[loop].append((first[0] + second[0], first[1] + second[1]))
        gap = max(gap, float(np.abs(answer - table_of(found, 0)).max()))
        theirs, seconds = timed(lambda: rivals.map_by_torchmetrics(drawn))
        once[coco].append(seconds)
        coco_gap = max(coco_gap, float(np.abs(theirs - found.precision[0]).max()))
        found, seconds = timed(lambda: judged(drawn, resamples))
        many[OURS].append(seconds)
        draws = patient_resamples(drawn.patient, resamples, 0)
        own = range(1 + turn * few, 1 + (turn + 1) * few)
        answers, seconds = timed(partial(of_resamples, partial(rivals.rank_by_loop, matched), draws, own))
        many[loop].append((first[0] + seconds[0] * resamples / few, first[1] + seconds[1] * resamples / few))
        gap = max(gap, *(float(np.abs(a - table_of(found, r)).max()) for r, a in zip(own, answers, strict=True)))
    what = f"boxes matched, mAP@.4 and FROC (ours also T(IoU), T(IoBB), pointing), {size}"
    report.table(f"{what}, once", once, {})
    report.table(f"{what}, {resamples:,} resamples", many, {loop: f" (matched once){note}"})
    report.differ(what, "the loop", gap, CLOSE)
    report.differ(what, "torchmetrics (COCO takes the precision at 101 recalls)", coco_gap, 0.02)


def of_resamples(rival: Callable[[NDArray[np.intp]], Any], draws: Resamples, which: Iterable[int]) -> list[Any]:
    """What a rival that takes films makes of some resamples."""
    return [rival(rivals.films_of(draws, r)) for r in which]


def judged(drawn: rivals.Drawn, resamples: int) -> Localization:
    draws = patient_resamples(drawn.patient, resamples, 0)
    return localization(drawn.annotated, drawn.proposed, drawn.asked, draws)


def table_of(found: Localization, r: int) -> NDArray[np.float64]:
    """(D, 1 + rates) as a loop gives it."""
    return np.concatenate([found.precision[r][:, None], found.froc[r]], axis=1)


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What it gives, and its seconds by the clock and of CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - clock, time.process_time() - cpu)


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        **{name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")},
    }


if __name__ == "__main__":
    main()

"""What a server does when things break under load: answers, refusals, losses and the time until it answers again.

    python benchmarks/faults.py [--quick] [--json FILE] [--minutes M] [--only FAULT ...] [--bundle DIR --films DIR]

Some callers ask a TorchServe of ours all the time: `cxr-mtl serve --foreground` in a process of its own. Each answer is
compared with the one that the bundle gave in this process before; nobody retries. Meanwhile, in turn: its worker is
killed, has no memory left; callers flood the queue; large films come all at once; slow and vanishing clients connect;
damaged archives are rolled over to, then a good one; the disk of the logs is full; and at the end, with more callers,
the process gets a SIGTERM. Without --bundle, a tiny network of random weights answers.

`recovery` is the time from the moment the fault took effect (the worker's end, the end of the flood) to the first right
answer to a request sent after it; where there is no such moment, from the first request that was not answered rightly.
None was needed where all were. With several workers that may be another one's; `all workers` is the time from the end
of one until every worker was ready again. `longest gap` is the longest time between two right answers meanwhile,
whoever asked.

After the SIGTERM, a request is `lost` where it was sent before and got no status; one sent later may be refused with a
status or find the door shut (no connection, or one that is closed before its answer): both are told apart in the notes.

Ends with 1 if an answer was wrong, if a connection broke without a status, if the server or a worker did not come back,
if a request under way at the SIGTERM was not answered or the exit code is not 0, and if a fault did not come about: a
worker that went on, no 507 of one without memory, no 503 in a flood, no answers of both versions round a roll-over.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parts.fault_kinds import FULL_DISK, KINDS, Ground
from parts.fault_load import (
    Film,
    Load,
    draw_films,
    draw_huge,
    draw_large,
    longest_gap,
    next_version,
    right_answers,
)
from parts.fault_report import Row, as_json, report
from parts.tiny_bundle import make_tiny_bundle

from cxr_mtl.bundle import load_description
from cxr_mtl.errors import ServeError
from cxr_mtl.package.mar import build_archive
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.state import ServerInfo, load_state

NO_FAULT, SIGTERM = "no fault", "SIGTERM under load"
MANY = 10_000
MORE_CALLERS = 20  # at the SIGTERM, so that some requests wait while others are answered


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="cxr-mtl-faults-") as scratch, small_disk(Path(scratch) / "disk") as disk:
        rows, memory, notes, bad = run(arguments, Path(scratch), disk)
    bad = report(rows, memory, notes) + bad
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(rows, memory, notes), indent=1) + "\n", encoding="utf-8")
    if bad:
        sys.exit(f"faults: {'; '.join(bad)}.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each fault once: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--minutes", type=float, default=4.0, help="how long faults are done, each at least once")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="these, and the SIGTERM")
    parser.add_argument("--bundle", type=Path, help="of the model that answers")
    parser.add_argument("--films", type=Path, help="folder of films to ask with, where the bundle refuses drawn ones")
    parser.add_argument("--callers", type=int, default=4, help="who ask at once, all the time")
    return parser.parse_args()


def run(
    arguments: argparse.Namespace, scratch: Path, disk: Path | None
) -> tuple[dict[str, Row], list[tuple[float, float]], dict[str, str], list[str]]:
    """Counts by kind of fault; MiB of front end and workers before and after; notes; faults that did not come about."""
    first = arguments.bundle or make_tiny_bundle(scratch / "first")
    second = next_version(first, scratch / "second")
    films = draw_films(6, 400)
    if arguments.films:
        films = [file.read_bytes() for file in sorted(arguments.films.iterdir()) if file.is_file()][:12]
    bundles = {load_description(bundle).version: bundle for bundle in (first, second)}
    right = {version: right_answers(bundle, films) for version, bundle in bundles.items()}
    huge, *large = with_answers([draw_huge(), *map(draw_large, (20, 30, 40))], bundles)
    archives = [build_archive(bundle, scratch / f"archive {i}") for i, bundle in enumerate((first, second))]
    store = scratch / "store"
    archives[0] = build_archive(first, store)
    # Beside the store where the logs' disk is to run full, so that nothing else of the server's lies on it.
    state_dir = (disk or scratch) / "state"
    rows: dict[str, Row] = {}
    with serving(store, state_dir) as (server, info):
        url = f"{info.url}/predictions/{info.models[0]}"

        def callers(number: int) -> Load:
            return Load(url, info.key_file, films, right, number)

        with callers(arguments.callers) as load:
            ground = Ground(info, state_dir, store, scratch, load, callers, huge, large, archives, disk)
            memory = [steady(ground, rows, 2.0 if arguments.quick else 10.0)]
            do_faults(ground, rows, arguments.only, 0.0 if arguments.quick else 60 * arguments.minutes)
            while not arguments.quick and len(load.answers()) < MANY:
                steady(ground, rows, 5.0)
            memory.append(steady(ground, rows, 2.0))
            do_sigterm(ground, rows, server)
    return rows, memory, ground.notes, ground.bad


def with_answers(films: list[bytes], bundles: dict[str, Path]) -> list[Film]:
    """One at a time: together they would take gigabytes."""
    answers = {version: [right_answers(bundle, [film])[0] for film in films] for version, bundle in bundles.items()}
    return [Film(film, {version: right[i] for version, right in answers.items()}) for i, film in enumerate(films)]


@contextmanager
def serving(store: Path, state_dir: Path) -> Iterator[tuple[subprocess.Popen[str], ServerInfo]]:
    """As a container or a service manager runs it; nothing of it is left at the end."""
    command = [sys.executable, "-m", "cxr_mtl", "serve", "--foreground", "--control", "--port", "0"]
    command += ["--model-store", str(store), "--state-dir", str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()  # It says where it serves once it can answer.
            state = load_state(state_dir)
            if state is None:
                raise ServeError("`cxr-mtl serve --foreground` did not start.")
            yield server, state.info
        finally:
            torchserve.stop(state_dir)  # Which ends the process in the foreground too.


def do_faults(ground: Ground, rows: dict[str, Row], names: list[str], seconds: float) -> None:
    """Each in turn until the time is up; a turn that was begun is ended."""
    end = time.monotonic() + seconds
    if ground.disk is None and FULL_DISK in names:
        names = [name for name in names if name != FULL_DISK]
        ground.notes[FULL_DISK] = "not done: no small disk could be mounted"
    while True:
        for name in names:
            steady(ground, rows, 1.0)
            row = rows.setdefault(name, Row())
            try:
                do_fault(ground, row, name)
            except ServeError as error:
                ground.bad.append(f"{name}: not done: {error.message}")
        if time.monotonic() >= end:
            return


def do_fault(ground: Ground, row: Row, name: str) -> None:
    started = time.monotonic()
    effect = KINDS[name](ground)
    answers_again = ground.load.recovery(time.monotonic())
    if effect and effect.lost:
        row.whole.append(ground.whole_again(effect.lost, effect.at))
    time.sleep(0.5)
    until = time.monotonic()
    answers = ground.load.answers(started, until)
    since = effect.at if effect else min((answer.ended for answer in answers if not answer.good), default=None)
    if since is not None or answers_again == math.inf:
        row.recoveries.append(answers_again if since is None else ground.load.recovery(since))
    row.times += 1
    row.answers += answers
    row.gaps.append(longest_gap(ground.load.answers(), started, until))


def steady(ground: Ground, rows: dict[str, Row], seconds: float) -> tuple[float, float]:
    """Nothing happens; gives the memory at its end."""
    started = time.monotonic()
    time.sleep(seconds)
    until, row = time.monotonic(), rows.setdefault(NO_FAULT, Row())
    row.times += 1
    row.answers += ground.load.answers(started, until)
    row.gaps.append(longest_gap(ground.load.answers(), started, until))
    return ground.memory()


def do_sigterm(ground: Ground, rows: dict[str, Row], server: subprocess.Popen[str]) -> None:
    """To the process in the foreground, as a container's stop does. Who asks once the door is shut is refused."""
    with ground.flood(MORE_CALLERS) as crowd:
        time.sleep(1.0)
        told = time.monotonic()
        server.send_signal(signal.SIGTERM)
        code = server.wait(120)
        took = time.monotonic() - told
    ground.load.end()
    answers = [*ground.load.answers(told), *crowd.answers(told)]
    under_way = [answer for answer in answers if answer.sent < told]
    later = [answer for answer in answers if answer.sent >= told]
    with_status = [answer for answer in later if answer.status is not None]
    no_door = sum(answer.said == "ConnectError" for answer in later)
    figures = {
        "under way": (len(under_way), "requests"),
        "under way, answered": (sum(answer.good for answer in under_way), "requests"),
        "later, answered": (sum(answer.good for answer in later), "requests"),
        "later, refused with a status": (sum(not answer.good for answer in with_status), "requests"),
        "later, connection refused": (no_door, "requests"),
        "later, connection closed before an answer": (len(later) - len(with_status) - no_door, "requests"),
        "until the process was gone": (round(took, 2), "s"),
        "exit code": (code, ""),
    }
    rows[SIGTERM] = Row(1, under_way + with_status, figures=figures)
    said = server.stdout.read().splitlines()[-1] if server.stdout else ""
    ground.notes[SIGTERM] = (
        f"{', '.join(f'{what}: {value:g} {unit}'.strip() for what, (value, unit) in figures.items())}"
    )
    ground.notes[SIGTERM] += f"; it said: {said.rsplit(':', 1)[-1].strip(' .')}"


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

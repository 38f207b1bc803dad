"""The faults: each is done to a server that is being asked all the time, and gives the moment when it took effect.

None where it has no such moment: then the recovery counts from the first request that was not answered rightly.
"""

from __future__ import annotations

import math
import shutil
import socket
import struct
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import psutil
from parts.fault_load import Answer, Film, Load

from cxr_mtl.errors import ServeError
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.rollover import roll_over
from cxr_mtl.serve.torchserve import ServerInfo

FLOOD, SLOW, LARGE = 150, 40, 12
FROZEN_FOR, SLOW_FOR, FULL_FOR = 3.0, 6.0, 5.0
TRIES, BLOCK = 10, 4096
FULL_DISK = "full disk for logs"


@dataclass(frozen=True)
class Effect:
    """When a fault took effect, by the clock, and the worker that ended of it."""

    at: float
    lost: psutil.Process | None = None


@dataclass
class Ground:
    """What the faults are done to.

    Attributes:
        huge: a PNG of 36 million pixels.
        large: DICOM films of 20, 30 and 40 MB.
        archives: two versions of the model, in turn rolled over to.
        disk: the small disk that holds the logs; None where none could be mounted.
        notes: what a fault found beside the counts, said under the table.
        bad: what of a fault did not come about, so that its counts say nothing.
    """

    info: ServerInfo
    state_dir: Path
    store: Path
    scratch: Path
    load: Load
    flood: Callable[[int], Load]
    huge: Film
    large: Sequence[Film]
    archives: list[Path]
    disk: Path | None
    notes: dict[str, str] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)

    def worker(self) -> psutil.Process:
        """One of the workers, waited for until all are ready."""
        for _ in range(600):
            current = torchserve.status(self.state_dir)
            if current is not None and current.ready:
                return psutil.Process(current.models[0].pids[0])
            time.sleep(0.1)
        raise ServeError("The server has no worker any more.")

    def whole_again(self, lost: psutil.Process, since: float, patience: float = 90.0) -> float:
        """Waits until every worker is ready and the lost one replaced; seconds from ``since``."""
        while time.monotonic() < since + patience:
            current = torchserve.status(self.state_dir)
            if current is not None and current.ready:
                pids = [pid for model in current.models for pid in model.pids]
                there = len(pids) == sum(model.wanted for model in current.models)
                if there and lost.pid not in pids and all(map(psutil.pid_exists, pids)):
                    return time.monotonic() - since
            time.sleep(0.1)
        return math.inf

    def memory(self) -> tuple[float, float]:
        """MiB of the front end and of its workers."""
        front = psutil.Process(self.info.pid)
        workers = sum(child.memory_info().rss for child in front.children(recursive=True))
        return front.memory_info().rss / 2**20, workers / 2**20


def kill_worker(ground: Ground) -> Effect:
    """SIGKILL while it works."""
    worker, busy = ground.worker(), -1.0
    while worker.cpu_times().user == busy or busy < 0:
        busy = worker.cpu_times().user
        time.sleep(0.01)
    worker.kill()
    return Effect(time.monotonic(), worker)


def no_memory(ground: Ground) -> Effect | None:
    """The worker may take no more memory, and a film of 36 million pixels comes until it has it; then twice more."""
    worker = ground.worker()
    before = worker.rlimit(psutil.RLIMIT_AS)
    worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + (24 << 20), before[1]))
    answers, ended = list[Answer](), None
    while ended is None and len(answers) < TRIES:  # Another worker may take it, and answer it.
        answers.append(ground.load.once(ground.huge))
        gone, _ = psutil.wait_procs([worker], timeout=5 if not answers[-1].good else 0)
        ended = time.monotonic() if gone else None
    answers += [ground.load.once(ground.huge) for _ in range(2)]
    with suppress(psutil.NoSuchProcess):
        worker.rlimit(psutil.RLIMIT_AS, before)
    statuses = ", ".join(f"{answer.status} {answer.said}".strip() for answer in answers)
    ground.notes["worker out of memory"] = f"the large film was answered {statuses}"
    return None if ended is None else Effect(ended, worker)


def flood(ground: Ground) -> Effect:
    """Many more callers than the queue has places, while the worker stands still; its effect ends as it goes on."""
    worker = ground.worker()
    worker.suspend()
    try:
        with ground.flood(FLOOD) as crowd:
            time.sleep(FROZEN_FOR)
            worker.resume()
            resumed = time.monotonic()
            time.sleep(1.0)
    finally:
        with suppress(psutil.NoSuchProcess):
            worker.resume()
    ground.load.add(crowd.answers())
    refused = [answer.ended - answer.sent for answer in crowd.answers() if answer.status == 503]
    slowest = f"slowest after {max(refused):.1f} s" if refused else "none"
    ground.notes["flood past the queue"] = f"{FLOOD} callers more; {len(refused)} refusals with 503, {slowest}"
    return Effect(resumed)


def large_films(ground: Ground) -> None:
    """Callers send DICOM films of 20, 30 and 40 MB, all at once."""
    films = [ground.large[i % len(ground.large)] for i in range(LARGE)]
    before, most, done = ground.memory(), [0.0, 0.0], threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            most[:] = map(max, most, ground.memory())

    with ThreadPoolExecutor(LARGE + 1) as pool:
        looking = pool.submit(look)
        try:
            answers = list(pool.map(ground.load.once, films))
        finally:
            done.set()
        looking.result()
    statuses = ", ".join(f"{n} x {status}" for status, n in Counter(answer.status for answer in answers).items())
    megabytes = sum(len(film.content) for film in films) / 1e6
    ground.notes["many large films at once"] = (
        f"{megabytes:.0f} MB in {LARGE} films were answered {statuses}, the last "
        f"after {max(answer.ended - answer.sent for answer in answers):.1f} s; the front end went from "
        f"{before[0]:.0f} to {most[0]:.0f} MiB, the worker from {before[1]:.0f} to {most[1]:.0f}"
    )


def slow_clients(ground: Ground) -> None:
    """Clients that send byte by byte, never send, close half, and go before the answer."""
    host, port = ground.info.url.removeprefix("http://").split(":")
    body = ground.load.films[0]
    lines = [
        f"PUT {ground.load.path} HTTP/1.1",
        f"Host: {host}",
        *(f"{k}: {v}" for k, v in ground.load.headers.items()),
    ]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
    opened = [socket.create_connection((host, int(port)), timeout=10) for _ in range(4 * SLOW)]
    trickling, half, gone = opened[:SLOW], opened[SLOW : 2 * SLOW], opened[2 * SLOW : 3 * SLOW]
    started = time.monotonic()
    for each in half:
        each.sendall(head + body)
        each.shutdown(socket.SHUT_WR)
    for each in gone:  # With a reset, as when a machine is switched off.
        each.sendall(head + body)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.close()
    sent = 0
    while time.monotonic() < started + SLOW_FOR:
        for each in trickling:
            each.sendall((head + body)[sent : sent + 1])
        sent += 1
        time.sleep(0.1)
    with ThreadPoolExecutor(SLOW) as pool:
        answered = sum(pool.map(_is_answered, half))
    still = sum(not _is_closed(each) for each in [*trickling, *opened[3 * SLOW :]])
    for each in opened:
        each.close()
    what = f"{answered} of {SLOW} that closed half were answered; {still} of {2 * SLOW} that never sent all still held"
    ground.notes["slow and vanishing clients"] = what
    if not still:
        ground.bad.append("slow and vanishing clients: none was held")


def corrupt_archive(ground: Ground) -> None:
    """Three archives that cannot be served: no zip, changed bytes, a handler that is no Python."""
    good, folder = ground.archives[1], ground.scratch / "corrupt"
    folder.mkdir(exist_ok=True)
    (folder / "no_zip.mar").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    for name, spoiled in (("changed.mar", "bundle.yaml"), ("no_python.mar", "cxr_handler.py")):
        with zipfile.ZipFile(good) as before, zipfile.ZipFile(folder / name, "w") as after:
            for entry in before.namelist():
                content = before.read(entry).replace(b'"modelVersion": "', b'"modelVersion": "9.')
                after.writestr(entry, content + (b"\n)" if entry == spoiled else b""))
    said = []
    for file in sorted(folder.iterdir()):
        try:
            roll_over(ground.state_dir, ground.store, file, wait=100, drain=10)
            ground.bad.append(f"corrupt archive at roll-over: {file.name} was taken")
        except ServeError as error:
            said.append(error.message)
    ground.notes["corrupt archive at roll-over"] = "; ".join(said).replace(f"{ground.scratch}/", "")


def change_version(ground: Ground) -> None:
    """The other version takes over."""
    first, second = ground.archives
    (rolled,) = roll_over(ground.state_dir, ground.store, second, wait=100, drain=30)
    inside = ground.store / f"{rolled.name}-{rolled.new}.mar"  # Where one from elsewhere was copied to.
    ground.archives = [inside if inside.exists() else second, first]
    kept = ground.notes.get("roll-over to the other version", "")
    ground.notes["roll-over to the other version"] = kept or f"the old one was let go: {rolled.old_is_gone}"


def full_disk(ground: Ground) -> None:
    """Not a byte is left where the logs are."""
    assert ground.disk is not None
    filler = ground.disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(BLOCK))
        time.sleep(FULL_FOR)
        left = shutil.disk_usage(ground.disk).free
    finally:
        filler.unlink(missing_ok=True)
    ground.notes[FULL_DISK] = f"{left} bytes were left for {FULL_FOR:g} s"
    if left >= BLOCK:
        ground.bad.append(f"{FULL_DISK}: {left} bytes were left")


KINDS: Mapping[str, Callable[[Ground], Effect | None]] = MappingProxyType(
    {
        "worker killed mid-request": kill_worker,
        "worker out of memory": no_memory,
        "flood past the queue": flood,
        "many large films at once": large_films,
        "slow and vanishing clients": slow_clients,
        "corrupt archive at roll-over": corrupt_archive,
        "roll-over to the other version": change_version,
        FULL_DISK: full_disk,
    }
)


def _is_answered(connection: socket.socket) -> bool:
    connection.settimeout(20)
    try:
        return connection.recv(12).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True

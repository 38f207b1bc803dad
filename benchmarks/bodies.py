"""Do as many bodies of full size as the proxy lets through fit into TorchServe's heap, again and again?

    python benchmarks/bodies.py [--callers N] [--workers N] [--memory 12g] [--turns N] [--quick] [--json FILE]

Starts TorchServe with a tiny untrained bundle, and with Java told how much memory the machine has. Each turn the
callers send bodies of 95 MiB (no films, so 415 is their answer) while the workers stand still for some seconds; then a
small film is sent. Exit code 1 when one of them had another status, or none within 45 s: that is how a jam looks.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from parts.tiny_bundle import make_tiny_bundle
from PIL import Image

from cxr_mtl.package.mar import build_archive
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.state import ServerInfo

BODY = 95 * 2**20  # just under what a request may be
STILL = 6.0  # seconds in which all of them arrive


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1, help="serve picks 2 where 12 GiB are all there is")
    parser.add_argument("--memory", default="12g", help="that Java is told of")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one turn of two callers")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    callers, turns = (2, 1) if args.quick else (args.callers, args.turns)
    os.environ["JAVA_TOOL_OPTIONS"] = f"-XX:MaxRAM={args.memory}"
    with tempfile.TemporaryDirectory(prefix="cxr-mtl-bodies-") as folder:
        store = Path(folder, "store")
        build_archive(make_tiny_bundle(Path(folder, "tiny")), store)
        info = torchserve.start(store, port=0, wait=200, workers=args.workers)
        try:
            statuses, rows = crowd(info, callers, turns)
        finally:
            torchserve.stop(torchserve.state_dir_of(store))
    for row in rows:
        print(f"{row['name']:<12}{row['metric']:<10}{row['value']:>8.1f} {row['unit']}")
    print("  ".join(f"{status}: {count}" for status, count in sorted(Counter(statuses).items())))
    if args.json:
        there = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        machine = f"{there}, {args.workers} workers; Java told of {args.memory}"
        versions = {name: version(name) for name in ("torchserve", "torch")}
        found = {"benchmark": "bodies", "machine": machine, "versions": versions, "rows": rows, "ratios": {}}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(statuses != ["200"] * turns + ["415"] * turns * callers)


def crowd(info: ServerInfo, callers: int, turns: int) -> tuple[list[str], list[dict[str, Any]]]:
    """All statuses in order, and rows: the slowest answer of either kind and the most memory of either process."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 210), np.uint8)).save(buffer, "PNG")
    film, body, url = buffer.getvalue(), bytes(BODY), f"{info.url}/predictions/cxr_mtl"
    key = {"Authorization": f"Bearer {read_key(info.key_file)}"}
    said: list[tuple[str, str, float]] = []
    with httpx.Client(headers=key, timeout=45, trust_env=False) as client, memory(info) as peak:

        def ask(kind: str, content: bytes) -> None:
            begun = time.monotonic()
            try:
                status = str(client.put(url, content=content).status_code)
            except httpx.HTTPError as error:
                status = type(error).__name__
            said.append((kind, status, time.monotonic() - begun))

        for _ in range(turns):
            workers = psutil.Process(info.pid).children()
            for worker in workers:
                worker.suspend()
            with ThreadPoolExecutor(callers) as pool:
                for _ in range(callers):
                    pool.submit(ask, "body", body)
                time.sleep(STILL)
                for worker in workers:
                    worker.resume()
            ask("small film", film)
    slowest = {kind: max(took for k, _, took in said if k == kind) for kind, _, _ in said}
    rows = [row(kind, "slowest", took, "s") for kind, took in slowest.items()]
    rows += [row(kind, "peak", most, "MiB") for kind, most in peak.items()]
    return sorted(status for _, status, _ in said), rows


def row(name: str, metric: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "metric": metric, "value": value, "unit": unit, "low": value, "high": value}


@contextmanager
def memory(info: ServerInfo) -> Iterator[dict[str, float]]:
    """The most that front end and workers had, in MiB; looks ten times a second."""
    peak, done = {"front end": 0.0, "workers": 0.0}, threading.Event()
    front_end = psutil.Process(info.pid)

    def look() -> None:
        while not done.wait(0.1):
            try:
                now = [front_end.memory_info().rss, sum(w.memory_info().rss for w in front_end.children())]
            except psutil.NoSuchProcess:  # a worker ended this moment
                continue
            for name, value in zip(peak, now, strict=True):
                peak[name] = max(peak[name], value / 2**20)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()

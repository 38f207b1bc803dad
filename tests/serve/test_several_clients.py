"""Several ``cxr-mtl predict --out --url`` at once behind the proxy: a real nginx, and a server that takes its time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_secure_container import CLIENT, start_proxy, until

from cxr_mtl.predict.command import predict_many
from cxr_mtl.predict.remote import RemotePredictor
from cxr_mtl.serve.settings import free_ports
from cxr_mtl.types import FindingCall, Prediction

pytestmark = pytest.mark.slow

FILMS, SIZES = 120, (40_000, 60_000)
BODY = json.dumps(
    Prediction({"name": "m"}, {"width": 1, "height": 1, "format": "png", "sha256": "f"}, "balanced",
               (FindingCall("Edema", "negative", 0.25, 0.5),), (), ()).to_dict()
).encode()  # fmt: skip


class Slow(BaseHTTPRequestHandler):
    """Two films at once, a tenth of a second each."""

    protocol_version = "HTTP/1.1"
    workers = threading.Semaphore(2)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.workers:
            time.sleep(0.1)
        self._say(BODY)

    def do_GET(self) -> None:
        self._say(b'{"status": "Healthy"}')

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Where to ask, and how."""
    (tmp_path / "state").mkdir()
    (tmp_path / "proxy").mkdir()
    (tmp_path / "client.key").write_text(CLIENT)
    (tmp_path / "state/key_file.json").write_text(json.dumps({"inference": {"key": "abcdefgh"}}, indent=2))
    (shown,) = free_ports(1)
    with Listener(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        nginx = start_proxy(tmp_path / "proxy", tmp_path / "state", server.server_port, shown)
        where = {"url": f"https://127.0.0.1:{shown}", "ca": tmp_path / "proxy/ca.pem"}
        try:
            with RemotePredictor(**where) as remote:
                until("nginx answers", lambda: nginx.poll() is not None or remote.healthy())
            yield where | {"key_file": tmp_path / "client.key"}
        finally:
            nginx.terminate()
            nginx.wait(30)
            server.shutdown()


def test_two_that_turn_each_other_away_lose_no_film(proxy: dict[str, Any], tmp_path: Path) -> None:
    """They have one key, and each alone could keep the server busy; in the log of nginx their films differ in size.

    That their shares become equal is held by ``tests/predict/test_places.py``, whose clock is its own.
    """

    def run(size: int) -> int:
        folder = tmp_path / str(size)
        folder.mkdir()
        for number in range(FILMS):
            (folder / f"{number:03}").write_bytes(b"x" * size)
        return predict_many("cxr_mtl", [folder], folder.with_suffix(".parquet"), tell=str, **proxy)

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(run, SIZES)) == [0, 0]
    for size in SIZES:
        assert pq.read_table(tmp_path / f"{size}.parquet")["error_code"].to_pylist() == [None] * FILMS
    lines = [line.split() for line in (tmp_path / "proxy/access.log").read_text().splitlines() if "POST" in line]
    answered = [int(line[-2]) > sum(SIZES) / 2 for line in lines if line[-3] == "200"]
    assert sorted(answered) == [False] * FILMS + [True] * FILMS
    assert any(line[-3] in ("429", "503") for line in lines), "else nobody was in the other's way"

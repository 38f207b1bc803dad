"""A pretended server: reads what a client posts, and answers as the real one does."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from cxr_mtl.types import FindingCall, Node, Prediction, ScoredBox

URL = "http://127.0.0.1:9"


def fields_of(request: httpx.Request) -> dict[str, Any]:
    """The one field, as TorchServe hands it over."""
    assert request.headers["content-type"] in ("application/octet-stream", "application/json"), (
        "our proxy takes no form"
    )
    return {"body": request.content}


def prediction(size: int, sha256: str = "0") -> Prediction:
    calls = (FindingCall("Edema", "positive", 0.75, 0.5), FindingCall("Hernia", "not_trained"))
    boxes = (ScoredBox("Edema", 0.5, (1.0, 2.0, 3.0, 4.5)),)
    model = {"name": "m", "version": "1", "sha256": sha256, "ontology": "o"}
    image = {"width": size, "height": 1, "format": "png", "sha256": "f"}
    tree = (Node("Edema", (), 0.75, 0.75), Node("Hernia", (), None, None))
    return Prediction(model, image, "f1", calls, tree, boxes, warnings=("windowed",))


class Broken(BaseHTTPRequestHandler):
    """Answers well over connections that it keeps, but for what its server is told to do first."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(prediction(1).to_dict()).encode()
        todo = server.todo.pop(0) if server.todo else "answer"
        if todo == "hang up":
            self.close_connection = True
            return
        if todo == "sleep":
            time.sleep(1.0)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if todo == "cut" else body)
        self.close_connection = todo in ("cut", "answer and close")

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


class Listener(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Broken)
        self.todo: list[str] = []
        self.connections = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up, too."""

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        super().process_request(request, client_address)


@contextmanager
def listener(wrap: ssl.SSLContext | None = None) -> Iterator[Listener]:
    with Listener() as server:
        if wrap:
            server.socket = wrap.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:  # else a test that fails would keep pytest from ending
            server.shutdown()
            thread.join()

"""BentoML: one film as a bare picture, or a form with one film under ``films`` where its adaptive batching is on."""

from __future__ import annotations

import sys
from typing import Any

import bentoml
from PIL import Image
from serve_peer import HOST, Peer, setting

here = setting()


class Findings:
    def __init__(self) -> None:
        self.peer = Peer(here.bundle, here.threads)

    @bentoml.api(batchable=True, max_batch_size=max(here.batch, 2), route="/batched")
    def batched(self, films: list[Image.Image]) -> list[dict[str, Any]]:
        return self.peer.judge([self.peer.prepare(film) for film in films])

    @bentoml.api(route="/predict")
    def predict(self, film: Image.Image, /) -> dict[str, Any]:
        return self.peer.judge([self.peer.prepare(film)])[0]


Service = bentoml.service(workers=here.workers, traffic={"timeout": 120}, logging={"access": {"enabled": False}})(
    Findings
)

if __name__ == "__main__":
    from bentoml_cli.cli import cli

    sys.argv = ["bentoml", "serve", "serve_bentoml:Service", "--host", HOST, "--port", str(here.port)]
    cli()

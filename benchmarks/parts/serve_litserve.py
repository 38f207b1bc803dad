"""LitServe: a form with the film under ``film``, as its own examples send pictures."""

# No `from __future__ import annotations`: LitServe looks at the annotation of what it hands to decode_request.
from typing import Any

import litserve
from fastapi import Request
from serve_peer import HOST, Peer, setting
from torch import Tensor

WAIT = 0.005  # s that a batch waits for more; without any, LitServe's loop keeps a core busy


class Findings(litserve.LitAPI):
    def setup(self, device: str) -> None:
        told = setting()
        self.peer = Peer(told.bundle, told.threads)

    def decode_request(self, request: Request) -> Tensor:
        # What comes is the form, not the request.
        return self.peer.prepare(request["film"].file.read())

    def predict(self, films: Any) -> Any:
        return self.peer.judge(films) if isinstance(films, list) else self.peer.judge([films])[0]

    def batch(self, films: list[Tensor]) -> list[Tensor]:
        return films

    def unbatch(self, answers: Any) -> Any:
        return answers

    def encode_response(self, answer: Any) -> Any:
        return answer


if __name__ == "__main__":
    here = setting()
    batching = {"max_batch_size": here.batch, "batch_timeout": WAIT} if here.batch > 1 else {}
    server = litserve.LitServer(Findings(**batching), accelerator="cpu", workers_per_device=here.workers)
    server.run(host=HOST, port=here.port, log_level="warning", generate_client_file=False)

"""Ray Serve: replicas on one machine, its own batching where more than one film goes into a forward pass."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from ray import serve
from serve_peer import HOST, Peer, setting
from starlette.requests import Request

CORES = 2
WAIT = 0.005  # s that a batch waits for more


def make(told: Any) -> Any:
    @serve.deployment(
        num_replicas=told.workers, max_ongoing_requests=32, ray_actor_options={"num_cpus": CORES / told.workers}
    )
    class Findings:
        def __init__(self) -> None:
            self.peer = Peer(told.bundle, told.threads)

        @serve.batch(max_batch_size=told.batch, batch_wait_timeout_s=WAIT if told.batch > 1 else 0.0)
        async def judge(self, bodies: list[bytes]) -> list[Any]:
            return self.peer.judge([self.peer.prepare(body) for body in bodies])

        async def __call__(self, request: Request) -> Any:
            return await self.judge(await request.body())

    return Findings.bind()


if __name__ == "__main__":
    here = setting()
    ray.init(
        num_cpus=CORES,
        _node_ip_address=HOST,
        include_dashboard=False,
        object_store_memory=200 << 20,
        log_to_driver=False,
        _temp_dir=sys.argv[1],
    )
    serve.start(http_options={"host": HOST, "port": here.port})
    serve.run(make(here), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()

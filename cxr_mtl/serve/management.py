"""TorchServe's management port: which models it has, and what can be done to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from cxr_mtl.errors import ServeError
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve.state import ServerInfo

_SOON = 3.0
_LOOK = "`cxr-mtl serve --status` says how it is."


class NoControl(ServeError):
    """The server loads nothing but what it started with."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of one model.

    Attributes:
        default: whether it answers those who name no version.
        workers: the state of each worker, such as READY.
        pids: the workers' processes.
        gpus: what TorchServe says of each worker's GPU; empty where it has none.
        wanted: workers that there should be.
        waiting: requests in its queue; those that a worker has taken are not counted.
        room: how many more the queue takes before it refuses with 503.
        batch_delay: seconds a worker waits for a batch to fill.
    """

    name: str
    version: str
    default: bool
    workers: tuple[str, ...]
    pids: tuple[int, ...]
    gpus: tuple[str, ...]
    wanted: int
    waiting: int
    room: int
    batch_delay: float


class Management:
    """The management port of a running server; close it, or use it with ``with``.

    Every method raises ServeError where the server does not answer or refuses.
    """

    def __init__(self, info: ServerInfo) -> None:
        self._info = info
        self._client = httpx.Client(base_url=info.management_url, timeout=10.0, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def models(self) -> tuple[ModelStatus, ...]:
        """All models with all their versions; none while the server is not up yet."""
        if not self._info.key_file.exists():
            return ()
        found = []
        for listed in self._ask("GET", "/models", params={"limit": 1000})["models"]:
            name = listed["modelName"]
            (default,) = self._ask("GET", _path(name))
            versions = self._ask("GET", _path(name, "all"))
            found += [_model_status(version, default["modelVersion"]) for version in versions]
        return tuple(found)

    def engine(self, name: str, version: str) -> dict[str, Any] | None:
        """What computes its answers, by its own words; None where no worker has the time to say so.

        A worker is asked as for a film, so it takes a place in the queue.
        """
        try:
            said = self._ask("GET", _path(name, version), params={"customized": "true"}, timeout=_SOON)
            return dict(said[0]["customizedMetadata"]["engine"])
        except (ServeError, LookupError, TypeError):
            return None

    def register(self, file: Path, workers: int, wait: float) -> None:
        """Loads an archive of the model store and waits until its workers are ready, at most ``wait`` seconds.

        An archive that does not load is forgotten by TorchServe itself.
        """
        wanted: dict[str, Any] = {"url": file.name, "initial_workers": workers, "synchronous": "true"}
        self._ask("POST", "/models", params=wanted, timeout=wait)

    def unregister(self, name: str, version: str) -> None:
        """Lets a version go with its workers at once, whatever they are doing; its archive stays in the store."""
        self._ask("DELETE", _path(name, version), timeout=60.0)

    def set_default(self, name: str, version: str) -> None:
        """Lets a version answer those who name none."""
        self._ask("PUT", _path(name, version, "set-default"))

    def renew_inference_key(self) -> None:
        """From now on the server answers nobody who holds the key that clients were given."""
        self._ask("GET", "/token", key="API", params={"type": "inference"})

    def _ask(self, method: str, path: str, *, key: str = "management", **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {read_key(self._info.key_file, key)}"}
        try:
            response = self._client.request(method, path, headers=headers, **options)
            body = response.json() if response.content.strip() else None
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            what = f"The management port {self._info.management_url} did not answer ({type(error).__name__})."
            raise ServeError(what, hint=_LOOK) from None
        if response.status_code == 405:
            hint = "Start it with `cxr-mtl serve --control`; else a stop and a start load what is in the store."
            raise NoControl("The server was started without control over its models.", hint=hint)
        if response.status_code != 200:
            said = body.get("message", "") if isinstance(body, dict) else ""
            raise ServeError(f"TorchServe refused ({response.status_code}): {said}".rstrip(": "), hint=_LOOK)
        return body


def _path(*parts: str) -> str:
    return "/models/" + "/".join(quote(part, safe="") for part in parts)


def _model_status(described: dict[str, Any], default: str) -> ModelStatus:
    workers, queue = described["workers"], described["jobQueueStatus"]
    return ModelStatus(
        name=described["modelName"],
        version=described["modelVersion"],
        default=described["modelVersion"] == default,
        workers=tuple(str(worker["status"]) for worker in workers),
        pids=tuple(int(worker["pid"]) for worker in workers),
        gpus=tuple(str(worker["gpuUsage"]) if worker["gpu"] else "" for worker in workers),
        wanted=int(described["minWorkers"]),
        waiting=int(queue["pendingRequests"]),
        room=int(queue["remainingCapacity"]),
        batch_delay=float(described["maxBatchDelay"]) / 1000,
    )

"""The body of ``cxr-mtl serve``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from cxr_mtl.serve import torchserve
from cxr_mtl.serve.settings import HOST
from cxr_mtl.serve.tls import Tls, is_loopback
from cxr_mtl.serve.torchserve import ServerInfo, ServerStatus

_READ_KEY = 'import json,sys; print(json.load(open(sys.argv[1]))["inference"]["key"])'


def serve(
    model_store: Path,
    *,
    port: int,
    stop: bool,
    status: bool,
    state_dir: Path | None = None,
    host: str = HOST,
    tls: Tls | None = None,
) -> tuple[list[str], int]:
    """Start, stop or look at the server of a model store; gives what to say and the exit code."""
    state_dir = state_dir or torchserve.state_dir_of(model_store)
    if stop:
        stopped = torchserve.stop(state_dir)
        return [f"{model_store}: {'stopped.' if stopped else 'no server was running.'}"], 0
    if status:
        found = torchserve.status(state_dir)
        return (_describe(found), 0) if found else ([f"{model_store}: no server is running."], 1)
    started = torchserve.start(model_store, port=port, state_dir=state_dir, host=host, tls=tls)
    reach = "loopback only" if is_loopback(host) else "open to other machines"
    return _how_to_ask(started, model_store, reach, f"--cacert {shlex.quote(str(tls.certificate))} " if tls else ""), 0


def _how_to_ask(server: ServerInfo, model_store: Path, reach: str, trust: str) -> list[str]:
    model, state_dir = server.models[0], server.key_file.parent
    elsewhere = "" if state_dir == torchserve.state_dir_of(model_store) else f" --state-dir {state_dir}"
    return [
        f"Serving {', '.join(server.models)} at {server.url} ({reach}, token needed).",
        f"Key:  {server.key_file}",
        f"Logs: {server.log_dir}",
        f"Ask:  KEY=$({sys.executable} -c '{_READ_KEY}' {shlex.quote(str(server.key_file))})",
        f'      curl {trust}-H "Authorization: Bearer $KEY" -T FILM.png {server.url}/predictions/{model}',
        f"Stop: cxr-mtl serve --model-store {model_store}{elsewhere} --stop",
        "TorchServe has been unmaintained since 2025. Research use only. Not for clinical use.",
    ]


def _describe(found: ServerStatus) -> list[str]:
    lines = [f"{found.info.url} (process {found.info.pid}), keys in {found.info.key_file}"]
    return lines + [f"{name}: {', '.join(states) or 'no worker'}" for name, states in found.workers.items()]

"""The body of ``cxr-mtl serve``."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cxr_mtl.errors import ConfigError, ServeError
from cxr_mtl.predict.client import is_loopback
from cxr_mtl.serve import show, torchserve
from cxr_mtl.serve.drain import drain
from cxr_mtl.serve.look import look
from cxr_mtl.serve.machine import pick_workers
from cxr_mtl.serve.rollover import Rolled, roll_over
from cxr_mtl.serve.settings import HOST
from cxr_mtl.serve.tls import Tls
from cxr_mtl.serve.torchserve import ServerInfo

_READ_KEY = 'import json,sys; print(json.load(open(sys.argv[1]))["inference"]["key"])'
_TURN = 1.0
_NOTICE = 3.0
"""Seconds in which the container's proxy, which looks every second, turns callers away before the server does."""


def serve(
    model_store: Path,
    archive: Path | None = None,
    *,
    tell: Callable[[str], None],
    port: int = 8080,
    control: bool = False,
    foreground: bool = False,
    roll: bool = False,
    stop: bool = False,
    status: bool = False,
    as_json: bool = False,
    terminal: bool = False,
    drain_seconds: float = 30.0,
    state_dir: Path | None = None,
    host: str = HOST,
    tls: Tls | None = None,
    workers: int | None = None,
) -> int:
    """Starts, stops or looks at the server of a model store, or lets another version take over; gives the exit code.

    ``as_json`` and ``terminal``, which is for colours, are of ``status``.
    """
    state_dir = state_dir or torchserve.state_dir_of(model_store)
    if roll + stop + status > 1:
        raise ConfigError("--roll-over, --stop and --status are one each.", hint="Give one of them.")
    if as_json and not status:
        raise ConfigError("--json is of --status.", hint="Give both.")
    if archive is not None and not roll:
        raise ConfigError(
            f"{archive} is to be served how?", hint="--roll-over takes an archive, --model-store a folder."
        )
    if status:
        return _status(model_store, state_dir, tell, as_json=as_json, terminal=terminal)
    if stop:
        tell(_stop(model_store, state_dir, drain_seconds))
        return 0
    if roll:
        rolled = roll_over(state_dir, model_store, archive, wait=300.0, drain=drain_seconds)
        tell("\n".join(map(_say_rolled, rolled)) or f"{model_store} holds nothing newer than what is served.")
        return 0
    if foreground:  # From here on a container's stop is what Ctrl-C is: an exception, also while it starts.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = torchserve.start(
        model_store,
        port=port,
        control=control,
        state_dir=state_dir,
        host=host,
        tls=tls,
        workers=workers or pick_workers(),
    )
    reach = "loopback only" if is_loopback(host) else "open to other machines"
    tell(_how_to_ask(started, model_store, reach, f"--cacert {shlex.quote(str(tls.certificate))} " if tls else ""))
    if foreground:
        tell(_hold(model_store, state_dir, drain_seconds))
    return 0


def _status(model_store: Path, state_dir: Path, tell: Callable[[str], None], *, as_json: bool, terminal: bool) -> int:
    found = look(state_dir)
    if as_json:
        tell(show.as_json(found))
    else:
        tell(show.as_text(found, terminal=terminal) if found else f"{model_store}: no server is running.")
    return 0 if found and found.healthy else 1


def _hold(model_store: Path, state_dir: Path, drain_seconds: float) -> str:
    """Waits to be told to stop, and stops the server.

    Raises:
        ServeError: the server ended by itself.
    """
    try:
        while torchserve.is_running(state_dir):
            time.sleep(_TURN)
    except KeyboardInterrupt:
        return _stop(model_store, state_dir, drain_seconds, _NOTICE)
    torchserve.stop(state_dir)  # What it left behind.
    raise ServeError(f"The server of {model_store} ended by itself.", hint=f"See {state_dir / 'logs'}.")


def _stop(model_store: Path, state_dir: Path, drain_seconds: float, notice: float = 0.0) -> str:
    try:
        drained = drain(state_dir, drain_seconds, notice)
    except KeyboardInterrupt:  # Told twice: at once.
        drained = False
    if not torchserve.stop(state_dir):
        return f"{model_store}: no server was running."
    return f"{model_store}: stopped." if drained else f"{model_store}: stopped, and requests under way were cut."


def _say_rolled(rolled: Rolled) -> str:
    if rolled.old is None:
        return f"{rolled.name} {rolled.new} is served now."
    old = (
        f"{rolled.old} is gone." if rolled.old_is_gone else f"{rolled.old} stays loaded for who asks for it by version."
    )
    return f"{rolled.name} {rolled.new} answers now; {old}"


def _how_to_ask(server: ServerInfo, model_store: Path, reach: str, trust: str) -> str:
    model, state_dir = server.models[0], server.key_file.parent
    url = server.url.replace("//0.0.0.0:", "//NAME:")  # that address is all of this machine's, and in no certificate
    elsewhere = "" if state_dir == torchserve.state_dir_of(model_store) else f" --state-dir {state_dir}"
    lines = [
        f"Serving {', '.join(server.models)} at {server.url} ({reach}, token needed).",
        f"Key:  {server.key_file}",
        f"Logs: {server.log_dir}",
        f"Ask:  KEY=$({sys.executable} -c '{_READ_KEY}' {shlex.quote(str(server.key_file))})",
        f'      curl {trust}-H "Authorization: Bearer $KEY" -T FILM.png {url}/predictions/{model}',
        *(["      NAME is one that the certificate is for."] if url != server.url else []),
        f"Stop: cxr-mtl serve --model-store {model_store}{elsewhere} --stop",
        "TorchServe has been unmaintained since 2025. Research use only. Not for clinical use.",
    ]
    return "\n".join(lines)

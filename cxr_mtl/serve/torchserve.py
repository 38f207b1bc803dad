"""TorchServe from start to stop: one server per state folder, and nothing ended that was not started here."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from cxr_mtl.errors import ServeError
from cxr_mtl.paths import configs_dir
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve.java import find_java
from cxr_mtl.serve.settings import HOST, Settings, free_ports, make_environment, make_settings, num_cores
from cxr_mtl.serve.state import (
    CONFIG_FILE,
    KEYS_FILE,
    TEMP_PREFIX,
    ServerInfo,
    State,
    forget_state,
    load_state,
    only_starter,
    save_state,
)
from cxr_mtl.serve.tls import Tls

__all__ = ["ServerInfo", "ServerStatus", "start", "state_dir_of", "status", "stop"]

_FATAL = ("Backend worker process died", "Failed to load model")
_CAUSE = re.compile(r"(?:^| - )(?:[\w.]+\.)?\w*(?:Error|Exception|Exit): (.+)$|\[ERROR\] \S+ \S+ - (.+)$")


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """``workers`` is the state of each worker by model, such as READY; a model that is not loaded has none."""

    info: ServerInfo
    workers: Mapping[str, tuple[str, ...]]

    @property
    def ready(self) -> bool:
        """Whether each model has a worker and every worker is ready."""
        return all(states and set(states) == {"READY"} for states in self.workers.values())


def state_dir_of(model_store: Path) -> Path:
    """Where the server of a model store keeps its state unless told otherwise."""
    return model_store.resolve() / ".serve"


def start(
    model_store: Path,
    *,
    port: int = 8080,
    management_port: int | None = None,
    metrics_port: int | None = None,
    models: Sequence[str] | None = None,
    state_dir: Path | None = None,
    java: Path | None = None,
    workers: int | None = None,
    wait: float = 120.0,
    host: str = HOST,
    tls: Tls | None = None,
) -> ServerInfo:
    """Starts TorchServe, on the loopback unless told otherwise, and waits until every model can answer.

    Args:
        model_store: folder of ``.mar`` archives.
        port: for predictions; ``management_port`` and ``metrics_port`` are the next two unless given. 0 takes three
            free ones.
        models: archives by name, without ``.mar``; None for all in the store.
        state_dir: None for ``state_dir_of(model_store)``.
        java: home of the Java to use; None to look for one.
        workers: processes per model where its archive does not say; None for one. They share the cores.
        wait: seconds until it must be ready.
        host: where it listens for predictions; other than the loopback only with ``tls``.
        tls: certificate and key of the inference address.

    Raises:
        ServeError: it runs already, a port is taken, there is no model or no Java, or it did not become ready; in the
            last case nothing of it is left running.
    """
    if importlib.util.find_spec("ts") is None:
        raise ServeError("TorchServe is not installed.", hint="Run `pip install 'cxr-mtl[serve]'`.")
    names = _model_names(model_store, models)
    java_home = find_java(java)
    state_dir = (state_dir or state_dir_of(model_store)).resolve()
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with only_starter(state_dir):
        if (running := status(state_dir)) is not None:
            where = f"{running.info.url} (pid {running.info.pid})"
            raise ServeError(
                f"The server of {state_dir} runs already: {where}.", hint="`cxr-mtl serve --stop` ends it."
            )
        stop(state_dir)  # What a server that was killed left behind.
        ports = free_ports(3) if port == 0 else [port, port + 1, port + 2]
        settings = make_settings(
            ports[0],
            management_port or ports[1],
            metrics_port or ports[2],
            workers or 1,
            max(1, round(wait)),
            host=host,
            tls=tls,
        )
        info = _launch(settings, state_dir, model_store.resolve(), names, java_home)
        try:
            _wait_until_ready(state_dir, info, wait)
        except BaseException:  # Ctrl-C too must not leave a server behind that nobody knows of.
            stop(state_dir)
            raise
    return info


def stop(state_dir: Path, *, timeout: float = 30.0) -> bool:
    """Ends the server of ``state_dir`` with its workers and removes its keys and temporary files.

    Returns:
        Whether one was running.
    """
    state = load_state(state_dir)
    if state is None:
        return False
    process = state.process()
    if process is not None:
        _end(process, timeout)
    forget_state(state_dir, state)
    return process is not None


def status(state_dir: Path) -> ServerStatus | None:
    """How the server of ``state_dir`` is; None when none runs."""
    state = load_state(state_dir)
    if state is None or state.process() is None:
        return None
    return ServerStatus(state.info, {name: _workers(state.info, name) for name in state.info.models})


def _model_names(model_store: Path, models: Sequence[str] | None) -> tuple[str, ...]:
    if not model_store.is_dir():
        raise ServeError(f"{model_store} is not a folder.", hint="`cxr-mtl package BUNDLE --out model_store` makes it.")
    there = sorted(path.stem for path in model_store.glob("*.mar"))
    if not there:
        raise ServeError(f"{model_store} holds no .mar archive.", hint="`cxr-mtl package BUNDLE` makes one.")
    for name in models or ():
        if name not in there:
            raise ServeError(f"{model_store} holds no {name}.mar.", hint=f"There are: {', '.join(there)}.")
    return tuple(models or there)


def _fresh_logs(state_dir: Path) -> Path:
    """An empty log folder; the last server's logs stay beside it until the next start."""
    log_dir, previous = state_dir / "logs", state_dir / "logs.previous"
    if log_dir.exists():
        shutil.rmtree(previous, ignore_errors=True)
        log_dir.rename(previous)
    log_dir.mkdir()
    return log_dir


def _launch(
    settings: Settings, state_dir: Path, model_store: Path, names: tuple[str, ...], java_home: Path
) -> ServerInfo:
    """Runs TorchServe's own launcher, which leaves the front end behind with its pid in a file; saves the state."""
    log_dir, temp = _fresh_logs(state_dir), Path(tempfile.mkdtemp(prefix=TEMP_PREFIX))
    command = [sys.executable, "-m", "ts.model_server", "--start", "--no-config-snapshots"]
    command += ["--ts-config", str(settings.write(state_dir / CONFIG_FILE))]
    command += ["--log-config", str(configs_dir() / "serve/log4j2.xml"), "--model-store", str(model_store)]
    command += ["--models", *(f"{name}={name}.mar" for name in names)]
    environment = make_environment(java_home, temp, log_dir, max(1, num_cores() // settings.workers))
    with (log_dir / "console.log").open("wb") as console:
        # A session of its own: closing the terminal or Ctrl-C there is not to end the server.
        subprocess.run(
            command,
            cwd=state_dir,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            check=False,
        )
    try:
        pid = int((temp / ".model_server.pid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        shutil.rmtree(temp, ignore_errors=True)
        raise ServeError(f"TorchServe did not start: {_cause(log_dir)}", hint=f"See {log_dir}.") from None
    info = ServerInfo(
        url=settings.url,
        management_url=f"http://{HOST}:{settings.management_port}",
        metrics_url=f"http://{HOST}:{settings.metrics_port}/metrics",
        key_file=state_dir / KEYS_FILE,
        pid=pid,
        log_dir=log_dir,
        models=names,
    )
    state = State(info, temp)
    save_state(state_dir, state)
    for _ in range(100):  # A process that was born this moment does not yet say what it runs.
        if state.process() is not None or not psutil.pid_exists(pid):
            break
        time.sleep(0.05)
    return info


def _wait_until_ready(state_dir: Path, info: ServerInfo, wait: float) -> None:
    end = time.monotonic() + wait
    while time.monotonic() < end:
        current = status(state_dir)
        if current is None or _logged_failure(info.log_dir):
            raise ServeError(f"TorchServe did not start: {_cause(info.log_dir)}", hint=f"See {info.log_dir}.")
        if current.ready:
            return
        time.sleep(0.25)
    raise ServeError(f"TorchServe was not ready after {wait:.0f} s.", hint=f"See {info.log_dir}, or wait longer.")


def _logged_failure(log_dir: Path) -> bool:
    return any(sign in _read_log(log_dir / name) for name in ("model_log.log", "ts_log.log") for sign in _FATAL)


def _cause(log_dir: Path) -> str:
    """The last line of the logs that says why, the workers' first."""
    for name in ("model_log.log", "ts_log.log", "console.log"):
        found = [match for line in _read_log(log_dir / name).splitlines() if (match := _CAUSE.search(line))]
        if found:
            return (found[-1][1] or found[-1][2]).strip()
    return _last_line(log_dir / "console.log") or "no reason in its logs."


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in _read_log(path).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _read_log(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _workers(info: ServerInfo, model: str) -> tuple[str, ...]:
    """The states of a model's workers; none while the server is not up yet."""
    if not info.key_file.exists():
        return ()
    try:
        headers = {"Authorization": f"Bearer {read_key(info.key_file, 'management')}"}
        response = httpx.get(f"{info.management_url}/models/{model}", headers=headers, timeout=10.0, trust_env=False)
        described = response.json()[0]["workers"] if response.status_code == 200 else []
    except (httpx.HTTPError, ServeError, ValueError):
        return ()
    return tuple(str(worker["status"]) for worker in described)


def _end(process: psutil.Process, timeout: float) -> None:
    family = [process]
    try:
        family += process.children(recursive=True)
        process.terminate()
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(family, timeout=timeout)
    for member in alive:
        member.kill()  # psutil checks that the pid has not passed to another process.
    psutil.wait_procs(alive, timeout=5)

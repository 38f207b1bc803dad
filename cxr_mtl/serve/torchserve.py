"""TorchServe from start to stop: one server per state folder, and nothing ended that was not started here."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from cxr_mtl.cores import num_cores
from cxr_mtl.errors import ServeError
from cxr_mtl.paths import configs_dir
from cxr_mtl.serve.java import find_java
from cxr_mtl.serve.logs import CONSOLE, cause, failed_to_load, fresh_logs
from cxr_mtl.serve.management import Management, ModelStatus
from cxr_mtl.serve.settings import HOST, Settings, free_ports, make_environment, make_settings
from cxr_mtl.serve.state import (
    CONFIG_FILE,
    KEYS_FILE,
    TEMP_PREFIX,
    ServerInfo,
    State,
    forget_state,
    load_state,
    make_private,
    only_starter,
    save_state,
)
from cxr_mtl.serve.store import Archive, read_store
from cxr_mtl.serve.tls import Tls

__all__ = ["ServerInfo", "ServerStatus", "is_running", "start", "state_dir_of", "status", "stop"]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """``models`` holds each loaded version of each model; none while the server is not up yet."""

    info: ServerInfo
    models: tuple[ModelStatus, ...]

    @property
    def ready(self) -> bool:
        """Whether every model it was started with is there and every worker of every version is ready."""
        there = {model.name for model in self.models} >= set(self.info.models)
        return there and all(model.workers and set(model.workers) == {"READY"} for model in self.models)


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
    control: bool = False,
    wait: float = 120.0,
    host: str = HOST,
    tls: Tls | None = None,
) -> ServerInfo:
    """Starts TorchServe, on the loopback unless told otherwise, and waits until every version can answer.

    Who names no version is answered by the newest.

    Args:
        model_store: folder of ``.mar`` archives.
        port: for predictions; ``management_port`` and ``metrics_port`` are the next two unless given. 0 takes three
            free ones.
        models: by name; None for all in the store.
        state_dir: None for ``state_dir_of(model_store)``.
        java: home of the Java to use; None to look for one.
        workers: processes per model where its archive does not say; None for one. They share the cores.
        control: whether ``cxr-mtl serve --roll-over`` may load and let go of models while it runs.
        wait: seconds until it must be ready.
        host: where it listens for predictions; other than the loopback only with ``tls``.
        tls: certificate and key of the inference address.

    Raises:
        ServeError: it runs already, a port is taken, there is no model or no Java, or it did not become ready; in the
            last case nothing of it is left running.
    """
    if importlib.util.find_spec("ts") is None:
        raise ServeError("TorchServe is not installed.", hint="Run `pip install 'cxr-mtl[serve]'`.")
    archives = _chosen(model_store, models)
    java_home = find_java(java)
    state_dir = (state_dir or state_dir_of(model_store)).resolve()
    make_private(state_dir)
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
            control=control,
        )
        info = _launch(settings, state_dir, model_store.resolve(), archives, java_home)
        try:
            _wait_until_ready(state_dir, info, wait)
        except BaseException:  # Ctrl-C too must not leave a server behind that nobody knows of.
            stop(state_dir)
            raise
    return info


def stop(state_dir: Path, *, timeout: float = 30.0) -> bool:
    """Ends the server of ``state_dir`` with its workers at once and removes its keys and temporary files.

    Requests under way are cut; ``drain`` comes first where there may be some.

    Returns:
        Whether one was running.
    """
    state = load_state(state_dir)
    if state is None:
        return False
    process = state.process()
    if process is not None:
        _end(process, timeout)
    forget_state(state_dir, state.temp)
    return process is not None


def is_running(state_dir: Path) -> bool:
    """Whether the front end of ``state_dir`` is there, whatever it does."""
    state = load_state(state_dir)
    return state is not None and state.process() is not None


def status(state_dir: Path) -> ServerStatus | None:
    """How the server of ``state_dir`` is; None when none runs."""
    state = load_state(state_dir)
    if state is None or state.process() is None:
        return None
    try:
        with Management(state.info) as management:
            return ServerStatus(state.info, management.models())
    except ServeError:  # Not up yet, or too busy to say.
        return ServerStatus(state.info, ())


def _chosen(model_store: Path, models: Sequence[str] | None) -> list[Archive]:
    archives = read_store(model_store)
    there = sorted({archive.name for archive in archives})
    for name in models or ():
        if name not in there:
            raise ServeError(f"{model_store} holds no model {name}.", hint=f"There are: {', '.join(there)}.")
    return [archive for archive in archives if archive.name in (models or there)]


def _launch(
    settings: Settings, state_dir: Path, model_store: Path, archives: Sequence[Archive], java_home: Path
) -> ServerInfo:
    """Runs TorchServe's own launcher, which leaves the front end behind with its pid in a file; saves the state.

    Whatever goes wrong, Ctrl-C and a full disk too, leaves no process behind that no command would know.
    """
    log_dir, temp = fresh_logs(state_dir), Path(tempfile.mkdtemp(prefix=TEMP_PREFIX))
    with ExitStack() as undo:
        undo.callback(forget_state, state_dir, temp)
        command = [sys.executable, "-m", "ts.model_server", "--start", "--no-config-snapshots"]
        command += ["--ts-config", str(settings.write(state_dir / CONFIG_FILE))]
        command += ["--log-config", str(configs_dir() / "serve/log4j2.xml"), "--model-store", str(model_store)]
        # The first version of a name becomes its default.
        command += ["--models", *(f"{archive.name}={archive.file.name}" for archive in archives)]
        environment = make_environment(java_home, temp, log_dir, max(1, num_cores() // settings.workers))
        with (log_dir / CONSOLE).open("wb") as console:
            # A session of its own: closing the terminal or Ctrl-C there is not to end the server.
            launcher = subprocess.Popen(
                command,
                cwd=state_dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                umask=0o077,
            )
        undo.callback(_kill_group, launcher)
        launcher.wait()
        try:
            pid = int((temp / ".model_server.pid").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise _did_not_start(log_dir) from None
        info = ServerInfo(
            url=settings.url,
            management_url=f"http://{HOST}:{settings.management_port}",
            metrics_url=f"http://{HOST}:{settings.metrics_port}/metrics",
            key_file=state_dir / KEYS_FILE,
            pid=pid,
            log_dir=log_dir,
            models=tuple(dict.fromkeys(archive.name for archive in archives)),
        )
        state = State(info, temp)
        save_state(state_dir, state)
        for _ in range(100):  # A process that was born this moment does not yet say what it runs.
            if state.process() is not None or not psutil.pid_exists(pid):
                break
            time.sleep(0.05)
        undo.pop_all()
    return info


def _kill_group(launcher: subprocess.Popen[bytes]) -> None:
    """The launcher, the front end that it started, and the workers of that: they are one group, with its number."""
    with suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()


def _wait_until_ready(state_dir: Path, info: ServerInfo, wait: float) -> None:
    end = time.monotonic() + wait
    while time.monotonic() < end:
        current = status(state_dir)
        if current is None or failed_to_load(info.log_dir):
            raise _did_not_start(info.log_dir)
        if current.ready:
            return
        time.sleep(0.25)
    raise ServeError(f"TorchServe was not ready after {wait:.0f} s.", hint=f"See {info.log_dir}, or wait longer.")


def _did_not_start(log_dir: Path) -> ServeError:
    why = cause(log_dir) or "no reason in its logs."
    fewer = "Try fewer workers: --workers 1. " if "memory" in why else ""
    return ServeError(f"TorchServe did not start: {why}", hint=f"{fewer}See {log_dir}.")


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

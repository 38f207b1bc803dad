"""What a TorchServe process is started with: its configuration file, its environment and its ports."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

from cxr_mtl.errors import ServeError
from cxr_mtl.paths import configs_dir

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that ``configs/serve/config.properties`` leaves open."""

    port: int
    management_port: int
    metrics_port: int
    grpc_port: int
    grpc_management_port: int
    worker_port: int
    workers: int
    startup_timeout: int
    control: bool

    def write(self, target: Path) -> Path:
        """Fills in the template; returns ``target``."""
        template = Template((configs_dir() / "serve/config.properties").read_text(encoding="utf-8"))
        values = asdict(self) | {"control": str(self.control).lower()}
        target.write_text(template.substitute(values), encoding="utf-8")
        return target


def make_settings(
    port: int, management_port: int, metrics_port: int, workers: int, startup_timeout: int, control: bool = False
) -> Settings:
    """Settings with the ports that nobody needs to know chosen among the free ones.

    Raises:
        ServeError: a port is taken.
    """
    for wanted in (port, management_port, metrics_port):
        if not _is_free(wanted):
            raise ServeError(f"Port {wanted} is taken.", hint="Another server? Choose with --port, or stop that one.")
    grpc_port, grpc_management_port, worker_port = free_ports(3)
    return Settings(
        port,
        management_port,
        metrics_port,
        grpc_port,
        grpc_management_port,
        worker_port,
        workers,
        startup_timeout,
        control,
    )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that are free now and differ from each other."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind((HOST, 0))
        return [int(opened.getsockname()[1]) for opened in sockets]


def make_environment(java_home: Path, temp: Path, log_dir: Path, threads: int) -> dict[str, str]:
    """The environment of the front end and, through it, of the workers.

    Args:
        temp: this server's own temporary folder, so that servers do not share pid files, sockets or unpacked models.
        threads: of each worker; an OMP_NUM_THREADS that is already set wins.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TS_")}
    environment |= {name: str(temp) for name in ("TEMP", "TMP", "TMPDIR")}
    environment |= {name: str(log_dir) for name in ("LOG_LOCATION", "METRICS_LOCATION")}
    environment["JAVA_HOME"] = str(java_home)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    environment["PYTHONPATH"] = os.pathsep.join(_foreign_paths(os.environ))
    return environment


def num_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _foreign_paths(environ: Mapping[str, str]) -> Iterator[str]:
    """PYTHONPATH without a checkout of ours, which would come before the sources that travel in the archive."""
    for entry in environ.get("PYTHONPATH", "").split(os.pathsep):
        if entry and not Path(entry, "cxr_mtl").is_dir():
            yield entry


def _is_free(port: int) -> bool:
    with socket.socket() as opened:
        # As the front end does: a port whose last connections are only being wound up counts as free.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((HOST, port))
        except OSError:
            return False
    return True

"""What a TorchServe process is started with: its configuration file, its environment and its ports."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template

from cxr_mtl.errors import ServeError
from cxr_mtl.paths import configs_dir
from cxr_mtl.serve.gpus import gpu_memories
from cxr_mtl.serve.state import write_private
from cxr_mtl.serve.tls import Tls, check_host

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
    host: str = HOST
    tls: Tls | None = None
    control: bool = False

    @property
    def url(self) -> str:
        """The inference address. Management and metrics never leave the loopback."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    def write(self, target: Path) -> Path:
        """Fills in the template; returns ``target``."""
        folder = configs_dir() / "serve"
        template = Template((folder / "config.properties").read_text(encoding="utf-8"))
        # As an address, because the launcher splits Java's options at spaces.
        java_security = (folder / "java.security").resolve().as_uri()
        filled = asdict(self) | {"inference_address": self.url, "java_security": java_security}
        filled["control"] = str(self.control).lower()
        filled["gpus"] = len(gpu_memories())
        lines = self.tls.lines() if self.tls else []
        write_private(target, "\n".join([template.substitute(filled), *lines]))
        return target


def make_settings(
    port: int,
    management_port: int,
    metrics_port: int,
    workers: int,
    startup_timeout: int,
    *,
    host: str = HOST,
    tls: Tls | None = None,
    control: bool = False,
) -> Settings:
    """Settings with the ports that nobody needs to know chosen among the free ones.

    Raises:
        ServeError: a port is taken, or ``host`` is no address to listen on, or not one without TLS.
    """
    check_host(host, tls)
    for address, wanted in ((host, port), (HOST, management_port), (HOST, metrics_port)):
        if not _is_free(address, wanted):
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
        host,
        tls,
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


def _foreign_paths(environ: Mapping[str, str]) -> Iterator[str]:
    """PYTHONPATH without a checkout of ours, which would come before the sources that travel in the archive."""
    for entry in environ.get("PYTHONPATH", "").split(os.pathsep):
        if entry and not Path(entry, "cxr_mtl").is_dir():
            yield entry


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as opened:
        # As the front end does: a port whose last connections are only being wound up counts as free.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServeError(f"Nothing can listen on {host}:{port}.", hint="Is it an address of ours?") from None
            return False
    return True

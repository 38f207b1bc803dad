"""What TorchServe is started with."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cxr_mtl.errors import ServeError
from cxr_mtl.serve.settings import HOST, free_ports, make_environment, make_settings


def properties(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_the_server_is_closed_to_the_world(tmp_path: Path) -> None:
    port, management, metrics = free_ports(3)
    settings = properties(make_settings(port, management, metrics, 2, 60).write(tmp_path / "config.properties"))
    assert settings["inference_address"] == f"http://{HOST}:{port}"
    assert settings["management_address"] == f"http://{HOST}:{management}"
    assert settings["metrics_address"] == f"http://{HOST}:{metrics}"
    assert {settings["grpc_inference_address"], settings["grpc_management_address"]} == {HOST}
    assert settings["disable_token_authorization"] == "false"
    assert settings["enable_model_api"] == "false"
    assert settings["enable_envvars_config"] == "false"
    assert settings["install_py_dep_per_model"] == "false"
    assert settings["default_workers_per_model"] == "2"
    assert int(settings["max_request_size"]) >= 64 * 2**20 * 4 / 3
    assert not any("$" in value for value in settings.values())
    ports = [value.rpartition(":")[2] for key, value in settings.items() if key.endswith(("address", "port"))]
    numbers = [int(value) for value in ports if value.isdigit()]
    assert len(numbers) == len(set(numbers)) == 6


def test_models_are_controlled_only_on_request(tmp_path: Path) -> None:
    ports = free_ports(3)
    settings = properties(make_settings(*ports, 1, 60, control=True).write(tmp_path / "config.properties"))
    assert settings["enable_model_api"] == "true"
    assert settings["allowed_urls"] == "file:///nowhere", "archives of the store only, by name"
    assert settings["disable_token_authorization"] == "false"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        others = free_ports(2)
        with pytest.raises(ServeError, match=f"Port {port} is taken"):
            make_settings(*others, port, workers=1, startup_timeout=60)
    make_settings(*others, port, workers=1, startup_timeout=60)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_worker_sees_the_archive_before_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, libraries = tmp_path / "checkout", tmp_path / "libraries"
    (checkout / "cxr_mtl").mkdir(parents=True)
    libraries.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(checkout), str(libraries), ""]))
    monkeypatch.setenv("TS_CONFIG_FILE", "/someone/elses")
    monkeypatch.setenv("TMPDIR", "/shared")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = make_environment(tmp_path / "java", tmp_path / "temp", tmp_path / "logs", threads=3)
    assert environment["PYTHONPATH"] == str(libraries)
    assert environment["JAVA_HOME"] == str(tmp_path / "java")
    assert {environment[name] for name in ("TMPDIR", "TEMP", "TMP")} == {str(tmp_path / "temp")}
    assert environment["LOG_LOCATION"] == str(tmp_path / "logs")
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "TS_CONFIG_FILE" not in environment, "it would replace our configuration"


def test_threads_that_were_set_by_hand_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert make_environment(tmp_path, tmp_path, tmp_path, threads=3)["OMP_NUM_THREADS"] == "5"

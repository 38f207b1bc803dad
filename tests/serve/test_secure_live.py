"""A live server: its answers are those of configs/serve/openapi.yaml, and without a key it says little."""

from __future__ import annotations

import base64
import importlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from cxr_mtl.errors import ServeError
from cxr_mtl.package.mar import build_archive
from cxr_mtl.paths import configs_dir
from cxr_mtl.predict.options import OPTION_FIELDS
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.state import ServerInfo
from cxr_mtl.types import EXPLANATIONS

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def described() -> Any:
    return yaml.safe_load((configs_dir() / "serve/openapi.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def info(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    """One server for this file."""
    pytest.importorskip("ts")
    store = tmp_path_factory.mktemp("store")
    build_archive(tiny_bundle, store)
    yield torchserve.start(store, port=0, wait=200)
    torchserve.stop(torchserve.state_dir_of(store))


@pytest.fixture(scope="module")
def server(info: ServerInfo) -> Iterator[httpx.Client]:
    """A client with the key and the address."""
    headers = {"Authorization": f"Bearer {read_key(info.key_file)}"}
    with httpx.Client(base_url=info.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


def film() -> bytes:
    buffer = io.BytesIO()
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (15, 21), np.uint8), np.ones((10, 10), np.uint8))
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def holds(described: Any, path: str, method: str, answer: httpx.Response) -> None:
    """The answer's status and body are among those described."""
    responses = described["paths"][path][method]["responses"]
    response = responses[str(answer.status_code)]
    if "$ref" in response:
        response = described["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content = response.get("content")
    if content is not None:
        assert answer.headers["content-type"].partition(";")[0] in content
        schema = content["application/json"]["schema"] | {"components": described["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


@pytest.mark.slow
def test_it_is_openapi(described: Any) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(described)
    exceptions = importlib.import_module("openapi_spec_validator.validation.exceptions")
    with pytest.raises(exceptions.OpenAPIValidationError):
        validator.validate({key: value for key, value in described.items() if key != "info"})


def test_it_knows_the_options_and_the_methods(described: Any) -> None:
    schemas = described["components"]["schemas"]
    options = set(schemas["Request"]["properties"]) - {"image"}
    assert set(schemas["Form"]["properties"]) == set(OPTION_FIELDS) | {"data"}
    assert options == set(OPTION_FIELDS)
    methods = schemas["Prediction"]["properties"]["heatmaps"]["items"]["properties"]["method"]["enum"]
    assert methods == schemas["Request"]["properties"]["explain"]["enum"]
    assert set(methods) == set(EXPLANATIONS) - {"occlusion"}, "which a server refuses"


@pytest.mark.slow
def test_answers_are_as_described(described: Any, server: httpx.Client) -> None:
    text = base64.b64encode(film()).decode()
    asked: list[dict[str, Any]] = [
        {"content": film()},
        {"json": {"image": text, "heatmaps": ["Effusion", "flagged"], "operating_point": "sensitive"}},
        {"json": {"image": text, "findings": "Edema, Nodule", "boxes": False}},
        {"files": {"data": film()}, "data": {"operating_point": "specific", "heatmaps": "Mass"}},
        {"content": film()[:-30]},
        {"content": b"text " * 20},
        {"content": b""},
        {"json": {"image": text, "nothing": 1}},
        {"content": b'{"image": ' + b"[" * 20_000},
        {"content": film(), "headers": {"Authorization": "Bearer wrong"}},
    ]
    for path in ("/predictions/{model}", "/predictions/{model}/{version}", "/explanations/{model}"):
        url = path.format(model="cxr_mtl", version="0.1")
        answers = [server.post(url, **how) for how in asked]
        assert [a.status_code for a in answers] == [200] * 4 + [400, 415, 400, 400, 400, 400], path
        for answer in answers:
            holds(described, path, "post", answer)
        holds(described, path, "put", server.put(url, content=film()))
        holds(described, path, "post", server.post(url.replace("cxr_mtl", "other").replace("0.1", "9"), content=film()))
    holds(described, "/ping", "get", server.get("/ping"))
    holds(described, "/ping", "get", server.get("/ping", headers={"Authorization": ""}))


@pytest.mark.slow
def test_kserves_form_is_as_described(described: Any, server: httpx.Client) -> None:
    text = base64.b64encode(film()).decode()
    path, url = "/v2/models/{model}/infer", "/v2/models/cxr_mtl/infer"
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [text, text[:80]]}
    good = server.post(url, json={"id": "run-7", "inputs": [tensor], "parameters": {"operating_point": "sensitive"}})
    assert good.status_code == 200
    for answer in (
        good,
        server.post(url, json={"inputs": [tensor | {"data": [text[:80]] * 2}]}),
        server.post(url, json={"inputs": []}),
        server.post(url, json={"inputs": [tensor]}, headers={"Authorization": ""}),
        server.post(url.replace("cxr_mtl", "other"), json={"inputs": [tensor]}),
    ):
        holds(described, path, "post", answer)


def test_a_description_that_is_wrong_is_noticed(described: Any) -> None:
    wrong = httpx.Response(200, json={"schema": "cxr-mtl.prediction/1"})
    with pytest.raises(jsonschema.ValidationError):
        holds(described, "/predictions/{model}", "post", wrong)
    with pytest.raises(KeyError):
        holds(described, "/predictions/{model}", "post", httpx.Response(418, json={}))


PATHS = ("/", "/api-description", "/ping", "/predictions/cxr_mtl", "/explanations/cxr_mtl", "/v2/models/cxr_mtl/infer")
PATHS += ("/v1/models/cxr_mtl:predict", "/invocations", "/models", "/models/cxr_mtl", "/models/cxr_mtl/predict")
PATHS += ("/wfpredict/x", "/workflows", "/token", "/metrics", "/models/cxr_mtl/0.1/set-default", "//", "/%2e%2e/ping")


@pytest.mark.slow
def test_without_a_key_one_learns_what_torchserve_is_and_no_more(info: ServerInfo) -> None:
    """Neither other methods, nor headers that proxies send, nor the key elsewhere than in its header open anything."""
    key = read_key(info.key_file)
    tricks: list[dict[str, Any]] = [
        {},
        {"headers": {"Authorization": f"bearer {key}"}},
        {"headers": {"Authorization": f"Bearer {key}x", "Host": "localhost", "X-Forwarded-For": "127.0.0.1"}},
        {"params": {"token": key, "access_token": key}, "headers": {"Cookie": f"key={key}", "X-Api-Key": key}},
    ]
    with httpx.Client(timeout=30, trust_env=False) as client:
        for address in (info.url, info.management_url):
            for path in PATHS:
                for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"):
                    for trick in tricks if method in ("GET", "POST") else tricks[:1]:
                        answer = client.request(method, address + path, **trick)
                        opened = path == "/api-description" or (method, path) == ("OPTIONS", "/")
                        assert (answer.status_code == 200) == opened, (method, address, path, trick)
                        assert "access-control-allow-origin" not in answer.headers
                        assert "server" not in answer.headers
        assert client.get(info.metrics_url).status_code == 200


@pytest.mark.slow
def test_grpc_wants_the_key_too(info: ServerInfo) -> None:
    grpc = pytest.importorskip("grpc")
    lines = (info.key_file.parent / "config.properties").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def ask(kind: str, call: str, key: str | None) -> str:
        metadata = [("protocol", "gRPC"), *([("authorization", f"Bearer {key}")] if key else [])]
        with grpc.insecure_channel(f"127.0.0.1:{settings[f'grpc_{kind}_port']}") as channel:
            try:
                channel.unary_unary(f"/org.pytorch.serve.grpc.{kind}.{call}")(b"", metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    inference, management = read_key(info.key_file), read_key(info.key_file, "management")
    asked = {
        "inference": ("InferenceAPIsService/Ping", inference),
        "management": ("ManagementAPIsService/ListModels", management),
    }
    for kind, (call, key) in asked.items():
        for wrong in (None, "wrong", {inference, management}.difference({key}).pop()):
            assert ask(kind, call, wrong) == "PERMISSION_DENIED"
        assert ask(kind, call, key) == "OK"
    assert ask("management", "ManagementAPIsService/RegisterModel", management) != "OK"


@pytest.mark.slow
def test_the_front_ends_memory_is_bounded(info: ServerInfo) -> None:
    command = psutil.Process(info.pid).cmdline()
    assert "-XX:MaxRAMPercentage=25" in command
    assert any(word.startswith("-Djava.security.properties=file:///") for word in command)


@pytest.mark.slow
def test_an_archive_cannot_write_beside_its_folder(tiny_bundle: Path, tmp_path: Path) -> None:
    archive, outside = build_archive(tiny_bundle, tmp_path / "store"), tmp_path / "slipped"
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(f"{'../' * 20}{outside.relative_to('/')}", "x")
    with pytest.raises(ServeError, match="Zip Slip"):
        torchserve.start(tmp_path / "store", port=0, wait=100)
    assert not outside.exists()

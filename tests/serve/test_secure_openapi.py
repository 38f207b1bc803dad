"""configs/serve/openapi.yaml holds what a server answers, and the server answers what it holds."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from cxr_mtl.package.mar import build_archive
from cxr_mtl.paths import configs_dir
from cxr_mtl.predict import request
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve import torchserve
from cxr_mtl.types import EXPLANATIONS

jsonschema = pytest.importorskip("jsonschema")
KSERVE = importlib.util.find_spec("cxr_mtl.predict.kserve") is not None


@pytest.fixture(scope="module")
def described() -> Any:
    return yaml.safe_load((configs_dir() / "serve/openapi.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client with the key and the address of one that was started for this file."""
    pytest.importorskip("ts")
    store = tmp_path_factory.mktemp("store")
    build_archive(tiny_bundle, store)
    info = torchserve.start(store, port=0, wait=200)
    headers = {"Authorization": f"Bearer {read_key(info.key_file)}"}
    with httpx.Client(base_url=info.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client
    torchserve.stop(torchserve.state_dir_of(store))


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
    pytest.importorskip("openapi_spec_validator").validate(described)


def test_it_knows_the_options_and_the_methods(described: Any) -> None:
    schemas = described["components"]["schemas"]
    options = set(schemas["Request"]["properties"]) - {"image"}
    known = getattr(request, "OPTION_FIELDS", None) or importlib.import_module("cxr_mtl.predict.options").OPTION_FIELDS
    assert set(known) <= options
    assert options - set(known) <= (set() if KSERVE else {"top_k", "heatmap_format"})
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
        holds(described, path, "post", server.post(url.replace("cxr_mtl", "other").replace("0.1", "9"), content=film()))
    holds(described, "/ping", "get", server.get("/ping"))
    holds(described, "/ping", "get", server.get("/ping", headers={"Authorization": ""}))


@pytest.mark.slow
@pytest.mark.skipif(not KSERVE, reason="this server does not know KServe's form")
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

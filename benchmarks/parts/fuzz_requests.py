"""Requests to break a server with: films in all forms, JSON that is wrong in a place or two, and bodies that grow."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_VALUES: list[Any] = [
    None, True, 0, -1, 1e308, 2**70, "", "a" * 5000, "\0", "é\u202e😀", [], [[]], {}, {"a": {}}, ["Effusion", 3],
    ["Effusion"] * 2000, "Effusion,Edema", "flagged", ["flagged"], "sensitive", "../../etc/passwd",
    "${jndi:ldap://a/b}", "%s%n",
]  # fmt: skip
_FIELDS = (
    "operating_point",
    "findings",
    "boxes",
    "heatmaps",
    "explain",
    "top_k",
    "heatmap_format",
    "image",
    "data",
    "inputs",
    "a",
)
_PATHS = ("/predictions/cxr_mtl", "/explanations/cxr_mtl", "/v2/models/cxr_mtl/infer", "/predictions/cxr_mtl/0.1")


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent; ``name`` says what it was made of."""

    name: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def random_request(film: bytes, rng: np.random.Generator) -> Request:
    """A damaged film in one of the forms that are understood, or a whole one with nonsense around it."""
    path, form = _PATHS[rng.integers(len(_PATHS))], rng.integers(4)
    if form == 0:
        return Request("raw", path, film)
    if form == 1:
        fields = {"data": film} | {
            _FIELDS[i]: str(_pick(rng)).encode() for i in rng.integers(len(_FIELDS), size=rng.integers(3))
        }
        return Request("form", path, *multipart(fields))
    text = base64.b64encode(film).decode()
    if form == 2:
        body = {"image": text} | {_FIELDS[i]: _pick(rng) for i in rng.integers(len(_FIELDS), size=rng.integers(4))}
    else:
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
        if rng.random() < 0.5:
            tensor[("name", "datatype", "shape", "data")[rng.integers(4)]] = _pick(rng)
        body = {"inputs": [tensor], "parameters": {_FIELDS[rng.integers(7)]: _pick(rng)}}
        body |= {("id", "outputs")[rng.integers(2)]: _pick(rng)} if rng.random() < 0.5 else {}
    content = bytearray(json.dumps(body).encode())
    if rng.random() < 0.2:
        content[rng.integers(len(content))] = rng.integers(256)
    return Request("JSON", path, bytes(content), {"Content-Type": "application/json"})


def large_requests(film: bytes) -> Iterator[Request]:
    """Bodies that are small for what they could become."""
    path, kind = _PATHS[0], {"Content-Type": "application/json"}
    text = base64.b64encode(film)
    yield Request(
        "JSON, 30 MB of empty lists",
        path,
        b'{"image": "' + text + b'", "findings": [' + b"[]," * 10_000_000 + b"[]]}",
        kind,
    )
    yield Request("JSON, 60 MB of one text", path, b'{"image": "' + b"A" * 60_000_000 + b'"}', kind)
    yield Request("JSON, a million lists deep", path, b'{"image": ' + b"[" * 1_000_000, kind)
    yield Request("JSON, a number of a million digits", path, b'{"image": ' + b"1" * 1_000_000 + b"}", kind)
    yield Request("90 MB of nothing", path, bytes(90_000_000))
    yield Request("form of 20,000 fields", path, *multipart({"data": film} | {f"a{i}": b"b" for i in range(20_000)}))
    yield Request("form whose film is its name", path, *multipart({"a" * 60_000: film}))


def multipart(fields: dict[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form; names are not escaped, on purpose."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in fields.items()
    ]
    return b"".join(parts) + b"--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}


def _pick(rng: np.random.Generator) -> Any:
    return _VALUES[rng.integers(len(_VALUES))]

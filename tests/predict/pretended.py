"""A pretended server: reads what a client posts, and answers as the real one does."""

from __future__ import annotations

from email.parser import BytesParser
from typing import Any

import httpx

from cxr_mtl.types import FindingCall, Node, Prediction, ScoredBox

URL = "http://127.0.0.1:9"


def fields_of(request: httpx.Request) -> dict[str, Any]:
    """The form's fields, as TorchServe hands them over."""
    head = b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
    parts = BytesParser().parsebytes(head + request.content).get_payload()
    assert isinstance(parts, list)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)  # type: ignore[union-attr]
        for part in parts
    }


def prediction(size: int, sha256: str = "0") -> Prediction:
    calls = (FindingCall("Edema", "positive", 0.75, 0.5), FindingCall("Hernia", "not_trained"))
    boxes = (ScoredBox("Edema", 0.5, (1.0, 2.0, 3.0, 4.5)),)
    model = {"name": "m", "version": "1", "sha256": sha256, "ontology": "o"}
    image = {"width": size, "height": 1, "format": "png", "sha256": "f"}
    tree = (Node("Edema", (), 0.75, 0.75), Node("Hernia", (), None, None))
    return Prediction(model, image, "f1", calls, tree, boxes, warnings=("windowed",))

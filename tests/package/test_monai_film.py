"""The MONAI bundle's own reading of films, held to ours; and what it says of itself, held to MONAI's schema."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from monai_schema import SCHEMA
from PIL import Image

from cxr_mtl.bundle import load_bundle
from cxr_mtl.data.read import read_image
from cxr_mtl.data.transforms import to_input
from cxr_mtl.package.monai_config import metadata
from cxr_mtl.package.monai_film import grey, letterbox
from cxr_mtl.package.whole import OneTable

RNG = np.random.default_rng(0)
EIGHT = RNG.integers(0, 256, (70, 93), np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(EIGHT), "JPEG", exif=exif)


FILMS = {
    "grey": saved(Image.fromarray(EIGHT)),
    "tall": saved(Image.fromarray(EIGHT.T.copy())),
    "colours": saved(Image.fromarray(EIGHT).convert("RGB")),
    "transparent": saved(Image.merge("LA", (Image.fromarray(EIGHT), Image.fromarray(EIGHT[::-1].copy())))),
    "palette": saved(Image.fromarray(EIGHT).convert("P")),
    "16 bit": saved(Image.fromarray(EIGHT.astype(np.uint16) * 257)),
    "12 in 16 bit": saved(Image.fromarray(EIGHT.astype(np.uint16) * 16)),
    "jpeg": saved(Image.fromarray(EIGHT), "JPEG"),
    "on its side": turned(6),
    "upside down": turned(3),
}


@pytest.mark.parametrize("kind", FILMS)
@pytest.mark.parametrize("size", [64, 224])
def test_a_film_becomes_the_same_input(kind: str, size: int) -> None:
    square, _ = to_input(read_image(FILMS[kind]).pixels, size)
    with Image.open(io.BytesIO(FILMS[kind])) as picture:
        found = letterbox(np.asarray(grey(picture)), size)
    np.testing.assert_array_equal(found, square.astype(np.float32) / np.float32(255))


def test_what_it_says_of_itself_is_as_monai_wants_it(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    network = OneTable(bundle)
    results = {"classification": {"macro": {"auroc": {"value": 0.7, "ci95": [0.6, 0.8]}}}, "dataset": "drawn"}
    said = metadata(bundle, network, results)
    jsonschema.validate(said, SCHEMA)
    assert said["eval_metrics"] == {"auroc": 0.7, "dataset": "drawn"}
    pred = said["network_data_format"]["outputs"]["pred"]
    assert pred["num_channels"] == len(pred["channel_def"]) == len(network.columns)
    assert pred["channel_def"]["0"] == f"finding {bundle.ontology.names[0]}"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({key: value for key, value in said.items() if key != "task"}, SCHEMA)

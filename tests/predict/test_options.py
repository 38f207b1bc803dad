"""Which findings are answered with, and heat maps as numbers."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.heatmap import ARRAY_SIDE, make_heatmap
from cxr_mtl.predict.options import quoted
from cxr_mtl.predict.overlay import draw_overlay
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import FLAGGED, HeatArray, Heatmap, Options, Prediction


@pytest.fixture(scope="module")
def local(tiny_bundle: Path) -> LocalPredictor:
    return LocalPredictor(tiny_bundle)


def film(width: int = 150, height: int = 210) -> bytes:
    stream = io.BytesIO()
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 10, width // 10), dtype=np.uint8)
    Image.fromarray(np.kron(coarse, np.ones((10, 10), np.uint8))).save(stream, "PNG")
    return stream.getvalue()


def judged(local: LocalPredictor, options: Options) -> Prediction:
    (answer,) = local.predict([film()], options)
    assert isinstance(answer, Prediction)
    return answer


def refusal(local: LocalPredictor, options: Options) -> ImageError:
    (error,) = local.predict([film()], options)
    assert isinstance(error, ImageError)
    assert (error.code, error.status) == ("bad_request", 400)
    return error


def numbers(array: HeatArray) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array.data), array.dtype).reshape(array.shape)


@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_most_probable_findings_come_first_and_the_others_have_no_box(local: LocalPredictor, count: int) -> None:
    whole = judged(local, Options("sensitive"))
    answer = judged(local, Options("sensitive", heatmaps=(FLAGGED,), top_k=count))
    trained = sorted((f for f in whole.findings if f.probability is not None), key=lambda f: -(f.probability or 0))
    assert answer.findings == tuple(trained[:count])
    names = {f.name for f in answer.findings}
    assert answer.boxes == tuple(box for box in whole.boxes if box.finding in names)
    assert {heat.finding for heat in answer.heatmaps} == {
        f.name for f in answer.findings if f.call == "positive" and f.name != "No Finding"
    }
    assert answer.hierarchy == whole.hierarchy


def test_of_the_findings_that_are_wanted_and_a_map_that_is_asked_for_by_name_is_made(local: LocalPredictor) -> None:
    wanted = ("Mass", "Edema", "Hernia")
    answer = judged(local, Options(findings=wanted, heatmaps=("Nodule",), top_k=1))
    (finding,) = answer.findings
    assert finding.name in wanted
    assert finding.probability == max(f.probability or 0 for f in judged(local, Options(findings=wanted)).findings)
    assert [heat.finding for heat in answer.heatmaps] == ["Nodule"]


def test_options_that_make_no_sense_name_the_value_and_what_is_allowed(local: LocalPredictor) -> None:
    error = refusal(local, Options(top_k=0))
    assert str(error) == "top_k '0' is no number of findings. 1 or more; leave it out for all."
    error = refusal(local, Options(heatmap_format="jpeg"))
    assert str(error) == "heatmap_format 'jpeg': no such format of heat maps. Choose one of: png, array."
    error = refusal(local, Options("a\nb" + "c" * 10_000))
    assert error.message == f"operating_point 'a?b{'c' * 34}...' is not one of this model's."
    assert quoted("x" * 40) == f"'{'x' * 40}'"


@pytest.mark.parametrize(("width", "height"), [(150, 210), (1000, 400), (60, 40)])
def test_an_array_has_the_numbers_that_the_picture_shows(width: int, height: int) -> None:
    heat = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    box = Letterbox(width, height, 64)
    array, picture = (make_heatmap("Mass", heat, box, "grad_cam", format) for format in ("array", "png"))
    assert (array.png, picture.array) == (None, None)
    assert array.array is not None
    values = numbers(array.array)
    assert max(values.shape) <= ARRAY_SIDE
    assert values.min() >= 0
    assert values.max() <= 1
    grey = Image.open(io.BytesIO(base64.b64decode(picture.png or "")))
    assert values.shape[1] / values.shape[0] == pytest.approx(width / height, rel=0.03)
    shown = np.asarray(grey.resize(values.shape[::-1], Image.Resampling.BILINEAR), dtype=float) / 255
    assert np.abs(shown - values).mean() < 0.01
    assert np.corrcoef(shown.ravel(), values.ravel())[0, 1] > 0.999


def test_an_array_travels_as_json_and_is_drawn_like_a_picture(local: LocalPredictor) -> None:
    answer = judged(local, Options(heatmaps=("Mass",), heatmap_format="array"))
    (heat,) = answer.heatmaps
    assert set(heat.to_dict()) == {"finding", "method", "array"}
    assert heat.to_dict()["array"]["dtype"] == "<f4"
    assert Prediction.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer
    read = read_image(film())
    drawn = draw_overlay(read, answer, heatmap="Mass")
    as_picture = draw_overlay(read, judged(local, Options(heatmaps=("Mass",))), heatmap="Mass")
    bare = draw_overlay(read, replace(answer, heatmaps=()))
    difference = np.abs(np.asarray(drawn, float)[: read.height] - np.asarray(as_picture, float)[: read.height]).mean()
    assert drawn.size == as_picture.size
    assert (
        difference
        < 1.0
        < np.abs(np.asarray(bare, float)[: read.height] - np.asarray(drawn, float)[: read.height]).mean()
    )
    assert Heatmap.from_dict(heat.to_dict()) == heat

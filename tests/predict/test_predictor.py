"""One path from file to answer: boxes in the file's own pixels, a bad film costs its neighbours nothing."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image

from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.errors import ImageError
from cxr_mtl.model.encoder import make_encoder
from cxr_mtl.predict.heatmap import grad_cam, strength, to_film
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import DISCLAIMER, Options, Prediction


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> LocalPredictor:
    return LocalPredictor(tiny_bundle)


def png(width: int, height: int, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def one(results: list[Prediction | ImageError]) -> Prediction:
    (result,) = results
    assert isinstance(result, Prediction)
    return result


def test_answer_keeps_the_contract(predictor: LocalPredictor) -> None:
    body = json.loads(json.dumps(one(predictor.predict([png(100, 80)])).to_dict()))
    assert body["schema"] == "cxr-mtl.prediction/1"
    assert body["disclaimer"] == DISCLAIMER
    assert body["image"]["width"] == 100
    assert body["image"]["height"] == 80
    assert body["model"]["sha256"] == predictor.bundle.sha256
    assert {"name": "Hernia", "call": "not_trained"} in body["findings"]
    trained = [f for f in body["findings"] if f["call"] != "not_trained"]
    assert all(f["call"] == ("positive" if f["probability"] >= f["threshold"] else "negative") for f in trained)
    by_name = {n["name"]: n for n in body["hierarchy"]}
    for node in by_name.values():
        for parent in node["parents"]:
            if node["probability"] is not None:
                assert node["probability"] <= by_name[parent]["probability"] + 1e-6
    assert Prediction.from_dict(body).to_dict() == body


def test_boxes_are_in_the_files_own_pixels(predictor: LocalPredictor) -> None:
    small, large = (one(predictor.predict([png(w, h)])) for w, h in ((160, 80), (320, 160)))
    assert small.boxes
    assert all(0 <= b.xyxy[0] <= b.xyxy[2] <= 160 and 0 <= b.xyxy[1] <= b.xyxy[3] <= 80 for b in small.boxes)
    assert max(b.xyxy[2] for b in large.boxes) > 160
    for a, b in zip(small.boxes[:3], large.boxes[:3], strict=True):
        assert a.finding == b.finding
        assert np.allclose(np.array(a.xyxy) * 2, b.xyxy, atol=6)


def test_bad_film_costs_its_neighbours_nothing(predictor: LocalPredictor) -> None:
    good = png(90, 90, 1)
    first, bad, last = predictor.predict([good, b"not a film", png(90, 90, 2)])
    assert isinstance(bad, ImageError)
    assert isinstance(last, Prediction)
    assert isinstance(first, Prediction)
    alone = one(predictor.predict([good]))
    both = [[f.probability or 0 for f in p.findings] for p in (first, alone)]
    assert np.allclose(*both, atol=1e-5)


def test_each_film_has_its_own_options(predictor: LocalPredictor) -> None:
    film = png(90, 90)
    wanted = [
        Options(operating_point="sensitive", findings=("Mass",)),
        Options(operating_point="none"),
        Options(boxes=False),
    ]
    results = predictor.predict_each([(film, options) for options in wanted])
    assert isinstance(results[0], Prediction)
    assert [f.name for f in results[0].findings] == ["Mass"]
    assert results[0].findings[0].threshold == 0.2
    assert isinstance(results[1], ImageError)
    assert results[1].status == 400
    assert isinstance(results[2], Prediction)
    assert results[2].boxes == ()


def test_operating_points_order_the_calls(predictor: LocalPredictor) -> None:
    film = png(90, 90)
    flagged = {}
    for point in ("sensitive", "balanced", "specific"):
        answer = one(predictor.predict([film], Options(operating_point=point)))
        flagged[point] = sum(f.call == "positive" for f in answer.findings)
    assert flagged["sensitive"] >= flagged["balanced"] >= flagged["specific"]


def test_heat_map_covers_the_film(predictor: LocalPredictor) -> None:
    answer = one(predictor.predict([png(300, 200)], Options(heatmaps=("Mass", "Hernia"))))
    (heat,) = answer.heatmaps  # Hernia was never trained: there is no score to map
    assert heat.finding == "Mass"
    picture = Image.open(io.BytesIO(base64.b64decode(heat.png)))
    assert picture.size == (300, 200)
    assert picture.mode == "L"


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("test_convnext", {}),
        (
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4, "img_size": 64},
        ),
    ],
)
def test_grad_cam_equals_captums(name: str, args: dict[str, object]) -> None:
    torch.manual_seed(0)
    encoder = make_encoder(name, args).eval()
    tap = torch.nn.Identity()
    linear = torch.nn.Linear(encoder.channels[-1], 3)
    head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.tap, self.head = encoder, tap, head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.tap(self.encoder(x)[-1]))
            return out

    film = torch.randn(1, 1, 64, 64)
    theirs = LayerGradCam(Whole(), tap).attribute(film, target=1, relu_attributions=True)[0, 0]
    ours = grad_cam(head, encoder(film)[-1], 1)
    assert torch.allclose(ours, theirs.detach(), atol=1e-6)


def test_negative_finding_does_not_glow() -> None:
    cam = torch.rand(4, 4)
    assert strength(cam, 0.9, 0.3).max() == pytest.approx(1)
    assert strength(cam, 0.03, 0.3).max() == pytest.approx(0.1)
    assert (strength(torch.zeros(4, 4), 0.9, 0.3) == 0).all()


def test_heat_lands_where_it_was() -> None:
    """A hot cell of the input square appears at the matching place of a film twice as wide as high."""
    heat = torch.zeros(8, 8)
    heat[4, 6] = 1  # x .75 to .875, y .5 to .625 of the square
    film = to_film(heat, Letterbox(200, 100, 64))
    y, x = np.unravel_index(film.argmax(), film.shape)
    assert film.shape == (100, 200)
    assert 150 <= x <= 175  # the film fills the square's width
    assert 50 <= y <= 75  # and its middle half of height: .5 to .625 of the square is .5 to .75 of the film

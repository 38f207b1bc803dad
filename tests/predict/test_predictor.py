"""One path from file to answer: boxes in the file's own pixels, a bad film costs its neighbours nothing."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from PIL import Image

from cxr_mtl.bundle import load_bundle
from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.errors import ImageError
from cxr_mtl.model.classify import ClassifyHead
from cxr_mtl.model.encoder import make_encoder
from cxr_mtl.model.localize import make_anchors
from cxr_mtl.predict.explain import grad_cam
from cxr_mtl.predict.heatmap import strength, to_film
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import DISCLAIMER, Options, Outputs, Prediction


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


class SeesBright(torch.nn.Module):
    """Stands in for trained weights: its one box is where the input is bright, so a wrong frame cannot hide."""

    def __init__(self, real: torch.nn.Module, num_box_findings: int, side: int) -> None:
        super().__init__()
        self.real, self.num, self.anchors = real, num_box_findings, make_anchors(side)

    def forward(self, images: torch.Tensor) -> Outputs:
        out: Outputs = self.real(images)
        y, x = (images[0, 0] > 1).nonzero().unbind(1)  # brighter than three quarters
        box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        logits, deltas = (
            [torch.full_like(m, -20) for m in out.box_logits],
            [torch.zeros_like(m) for m in out.box_deltas],
        )
        anchor = self.anchors[0][0]  # the first anchor of the first place of the first level
        size, centre = anchor[2:] - anchor[:2], (anchor[2:] + anchor[:2]) / 2
        deltas[0][0, :4, 0, 0] = torch.cat(
            [((box[:2] + box[2:]) / 2 - centre) / size, ((box[2:] - box[:2]) / size).log()]
        )
        logits[0][0, 0, 0, 0] = 20
        return Outputs(out.findings, out.hierarchy, logits, deltas, out.features)


@pytest.mark.parametrize(("width", "height"), [(1024, 760), (512, 380), (380, 512), (2000, 500)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_known_box_lands_where_it_is(tiny_bundle: Path, width: int, height: int, kind: str) -> None:
    """Left of the middle and below it, wider than high: a swapped axis, a lost offset or a scale would show."""
    bundle = load_bundle(tiny_bundle)
    stand_in = SeesBright(bundle.model, len(bundle.box_findings), bundle.image_size)
    predictor = LocalPredictor(replace(bundle, model=stand_in))
    truth = np.array([0.1, 0.6, 0.4, 0.8]) * [width, height, width, height]
    pixels = np.tile(np.linspace(20, 60, width).astype(np.uint8), (height, 1))
    x1, y1, x2, y2 = truth.astype(int)
    pixels[y1:y2, x1:x2] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    best = one(predictor.predict([stream.getvalue()])).boxes[0]
    assert best.finding == bundle.box_findings[0]
    a_pixel_of_the_input = max(width, height) / bundle.image_size
    assert np.abs(np.array(best.xyxy) - truth).max() <= a_pixel_of_the_input + 1


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
    head = ClassifyHead(encoder.channels[-2:], 3).eval()

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = encoder, head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head.judge([n(m) for n, m in zip(head.norms, encoder(x)[-2:], strict=True)])
            return out

    film = torch.randn(1, 1, 64, 64)
    theirs = [
        LayerGradCam(Whole(), norm).attribute(film, target=1, relu_attributions=True).detach() for norm in head.norms
    ]
    size = theirs[0].shape[2:]
    expected = sum(torch.nn.functional.interpolate(t, size, mode="bilinear") * t.numel() / size.numel() for t in theirs)
    assert torch.allclose(grad_cam(head, encoder(film)[-2:], 1), expected[0, 0], atol=1e-6)


def test_negative_finding_does_not_glow() -> None:
    cam = torch.rand(4, 4)
    assert strength(cam, 0.9, 0.3).max() == pytest.approx(1)
    assert strength(cam, 0.3, 0.3).max() == pytest.approx(1)
    assert strength(cam, 0.299, 0.3).max() == pytest.approx(0.5, abs=0.01), "just below is not almost called"
    assert strength(cam, 0.03, 0.3).max() == pytest.approx(0.05)
    assert (strength(torch.zeros(4, 4), 0.9, 0.3) == 0).all()


def test_heat_lands_where_it_was() -> None:
    """A hot cell of the input square appears at the matching place of a film twice as wide as high."""
    heat = torch.zeros(8, 8)
    heat[4, 6] = 1  # x .75 to .875, y .5 to .625 of the square
    film = to_film(heat, Letterbox(200, 100, 64)).numpy()
    y, x = np.unravel_index(film.argmax(), film.shape)
    assert film.shape == (100, 200)
    assert 150 <= x <= 175  # the film fills the square's width
    assert 50 <= y <= 75  # and its middle half of height: .5 to .625 of the square is .5 to .75 of the film


def test_a_film_without_memory_costs_its_neighbours_nothing(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one film has none, or all films together."""
    predictor = LocalPredictor(tiny_bundle)
    whole = predictor.predict_each

    def short(requests: Sequence[tuple[Path | bytes, Options]]) -> list[Prediction | ImageError]:
        if len(requests) > 1 or requests[0][0] == b"large":
            raise MemoryError
        return whole(requests)

    monkeypatch.setattr(predictor, "predict_each", short)
    film = png(90, 80)
    good, large, again = predictor.predict([film, b"large", film])
    assert isinstance(good, Prediction)
    assert isinstance(again, Prediction)
    assert isinstance(large, ImageError)
    assert (large.code, large.status) == ("out_of_memory", 507)

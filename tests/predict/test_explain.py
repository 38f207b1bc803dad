"""Heat maps: they explain the number that is answered, in the film's own frame, and find what is known to be there.

The network of the fast tests is drawn up by hand: it sees how bright each place is, and nothing else.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from PIL import Image
from torch import Tensor, nn

from cxr_mtl.bundle import Bundle, load_bundle
from cxr_mtl.config import ModelConfig
from cxr_mtl.errors import ImageError
from cxr_mtl.model.classify import LEVELS, ClassifyHead
from cxr_mtl.model.multitask import judge, make_model, normalise
from cxr_mtl.predict.explain import STEPS, added_up, blurred, explain, integrated_gradients, make_score, occlusion
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import MAP_SECONDS, Ask, answer_requests
from cxr_mtl.predict.watch import Stopwatch
from cxr_mtl.types import EXPLANATIONS, FLAGGED, Options, Outputs, Prediction

SIDE = 64
FAMILIES: dict[str, dict[str, Any]] = {
    "test_convnext": {},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 2, "img_size": 64,
    },  # windows of two places: one of four would be the whole film, and what is in a place need not be where it is
}  # fmt: skip
OF_PLAIN = tuple(method for method in EXPLANATIONS if method != "attention")


class SeesBrightness(nn.Module):
    """An encoder whose maps hold how bright a place is, from mid grey up, in their only channel."""

    channels = (1, 1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(images.clamp(min=0), stride) for stride in (8, 16, 32)]


def seeing_brightness(bundle: Bundle, pooling: str = "plain", views: int = 1) -> Bundle:
    """The bundle with a findings head that answers: the brighter a place, the surer every finding."""
    changed = {"pooling": pooling, "views": views, "image_size": 256}
    config = ModelConfig.model_validate(bundle.description.model.model_dump() | changed)
    head = ClassifyHead((1, 1), len(bundle.ontology.names), pooling=config.pooling)
    head.norms = nn.ModuleList([nn.Identity(), nn.Identity()])
    nn.init.constant_(head.linear.weight, 1.0)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.findings = SeesBrightness(), head

        def forward(self, images: Tensor) -> Outputs:
            maps = self.encoder(images)[-LEVELS:]
            logits = self.findings(maps)
            return Outputs(logits, logits, [], [], maps)

        def judge_findings(self, images: Tensor) -> tuple[Tensor, Tensor]:
            out = self(images)
            return out.findings, out.hierarchy

    description = replace(bundle.description, model=config, box_findings=())
    network: Any = Network()
    return replace(bundle, model=network.eval(), description=description)


def film_with_lesion(width: int, height: int, x: int, y: int, radius: int) -> bytes:
    """Dark but for a bright disc about (x, y)."""
    rows, columns = np.mgrid[:height, :width]
    disc = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(20, 60, (height, width))
    Image.fromarray(np.where(disc, 250, noise).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def one(results: list[Prediction | ImageError]) -> Prediction:
    (result,) = results
    assert isinstance(result, Prediction)
    return result


def pixels(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300)])
@pytest.mark.parametrize("method", EXPLANATIONS)
def test_a_lesion_at_a_known_pixel_is_found_at_that_pixel(
    tiny_bundle: Path, method: str, width: int, height: int
) -> None:
    """In a corner's half, off both axes: a swapped axis, a mirror, a lost offset or a scale would show."""
    x, y = round(0.25 * width), round(0.7 * height)
    predictor = LocalPredictor(seeing_brightness(load_bundle(tiny_bundle), "attention"))
    film = film_with_lesion(width, height, x, y, 24)
    answer = one(predictor.predict([film], Options("sensitive", heatmaps=("Mass",), explain=method)))
    (heat,) = answer.heatmaps
    assert heat.method == method
    shown = pixels(heat.png)
    assert shown.shape == (height, width)
    rows, columns = np.nonzero(shown > 0.9 * shown.max())
    a_place = 16 * max(width, height) / predictor.bundle.image_size  # of the maps that the head sees
    assert abs(columns.mean() - x) <= 0.6 * a_place
    assert abs(rows.mean() - y) <= 0.6 * a_place


@pytest.mark.parametrize(("method", "views"), [*((m, 1) for m in EXPLANATIONS), ("grad_cam", 3), ("attention", 3)])
def test_nothing_to_see_is_nothing_to_show(tiny_bundle: Path, method: str, views: int) -> None:
    """A zero map stays zero, whatever the method, the film's noise and the probability."""
    bundle = seeing_brightness(load_bundle(tiny_bundle), "attention", views)
    film = film_with_lesion(100, 80, -99, -99, 9)  # beside the film: nothing is brighter than mid grey
    (heat,) = one(
        LocalPredictor(bundle).predict([film], Options("sensitive", heatmaps=("Mass",), explain=method))
    ).heatmaps
    assert pixels(heat.png).max() == 0


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_a_finding_far_below_its_threshold_does_not_glow(tiny_bundle: Path, method: str) -> None:
    bundle = seeing_brightness(load_bundle(tiny_bundle), "attention")
    film = film_with_lesion(128, 128, 40, 40, 12)
    options = Options("specific", heatmaps=("Mass",), explain=method)
    (called,) = one(LocalPredictor(bundle).predict([film], replace(options, operating_point="sensitive"))).heatmaps
    high = {"specific": dict.fromkeys(bundle.trained, 1e3)}
    aloof = replace(bundle, description=replace(bundle.description, operating_points=high))
    (negative,) = one(LocalPredictor(aloof).predict([film], options)).heatmaps
    assert pixels(called.png).max() > 200
    assert pixels(negative.png).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("views", [1, 3])
def test_what_is_explained_is_what_is_answered(family: str, views: int) -> None:
    model = make_tiny(family, "plain", seed=0)
    films = torch.randint(0, 255, (2, 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answered = judge(model, films, views).findings[:, 1]
        assert torch.allclose(make_score(model, 1, views)(films.float()), answered, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("views", [1, 2])
def test_integrated_gradients_add_up_to_the_logit(family: str, views: int) -> None:
    """To captum's own convergence delta; and the map's cells hold all of it."""
    model = make_tiny(family, "plain", seed=0)
    score = make_score(model, 1, views)
    film = smooth_film(0)
    start = blurred(film)
    ours = integrated_gradients(score, film, start)
    with torch.no_grad():
        rise = float(score(film) - score(start))
    delta = IntegratedGradients(score).compute_convergence_delta((ours[None, None],), (start,), (film,))
    assert abs(float(delta)) < 0.05 * float(ours.abs().sum()), f"{STEPS} steps are enough"
    assert float(ours.sum()) == pytest.approx(rise + float(delta), abs=1e-4)
    assert float(added_up(ours).sum() - added_up(-ours).sum()) == pytest.approx(float(ours.sum()), abs=1e-4)


def test_occlusion_is_what_covering_does(tiny_bundle: Path) -> None:
    """Against covering by hand: a patch's fall shows where the patch lay, the mean where patches overlap."""
    model = make_tiny("test_convnext", "plain", seed=0)
    score, film = make_score(model, 1), smooth_film(1)
    ours = occlusion(score, film, film * 0)
    patch, stride = SIDE // 8, SIDE // 16
    corners = [(y, x) for y in range(0, SIDE - patch + 1, stride) for x in range(0, SIDE - patch + 1, stride)]
    covered = film.repeat(len(corners), 1, 1, 1)
    for i, (y, x) in enumerate(corners):
        covered[i, 0, y : y + patch, x : x + patch] = 0
    with torch.no_grad():
        falls = score(film) - score(covered)
    fall, times = torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE)
    for (y, x), value in zip(corners, falls, strict=True):
        fall[y : y + patch, x : x + patch] += value
        times[y : y + patch, x : x + patch] += 1
    assert torch.allclose(ours, fall / times, atol=1e-5)


@pytest.mark.parametrize("method", ["grad_cam", "attention"])
def test_looks_are_laid_over_one_another(tiny_bundle: Path, method: str) -> None:
    """With several looks, each at another size, the lesion's heat comes from one place, not from as many as looks."""
    bundle = seeing_brightness(load_bundle(tiny_bundle), "attention")
    film = torch.zeros(1, 1, 256, 256)
    film[..., 32:64, 176:208] = 255.0
    peaks = []
    for views in (1, 5):
        (heat,) = explain(method, bundle.model, film, bundle.model.encoder(normalise(film))[-LEVELS:], [0], views)
        heat = (heat - heat.median()).clamp(min=0)
        weight = heat / heat.sum()
        peaks.append((float((weight.sum(1) * torch.arange(16)).sum()), float((weight.sum(0) * torch.arange(16)).sum())))
    assert peaks[0] == pytest.approx((2.5, 11.5), abs=0.6)
    assert peaks[1] == pytest.approx(peaks[0], abs=0.35)


class Clock:
    """The time in seconds, of which only the passes through the encoder take some."""

    now, a_pass, passes = 0.0, 10.0, 0

    def read(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock, see = Clock(), SeesBrightness.forward

    def slow(self: SeesBrightness, images: Tensor) -> list[Tensor]:
        clock.now += clock.a_pass
        clock.passes += 1
        return see(self, images)

    monkeypatch.setattr(SeesBrightness, "forward", slow)
    monkeypatch.setattr("time.monotonic", clock.read)
    return clock


@pytest.mark.parametrize("method", ["grad_cam", "attention"])
def test_each_look_is_seen_once_however_many_findings_are_mapped(tiny_bundle: Path, clock: Clock, method: str) -> None:
    predictor = LocalPredictor(seeing_brightness(load_bundle(tiny_bundle), "attention", views=5))
    film, names = film_with_lesion(90, 90, 40, 40, 9), ("Mass", "Edema", "Effusion")
    together = one(predictor.predict([film], Options("sensitive", heatmaps=names, explain=method)))
    assert clock.passes == 5 + 4, "five for the answer, of which the first serves the maps, too"
    alone = [one(predictor.predict([film], Options("sensitive", heatmaps=(name,), explain=method))) for name in names]
    assert together.heatmaps == tuple(heat for answer in alone for heat in answer.heatmaps)
    assert [heat.finding for heat in together.heatmaps] == list(names)
    clock.passes = 0
    one(predictor.predict([film], Options("sensitive", heatmaps=("Hernia",), explain=method)))
    assert clock.passes == 5, "never trained, so nothing to map"


@pytest.mark.parametrize(("views", "a_pass", "ends"), [(1, 40.0, 120.0), (3, 12.0, 96.0), (5, 6.0, 96.0)])
def test_a_slow_map_is_given_up_in_time(
    tiny_bundle: Path, clock: Clock, views: int, a_pass: float, ends: float
) -> None:
    """Within the map, between two looks, too: one that would end the worker is not made."""
    predictor = LocalPredictor(seeing_brightness(load_bundle(tiny_bundle), "attention", views))
    clock.a_pass = a_pass
    film = film_with_lesion(90, 90, 40, 40, 9)
    mapped = {"data": film, "heatmaps": "Mass", "explain": "integrated_gradients"}
    responses = answer_requests(predictor, [Ask(mapped), Ask(film), Ask(mapped)])
    assert [r.codes for r in responses] == [("busy",), ("ok",), ("busy",)]
    assert [r.status for r in responses] == [503, 200, 503]
    assert clock.now == ends
    assert MAP_SECONDS < ends <= MAP_SECONDS + a_pass
    assert clock.passes > 2 * views, "it did begin"


@pytest.mark.parametrize(("end", "ends"), [(25.0, 30.0), (35.0, 40.0), (45.0, 50.0)])
def test_a_film_whose_maps_come_too_late_costs_its_neighbour_nothing(
    tiny_bundle: Path, clock: Clock, end: float, ends: float
) -> None:
    """After three looks at both: too late for the first of the two for the maps, for the second, for the maps alone."""
    predictor = LocalPredictor(seeing_brightness(load_bundle(tiny_bundle), "attention", views=3))
    film = film_with_lesion(90, 90, 40, 40, 9)
    requests = [(film, Options("sensitive", heatmaps=("Mass", "Edema"), explain="grad_cam")), (film, Options())]
    late, good = predictor.predict_each(requests, Stopwatch(end=end))
    assert isinstance(late, ImageError)
    assert (late.code, late.status) == ("busy", 503)
    assert isinstance(good, Prediction)
    assert clock.now == ends
    in_time, _ = predictor.predict_each(requests, Stopwatch(end=ends + 50.0))
    assert isinstance(in_time, Prediction)
    assert len(in_time.heatmaps) == 2


@pytest.mark.parametrize(
    ("explain", "says"),
    [("attention", "explain 'attention': this model has none"), ("gradcam", "'gradcam': no such method"), ("", "''")],
)
def test_a_method_that_the_model_has_not_is_one_line(tiny_bundle: Path, explain: str, says: str) -> None:
    predictor = LocalPredictor(tiny_bundle)
    film = film_with_lesion(90, 90, 40, 40, 9)
    (error, good) = predictor.predict_each([(film, Options(explain=explain)), (film, Options(explain="grad_cam"))])
    assert isinstance(error, ImageError)
    assert (error.code, error.status) == ("bad_request", 400)
    assert says in error.message
    assert error.hint == "Choose one of: grad_cam, integrated_gradients, occlusion."
    assert isinstance(good, Prediction)


def test_what_is_flagged_is_mapped_without_being_named(tiny_bundle: Path) -> None:
    predictor = LocalPredictor(tiny_bundle)
    film = film_with_lesion(90, 90, 40, 40, 9)
    for options in (Options("sensitive", heatmaps=(FLAGGED,)), Options("sensitive", explain="grad_cam")):
        answer = one(predictor.predict([film], options))
        flagged = [call.name for call in answer.findings if call.call == "positive" and call.name != "No Finding"]
        assert flagged
        assert [heat.finding for heat in answer.heatmaps] == flagged
    named = one(predictor.predict([film], Options("sensitive", heatmaps=(flagged[0], FLAGGED))))
    assert [heat.finding for heat in named.heatmaps] == flagged, "each once"
    assert one(predictor.predict([film], Options("sensitive"))).heatmaps == ()
    assert Prediction.from_dict(named.to_dict()) == named


@pytest.mark.slow
def test_captum_is_loaded_only_when_asked(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "film.png").write_bytes(film_with_lesion(90, 90, 40, 40, 9))
    code = f"""
import sys
from pathlib import Path
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Options
predictor, film = LocalPredictor(Path({str(tiny_bundle)!r})), Path({str(tmp_path / "film.png")!r})
for method in ("grad_cam", "integrated_gradients"):
    predictor.predict([film], Options(heatmaps=("Mass",), explain=method))
    print("captum" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def make_tiny(family: str, pooling: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    config = ModelConfig(encoder=family, encoder_args=FAMILIES[family], image_size=SIDE, drop_path=0.0, pooling=pooling)
    model = make_model(config, 2, 0).eval()
    nn.init.normal_(model.findings.linear.weight, std=0.3)  # or all logits would be next to 0, and so all rises
    return model


def smooth_film(seed: int) -> Tensor:
    coarse = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255


# ---- what was learned: networks that were taught to find a planted lesion


def planted(num: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Films of smooth noise, every other one with a bright disc; (N, 1, S, S), (N,) present, (N, 2) its x and y."""
    rng = torch.Generator().manual_seed(seed)
    films = F.interpolate(torch.rand(num, 1, 8, 8, generator=rng), (SIDE, SIDE), mode="bicubic").clamp(0, 1) * 150
    present = (torch.arange(num) % 2).float()
    at = torch.randint(10, SIDE - 10, (num, 2), generator=rng)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    distance = ((x - at[:, :1, None]) ** 2 + (y - at[:, 1:, None]) ** 2).float().sqrt()
    disc = ((6 - distance).clamp(0, 1) * present[:, None, None])[:, None]
    return films * (1 - disc) + 240 * disc, present, at


@pytest.fixture(scope="module", params=[(f, p) for f in FAMILIES for p in ("plain", "attention")])
def taught(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A tiny network of each family and pooling that tells films with a disc from films without."""
    family, pooling = request.param
    model = make_tiny(family, pooling, seed=1)
    films, present, _ = planted(512, seed=2)
    optimizer = torch.optim.AdamW([*model.encoder.parameters(), *model.findings.parameters()], lr=2e-3)
    model.train()
    for step in range(160):
        rows = torch.randperm(512, generator=torch.Generator().manual_seed(step))[:32]
        logits = make_score(model, 0)(films[rows])
        loss = F.binary_cross_entropy_with_logits(logits, present[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return pooling, model.eval()


def maps_of(method: str, model: Any, film: Tensor) -> Tensor:
    with torch.no_grad():
        maps = judge(model, film, 1).features
    return explain(method, model, film, maps, [0])[0]


@pytest.mark.slow
def test_a_planted_lesion_is_found(taught: tuple[str, Any]) -> None:
    """By every method that the head has: the map's highest place is at the disc; by chance on a fifth of the films."""
    pooling, model = taught
    films, present, at = planted(64, seed=3)
    with torch.no_grad():
        logits = make_score(model, 0)(films)
    assert ((logits > 0) == (present > 0)).float().mean() > 0.9, "it has learned"
    found = {}
    for method in EXPLANATIONS if pooling == "attention" else OF_PLAIN:
        hits = []
        for i in torch.nonzero((present > 0) & (logits > 0)).flatten()[:24]:
            heat = maps_of(method, model, films[i : i + 1])
            y, x = divmod(int(heat.argmax()), heat.shape[1])
            a_place = SIDE / heat.shape[0]
            away = torch.tensor([(x + 0.5) * a_place, (y + 0.5) * a_place]) - at[i]
            hits.append(bool((away.abs() <= 6 + a_place / 2).all()))
        found[method] = np.mean(hits)
    # With eight starts on one machine the lowest shares were .62, .81, .87 and .83; another machine is another start.
    least = {"grad_cam": 0.4, "attention": 0.6, "integrated_gradients": 0.7, "occlusion": 0.7}
    assert {method: share for method, share in found.items() if share < least[method]} == {}


@pytest.mark.slow
def test_random_weights_make_another_map(taught: tuple[str, Any]) -> None:
    """Adebayo et al., Sanity checks for saliency maps, 2018: a map that outlives the weights is of the film alone."""
    pooling, model = taught
    family = "test_convnext" if is_convnext(model) else "swin_tiny_patch4_window7_224"
    random = make_tiny(family, pooling, seed=5)
    films, present, _ = planted(32, seed=4)
    for method in EXPLANATIONS if pooling == "attention" else OF_PLAIN:
        of_both = [
            [maps_of(method, m, films[i : i + 1]).flatten() for m in (model, random)]
            for i in torch.nonzero(present).flatten()[:8]
        ]
        assert np.mean([rank_correlation(a, b) for a, b in of_both]) < 0.5, method


def is_convnext(model: Any) -> bool:
    return type(model.encoder.net).__name__ == "ConvNeXt"


def rank_correlation(a: Tensor, b: Tensor) -> float:
    from scipy.stats import spearmanr

    if not a.std() or not b.std():
        return 0.0
    return float(spearmanr(a.numpy(), b.numpy()).statistic)

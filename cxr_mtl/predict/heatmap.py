"""A map of what a score rests on, made a picture of the submitted film.  H W of the map, S input side."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.predict.admit import Admitted
from cxr_mtl.predict.explain import explain
from cxr_mtl.predict.response import findings_to_map
from cxr_mtl.types import Answer, HeatArray, Heatmap, Options, Prediction

NEGATIVE = 0.5  # the most that a finding below its threshold may glow: nobody should take it for a called one
MAX_SIDE = 512  # of the PNG; the map has some ten cells a side, so more pixels would only be interpolation
ARRAY_SIDE = 128  # of the array: for counting, not for looking at, so a few numbers a cell are enough

_DTYPE = "<f4"


def make_heatmaps(
    bundle: Bundle,
    film: Admitted,
    maps: Sequence[Tensor],
    answer: Answer,
    prediction: Prediction,
    options: Options,
    end: float = math.inf,
) -> tuple[Heatmap, ...]:
    """The heat maps that are wanted of one film.

    Args:
        bundle: what answered.
        film: what it was asked about.
        maps: the encoder's last of that film, (1, F, H, W) and coarser.
        answer: the film's numbers.
        prediction: what was made of them.
        options: what is wanted.
        end: of ``time.monotonic``; see ``explain``.

    Raises:
        ImageError: code ``busy``: the end came first.
    """
    network, thresholds = bundle.description.model, bundle.operating_points[options.operating_point]
    method = options.explain or ("attention" if network.pooling == "attention" else "grad_cam")
    wanted = findings_to_map(bundle, prediction, options)
    names = [name for name in wanted if name in thresholds and bundle.sees(name)]
    if not names:
        return ()  # of what was never trained there is no score to explain
    columns = [bundle.ontology.index(name) for name in names]
    image = torch.from_numpy(film.square)[None, None].to(maps[0].device)
    heats = explain(method, bundle.model, image, maps, columns, network.views, end)
    heatmaps = []
    for name, column, heat in zip(names, columns, heats, strict=True):
        shown = strength(heat, float(answer.finding_probability[column]), thresholds[name])
        heatmaps.append(make_heatmap(name, shown, film.box, method, options.heatmap_format))
    return tuple(heatmaps)


def strength(cam: Tensor, probability: float, threshold: float) -> Tensor:
    """Map to 0..1 for showing: its highest point is 1 for a called finding, else half of probability / threshold.

    A map stretched to its own maximum would glow as much for a finding that is not there. The median is taken off
    first: what is the same over half the film points nowhere.
    """
    cam = (cam - cam.median()).clamp(min=0)
    peak = cam.max()
    if peak <= 0:
        return torch.zeros_like(cam)
    return cam / peak * (1.0 if probability >= threshold else NEGATIVE * probability / threshold)


def to_film(heat: Tensor, box: Letterbox, max_side: int = MAX_SIDE) -> Tensor:
    """Enlarge a map of the input square and cut the submitted film out of it.

    Args:
        heat: (H, W) at least 0, over the input square.
        box: where the film lies in the square.
        max_side: the most pixels a side.

    Returns:
        (h, w) at least 0, with the film's shape, longest side at most ``max_side``.
    """
    square = F.interpolate(heat[None, None].float(), (box.size, box.size), mode="bicubic", align_corners=False)
    corners = box.to_input(np.array([[0, 0, box.width, box.height]], dtype=np.float64))[0]
    x1, y1, x2, y2 = (int(v) for v in np.round(corners))
    film = square[:, :, y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)]
    scale = min(1.0, max_side / max(box.width, box.height))
    shape = (max(1, round(box.height * scale)), max(1, round(box.width * scale)))
    return F.interpolate(film, shape, mode="bilinear", align_corners=False)[0, 0].clamp(min=0)  # bicubic undershoots


def make_heatmap(finding: str, heat: Tensor, box: Letterbox, method: str, format: str) -> Heatmap:
    """The answer's heat map.

    Args:
        finding: by name.
        heat: (H, W) 0 to 1, over the input square.
        box: where the film lies in the square.
        method: what made it.
        format: one of ``types.HEATMAP_FORMATS``.
    """
    if format == "array":
        return Heatmap(finding, None, method, to_array(to_film(heat, box, ARRAY_SIDE)))
    return Heatmap(finding, to_png(to_film(heat, box)), method)


def to_array(heat: Tensor) -> HeatArray:
    """(h, w) map, 0 to 1, as numbers."""
    values = heat.clamp(max=1).cpu().numpy().astype(_DTYPE)
    return HeatArray((len(values), len(values[0])), base64.b64encode(values.tobytes()).decode("ascii"), _DTYPE)


def to_png(heat: Tensor) -> str:
    """(h, w) map, 0 to 1, as a grey PNG in base64 text."""
    stream = io.BytesIO()
    grey = (heat.clamp(max=1) * 255).round().to(torch.uint8).cpu().numpy()
    Image.fromarray(grey).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")

"""Expose one film: geometry, beam, detector curve and noise; and the boxes that are tight around what was drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from cxr_mtl.data.synthetic.anatomy import (
    Field,
    Pose,
    airways,
    bones,
    make_chest,
    make_pose,
    make_regions,
    step,
    tissue,
)
from cxr_mtl.data.synthetic.cases import BOX_FINDINGS, FilmPlan, film_rng, patient_rng
from cxr_mtl.data.synthetic.findings import draw_findings, extent, make_scene, texture

FRAME = 1024
"""NIH's boxes are in this frame, whatever the size of the file."""

_AIR = 0.84  # share of the lungs' density that air takes away


@dataclass(frozen=True, slots=True)
class Film:
    """One drawn film.

    Attributes:
        pixels: (S, S) bright is dense.
        boxes: of every finding seen that NIH boxes, whether or not the plan says that the reader drew them;
            x1, y1, x2, y2 in the 1024 frame.
    """

    pixels: NDArray[np.uint8]
    boxes: Mapping[str, tuple[float, float, float, float]]


def draw_film(plan: FilmPlan, size: int, *, hide: frozenset[str] = frozenset()) -> Film:
    """Draw a planned film, ``size`` pixels a side.

    ``hide`` leaves findings out; all else stays as it was, noise included.

    >>> from cxr_mtl.data.synthetic.cases import plan_films
    >>> draw_film(plan_films(1, seed=0)[0], 128).pixels.shape
    (128, 128)
    """
    shown = frozenset(plan.findings) - hide
    pose = make_pose(plan)
    chest = make_chest(plan, large_heart="Cardiomegaly" in shown, emphysema="Emphysema" in shown)
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0
    at = make_regions(chest, *pose.to_body(axis[None, :], axis[:, None]))

    lung = step(at.lung, 0.03)
    opacities = {name: opacity for name, opacity in draw_findings(make_scene(plan, chest, at)).items() if name in shown}
    clear = lung * chest.air
    for opacity in opacities.values():
        clear *= 1.0 - opacity
    # Vessels end where air has no lung around it.
    empty = sum((np.clip(-4.0 * o, 0.0, 1.0) for o in opacities.values()), np.zeros((), np.float32))
    vessels = _vessels(plan, pose, size) * np.clip(1.0 - empty, 0.0, 1.0) * (0.6 if "Emphysema" in shown else 1.0)
    grain = 0.035 * texture(at, film_rng(plan, 3), 0.12) + 0.02 * texture(at, film_rng(plan, 4), 0.04)
    # Only air shows vessels and grain; where it is gone, they are too.
    dense = tissue(chest, at) - _AIR * clear + np.clip(clear, 0.0, 1.0) * (0.19 * vessels + 0.35 * grain)
    beam = np.maximum(dense + bones(chest, at) - airways(at), 0.0)

    boxes = {name: extent(opacity * lung) for name, opacity in opacities.items() if name in BOX_FINDINGS}
    if "Cardiomegaly" in shown:
        boxes["Cardiomegaly"] = extent((at.heart > 0).astype(np.float32))
    return Film(_expose(plan, beam, size), {name: _to_frame(box, size) for name, box in boxes.items() if box})


def _vessels(plan: FilmPlan, pose: Pose, size: int) -> Field:
    """The vessels of both lungs, the patient's own on every film; 0 to 1."""
    tree = _vessel_tree(patient_rng(plan, 2))
    x1, y1 = pose.to_film(tree[:, 0], tree[:, 1])
    x2, y2 = pose.to_film(tree[:, 2], tree[:, 3])
    ends = ((np.stack([x1, y1, x2, y2], axis=1) + 1.0) * (size / 2)).tolist()
    canvas = Image.new("L", (size, size))
    pen = ImageDraw.Draw(canvas)
    for line, order in zip(ends, tree[:, 4].tolist(), strict=True):
        pen.line(line, fill=40 + 65 * int(order), width=max(1, round(size * (0.0035 * order - 0.0005))))
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(size / 300)), dtype=np.float32) / 255.0


def _vessel_tree(rng: np.random.Generator) -> Field:
    """Lines (N, 5): start u and v, end u and v, order; from the roots of the lungs outwards, each dividing into two."""
    trunks = np.linspace(-1.25, 1.35, 7)
    twigs = [(s, s * 0.15, -0.08, a + rng.uniform(-0.15, 0.15), 4) for s in (-1.0, 1.0) for a in trunks.tolist()]
    lines: list[tuple[float, ...]] = []
    while twigs:
        side, u, v, angle, order = twigs.pop()
        length = (0.06 + 0.05 * order) * rng.uniform(0.8, 1.2)
        end = (u + side * length * math.cos(angle), v + length * math.sin(angle))
        lines.append((u, v, *end, order))
        if order > 1:
            twigs += [(side, *end, angle + turn * rng.uniform(0.15, 0.40), order - 1) for turn in (-1, 1)]
    return np.array(lines)


def _expose(plan: FilmPlan, beam: Field, size: int) -> NDArray[np.uint8]:
    """The detector's answer to ``beam``: exposure, contrast, blur, noise, and the side mark."""
    rng = film_rng(plan, 5)
    exposure, gamma, spread = rng.uniform(0.85, 1.45), rng.uniform(0.9, 1.5), rng.uniform(0.005, 0.015)
    floor, contrast = rng.uniform(0.0, 0.06), rng.uniform(0.78, 0.94)
    mark_x, mark_y = rng.uniform(0.90, 0.94), rng.uniform(0.03, 0.08)

    stopped = 1.0 - np.exp(beam * -exposure)
    value = np.clip(stopped / (1.0 - math.exp(-2.0 * exposure)), 0.0, 1.0) ** gamma
    # Filmed from the front in bed, the chest is further from the detector and moves.
    value = ndimage.gaussian_filter(value, (1.5 if plan.view == "AP" else 1.0) * size / 512, truncate=2.5)
    value = floor + contrast * value + spread * rng.standard_normal((size, size), dtype=np.float32)
    pixels: NDArray[np.uint8] = np.rint(np.clip(value, 0.0, 1.0) * 255.0).astype(np.uint8)
    _mark_left(pixels, int(mark_x * size), int(mark_y * size))
    return pixels


def _mark_left(pixels: NDArray[np.uint8], x: int, y: int) -> None:
    """The lead letter L on the patient's left, by which a mirrored film is told."""
    unit = pixels.shape[0] / 128
    thick, height, width = max(1, round(unit)), round(6 * unit), round(4 * unit)
    pixels[y : y + height, x : x + thick] = 245
    pixels[y + height - thick : y + height, x : x + width] = 245


def _to_frame(box: tuple[int, int, int, int], size: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (edge * FRAME / size for edge in box)
    return x1, y1, x2, y2

"""What each finding does to the lungs it is in.

A finding is drawn as opacity: the share of a lung's air that it takes away at each point, 1 for all of it, more where
it is denser than the tissue around the lungs, and below 0 where there is more air than before. It may reach beyond the
lungs; only what lies within them is seen. Cardiomegaly and emphysema have none: they change the chest itself
(``anatomy.make_chest``).
Sizes are in body units; at 128 px one unit is 64 px.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_mtl.data.synthetic.anatomy import Chest, Field, Regions, bump, length, make_regions, step
from cxr_mtl.data.synthetic.cases import FilmPlan, finding_rng

_COARSE = 64  # points a side of the grid on which places are chosen, whatever the film's size


@dataclass(slots=True)
class Scene:
    """One film while its findings are placed.

    Attributes:
        plan: what is to be seen.
        chest: whose chest it is.
        at: regions over the film's pixels.
        coarse: the same over a coarse grid in body coordinates.
        taken: places already given away: u, v and reach, so that findings do not hide one another.
    """

    plan: FilmPlan
    chest: Chest
    at: Regions
    coarse: Regions
    taken: list[tuple[float, float, float]] = field(default_factory=list)


def make_scene(plan: FilmPlan, chest: Chest, at: Regions) -> Scene:
    axis = np.linspace(-0.8, 0.8, _COARSE, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    return Scene(plan, chest, at, make_regions(chest, u, v))


def draw_findings(scene: Scene) -> dict[str, Field]:
    """Opacity of each finding of the plan that is drawn in the lungs."""
    wanted = scene.plan.findings
    return {name: draw(scene, finding_rng(scene.plan, name)) for name, draw in _DRAW.items() if name in wanted}


def effusion(scene: Scene, rng: np.random.Generator) -> Field:
    """Fluid fills one lung from below, with a meniscus that climbs the wall."""
    at, chest = scene.at, scene.chest
    # A large heart leaves too little of the left base to see.
    left = _free_side(scene, rng) and chest.heart_ratio < 0.56
    floor = (chest.dome_left if left else chest.dome_right) + 0.5 * chest.dome_height
    height = rng.uniform(0.24, 0.50)
    climb = np.maximum(at.side - 0.30, 0.0)
    surface = floor - height - 0.9 * climb * climb
    scene.taken.append((0.40 if left else -0.40, floor - 0.4 * height, 0.16 + 0.5 * height))
    return _on_side(at, left) * step(at.v - surface, 0.03) * rng.uniform(0.85, 0.97)


def pneumothorax(scene: Scene, rng: np.random.Generator) -> Field:
    """Air between wall and lung: a clear, empty rim from the top downwards, and the lung's edge as a fine line."""
    at = scene.at
    left = _free_side(scene, rng)
    end = rng.uniform(-0.12, 0.22)
    # The rim narrows to nothing at its lower end, as the lung still lies against the wall there.
    rim = rng.uniform(0.50, 0.85) * np.sqrt(np.clip((end - at.v) * 2.2, 0.0, 1.0))
    scene.taken.append((0.42 if left else -0.42, -0.40, 0.30))
    space = step(rim - at.wall, 0.05) * step(end - at.v, 0.02)
    line = bump((at.wall - rim) * 22.0) * step(end - 0.02 - at.v, 0.03)
    return _on_side(at, left) * (0.55 * line - rng.uniform(0.30, 0.42) * space)


def pleural_thickening(scene: Scene, rng: np.random.Generator) -> Field:
    """A dense rim along the wall of one lung, knobbly inside."""
    at = scene.at
    left = _free_side(scene, rng)
    begin, end = rng.uniform(-0.50, -0.36), rng.uniform(0.05, 0.25)
    knobs = 0.06 * np.sin(at.v * rng.uniform(20, 30) + rng.uniform(0, 6))
    rim = rng.uniform(0.48, 0.62) + knobs
    scene.taken.append((0.55 if left else -0.55, -0.15, 0.22))
    where = step(rim - at.wall, 0.08) * step(end - at.v, 0.04) * step(at.v - begin, 0.04) * step(at.side - 0.40, 0.04)
    return _on_side(at, left) * where * rng.uniform(0.90, 1.05)


def pneumonia(scene: Scene, rng: np.random.Generator) -> Field:
    """A dense patch of one lobe, with the branches of the airways left dark in it."""
    width, height = rng.uniform(0.17, 0.24), rng.uniform(0.18, 0.28)
    u, v = _place(scene, rng, 0.10, max(width, height))
    at = scene.at
    dx, dy = (at.u - u) / width, (at.v - v) / height
    patch = step(1.0 - _rough_radius(dx, dy, rng, 0.10), 0.18)
    lean = rng.uniform(-0.4, 0.4)
    twigs = bump((dy - lean * dx - 0.35 * np.sin(2.5 * dx)) * 7.0) + bump((dy + (0.9 + lean) * dx) * 7.0)
    dense = rng.uniform(0.80, 0.95)
    return patch * dense * (1.0 - 0.55 * np.minimum(twigs, 1.0))


def infiltration(scene: Scene, rng: np.random.Generator) -> Field:
    """A wide, mottled haze in one lung: many small soft spots, lung still seen between them."""
    width, height = rng.uniform(0.17, 0.23), rng.uniform(0.26, 0.38)
    u, v = _place(scene, rng, 0.10, height)
    at = scene.at
    dx, dy = (at.u - u) / width, (at.v - v) / height
    zone = step(1.0 - _rough_radius(dx, dy, rng, 0.06), 0.30)
    spots: Field = np.clip(0.62 + 0.38 * texture(at, rng, 0.07), 0.2, 1.0)
    return zone * spots * rng.uniform(0.70, 0.85)


def mass(scene: Scene, rng: np.random.Generator) -> Field:
    """A lobed lump, larger than 3 cm."""
    radius = rng.uniform(0.155, 0.22)
    u, v = _place(scene, rng, 0.11, radius)
    dx, dy = (scene.at.u - u) / radius, (scene.at.v - v) / radius
    lump = step(1.0 - _rough_radius(dx, dy, rng, 0.09), 0.16)
    return lump * rng.uniform(0.95, 1.08)


def nodule(scene: Scene, rng: np.random.Generator) -> Field:
    """A small round spot, under 3 cm and chalky: denser than the tissue around the lungs."""
    radius = rng.uniform(0.075, 0.098)
    u, v = _place(scene, rng, 0.07, radius)
    spot = step(radius - length(scene.at.u - u, scene.at.v - v), 0.025)
    return spot * rng.uniform(1.2, 1.4)


def atelectasis(scene: Scene, rng: np.random.Generator) -> Field:
    """Collapsed plates: two or three thick, slightly tilted bands one above the other."""
    num_plates, gap = int(rng.integers(2, 4)), rng.uniform(0.085, 0.105)
    half = rng.uniform(0.14, 0.19)
    u, v = _place(scene, rng, 0.10, half, lowest=-0.05)
    at = scene.at
    tilt = rng.uniform(0.12, 0.35) * (1 if u > 0 else -1)
    du = at.u - u
    dv = at.v - v + tilt * du
    rows = dv / gap + 0.5 * (num_plates - 1)
    plate = np.clip(np.round(rows), 0, num_plates - 1)
    bands = step(0.030 - np.abs(rows - plate) * gap, 0.022)
    return bands * step(half - np.abs(du), 0.03) * rng.uniform(0.80, 0.95)


def edema(scene: Scene, rng: np.random.Generator) -> Field:
    """Haze about both roots of the lungs, like wings, and short lines at the wall below."""
    at = scene.at
    wings = bump(length((at.side - 0.22) * 2.6, (at.v + 0.02) * 1.9))
    lines = np.clip(np.sin(at.v * 95.0), 0, 1) * step(0.35 - at.wall, 0.1) * step(at.v + 0.02, 0.1)
    haze: Field = rng.uniform(0.70, 0.90) * wings * (0.9 + 0.18 * texture(at, rng, 0.10)) + 0.35 * lines
    return np.clip(haze, 0.0, 0.9)


# The lasting ones choose their place first, so that what comes and goes cannot move them from film to film.
_DRAW: dict[str, Callable[[Scene, np.random.Generator], Field]] = {
    "Pleural_Thickening": pleural_thickening,
    "Mass": mass,
    "Nodule": nodule,
    "Effusion": effusion,
    "Pneumothorax": pneumothorax,
    "Infiltration": infiltration,
    "Pneumonia": pneumonia,
    "Atelectasis": atelectasis,
    "Edema": edema,
}


def texture(at: Regions, rng: np.random.Generator, grain: float) -> Field:
    """Smooth noise of unit spread whose spots are ``grain`` wide, whatever the film's size in pixels."""
    side = 2 * int(1.2 / grain)
    coarse = Image.fromarray(rng.standard_normal((side, side), dtype=np.float32))
    height, width = at.u.shape
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def extent(amount: Field) -> tuple[int, int, int, int] | None:
    """Pixel bounds (x1, y1, x2, y2; the last two exclusive) of where ``amount`` is over 30 % of its most.

    None where there is nothing.
    """
    strength = np.abs(amount)
    shown = strength > 0.3 * strength.max()
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _on_side(at: Regions, left: bool) -> NDArray[np.bool_]:
    half: NDArray[np.bool_] = (at.u > 0) == left
    return half


def _free_side(scene: Scene, rng: np.random.Generator) -> bool:
    """Whether on the patient's left: either side, but the other one where something is already there."""
    left = bool(rng.random() < 0.5)
    return left != any((u > 0) == left for u, _, _ in scene.taken)


def _rough_radius(dx: Field, dy: Field, rng: np.random.Generator, roughness: float) -> Field:
    """Distance from the centre, 1 on a lobed outline."""
    radius, angle = length(dx, dy), np.arctan2(dy, dx)
    lobes = sum(rng.uniform(0.4, 1) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    return radius * (1.0 + roughness * lobes)


def _place(
    scene: Scene, rng: np.random.Generator, inset: float, reach: float, lowest: float = -0.55
) -> tuple[float, float]:
    """A centre that lies ``inset`` inside the lungs, below ``lowest``, and clear of what is already there.

    Every point has a random rank and the best free one wins, so a lasting finding keeps its place on the next film
    although the heart looks larger there.
    """
    at = scene.coarse
    rank = rng.random(at.u.shape)
    room = np.minimum(at.lung - inset, at.v - lowest)
    for u, v, taken in scene.taken:
        room = np.minimum(room, length(at.u - u, at.v - v) - (taken + reach))
    # Where nothing is free, the point with most room.
    best = int(np.argmax(np.where(room > 0, 1.0 + rank, room)))
    u, v = float(at.u.flat[best]), float(at.v.flat[best])
    scene.taken.append((u, v, reach))
    return u, v

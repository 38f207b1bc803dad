"""The chest without findings: where lungs, heart and wall are, and how much each point of the film weakens the beam.

Arrays are (H, W) float32 over body coordinates (u, v), or any other shape: the same arithmetic places findings on a
coarse grid and draws them on the film. Depths are in body units, positive inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.data.synthetic.cases import FilmPlan, film_rng, patient_rng

Field = NDArray[np.floating]

LUNG_CENTRE = 0.35
"""Distance of the lungs' tops from the midline."""
_COS, _SIN = (
    math.cos(math.radians(35.0)),
    math.sin(math.radians(35.0)),
)  # of the heart's tilt to the patient's left foot
_ROUNDNESS = 0.72  # short over long axis of the heart
_HALF_WIDTH = math.hypot(_COS, _ROUNDNESS * _SIN)  # of a heart with long half axis 1
_HALF_HEIGHT = math.hypot(_SIN, _ROUNDNESS * _COS)


@dataclass(frozen=True, slots=True)
class Pose:
    """How the patient stands before the detector: body = rotate(film - shift) / scale."""

    angle: float
    scale_u: float
    scale_v: float
    shift_u: float
    shift_v: float

    def to_body(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Film coordinates, -1 to 1, to body coordinates."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = x - self.shift_u, y - self.shift_v
        return (cos * x + sin * y) / self.scale_u, (cos * y - sin * x) / self.scale_v

    def to_film(self, u: Field, v: Field) -> tuple[Field, Field]:
        """The inverse of ``to_body``."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u, v = u * self.scale_u, v * self.scale_v
        return cos * u - sin * v + self.shift_u, sin * u + cos * v + self.shift_v


@dataclass(frozen=True, slots=True)
class Chest:
    """One patient's chest on one film, in body units.

    Attributes:
        width: half the inner width of the rib cage.
        top: v of the lungs' tops.
        dome_right: v of the diaphragm's dome on the patient's right, the viewer's left.
        dome_left: the same on the patient's left.
        dome_height: how far the diaphragm falls from its dome to the wall; small when flattened.
        heart_ratio: width of the heart over the inner width of the rib cage (cardiothoracic ratio).
        aorta: how far its knob stands out.
        rib_spacing: v from rib to rib.
        rib_phase: v of the first rib.
        breasts: density of the breast shadows, 0 for none.
        scapulae: u of the shoulder blades; over the lungs where they were not turned out.
        arms: how much of the arms is on the film, 0 to 1.
        air: how clear the lungs are, 1 for normal.
    """

    width: float
    top: float
    dome_right: float
    dome_left: float
    dome_height: float
    heart_ratio: float
    aorta: float
    rib_spacing: float
    rib_phase: float
    breasts: float
    scapulae: float
    arms: float
    air: float


@dataclass(frozen=True, slots=True)
class Regions:
    """Where things are at the points (u, v).

    Attributes:
        u: to the viewer's right.
        v: down.
        side: distance from the midline.
        wall: 1 in the middle of a lung to 0 at its wall and top; negative outside.
        dome: depth above the diaphragm.
        heart: depth within the heart.
        lung: depth within what is seen of the lungs, that is outside the heart.
    """

    u: Field
    v: Field
    side: Field
    wall: Field
    dome: Field
    heart: Field
    lung: Field


def make_pose(plan: FilmPlan) -> Pose:
    rng = film_rng(plan, 1)
    scale = rng.uniform(0.93, 1.05)
    return Pose(
        angle=math.radians(min(max(rng.normal(0, 2.5), -6), 6)),
        scale_u=scale * rng.uniform(0.97, 1.03) * (1.06 if plan.view == "AP" else 1.0),
        scale_v=scale,
        shift_u=rng.uniform(-0.06, 0.06),
        shift_v=rng.uniform(-0.05, 0.05),
    )


def make_chest(plan: FilmPlan, *, large_heart: bool, emphysema: bool) -> Chest:
    """The patient's own chest, as this film's view, breath and disease show it.

    The ratio of heart to chest keeps a gap between a heart that a film from the front enlarges (0.54 at most) and a
    large one (0.58 at least).
    """
    own, film = patient_rng(plan, 1), film_rng(plan, 2)
    front = plan.view == "AP"
    width, top, dome = own.uniform(0.66, 0.74), own.uniform(-0.74, -0.67), own.uniform(0.37, 0.45)
    ratio = own.uniform(0.59, 0.70) if large_heart else own.uniform(0.40, 0.47)
    aorta = 0.02 + 0.0007 * plan.age + own.uniform(0, 0.01)
    spacing, phase, breasts = own.uniform(0.125, 0.145), own.uniform(0, 0.14), own.uniform(0.10, 0.20)
    breath = film.uniform(-0.04, 0.03) - (0.05 if front else 0.0)
    heart_growth = (0.03 if large_heart else 0.065) if front else 0.0
    return Chest(
        width=width * (1.03 if emphysema else 1.0),
        top=top - (0.03 if emphysema else 0.0),
        dome_right=dome + breath + (0.12 if emphysema else 0.0),
        dome_left=dome + breath + (0.15 if emphysema else 0.06),
        dome_height=0.09 if emphysema else film.uniform(0.24, 0.31),
        heart_ratio=ratio * 0.82 if emphysema else ratio + heart_growth,
        aorta=aorta,
        rib_spacing=spacing * (1.08 if emphysema else 1.0),
        rib_phase=phase,
        breasts=breasts if plan.sex == "F" else 0.0,
        scapulae=film.uniform(0.58, 0.66) if front else film.uniform(0.84, 0.92),
        arms=film.uniform(0.6, 1.0) if front else film.uniform(0.0, 0.3),
        air=1.16 if emphysema else 1.0,
    )


def step(depth: Field, softness: float) -> Field:
    """0 well outside to 1 well inside, one half at the border, ``softness`` body units wide."""
    t = depth * (1.0 / softness)
    t += 0.5
    np.clip(t, 0.0, 1.0, out=t)
    out = t * t
    t *= -2.0
    t += 3.0
    out *= t
    return out


def bump(distance: Field) -> Field:
    """1 at 0, one quarter at 1, fading to 0."""
    t = 1.0 + distance * distance
    return 1.0 / (t * t)


def length(x: Field, y: Field) -> Field:
    """Distance from the origin; several times as fast as ``np.hypot``, and nothing here overflows."""
    return np.sqrt(x * x + y * y)


def make_regions(chest: Chest, u: Field, v: Field) -> Regions:
    side = np.abs(u)
    # Both sides at once, by arithmetic on 0 and 1: a where() over the film costs ten times as much.
    left = (u > 0).astype(np.float32)
    off = side - LUNG_CENTRE
    lateral, medial = np.maximum(off, 0.0), np.maximum(-off, 0.0)
    across = lateral * (1 / (chest.width - LUNG_CENTRE)) + medial * (1 / 0.42)
    above = np.maximum(0.15 - v, 0.0) * (1 / (0.15 - chest.top))
    wall = 1.0 - across * across * np.sqrt(across) - above * above
    fall = lateral * lateral * (chest.dome_height / (chest.width - LUNG_CENTRE) ** 2) + 0.6 * medial * medial
    dome = chest.dome_right + (chest.dome_left - chest.dome_right) * left + np.minimum(fall, 0.4) - v
    knob = (0.015 + (chest.aorta + 0.01) * left) * bump((v + 0.30) * 10.0)
    inner = side - 0.10 - knob - 0.05 * np.clip(-0.42 - v, 0.0, 0.2)
    heart = heart_depth(chest, u, v, dome)
    lung = np.minimum(np.minimum(wall * 0.2, inner), np.minimum(dome, -heart))
    return Regions(u, v, side, wall, dome, heart, lung)


def heart_depth(chest: Chest, u: Field, v: Field, dome: Field) -> Field:
    """Depth within the heart: an egg that leans to the patient's left and rests on the diaphragm."""
    axis = chest.heart_ratio * chest.width / _HALF_WIDTH
    du = u - 0.34 * axis
    dv = v - (chest.dome_left + 0.10 - _HALF_HEIGHT * axis)
    along = (_COS * du + _SIN * dv) * (1 / axis)
    across = (_COS * dv - _SIN * du) * (1 / (axis * _ROUNDNESS))
    depth: Field = np.minimum((1.0 - length(along, across)) * (axis * 0.85), dome + 0.03)
    return depth


def tissue(chest: Chest, at: Regions) -> Field:
    """What weakens the beam other than bone, as though the lungs held no air."""
    trunk = chest.width + 0.16
    shoulders, waist = step(at.v + 0.72, 0.30), step(at.v + 0.15, 0.9)
    outline = 0.25 + (0.80 - 0.03 * (1 - chest.arms)) * shoulders - (1.05 - trunk) * (1 - 0.7 * chest.arms) * waist
    body: Field = step(outline - at.side - 0.02, 0.10)
    below = step(-at.dome, 0.05) * step(chest.width + 0.05 - at.side, 0.25)
    depth: Field = (
        1.0
        + 0.12 * below
        + 0.25 * step(at.v - 0.60, 0.8)
        + 0.10 * step(at.heart, 0.12)
        + 0.14 * step(0.13 - at.side, 0.10)
    )
    if chest.breasts:
        round_ = length(at.side - 0.36, (at.v - 0.12) * 0.95)
        depth += chest.breasts * step(0.30 - round_, 0.04) * (0.4 + step(at.v - 0.12, 0.4))
    # The stomach's bubble, under the patient's left dome.
    bubble = length((at.u - 0.36) * 0.8, at.v - (chest.dome_left + 0.16))
    depth -= 0.22 * step(0.075 - bubble, 0.03)
    return body * depth


def bones(chest: Chest, at: Regions) -> Field:
    """What ribs, spine, collar bones and shoulder blades add."""
    cage = step(at.wall + 0.18, 0.10) * (0.25 + 0.75 * step(at.dome, 0.2))
    # Behind, ribs fall outwards from the spine; in front they fall inwards.
    arch = at.side - 0.22
    behind = np.sin((at.v - 0.42 * arch * arch - chest.rib_phase) * (2 * np.pi / chest.rib_spacing))
    front = np.sin((at.v + 0.55 * at.side + 0.02) * (2 * np.pi / (chest.rib_spacing * 1.1)))
    # The lower edge of a rib is the sharper: a clipped sine stands for the cortex.
    front = np.clip(front * 1.6 - 0.6, 0, 1) * step(at.side - 0.2, 0.2)
    out: Field = cage * (0.14 * np.clip(behind * 1.6 - 0.45, 0, 1) + 0.05 * front)
    disc = 0.75 + 0.25 * np.clip(2 * np.sin(at.v * 52.0), -1, 1)
    out += 0.17 * step(0.072 - at.side, 0.02) * disc
    collar = at.v - (-0.47 - 0.34 * (at.side - 0.08) + 0.10 * np.sin(7.0 * (at.side - 0.08)) * 0.35)
    out += 0.20 * step(0.030 - np.abs(collar), 0.02) * step(0.30 - np.abs(at.side - 0.37), 0.04)
    blade_u, blade_v = at.side - chest.scapulae, at.v + 0.30
    blade = 0.20 - length(1.9 * (blade_u + 0.35 * blade_v), 0.75 * blade_v)
    out += 0.09 * step(blade, 0.03) + 0.07 * step(0.018 - np.abs(blade), 0.02)
    return out


def airways(at: Regions) -> Field:
    """How much more of the beam the windpipe and its two branches let through."""
    pipe = step(0.030 - np.abs(at.u + 0.008), 0.03) * step(-0.24 - at.v, 0.05)
    branch = np.abs(at.v + 0.24 - 0.62 * at.side)
    return 0.20 * pipe + 0.12 * step(0.022 - branch, 0.03) * step(0.17 - at.side, 0.06)

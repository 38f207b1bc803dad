"""Pictures that are no frontal chest films, made on the fly: drawn from nothing, or out of films.  N films.

The gate learns what a chest film is by telling films from these. They need not be good pictures of what they stand for:
a hand is some capsules in capsules, a photograph is leaves upon leaves. Each is a function of the random numbers it is
given, so the same seed makes the same pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from cxr_mtl.data.gate.thumbs import SIDE, cut_out, reduced
from cxr_mtl.data.geometry import Letterbox

Thumb = NDArray[np.uint8]
Rng = np.random.Generator


def turned(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """A film on its side or upside down."""
    return np.rot90(_one(rng, films), int(rng.integers(1, 4)))


def inverted(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """A film with dense as dark."""
    return np.asarray(255 - _one(rng, films), dtype=np.uint8)


def part(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """A piece of a film, a fifth to under a half of its side."""
    side = int(SIDE * rng.uniform(0.2, 0.45))
    x, y = (int(v) for v in rng.integers(0, SIDE - side, 2))
    return reduced(_one(rng, films)[y : y + side, x : x + side], SIDE)


def shuffled(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """The pieces of a film in another order."""
    cells = int(rng.choice([2, 4]))
    side = SIDE // cells
    pieces = _one(rng, films).reshape(cells, side, cells, side).swapaxes(1, 2).reshape(-1, side, side)
    mixed = pieces[rng.permutation(len(pieces))].reshape(cells, cells, side, side)
    return np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(SIDE, SIDE))


def spectrum(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """The spectrum of a film with the phases of noise: a film's greys and smoothness, and nothing to see."""
    strength = np.abs(np.fft.rfft2(_one(rng, films).astype(np.float64)))
    phases = np.angle(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))))
    return _greys(np.fft.irfft2(strength * np.exp(1j * phases), s=(SIDE, SIDE)))


def several(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """Two or four films in one picture, or a film on a wall or screen that was photographed with it."""
    if rng.random() < 0.3:
        canvas = scene(rng, films).copy()
        side = int(SIDE * rng.uniform(0.3, 0.6))
        x, y = (int(v) for v in rng.integers(0, SIDE - side, 2))
        canvas[y : y + side, x : x + side] = reduced(_one(rng, films), side)
        return canvas
    columns, rows = ((2, 1), (1, 2), (2, 2))[int(rng.integers(3))]
    return reduced(np.block([[_one(rng, films) for _ in range(columns)] for _ in range(rows)]), SIDE)


def clouds(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """Noise that is the rougher the flatter its spectrum: skin, water, sand."""
    return _greys(_noise(rng, SIDE, rng.uniform(0.3, 2.2)))


def leaves(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """Shapes upon shapes, shaded and rough: the statistics of a photograph."""
    picture, pen = _canvas(rng.integers(0, 256))
    smallest, many = rng.uniform(3, 20), int(rng.integers(15, 250))
    for radius in np.sort(smallest / np.sqrt(rng.uniform(0.005, 1, many)))[::-1]:
        x, y = rng.uniform(-10, SIDE + 10, 2)
        shade = int(rng.integers(0, 256))
        if rng.random() < 0.5:
            stretch = rng.uniform(0.4, 1)
            pen.ellipse((x - radius, y - radius * stretch, x + radius, y + radius * stretch), fill=shade)
        else:
            around = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 7))))
            pen.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in around], fill=shade)
    return _photographed(rng, picture)


def scene(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """Sky over ground, and things that stand on it."""
    horizon = SIDE * rng.uniform(0.2, 0.8)
    sky, ground = rng.uniform(0, 255, 2)
    rows = np.arange(SIDE)
    slope = rng.uniform(-0.6, 0.6, 2)
    shades = np.where(rows < horizon, sky + slope[0] * rows, ground + slope[1] * (rows - horizon))
    picture = Image.fromarray(np.repeat(shades.clip(0, 255).astype(np.uint8)[:, None], SIDE, axis=1))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 9))):
        x, width, height = rng.uniform(0, SIDE), rng.uniform(4, 60), rng.uniform(8, 90)
        foot = horizon + rng.uniform(0, SIDE - horizon) * 0.7
        body, shade = (x - width / 2, foot - height, x + width / 2, foot), int(rng.integers(0, 256))
        (pen.rectangle if rng.random() < 0.5 else pen.ellipse)(body, fill=shade)
    return _photographed(rng, picture)


def symmetric(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """Anything with two like halves, as a chest has."""
    half = (leaves, clouds, scene)[int(rng.integers(3))](rng, films)[:, : SIDE // 2]
    return np.hstack([half, half[:, ::-1]])


def body_slice(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """A body cut across: an oval on black with ovals in it, a spine, perhaps two lungs."""
    picture, pen = _canvas(0)
    centre, size = rng.uniform(56, 72, 2), rng.uniform(34, 62, 2) * rng.choice(np.array([[1, 0.7], [0.8, 1], [1, 1]]))

    def oval(middle: ArrayLike, halves: ArrayLike, shade: float) -> None:
        at, half = centre + size * np.asarray(middle), size * np.asarray(halves)
        pen.ellipse((*(at - half), *(at + half)), fill=int(np.clip(shade, 0, 255)))

    fat, meat = rng.uniform(30, 130), rng.uniform(80, 180)
    oval((0, 0), (1, 1), fat)
    oval((0, 0), rng.uniform(0.75, 0.95, 2), meat)
    if rng.random() < 0.5:
        air = rng.uniform(0, 60)
        for side in (-1, 1):
            oval((side * 0.42, -0.05), rng.uniform(0.25, 0.38, 2), air)
    for _ in range(int(rng.integers(0, 9))):
        oval(rng.uniform(-0.6, 0.6, 2), rng.uniform(0.05, 0.4, 2), meat + rng.normal(0, 40))
    for _ in range(int(rng.integers(0, 9))):
        angle = rng.uniform(0, 2 * math.pi)
        oval((0.85 * math.cos(angle), 0.85 * math.sin(angle)), (0.09, 0.07), 240)
    oval((0, rng.uniform(0.4, 0.7)), (0.16, 0.14), rng.uniform(190, 255))
    return _exposed(rng, picture)


def limb(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """A hand, or an arm or leg with its joints: bones in flesh, before air."""
    flesh, bone = (_canvas(0) for _ in range(2))

    def segment(
        start: NDArray[np.float64], angle: float, length: float, thick: float, bones: int
    ) -> NDArray[np.float64]:
        along = np.array([math.cos(angle), math.sin(angle)])
        across, end = np.array([-along[1], along[0]]), start + along * length
        _capsule(flesh[1], start, end, thick)
        for k in range(bones):
            aside = across * thick * 0.45 * (k - (bones - 1) / 2)
            gap = along * min(2.0, length / 8)
            _capsule(bone[1], start + aside + gap, end + aside - gap, thick / (2.0 * bones))
        return end

    facing, at = rng.uniform(0, 2 * math.pi), rng.uniform(40, 88, 2)
    if rng.random() < 0.5:
        palm, spread, reach = rng.uniform(14, 26), rng.uniform(0.15, 0.4), rng.uniform(14, 30)
        segment(at - 70 * np.array([math.cos(facing), math.sin(facing)]), facing, 60, palm * rng.uniform(0.9, 1.5), 2)
        for finger in range(5):
            angle = facing + spread * (finger - 2)
            joint = at
            for phalanx in range(4):
                length = (palm * 1.3 if phalanx == 0 else reach * 0.75**phalanx) * (0.75 if finger == 0 else 1)
                joint = segment(joint, angle, length, palm * (0.85 if phalanx == 0 else 0.42), 1)
    else:
        thick = rng.uniform(14, 60)
        joint = at - 100 * np.array([math.cos(facing), math.sin(facing)])
        for k in range(int(rng.integers(1, 4))):
            joint = segment(joint, facing, rng.uniform(50, 120), thick * 0.85**k, int(rng.integers(1, 3)))
            facing += rng.uniform(-1.2, 1.2)
    soft, hard = (np.asarray(layer[0], dtype=np.float64) for layer in (flesh, bone))
    shade = rng.uniform(50, 130)
    return _exposed(rng, Image.fromarray((soft * shade / 255 + hard * (245 - shade) / 255).astype(np.uint8)))


def page(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """Lines of writing, black on white or white on black."""
    picture, pen = _canvas(255)
    height = int(rng.integers(3, 12))
    for y in range(int(rng.integers(0, 20)), SIDE, height + int(rng.integers(2, 8))):
        x = rng.uniform(0, 20)
        while x < SIDE - rng.uniform(0, 40):
            word = rng.uniform(1, 5) * height
            pen.rectangle((x, y, x + word, y + height * 0.6), fill=int(rng.integers(0, 120)))
            x += word + height * 0.6
    return _photographed(rng, picture.point(lambda v: 255 - v) if rng.random() < 0.4 else picture)


def shading(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    """One light: a gradient, a spot or a bar."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - rng.uniform(0, 1, 2)[:, None, None]
    angle = rng.uniform(0, 2 * math.pi)
    across = x * math.cos(angle) + y * math.sin(angle)
    kind = rng.integers(3)
    value = across if kind == 0 else np.exp(-((across if kind == 1 else np.hypot(x, y)) ** 2) / rng.uniform(0.01, 0.3))
    return _greys(value * rng.choice([-1, 1]) + rng.uniform(0, 0.1) * rng.standard_normal(value.shape))


OUT_OF_FILMS: dict[str, Callable[[Rng, NDArray[np.uint8]], Thumb]] = {
    "turned films": turned,
    "inverted films": inverted,
    "pieces of films": part,
    "films in disorder": shuffled,
    "films without form": spectrum,
    "several films": several,
}
DRAWN: dict[str, Callable[[Rng, NDArray[np.uint8]], Thumb]] = {
    "clouds": clouds,
    "leaves": leaves,
    "scenes": scene,
    "symmetric pictures": symmetric,
    "body slices": body_slice,
    "limbs": limb,
    "pages": page,
    "shadings": shading,
}
KINDS = OUT_OF_FILMS | DRAWN


def make_negatives(kind: str, count: int, films: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """(count, SIDE, SIDE) thumbnails of pictures of one kind.

    Args:
        kind: of ``KINDS``.
        count: of pictures.
        films: (N, SIDE, SIDE) thumbnails of films, for the kinds that are made out of films.
        seed: no two kinds share their random numbers.
    """
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    whole = Letterbox(SIDE, SIDE, SIDE)
    return np.stack([reduced(cut_out(KINDS[kind](rng, films), whole), SIDE) for _ in range(count)])


def _one(rng: Rng, films: NDArray[np.uint8]) -> Thumb:
    return np.asarray(films[int(rng.integers(len(films)))])


def _canvas(shade: int | np.int64) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("L", (SIDE, SIDE), int(shade))
    return picture, ImageDraw.Draw(picture)


def _capsule(pen: ImageDraw.ImageDraw, start: NDArray[np.float64], end: NDArray[np.float64], thick: float) -> None:
    pen.line((*start, *end), fill=255, width=max(1, round(thick)))
    for x, y in (start, end):
        pen.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=255)


def _photographed(rng: Rng, picture: Image.Image) -> Thumb:
    """Light from one side, out of focus, rough."""
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2))), dtype=np.float64)
    light = 1 + rng.uniform(-0.5, 0.5) * np.linspace(-1, 1, SIDE)
    lit = soft * (light[:, None] if rng.random() < 0.5 else light) + rng.uniform(0, 50) * _noise(rng, SIDE, 1.0)
    return np.asarray(lit.clip(0, 255).astype(np.uint8))


def _exposed(rng: Rng, picture: Image.Image) -> Thumb:
    """Blur, a curve, and grain; now and then turned over."""
    value = np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5))), dtype=np.float64) / 255
    value = value ** rng.uniform(0.5, 1.6) + rng.uniform(0, 0.12) * _noise(rng, SIDE, rng.uniform(0, 1.5))
    value = 1 - value if rng.random() < 0.15 else value
    return np.asarray((value * 255).clip(0, 255).astype(np.uint8))


def _noise(rng: Rng, side: int, fall: float) -> NDArray[np.float64]:
    """(side, side) of mean 0 and spread 1, whose strength falls with frequency to the power of ``fall``."""
    waves = np.fft.rfft2(rng.standard_normal((side, side)))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    waves *= np.maximum(frequency, 1 / side) ** -fall
    value = np.fft.irfft2(waves, s=(side, side))
    return np.asarray((value - value.mean()) / value.std())


def _greys(values: NDArray[np.float64]) -> Thumb:
    low, high = np.percentile(values, (1, 99))
    return np.asarray(((values - low) / max(high - low, 1e-9) * 255).clip(0, 255).astype(np.uint8))

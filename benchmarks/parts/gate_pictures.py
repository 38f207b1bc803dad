"""Pictures for benchmarks/gate.py that the gate never met: drawn otherwise, photographed, or out of scanners."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Grey = NDArray[np.float32]
SIDE = 256
# Package -> where its photographs lie; a package that is not installed is left out, and the benchmark says so.
PHOTOGRAPHS = {
    "skimage": ("data/*.png", "data/*.jpg"),
    "sklearn": ("datasets/images/*.jpg",),
    "gradio": ("media_assets/images/*.jp*g", "media_assets/images/*.png"),
    "matplotlib": ("mpl-data/sample_data/*.jpg", "mpl-data/sample_data/*.png"),
}
SCANS = (
    "CT_small.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "MR_small.dcm",
    "JPEG2000.dcm",
    "examples_overlay.dcm",
    "examples_palette.dcm",
    "examples_jpeg2k.dcm",
    "liver_1frame.dcm",
    "GDCMJ2K_TextGBR.dcm",
)


def photographs() -> Iterator[tuple[str, Grey]]:
    """Whatever pictures the installed packages carry, grey."""
    for package, patterns in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        for pattern in patterns if spec and spec.origin else ():
            for file in sorted(Path(str(spec.origin)).parent.glob(pattern)):  # type: ignore[union-attr]
                yield f"{package}: {file.name}", np.asarray(Image.open(file).convert("L"), np.float32) / 255


def scans() -> Iterator[tuple[str, Grey]]:
    """pydicom's own CT, MR, ultrasound and other test pictures."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for name in SCANS:
        if (folder / name).is_file():
            yield f"pydicom: {name}", pixels_of(folder / name)


def pixels_of(file: Path) -> Grey:
    """A DICOM's picture whatever its tags say, for the gate is about pixels; stretched to its own greys."""
    data = pydicom.dcmread(file, force=True)
    values = data.pixel_array.astype(np.float32)
    if values.ndim == 3:
        values = values.mean(-1) if values.shape[-1] == 3 else values[len(values) // 2]
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        values = values.max() - values
    low, high = np.percentile(values, (0.5, 99.5))
    return np.asarray(((values - low) / max(high - low, 1e-6)).clip(0, 1), np.float32)


def drawn(count: int, seed: int) -> Iterator[tuple[str, Grey]]:
    """Radiographs of other parts and a lateral chest, drawn with other code than the gate's own pictures."""
    for k, (kind, draw) in enumerate(
        {"hand": _hand, "knee": _knee, "skull": _skull, "pelvis": _pelvis, "lateral chest": _lateral}.items()
    ):
        rng = np.random.default_rng([seed, k])
        for _ in range(count):
            yield f"drawn {kind}", _finished(rng, draw(rng))


def _finished(rng: np.random.Generator, layers: Image.Image) -> Grey:
    turned = layers.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(2))
    values = np.asarray(turned, np.float32) / 255
    rough = Image.fromarray(rng.standard_normal((32, 32)).astype(np.float32)).resize((SIDE, SIDE))
    values = values ** rng.uniform(0.6, 1.4) * (1 + 0.1 * np.asarray(rough)) + rng.normal(0, 0.015, values.shape)
    return np.asarray(values.clip(0, 1), np.float32)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("L", (SIDE, SIDE), 12)
    return picture, ImageDraw.Draw(picture)


def _bone(picture: Image.Image, x: float, y: float, long: float, wide: float, angle: float, shade: int) -> None:
    """An oval of flesh or bone about a point."""
    layer = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(layer).ellipse((x - wide, y - long, x + wide, y + long), fill=255)
    picture.paste(shade, mask=layer.rotate(angle, center=(x, y)))


def _hand(rng: np.random.Generator) -> Image.Image:
    picture, _ = _canvas()
    x, y, big = rng.uniform(110, 146), rng.uniform(150, 180), rng.uniform(0.8, 1.15)
    _bone(picture, x, y, 52 * big, 46 * big, 0, 105)
    _bone(picture, x, y + 85 * big, 55 * big, 26 * big, 0, 115)
    for shade, thin in ((105, 1.0), (215, 0.5)):
        for finger in range(5):
            angle = (2 - finger) * rng.uniform(12, 16)
            along = np.array([-np.sin(np.radians(angle)), -np.cos(np.radians(angle))])
            for joint, at in enumerate((35, 75, 105, 128)):
                px, py = np.array([x, y]) + along * at * big
                _bone(picture, px, py, (24 - 3 * joint) * big, 11 * thin * big, angle, shade)
    return picture


def _knee(rng: np.random.Generator) -> Image.Image:
    picture, _ = _canvas()
    x, gap = rng.uniform(115, 141), rng.uniform(3, 8)
    _bone(picture, x, 128, 190, rng.uniform(62, 85), 0, 95)
    for side in (-1, 1):
        _bone(picture, x, 128 + side * 95, 80, 26, 0, 190)
        for part in (-1, 1):
            _bone(picture, x + part * 24, 128 + side * (28 + gap), 27, 27, 0, 205)
    _bone(picture, x + 42, 215, 62, 9, 3, 185)
    return picture


def _skull(rng: np.random.Generator) -> Image.Image:
    picture, pen = _canvas()
    x, y, wide = 128, rng.uniform(105, 120), rng.uniform(72, 88)
    _bone(picture, x, y, wide * 1.2, wide, 0, 225)
    _bone(picture, x, y, wide * 1.1, wide * 0.9, 0, 140)
    _bone(picture, x, y + wide, wide * 0.5, wide * 0.55, 0, 195)
    for side in (-1, 1):
        _bone(picture, x + side * wide * 0.4, y + wide * 0.4, 19, 22, 0, 75)
    _bone(picture, x, y + wide * 0.75, 20, 10, 0, 70)
    pen.rectangle((x - 22, y + wide * 1.35, x + 22, SIDE), fill=170)
    return picture


def _pelvis(rng: np.random.Generator) -> Image.Image:
    picture, pen = _canvas()
    _bone(picture, 128, 128, 135, rng.uniform(105, 120), 0, 100)
    for side in (-1, 1):
        _bone(picture, 128 + side * 55, 95, 58, 34, side * 28, 195)
        _bone(picture, 128 + side * 38, 185, 26, 24, 0, 195)
        _bone(picture, 128 + side * 38, 185, 14, 12, 0, 90)
        _bone(picture, 128 + side * 82, 190, 24, 24, 0, 225)
        _bone(picture, 128 + side * 95, 240, 60, 18, side * -8, 205)
    pen.rectangle((112, 0, 144, 130), fill=215)
    return picture


def _lateral(rng: np.random.Generator) -> Image.Image:
    picture, pen = _canvas()
    _bone(picture, 128, 140, 150, rng.uniform(85, 105), 0, 150)
    _bone(picture, 135, 115, 88, rng.uniform(55, 68), 8, 60)
    _bone(picture, 95, 140, 42, 30, 20, 150)
    pen.polygon([(40, 175), (120, 160), (215, 215), (215, SIDE), (40, SIDE)], fill=190)
    for k in range(9):
        pen.rectangle((188 - k, 20 + k * 26, 212 - k, 40 + k * 26), fill=205)
    return picture

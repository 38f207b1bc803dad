"""PNG and JPEG to grey.  H W pixels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from cxr_mtl.data.container import JPEG_MAGIC, PNG_MAGIC, Container, broken, walk_jpeg, walk_png
from cxr_mtl.data.refuse import refuse
from cxr_mtl.errors import ImageError

__all__ = ["JPEG_MAGIC", "PNG_MAGIC", "decode", "walk_jpeg", "walk_png"]  # sources/sizes.py takes them from here

_SPREAD = 24  # of 255: what JPEG chroma and scanner tint make of grey stays under it
_MAX_COLOURED = 0.02  # of the pixels: room for a coloured marker or a line of text
_STRIP = 256  # rows of a picture in colours that are looked at together
_SHALLOW = 16384  # a 16-bit file whose brightest pixel is below it holds 10- to 14-bit data that was never scaled up


def decode(container: Container, kind: str) -> tuple[NDArray[np.float32], list[str]]:
    """Grey pixels of a picture whose size was found acceptable.

    Args:
        container: from ``walk_png`` or ``walk_jpeg``.
        kind: ``png`` or ``jpeg``.

    Returns:
        (H, W) 0 to 1, turned upright as EXIF says, and notes on what was done.

    Raises:
        ImageError: ``truncated``, ``corrupt`` or ``colour``.
        MemoryError: the picture does not fit into this machine's.
    """
    opener = PngImagePlugin.PngImageFile if kind == "png" else JpegImagePlugin.JpegImageFile
    try:
        with opener(io.BytesIO(container.parts)) as picture:
            picture.load()
            grey, notes = _grey(picture)
            if kind == "png" and container.parts[24] == 16 and container.parts[25] != 0:  # bits; 0 is grey alone
                notes.append(_check_shaved(grey))
    except (ImageError, MemoryError):  # memory of this machine, which says nothing of the film
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes; one file must not end a batch
        raise broken(kind.upper()) from error
    if container.orientation != 1:
        notes.append("turned upright as its EXIF orientation says; sizes and boxes are those of the upright picture")
        grey = _upright(grey, container.orientation)
    return grey, notes


def _grey(picture: Image.Image) -> tuple[NDArray[np.float32], list[str]]:
    if picture.mode in ("I;16", "I"):
        return _scale_16_bit(np.asarray(picture), picture.info.get("transparency"))
    if picture.mode in ("1", "L") and "transparency" not in picture.info:
        return _unit(np.asarray(picture if picture.mode == "L" else picture.convert("L"))), []
    grey = np.empty((picture.height, picture.width), np.float32)
    coloured, see_through = 0, False
    for top in range(0, picture.height, _STRIP):  # in strips, as four channels of a whole film are a lot of memory
        strip = picture.crop((0, top, picture.width, min(top + _STRIP, picture.height)))
        if strip.mode in ("LA", "PA", "RGBA") or "transparency" in strip.info:
            strip = strip.convert("RGBA")
            if strip.getchannel("A").getextrema() != (255, 255):
                strip = Image.alpha_composite(Image.new("RGBA", strip.size, (0, 0, 0, 255)), strip)
                see_through = True
        strip = strip.convert("RGB")
        coloured += _coloured(np.asarray(strip))
        grey[top : top + _STRIP] = _unit(np.asarray(strip.convert("L")))
    notes = ["transparent parts read as black"] if see_through else []
    share = coloured / grey.size
    if share > _MAX_COLOURED:
        raise refuse(
            "colour",
            f"is a colour picture: {share:.0%} of its pixels are coloured, a film has none",
            "Send the radiograph itself, in grey.",
        )
    if coloured > 0:
        notes.append(f"coloured marks ({share:.1%} of the pixels) read as grey")
    return grey, notes


def _coloured(rgb: NDArray[np.uint8]) -> int:
    """Number of pixels whose channels differ by more than grey's do."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return int(np.count_nonzero(spread > _SPREAD))


def _unit(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.multiply(grey, np.float32(1 / 255), dtype=np.float32)


def _check_shaved(grey: NDArray[np.float32]) -> str:
    """The note for 16-bit greys that came as colours or with transparency; Pillow keeps only their upper eight bits.

    Raises:
        ImageError: ``unsupported``; the upper bits are all but empty.
    """
    if grey.max() < _SHALLOW / 65535:
        what = "is a 16-bit PNG with colours or transparency whose values use few of the bits"
        raise refuse("unsupported", what, "Save it as a 16-bit grey PNG without transparency.")
    return "16-bit file with colours or transparency read at 8 bits"


def _scale_16_bit(values: NDArray[np.integer], transparent: object) -> tuple[NDArray[np.float32], list[str]]:
    notes = []
    if isinstance(transparent, int) and (values == transparent).any():
        values = np.where(values == transparent, 0, values)
        notes.append("transparent parts read as black")
    top, full = int(values.max()), 65535
    if 0 < top < _SHALLOW:
        bits = max(8, top.bit_length())
        full = (1 << bits) - 1
        notes.append(f"16-bit file holding {bits}-bit values: scaled to their range")
    return np.multiply(values, np.float32(1 / full), dtype=np.float32), notes


def _upright(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    """Undo an EXIF orientation, 1 to 8; from 5 on the picture is stored lying on its side."""
    if orientation >= 5:
        pixels = pixels.T
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)

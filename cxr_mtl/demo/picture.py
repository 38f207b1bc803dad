"""A film as the page carries it: small enough to send, and inside the page, so that the server keeps no copy. Pure."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from cxr_mtl.predict.overlay import draw_overlay, film_image
from cxr_mtl.types import Prediction, Radiograph

_FILM_SIDE, _THUMB_SIDE = 1024, 112


@dataclass(frozen=True, slots=True)
class Picture:
    """What a browser needs of a film.

    Attributes:
        width: of the submitted file; boxes are in its pixels.
        height: likewise.
        inverted: whether it was turned round to be shown.
        size: (width, height) of the picture in ``url``.
        url: the film as data.
        thumb: the same, small.
    """

    width: int
    height: int
    inverted: bool
    size: tuple[int, int]
    url: str
    thumb: str

    @property
    def ratio(self) -> float:
        return self.width / self.height


def make_picture(film: Radiograph) -> Picture:
    shown = film_image(film, _FILM_SIDE)
    return Picture(film.width, film.height, film.inverted, shown.size, data_url(shown), thumb_url(shown))


def overlay_url(picture: Picture, prediction: Prediction, heatmap: str | None) -> str:
    """The film with its boxes drawn in, to save: from what is shown, for reading a large film again takes seconds.

    Args:
        picture: what is shown.
        prediction: boxes in the film's own pixels.
        heatmap: finding whose heat map the prediction has; None for none.
    """
    with Image.open(io.BytesIO(base64.b64decode(picture.url.partition(",")[2]))) as shown:
        pixels = np.asarray(shown, dtype=np.float32) / np.float32(255)
    across, down = pixels.shape[1] / picture.width, pixels.shape[0] / picture.height
    corners = [box.xyxy for box in prediction.boxes]
    scaled = [(x1 * across, y1 * down, x2 * across, y2 * down) for x1, y1, x2, y2 in corners]
    boxes = tuple(replace(box, xyxy=xyxy) for box, xyxy in zip(prediction.boxes, scaled, strict=True))
    film = Radiograph(pixels, "jpeg", picture.inverted, "")
    return data_url(draw_overlay(film, replace(prediction, boxes=boxes), heatmap=heatmap, max_side=_FILM_SIDE))


def thumb_url(picture: Image.Image) -> str:
    small = picture.convert("L")
    small.thumbnail((_THUMB_SIDE, _THUMB_SIDE))
    return data_url(small)


def data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    kind = "png" if picture.mode == "RGBA" else "jpeg"
    picture.save(stream, kind, **({} if kind == "png" else {"quality": 90}))
    return bytes_url(stream.getvalue(), f"image/{kind}")


def bytes_url(data: bytes, kind: str) -> str:
    """Anything as an address that holds it, for links that save without asking the server."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

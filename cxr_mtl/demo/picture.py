"""A film as the page carries it: small enough to send, and inside the page, so that the server keeps no copy. Pure."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from cxr_mtl.predict.overlay import film_image
from cxr_mtl.types import Radiograph

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

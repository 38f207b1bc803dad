"""The film on the demo's page: picture, heat map, outlines and labels as layers of one figure. Pure.

Boxes are xyxy in the pixels of the submitted film. Film and heat map travel inside the page as data, so the server
keeps no copy of them; and since each is a layer, the page fades the map by itself.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape

from PIL import Image

from cxr_mtl.demo.rows import summary
from cxr_mtl.predict.marks import XYXY, Style, box_label, box_styles, place_labels
from cxr_mtl.predict.overlay import draw_overlay, film_image, heat_caption, heat_layer
from cxr_mtl.types import Heatmap, Prediction, Radiograph

INVERTED = "shown inverted, for the file stores dense as dark (MONOCHROME1)"

_FILM_SIDE = 1024
# The narrowest film the page shows, in CSS pixels; labels that are apart there are apart on any larger one.
_NARROW, _TAG_HEIGHT, _TAG_CHAR, _TAG_PAD = 300.0, 19.0, 7.0, 12.0


def film_html(film: Radiograph, prediction: Prediction, heat: Heatmap | None, focus: str | None = None) -> str:
    """The film with what the model proposes on it, and the same in words below.

    Args:
        film: what was judged.
        prediction: boxes in the film's own pixels.
        heat: the map to lay over; None for none.
        focus: finding whose boxes stay bright while others step back; None for all alike.
    """
    picture = film_image(film, _FILM_SIDE)
    styles = box_styles(prediction)
    focused = {box.finding for box in prediction.boxes} & {focus}
    dim = {name: " dim" if focused and name != focus else "" for name in styles}
    layers = [f'<img class="film" src="{_data_url(picture)}" alt="{escape(_alt(film, prediction))}">']
    notes = [f"<p>{escape(summary(prediction))}</p>"]
    if heat is not None:
        size = (max(1, picture.width // 2), max(1, picture.height // 2))
        layers.append(f'<img class="heat" src="{_data_url(heat_layer(heat, size))}" alt="">')
        notes.append(f"<p>{escape(heat_caption(heat))}</p>")
    elif focus:
        notes.append(f"<p>There is no heat map of {escape(focus)}: the model was not trained for it.</p>")
    outlines = "".join(_outline(box.xyxy, styles[box.finding], dim[box.finding]) for box in reversed(prediction.boxes))
    layers.append(
        f'<svg viewBox="0 0 {film.width} {film.height}" preserveAspectRatio="none" aria-hidden="true">{outlines}</svg>'
    )
    layers += _tags(film, prediction, styles, dim)
    inverted = [INVERTED] if film.inverted else []
    notes += [f"<p>Note: {escape(note)}</p>" for note in (*inverted, *prediction.warnings)]
    saved = _data_url(draw_overlay(film, prediction, heatmap=heat.finding if heat else None))
    notes.append(f'<p><a href="{saved}" download="cxr_mtl_overlay.jpg">Save this picture</a></p>')
    return (
        f'<figure class="cxr-figure"><div class="stage" style="--ratio:{film.width / film.height:.4f}">'
        f'{"".join(layers)}</div><figcaption aria-live="polite">{"".join(notes)}</figcaption></figure>'
    )


def stroke(style: Style, width: float = 2.5) -> str:
    dash = " ".join(f"{run * width:g}" for run in style.dash)
    return f'stroke="{style.hex}" stroke-width="{width}" stroke-dasharray="{dash or "none"}" fill="none"'


def _alt(film: Radiograph, prediction: Prediction) -> str:
    return f"Chest film, {film.width} by {film.height} pixels. {summary(prediction)}"


def _outline(xyxy: XYXY, style: Style, dim: str) -> str:
    x1, y1, x2, y2 = xyxy
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    return f'<g class="box{dim}"><rect class="rim" {place}/><rect {place} {stroke(style)}/></g>'


def _tags(film: Radiograph, prediction: Prediction, styles: dict[str, Style], dim: dict[str, str]) -> Iterator[str]:
    """Labels of a fixed size on a film of any size: laid out on the narrowest film and pinned by the nearer corner."""
    height = _NARROW * film.height / film.width
    scale = _NARROW / film.width
    texts = [box_label(box) for box in prediction.boxes]
    boxes = [(x1 * scale, y1 * scale, x2 * scale, y2 * scale) for x1, y1, x2, y2 in (b.xyxy for b in prediction.boxes)]
    sizes = [(len(text) * _TAG_CHAR + _TAG_PAD, _TAG_HEIGHT) for text in texts]
    places = place_labels(boxes, sizes, (_NARROW, height))
    for box, inner, (x1, y1, x2, y2), text in zip(prediction.boxes, boxes, places, texts, strict=True):
        # The pinned corner is the one at the box, so the label stays there when film and label no longer scale alike.
        right = _away(x2, inner[0], inner[2]) < _away(x1, inner[0], inner[2])
        bottom = _away(y2, inner[1], inner[3]) < _away(y1, inner[1], inner[3])
        across = f"right:{100 - 100 * x2 / _NARROW:.2f}%" if right else f"left:{100 * x1 / _NARROW:.2f}%"
        down = f"bottom:{100 - 100 * y2 / height:.2f}%" if bottom else f"top:{100 * y1 / height:.2f}%"
        yield (
            f'<span class="tag{dim[box.finding]}" aria-hidden="true" '
            f'style="{across};{down};background:{styles[box.finding].hex}">{escape(text)}</span>'
        )


def _away(edge: float, low: float, high: float) -> float:
    """How far a label's edge is from the nearer edge of its box."""
    return min(abs(edge - low), abs(edge - high))


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    kind = "png" if picture.mode == "RGBA" else "jpeg"
    picture.save(stream, kind, **({} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"

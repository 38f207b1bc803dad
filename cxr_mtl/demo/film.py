"""The film on the demo's page: picture, heat map, outlines and labels as layers of one figure. Pure.

Boxes are xyxy in the pixels of the submitted film. Film and heat map travel inside the page as data, so the server
keeps no copy of them; and since each is a layer, the page fades the map by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from cxr_mtl.demo.picture import Picture, data_url
from cxr_mtl.demo.rows import notes, summary
from cxr_mtl.predict.marks import XYXY, Style, box_labels, box_styles, flagged_names, place_labels
from cxr_mtl.predict.overlay import heat_caption, heat_layer
from cxr_mtl.types import Heatmap, Prediction

SCORES = "Numbers on boxes are scores of the boxes, not probabilities of the findings."
WEAK = "≈ before a box: nobody drew boxes to learn it from; it is where the findings head looks."
INVERTED = "shown inverted, for the file stores dense as dark (MONOCHROME1)"

# The narrowest film the page shows, in CSS pixels; labels that are apart there are apart on any larger one.
_NARROW, _TAG_HEIGHT, _TAG_CHAR, _TAG_PAD = 300.0, 19.0, 7.0, 12.0


def film_html(
    picture: Picture,
    prediction: Prediction,
    heat: Heatmap | None,
    focus: str | None = None,
    saved: str = "",
    trouble: str = "",
) -> str:
    """The film with what the model proposes on it, and the same in words below.

    Args:
        picture: what was judged.
        prediction: boxes in the film's own pixels.
        heat: the map to lay over; None for none.
        focus: finding whose boxes stay bright while others step back; None for all alike.
        saved: address of the picture to save; empty for no such link.
        trouble: why something that was asked for is not shown; empty for nothing.
    """
    unlike, others = notes(prediction)
    said = [_caution(trouble)] if trouble else []
    said += [_caution(f"Warning: this film is {unlike}")] if unlike else []
    said.append(f'<p class="summary">{escape(summary(prediction))}</p>')
    if prediction.boxes:
        said.append(f"<p>{SCORES}{f' {WEAK}' if any(box.weak for box in prediction.boxes) else ''}</p>")
    if heat is not None:
        said.append(f"<p>{escape(heat_caption(heat))}</p>")
    elif focus and not trouble:
        said.append(f"<p>There is no heat map of {escape(focus)}: the model was not trained for it.</p>")
    inverted = [INVERTED] if picture.inverted else []
    said += [f"<p>Note: {escape(note)}</p>" for note in (*inverted, *others)]
    if saved:
        said.append(f'<p><a href="{saved}" download="cxr_mtl_overlay.jpg">Save this picture</a></p>')
    return (
        f'<figure class="cxr-figure">{stage_html(picture, prediction, heat, focus, live=True)}'
        f'<figcaption aria-live="polite">{"".join(said)}</figcaption></figure>'
    )


def _caution(text: str) -> str:
    return f'<p class="caution">{escape(text)}</p>'


def stage_html(
    picture: Picture, prediction: Prediction, heat: Heatmap | None, focus: str | None = None, *, live: bool = False
) -> str:
    """The layers alone; ``live`` makes its labels buttons, each of which asks for its finding alone."""
    return (
        f'<div class="stage" style="--ratio:{picture.ratio:.4f}">{plain_html(picture, prediction)}'
        f'<div class="over">{overlay_html(picture, prediction, heat, focus, live=live)}</div></div>'
    )


def plain_html(picture: Picture, prediction: Prediction) -> str:
    alt = f"Chest film, {picture.width} by {picture.height} pixels. {summary(prediction)}"
    return f'<img class="film" src="{picture.url}" alt="{escape(alt)}">'


def overlay_html(
    picture: Picture, prediction: Prediction, heat: Heatmap | None, focus: str | None = None, *, live: bool = False
) -> str:
    """All that lies over the film."""
    layers = []
    if heat is not None:
        size = (max(1, picture.size[0] // 2), max(1, picture.size[1] // 2))
        layers.append(f'<img class="heat" src="{data_url(heat_layer(heat, size))}" alt="">')
    styles = box_styles(prediction)
    focused = {box.finding for box in prediction.boxes} & {focus}
    flagged = flagged_names(prediction)
    pale = {name: "" if name in flagged else " pale" for name in styles}
    dim = {name: look + (" dim" if focused and name != focus else "") for name, look in pale.items()}
    outlines = "".join(
        _outline(box.finding, box.xyxy, styles[box.finding], dim[box.finding]) for box in reversed(prediction.boxes)
    )
    frame = f'viewBox="0 0 {picture.width} {picture.height}" preserveAspectRatio="none" aria-hidden="true"'
    layers.append(f"<svg {frame}>{outlines}</svg>")
    return "".join([*layers, *_tags(picture, prediction, styles, dim, focus if live else None, live)])


def stroke(style: Style, width: float = 2.5) -> str:
    dash = " ".join(f"{run * width:g}" for run in style.dash)
    return f'stroke="{style.hex}" stroke-width="{width}" stroke-dasharray="{dash or "none"}" fill="none"'


def _outline(finding: str, xyxy: XYXY, style: Style, dim: str) -> str:
    x1, y1, x2, y2 = xyxy
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    return (
        f'<g class="box{dim}" data-finding="{escape(finding)}">'
        f'<rect class="rim" {place}/><rect {place} {stroke(style)}/></g>'
    )


def _tags(
    picture: Picture,
    prediction: Prediction,
    styles: dict[str, Style],
    dim: dict[str, str],
    focus: str | None,
    live: bool,
) -> Iterator[str]:
    """Labels of a fixed size on a film of any size: laid out on the narrowest film and pinned by the nearer corner."""
    height = _NARROW * picture.height / picture.width
    scale = _NARROW / picture.width
    texts = box_labels(prediction)
    boxes = [(x1 * scale, y1 * scale, x2 * scale, y2 * scale) for x1, y1, x2, y2 in (b.xyxy for b in prediction.boxes)]
    sizes = [(len(text) * _TAG_CHAR + _TAG_PAD, _TAG_HEIGHT) for text in texts]
    places = place_labels(boxes, sizes, (_NARROW, height))
    for box, inner, (x1, y1, x2, y2), text in zip(prediction.boxes, boxes, places, texts, strict=True):
        # The pinned corner is the one at the box, so the label stays there when film and label no longer scale alike.
        right = _away(x2, inner[0], inner[2]) < _away(x1, inner[0], inner[2])
        bottom = _away(y2, inner[1], inner[3]) < _away(y1, inner[1], inner[3])
        across = f"right:{100 - 100 * x2 / _NARROW:.2f}%" if right else f"left:{100 * x1 / _NARROW:.2f}%"
        down = f"bottom:{100 - 100 * y2 / height:.2f}%" if bottom else f"top:{100 * y1 / height:.2f}%"
        style = f'style="{across};{down};background:{styles[box.finding].hex}"'
        name = escape(box.finding)
        if live:
            pressed = str(box.finding == focus).lower()
            asks = f'type="button" data-finding="{name}" aria-pressed="{pressed}"'
            yield f'<button class="tag{dim[box.finding]}" {asks} {style}>{escape(text)}</button>'
        else:
            yield f'<span class="tag{dim[box.finding]}" aria-hidden="true" {style}>{escape(text)}</span>'


def _away(edge: float, low: float, high: float) -> float:
    """How far a label's edge is from the nearer edge of its box."""
    return min(abs(edge - low), abs(edge - high))

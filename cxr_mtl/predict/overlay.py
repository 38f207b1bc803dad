"""A film with what the model proposes drawn on it: for `predict --overlay`, the quickstart's picture and the demo.

Boxes are xyxy, in the pixels of the submitted film until they are scaled to the picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cxr_mtl.errors import ConfigError
from cxr_mtl.predict.marks import XYXY, box_labels, box_styles, place_labels
from cxr_mtl.types import DISCLAIMER, Heatmap, Prediction, Radiograph

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

METHODS = {
    "grad_cam": "Grad-CAM",
    "attention": "attention",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
}
HEAT_CAPTION = "Heat map ({method}): where the score of {finding} is sensitive, not where disease is."
EMPTY_HEAT_CAPTION = "The heat map ({method}) of {finding} is empty: nothing in the film raises its score."
HEAT_STRENGTH = 0.4

# Below this the labels would cover the film, so a thumbnail is enlarged.
_MIN_SIDE = 512
_STRIP, _STRIP_TEXT = (24, 24, 24), (235, 235, 235)


def film_image(radiograph: Radiograph, max_side: int) -> Image.Image:
    """8-bit grey picture of the film, its longer side at most ``max_side`` and at least 512 px."""
    grey = Image.fromarray((radiograph.pixels * 255).round().astype(np.uint8))
    longer = max(radiograph.width, radiograph.height)
    scale = min(max_side / longer, max(1.0, _MIN_SIDE / longer))
    if scale == 1:
        return grey
    size = (max(1, round(radiograph.width * scale)), max(1, round(radiograph.height * scale)))
    return grey.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def heat_layer(heatmap: Heatmap, size: tuple[int, int], strength: float = 1.0) -> Image.Image:
    """The heat map as a coloured film to lay over: RGBA, ``size`` is (width, height).

    Opacity is the map's own value times ``strength``: zero stays invisible, and a weak map looks weak, for nothing is
    stretched.
    """
    grey = decode_heatmap(heatmap).resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray(_viridis(strength)[np.asarray(grey)])


def heat_caption(heatmap: Heatmap) -> str:
    """What must be said beside a heat map."""
    caption = HEAT_CAPTION if decode_heatmap(heatmap).getbbox() else EMPTY_HEAT_CAPTION
    return caption.format(finding=heatmap.finding, method=METHODS.get(heatmap.method, heatmap.method))


def find_heatmap(prediction: Prediction, finding: str) -> Heatmap:
    """The heat map of one finding; ConfigError where the prediction was not asked for it."""
    for heatmap in prediction.heatmaps:
        if heatmap.finding == finding:
            return heatmap
    raise ConfigError(
        f"The prediction has no heat map of {finding!r}.", hint=f"Predict with Options(heatmaps=({finding!r},))."
    )


def draw_overlay(
    radiograph: Radiograph, prediction: Prediction, *, heatmap: str | None = None, max_side: int = 1024
) -> Image.Image:
    """The film with labelled box outlines, one finding's heat map if asked for, and a strip that says what this is for.

    Args:
        radiograph: the film the prediction is about.
        prediction: boxes in the film's own pixels.
        heatmap: finding whose heat map to lay over; None for none.
        max_side: longest side of the film in the picture, in pixels.

    Returns:
        RGB; as wide as the film in the picture, taller by the strip.

    Raises:
        ConfigError: the prediction holds no heat map of that finding.
    """
    film = film_image(radiograph, max_side)
    lines = [DISCLAIMER]
    if heatmap is not None:
        heat = find_heatmap(prediction, heatmap)
        lines.insert(0, heat_caption(heat))
        lit = Image.alpha_composite(film.convert("RGBA"), heat_layer(heat, film.size, HEAT_STRENGTH))
        film = lit.convert("RGB")
    else:
        film = film.convert("RGB")
    font = ImageFont.load_default(max(14, max(film.size) // 50))
    _draw_boxes(film, prediction, film.width / radiograph.width, film.height / radiograph.height, font)
    return _with_strip(film, lines, font)


def _draw_boxes(film: Image.Image, prediction: Prediction, scale_x: float, scale_y: float, font: Font) -> None:
    """Outlines first, the best on top, and labels last, so that no line runs through a label."""
    draw = ImageDraw.Draw(film)
    styles = box_styles(prediction)
    line = max(2, max(film.size) // 340)
    pad = max(2, line)
    boxes = [_scale(box.xyxy, scale_x, scale_y) for box in prediction.boxes]
    texts = box_labels(prediction)
    sizes = [(font.getlength(text) + 2 * pad, sum(_metrics(font)) + pad) for text in texts]
    for box, (x1, y1, x2, y2) in reversed(list(zip(prediction.boxes, boxes, strict=True))):
        # A black rim keeps the outline visible on bright bone.
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=line + 2)
        for dash in _dashes((x1, y1, x2, y2), styles[box.finding].dash, line):
            draw.rectangle(dash, fill=styles[box.finding].colour)
    for box, text, place in zip(prediction.boxes, texts, place_labels(boxes, sizes, film.size), strict=True):
        style = styles[box.finding]
        draw.rectangle(place, fill=style.colour, outline=(0, 0, 0))
        draw.text((place[0] + pad, place[1] + pad / 2), text, fill=(0, 0, 0), font=font)


def _scale(xyxy: XYXY, scale_x: float, scale_y: float) -> XYXY:
    x1, y1, x2, y2 = xyxy
    return round(x1 * scale_x), round(y1 * scale_y), round(x2 * scale_x), round(y2 * scale_y)


def _dashes(box: XYXY, pattern: tuple[float, ...], line: int) -> Iterator[XYXY]:
    """The outline as filled rectangles, ``line`` pixels thick, inside the box; each side starts with a dash."""
    x1, y1, x2, y2 = box
    for start, end in _runs(x2 - x1, pattern, line):
        yield x1 + start, y1, x1 + end, y1 + line - 1
        yield x1 + start, y2 - line + 1, x1 + end, y2
    for start, end in _runs(y2 - y1, pattern, line):
        yield x1, y1 + start, x1 + line - 1, y1 + end
        yield x2 - line + 1, y1 + start, x2, y1 + end


def _runs(length: float, pattern: tuple[float, ...], line: int) -> Iterator[tuple[float, float]]:
    if not pattern:
        yield 0, length
        return
    at, step = 0.0, 0
    while at < length:
        run = pattern[step % len(pattern)] * line
        if step % 2 == 0:
            yield at, min(at + run, length)
        at, step = at + run, step + 1


def _with_strip(film: Image.Image, lines: Sequence[str], font: Font) -> Image.Image:
    pad = 8
    lines = [part for line in lines for part in _wrap(line, font, film.width - 2 * pad)]
    step = sum(_metrics(font)) + 4
    picture = Image.new("RGB", (film.width, film.height + step * len(lines) + pad), _STRIP)
    picture.paste(film)
    draw = ImageDraw.Draw(picture)
    for row, text in enumerate(lines):
        draw.text((pad, film.height + pad / 2 + row * step), text, fill=_STRIP_TEXT, font=font)
    return picture


def _wrap(text: str, font: Font, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _metrics(font: Font) -> tuple[int, int]:
    """Ascent and descent in pixels."""
    if isinstance(font, ImageFont.FreeTypeFont):
        return font.getmetrics()
    return int(font.getbbox("Ag")[3]), 2  # Pillow built without FreeType has one bitmap font


def decode_heatmap(heatmap: Heatmap) -> Image.Image:
    if heatmap.array is not None:
        values = np.frombuffer(base64.b64decode(heatmap.array.data), heatmap.array.dtype).reshape(heatmap.array.shape)
        return Image.fromarray((values * 255).round().astype(np.uint8))
    return Image.open(io.BytesIO(base64.b64decode(heatmap.png or ""))).convert("L")


def _viridis(strength: float) -> NDArray[np.uint8]:
    """(256, 4) RGBA, opacity rising with the value; viridis between nine of its points: servers have no matplotlib."""
    points = np.array(
        [
            (68, 1, 84),
            (71, 45, 123),
            (59, 82, 139),
            (44, 114, 142),
            (33, 145, 140),
            (40, 174, 128),
            (94, 201, 98),
            (173, 220, 48),
            (253, 231, 37),
        ]
    )
    at, grid = np.linspace(0, 1, 256), np.linspace(0, 1, len(points))
    channels = [np.interp(at, grid, points[:, c]) for c in range(3)]
    return np.stack([*channels, at * 255 * strength], axis=1).round().astype(np.uint8)

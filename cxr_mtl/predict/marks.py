"""How a film is marked: a look for each finding's boxes, a place for each label, numbers in two digits.

Pure, and shared by the picture (`overlay.py`) and the demo's page, so that both mark a film alike.
K boxes, xyxy. Colour is never alone: every box carries its label, and each colour has its own dash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cxr_mtl.types import Prediction, ScoredBox

XYXY = tuple[float, float, float, float]
RGB = tuple[int, int, int]

# What the project's ontologies call a film without findings. A prediction does not say which of its findings that is,
# and it must not read as a flag.
NORMAL_NAMES = frozenset({"No Finding", "Normal"})


@dataclass(frozen=True, slots=True)
class Style:
    """How a finding's boxes look.

    Attributes:
        colour: of the outline and of the label's ground; its text is black.
        dash: on, off, ... in line widths; empty is solid.
    """

    colour: RGB
    dash: tuple[float, ...]

    @property
    def hex(self) -> str:
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


# Okabe and Ito's palette, with white for its black and its dark blue, which a film hides. Black text reads on all.
_STYLES = (
    Style((230, 159, 0), ()),
    Style((86, 180, 233), (7, 4)),
    Style((240, 228, 66), (2, 2.5)),
    Style((0, 158, 115), (9, 3, 2, 3)),
    Style((204, 121, 167), (4, 2)),
    Style((213, 94, 0), (9, 3, 2, 3, 2, 3)),
    Style((245, 245, 245), (14, 3)),
)


def box_styles(prediction: Prediction) -> dict[str, Style]:
    """One style for each finding that has a box.

    A finding keeps the colour of its place in the ontology from film to film, unless this film needs it for another.
    """
    boxed = {box.finding for box in prediction.boxes}
    order = [call.name for call in prediction.findings]
    order += sorted(boxed.difference(order))
    num = len(_STYLES)
    free = list(range(num))
    styles: dict[str, Style] = {}
    for name in (name for name in order if name in boxed):
        lap = len(styles) // num
        slot = min(free, key=lambda s: (s - order.index(name)) % num)
        free.remove(slot)
        # With more findings than colours a colour comes again, with the next dash.
        styles[name] = replace(_STYLES[slot], dash=_STYLES[(slot + lap) % num].dash)
        free = free or list(range(num))
    return styles


def box_labels(prediction: Prediction) -> list[str]:
    """K labels, such as ``Effusion 0.83``; ``≈`` before it says that nobody drew boxes to learn this one from.

    A box has a score of its own, so it may stand where its finding is not flagged; that is said, too.
    """
    flagged = flagged_names(prediction)
    return [f"{_box_label(box)}{'' if box.finding in flagged else ', not flagged'}" for box in prediction.boxes]


def flagged_names(prediction: Prediction) -> set[str]:
    return {call.name for call in prediction.findings if call.call == "positive" and call.name not in NORMAL_NAMES}


def _box_label(box: ScoredBox) -> str:
    return f"{'≈ ' if box.weak else ''}{box.finding} {format_number(box.score)}"


def format_number(value: float) -> str:
    """A probability or score in two digits that never reads as certain: 0.83, 0.062, <0.001, >0.99."""
    if value > 0.995:
        return ">0.99"
    if value < 0.001:
        return "<0.001"
    if value >= 0.095:
        return f"{value:.2f}"
    # Rare findings live here, and 0.01 for a probability and its threshold alike would hide which is larger.
    return f"{value:.3f}" if value >= 0.0095 else f"{value:.4f}"


def place_labels(boxes: Sequence[XYXY], sizes: Sequence[tuple[float, float]], frame: tuple[float, float]) -> list[XYXY]:
    """Where each label goes: at its box, inside the frame, and off the labels before it if there is any such place.

    Args:
        boxes: K boxes, pixels of the picture, the most important first.
        sizes: K label sizes, (width, height), pixels of the picture.
        frame: (width, height) of the picture.

    Returns:
        K label rectangles xyxy.
    """
    placed: list[XYXY] = []

    def cost(found: tuple[float, XYXY]) -> tuple[float, float]:
        moved, place = found
        return sum(_overlap(place, other) for other in placed), moved

    for box, size in zip(boxes, sizes, strict=True):
        # min keeps the first of equals, so the order of the candidates is the order of preference.
        _, best = min(_label_places(box, size, frame), key=cost)
        placed.append(best)
    return placed


def _label_places(box: XYXY, size: tuple[float, float], frame: tuple[float, float]) -> Iterator[tuple[float, XYXY]]:
    """Places at a box, each with how far the frame's edge pushed it from there."""
    (x1, y1, x2, y2), (w, h) = box, size
    corners = [(x1, y1 - h), (x2 - w, y1 - h), (x1, y2), (x2 - w, y2), (x1, y1), (x2, y1), (x1 - w, y1)]
    # The last resort: a stack downwards along the left edge.
    corners += [(x1, y1 + h * step) for step in range(1, 12)]
    for x, y in corners:
        left = min(max(x, 0.0), max(frame[0] - w, 0.0))
        top = min(max(y, 0.0), max(frame[1] - h, 0.0))
        yield abs(left - x) + abs(top - y), (left, top, left + w, top + h)


def _overlap(a: XYXY, b: XYXY) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

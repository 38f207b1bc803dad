"""A small figure as plain marks on two axes, and the same as SVG in the page's own colours. Pure.  K points.

SVG is written here, not by matplotlib: a page has some eighty panels, and each is a few lines of text in the page's own
font and colours, light or dark. ``plots`` draws the same charts for figures/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Place = Callable[[Floats], Floats]

MAIN, OTHER, GUIDE = "main", "other", "guide"  # tones: the model's blue, its contrast's vermillion, the page's ink


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it is, where it ends, and (place, text) of its ticks."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve through (K,) x and y. A line of the tone ``guide`` is thin and dotted."""

    x: Floats
    y: Floats
    tone: str = MAIN
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Dots:
    """(K,) points; ``size`` is each one's radius as a share of the largest that is drawn."""

    x: Floats
    y: Floats
    size: Floats
    tone: str = MAIN


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars from 0 to (K,) heights, which may be negative, between (K + 1,) edges."""

    edges: Floats
    height: Floats
    tone: str = MAIN


@dataclass(frozen=True, slots=True)
class Band:
    """An area between (K,) low and high."""

    x: Floats
    low: Floats
    high: Floats
    tone: str = MAIN


@dataclass(frozen=True, slots=True)
class Note:
    """A word at a place, so that no colour needs a legend; ``anchor`` is ``start`` or ``end``."""

    x: float
    y: float
    text: str
    tone: str = GUIDE
    anchor: str = "start"


Mark = Line | Dots | Bars | Band | Note


@dataclass(frozen=True, slots=True)
class Chart:
    """One small figure.

    Attributes:
        title: what kind of figure it is.
        note: its one number, beside the title.
        alt: all it says, for who cannot see it.
        marks: from back to front.
        wide: whether it is one of a few and gets more room.
    """

    title: str
    note: str
    alt: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    wide: bool = False


RADIUS = 4.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 9.0, 24.0, 36.0  # margins; numbers here are px where the page is shown unscaled


def to_svg(chart: Chart) -> str:
    """One chart as an ``<svg>`` element without ids; the page's style gives its classes their colours."""
    width, height = (400.0, 250.0) if chart.wide else (200.0, 200.0)
    right, bottom = width - _RIGHT, height - _BOTTOM
    across, up = _placed(chart.x, _LEFT, right), _placed(chart.y, bottom, _TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(chart.alt)}">',
        _text("title", 2, 13, chart.title),
        _text("note", right, 13, chart.note, "end"),
        f'<path class="axis" d="M{_LEFT:g} {_TOP:g}V{bottom:g}H{right:g}"/>',
        _text("label", (_LEFT + right) / 2, height - 5, chart.x.label, "middle"),
        f'<g transform="translate(10 {(_TOP + bottom) / 2:g}) rotate(-90)">',
        _text("label", 0, 0, chart.y.label, "middle"),
        "</g>",
    ]
    for place, text in chart.x.ticks:
        x = float(across(np.array(place)))
        parts += [f'<path class="axis" d="M{x:.1f} {bottom:g}v3"/>', _text("tick", x, bottom + 14, text, "middle")]
    for place, text in chart.y.ticks:
        y = float(up(np.array(place)))
        parts += [f'<path class="axis" d="M{_LEFT:g} {y:.1f}h-3"/>', _text("tick", _LEFT - 5, y + 4, text, "end")]
    parts += [text for mark in chart.marks for text in _drawn(mark, across, up)]
    return "".join([*parts, "</svg>"])


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _placed(axis: Axis, start: float, end: float) -> Place:
    """From values of an axis to px."""
    return lambda values: start + (end - start) * (np.asarray(values, np.float64) - axis.low) / (axis.high - axis.low)


def _drawn(mark: Mark, across: Place, up: Place) -> Iterator[str]:
    if isinstance(mark, Note):
        x, y = float(across(np.array(mark.x))), float(up(np.array(mark.y)))
        yield _text(f"word {mark.tone}", x, y, mark.text, mark.anchor)
    elif isinstance(mark, Line):
        kind = f"line {mark.tone}{' dashed' if mark.dashed else ''}"
        yield f'<path class="{kind}" d="{_path(across(mark.x), up(mark.y))}"/>'
    elif isinstance(mark, Band):
        outline = np.append(mark.x, mark.x[::-1]), np.append(mark.low, mark.high[::-1])
        yield f'<path class="band {mark.tone}" d="{_path(across(outline[0]), up(outline[1]))}Z"/>'
    elif isinstance(mark, Bars):
        corners = np.repeat(mark.edges, 2), np.concatenate([[0.0], np.repeat(mark.height, 2), [0.0]])
        yield f'<path class="bars {mark.tone}" d="{_path(across(corners[0]), up(corners[1]))}Z"/>'
    else:
        for x, y, size in zip(across(mark.x), up(mark.y), mark.size, strict=True):
            yield f'<circle class="dot {mark.tone}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS * size:.1f}"/>'


def _path(x: Floats, y: Floats) -> str:
    known = ~(np.isnan(x) | np.isnan(y))
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[known], y[known], strict=True))

"""The report's charts as PNG sheets for figures/, drawn by matplotlib on white.

Palette of Okabe and Ito, which colour-blind readers can tell apart; a second curve also has another dash.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_mtl.evaluate.chart import GUIDE, MAIN, OTHER, RADIUS, Band, Bars, Chart, Dots, Line, Mark, Note

COLOURS = {MAIN: "#0072B2", OTHER: "#D55E00", GUIDE: "#333333"}
SIDE, WIDE = 1.9, 3.6  # inches of one panel


def save_figures(drawn: Mapping[str, Mapping[str, Chart]], folder: Path) -> None:
    """One sheet for each kind of chart that there is."""
    folder.mkdir(exist_ok=True)
    for kind, group in drawn.items():
        if group:
            (folder / f"{kind}.png").write_bytes(to_png(group))


def to_png(drawn: Mapping[str, Chart]) -> bytes:
    """Charts of one kind on one sheet, up to five in a row, each under its name; one alone under its own title."""
    wide = next(iter(drawn.values())).wide
    across, up = (WIDE, WIDE * 0.7) if wide else (SIDE, SIDE)
    sides = across, across, up, up
    columns = min(5, len(drawn))
    lines = -(-len(drawn) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(columns * across, lines * up))
        # A layout engine would draw everything twice to find these margins, for two thirds of the time.
        left, right, bottom, top = (inches / side for inches, side in zip(_MARGINS, sides, strict=True))
        figure.subplots_adjust(
            left=left / columns,
            right=1 - right / columns,
            bottom=bottom / lines,
            top=1 - top / lines,
            wspace=(left + right) / (1 - left - right),
            hspace=(bottom + top) / (1 - bottom - top),
        )
        for i, (name, chart) in enumerate(drawn.items()):
            _draw(chart, figure.add_subplot(lines, columns, i + 1), name if len(drawn) > 1 else chart.title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


_ANCHORS = {"start": "left", "end": "right"}
_MARGINS = (0.48, 0.08, 0.42, 0.21)  # inches left, right, below and above a panel
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
}


def _draw(chart: Chart, axes: Axes, name: str) -> None:
    axes.set_title(f"{name}  {chart.note}", loc="left", parse_math=False)
    for mark in chart.marks:
        _add(mark, axes)
    axes.set(xlabel=chart.x.label, ylabel=chart.y.label)
    for axis, limit, ticks in ((chart.x, axes.set_xlim, axes.set_xticks), (chart.y, axes.set_ylim, axes.set_yticks)):
        limit(axis.low, axis.high)
        ticks([place for place, _ in axis.ticks], [text for _, text in axis.ticks])


def _add(mark: Mark, axes: Axes) -> None:
    colour = COLOURS[mark.tone]
    if isinstance(mark, Note):
        axes.text(mark.x, mark.y, mark.text, color=colour, fontsize=7, ha=_ANCHORS[mark.anchor])
    elif isinstance(mark, Line):
        thin = mark.tone == GUIDE
        style = ":" if thin else "--" if mark.dashed else "-"
        axes.plot(mark.x, mark.y, style, color=colour, linewidth=0.6 if thin else 1.4)
    elif isinstance(mark, Band):
        axes.fill_between(mark.x, mark.low, mark.high, color=colour, alpha=0.15, linewidth=0)
    elif isinstance(mark, Bars):
        axes.stairs(mark.height, mark.edges, fill=True, color=colour, alpha=0.6)
    elif isinstance(mark, Dots):
        axes.scatter(mark.x, mark.y, s=(RADIUS * mark.size) ** 2, color=colour, linewidths=0, clip_on=False, zorder=3)

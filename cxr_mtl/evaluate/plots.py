"""Curves, drawn once each on matplotlib axes: as PNG for figures/, as SVG that takes the report's colours.

Palette of Okabe and Ito, which colour-blind readers can tell apart; a second curve also has another dash.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_mtl.evaluate.collect import Answered
from cxr_mtl.metrics.classify import Reliability, auroc, reliability, roc_curve

BLUE, VERMILLION = "#0072B2", "#D55E00"
INK = "#010203"  # becomes the page's own text colour in SVG
MAX_POINTS = 400
SIDE = 1.9  # inches of one small panel

Panel = Callable[[Axes], None]


def roc_panel(presence: Any, probability: Any, name: str) -> Panel:
    """ROC curve of one finding, with the diagonal that a guess would give."""
    fpr, tpr = _thin(*roc_curve(presence, probability))
    area = auroc(presence, probability)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.6, linestyle=":")
        axes.plot(fpr, tpr, color=BLUE, linewidth=1.4)
        _square(axes, f"{name}  {area:.2f}", "1 - specificity", "sensitivity")

    return draw


def reliability_panel(presence: Any, probability: Any, name: str) -> Panel:
    """Frequency against probability in bins of equal mass; the area of a dot is its number of films."""
    table = reliability(presence, probability)
    top = _ceiling(table)

    def draw(axes: Axes) -> None:
        axes.plot([0, top], [0, top], color=INK, linewidth=0.6, linestyle=":")
        axes.plot(table.probability, table.frequency, color=BLUE, linewidth=0.8)
        size = 3 + 9 * table.count / table.count.max()
        axes.scatter(table.probability, table.frequency, s=size, color=BLUE, linewidths=0)
        _square(axes, name, "probability", "frequency", top)

    return draw


def box_panel(localization: Mapping[str, Any]) -> Panel:
    """Accuracy at T(IoU) of the model's best box and of a box at random, with intervals."""

    def draw(axes: Axes) -> None:
        for label, body, colour, dash in (
            ("model", localization, BLUE, "-"),
            ("random box", localization["random"], VERMILLION, "--"),
        ):
            rows = {float(t): row["mean"] for t, row in body["accuracy_at_tiou"].items()}
            bounds = np.array([row["ci95"] for row in rows.values()], np.float64)
            axes.plot(list(rows), [row["value"] for row in rows.values()], dash, color=colour, marker="o", ms=3)
            axes.fill_between(list(rows), bounds[:, 0], bounds[:, 1], color=colour, alpha=0.15, linewidth=0)
            middle = list(rows)[len(rows) // 2]
            axes.annotate(label, (middle, rows[middle]["value"]), (4, 5), textcoords="offset points", color=colour)
        axes.set(xlabel="T(IoU)", ylabel="accuracy", ylim=(0, 1.02))

    return draw


def panels(answered: Answered, names: Sequence[str], findings: Sequence[str]) -> dict[str, dict[str, Panel]]:
    """ROC and reliability panels of the wanted findings.

    Args:
        names: of the C columns.
        findings: those to draw; each has both classes.
    """
    columns = {name: (answered.presence[:, c], answered.probability[:, c]) for c, name in enumerate(names)}
    return {
        "roc": {name: roc_panel(*columns[name], name) for name in findings},
        "reliability": {name: reliability_panel(*columns[name], name) for name in findings},
    }


def to_png(drawn: Mapping[str, Panel], *, side: float = SIDE) -> bytes:
    """All panels on one white sheet, up to five in a row."""
    columns = min(5, max(1, len(drawn)))
    lines = max(1, -(-len(drawn) // columns))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(columns * side, lines * side))
        # A layout engine would draw everything twice to find these margins, for two thirds of the time.
        figure.subplots_adjust(
            left=_LEFT / columns,
            right=1 - _RIGHT / columns,
            bottom=_BOTTOM / lines,
            top=1 - _TOP / lines,
            wspace=(_LEFT + _RIGHT) / (1 - _LEFT - _RIGHT),
            hspace=(_BOTTOM + _TOP) / (1 - _BOTTOM - _TOP),
        )
        for i, panel in enumerate(drawn.values()):
            panel(figure.add_subplot(lines, columns, i + 1))
        return _saved(figure, "png")


def to_svg(panel: Panel, *, width: float = SIDE, height: float = SIDE) -> str:
    """One panel as an ``<svg>`` element: transparent, in the page's own colours, its text real text."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        left, low = _LEFT * SIDE / width, _BOTTOM * SIDE / height
        panel(figure.add_axes((left, low, 1 - left - _RIGHT * SIDE / width, 1 - low - _TOP * SIDE / height)))
        figure.patch.set_alpha(0)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        text = _saved(figure, "svg").decode()
    text = text[text.index("<svg") :]
    for colour, name in _THEMED.items():
        text = text.replace(colour.lower(), name)
    return text


_LEFT, _RIGHT, _BOTTOM, _TOP = 0.25, 0.04, 0.22, 0.11  # margins of a panel, as shares of SIDE
_THEMED = {INK: "currentColor", BLUE: "var(--blue)", VERMILLION: "var(--warm)"}  # so that SVG follows light and dark
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr-mtl",
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # A date in the file would make every run differ.
    figure.savefig(buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _square(axes: Axes, title: str, x: str, y: str, top: float = 1.0) -> None:
    axes.set(xlim=(-0.02 * top, 1.02 * top), ylim=(-0.02 * top, 1.02 * top), xlabel=x, ylabel=y)
    axes.set_title(title, loc="left")
    axes.set_xticks([0, top / 2, top])
    axes.set_yticks([0, top / 2, top])
    axes.set_aspect("equal")


def _ceiling(table: Reliability) -> float:
    """The upper end of both axes: a rare finding lives below .1 and would be a dot in the corner."""
    highest = float(max(table.probability.max(), table.frequency.max()))
    return next(top for top in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if highest <= top)


def _thin(fpr: Any, tpr: Any) -> tuple[Any, Any]:
    if len(fpr) <= MAX_POINTS:
        return fpr, tpr
    rows = np.unique(np.linspace(0, len(fpr) - 1, MAX_POINTS).round().astype(int))
    return fpr[rows], tpr[rows]

"""What the report draws of a finding and of boxes, as charts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_mtl.evaluate.chart import GUIDE, MAIN, OTHER, Axis, Band, Bars, Chart, Dots, Line, Mark, Note
from cxr_mtl.evaluate.collect import Answered, Floats
from cxr_mtl.metrics.classify import reliability, roc_curve, usable
from cxr_mtl.metrics.counts import ratio

POINT = "balanced"
MAX_POINTS = 200  # of a curve: more than a small panel has pixels
FAR = float(np.log(999))  # logit at which the score axis ends: .001 and .999
SCORE_BINS = 24
_SCORE_TICKS = ((0.001, ".001"), (0.01, ".01"), (0.1, ".1"), (0.5, ".5"), (0.9, ".9"), (0.99, ".99"), (0.999, ".999"))


def draw_all(answered: Answered, names: Sequence[str], results: Mapping[str, Any]) -> dict[str, dict[str, Chart]]:
    """Charts by kind of figure and finding: ``roc``, ``pr``, ``reliability``, ``scores`` and those of boxes.

    Args:
        names: of the C columns.
        results: as in results.json; every finding measured there is drawn.
    """
    found = results["classification"]
    rows = {**found["findings"], **found["few"]}
    columns = {name: (answered.presence[:, c], answered.probability[:, c]) for c, name in enumerate(names)}
    kinds = {"roc": roc, "pr": precision_recall, "reliability": calibration, "scores": scores}
    drawn = {kind: {name: draw(name, *columns[name], rows[name]) for name in rows} for kind, draw in kinds.items()}
    boxes = results["localization"]
    if boxes["findings"]:
        drawn |= {"boxes": {"all": box_accuracy(boxes)}, "froc": {"all": froc(boxes)}}
    return drawn


def roc(name: str, presence: Floats, probability: Floats, row: Mapping[str, Any]) -> Chart:
    """Sensitivity against false alarms, the diagonal that a guess would give, and where the balanced point lies."""
    fpr, tpr = roc_curve(presence, probability)
    fpr, tpr = _thin(fpr, tpr, fpr + tpr)
    area = _said(row["auroc"])
    at = _point(row)
    dot = [Dots(np.array([1 - at[1]]), np.array([at[0]]), np.ones(1), OTHER)] if at else []
    return Chart(
        "ROC",
        area.split(" ")[0],
        f"ROC curve of {name}: AUROC {area}.",
        _unit("1 − specificity"),
        _unit("sensitivity"),
        (Line(_ends, _ends, GUIDE), Line(fpr, tpr), *dot),
    )


def precision_recall(name: str, presence: Floats, probability: Floats, row: Mapping[str, Any]) -> Chart:
    """PPV against sensitivity in the steps that average precision sums up, and the prevalence, which a guess gives."""
    fpr, tpr = roc_curve(presence, probability)
    first = np.flatnonzero(np.diff(tpr) > 0) + 1  # of the cuts of one sensitivity, the one with the highest PPV
    fpr, tpr = _thin(fpr[first], tpr[first], tpr[first])
    hits, alarms = tpr * row["n_pos"], fpr * (row["n"] - row["n_pos"])
    x, y = np.append(0.0, np.repeat(tpr, 2)[:-1]), np.repeat(ratio(hits, hits + alarms), 2)
    share = row["prevalence"]["value"]
    area = _said(row["auprc"])
    at = _point(row)
    dot = [Dots(np.array([at[0]]), np.array([at[2]]), np.ones(1), OTHER)] if at and at[2] is not None else []
    return Chart(
        "Precision and recall",
        area.split(" ")[0],
        f"Precision-recall curve of {name}: AUPRC {area}; a guess gives the prevalence, {share:.3f}.",
        _unit("sensitivity"),
        _unit("PPV"),
        (
            Line(_ends, np.full(2, share), GUIDE),
            Line(x, y),
            *dot,
            _said_prevalence(share, float(np.nanmax(y[x >= 0.4], initial=0.0))),
        ),
    )


def calibration(name: str, presence: Floats, probability: Floats, row: Mapping[str, Any]) -> Chart:
    """Frequency against probability in bins of equal mass; the area of a dot is its number of films."""
    table = reliability(presence, probability)
    top = _ceiling(float(max(table.probability.max(), table.frequency.max())))
    axis = ((0.0, "0"), (top / 2, _tick(top / 2)), (top, _tick(top)))
    error = _said(row["ece"])
    return Chart(
        "Reliability",
        f"ECE {error.split(' ')[0]}",
        f"Reliability of {name}: frequency against probability in {len(table.count)} bins; "
        f"expected calibration error {error}.",
        Axis("probability given", 0.0, top, axis),
        Axis("share with it", 0.0, top, axis),
        (
            Line(_ends * top, _ends * top, GUIDE),
            Line(table.probability, table.frequency),
            Dots(table.probability, table.frequency, np.sqrt(table.count / table.count.max())),
        ),
    )


def scores(name: str, presence: Floats, probability: Floats, row: Mapping[str, Any]) -> Chart:
    """How probabilities lie: of films with the finding upwards, of films without it downwards, each as shares.

    The axis is even in log odds, so that a rare finding's probabilities do not all lie in its first bar.
    """
    keep = usable(presence, probability)
    edges = np.linspace(-FAR, FAR, SCORE_BINS + 1)
    bars = {}
    for state in (1, 0):
        counts, _ = np.histogram(_place(probability[keep & (presence == state)]), edges)
        bars[state] = counts / counts.sum()
    top = _ceiling(float(max(bars[1].max(), bars[0].max())))
    cut = row["operating_points"].get(POINT, {}).get("threshold")
    threshold = [] if cut is None else [Line(np.repeat(_place(cut), 2), np.array([-top, top]), OTHER, dashed=True)]
    return Chart(
        "Scores",
        "" if cut is None else f"threshold {cut:#.2g}",
        f"Distribution of the probabilities of {name}: films with it above, films without it below the line"
        + ("." if cut is None else f"; the balanced threshold is {cut:#.2g}."),
        Axis("probability given", -FAR, FAR, tuple((float(_place(p)), text) for p, text in _SCORE_TICKS)),
        Axis("share of films", -top, top, ((-top, f"{top:.0%}"), (0.0, "0"), (top, f"{top:.0%}"))),
        (
            Bars(edges, bars[1], MAIN),
            Bars(edges, -bars[0], GUIDE),
            Line(np.array([-FAR, FAR]), np.zeros(2), GUIDE),
            *threshold,
            Note(-FAR * 0.97, top * 0.82, "present", MAIN),
            Note(-FAR * 0.97, -top * 0.95, "absent", GUIDE),
        ),
    )


def box_accuracy(found: Mapping[str, Any]) -> Chart:
    """Accuracy at T(IoU) of the model's best box and of a box at random, with intervals."""
    places = np.array([float(t) for t in found["accuracy_at_tiou"]])
    rows = [
        (label, [row["mean"] for row in body["accuracy_at_tiou"].values()], tone)
        for label, body, tone in (("model", found, MAIN), ("random box", found["random"], OTHER))
    ]
    at = [row["mean"]["value"] for row in found["accuracy_at_tiou"].values()]
    return Chart(
        "Best box",
        "",
        "Share of findings whose best box reaches an overlap: "
        + ", ".join(f"{value:.2f} at {t:g}" for t, value in zip(places, at, strict=True))
        + ".",
        Axis("T(IoU)", float(places[0]) - 0.03, float(places[-1]), tuple((float(t), _tick(t)) for t in places)),
        _unit("share reached"),
        tuple(mark for label, values, tone in rows for mark in _with_band(places, values, tone, label)),
        wide=True,
    )


def froc(found: Mapping[str, Any]) -> Chart:
    """Boxes found against false boxes a film, which rise by doubling, of the model and of boxes at random."""
    rates = [float(rate) for rate in found["froc"]["at"]]
    places = np.log2(rates)
    rows = [
        (label, list(body["froc"]["at"].values()), tone)
        for label, body, tone in (("model", found, MAIN), ("random box", found["random"], OTHER))
    ]
    values = [row["value"] for row in found["froc"]["at"].values()]
    return Chart(
        "FROC",
        "",
        "Share of annotated boxes found: "
        + ", ".join(f"{value:.2f} at {rate:g}" for rate, value in zip(rates, values, strict=True))
        + " false boxes a film.",
        Axis(
            "false boxes a film",
            float(places[0]) - 0.3,
            float(places[-1]),
            tuple((float(p), _tick(rate)) for p, rate in zip(places, rates, strict=True)),
        ),
        _unit("boxes found"),
        tuple(mark for label, body, tone in rows for mark in _with_band(places, body, tone, label)),
        wide=True,
    )


def _with_band(x: Floats, rows: Sequence[Mapping[str, Any]], tone: str, label: str) -> list[Mark]:
    value = np.array([row["value"] for row in rows], np.float64)
    bounds = np.array([row["ci95"] for row in rows], np.float64)  # one patient has no interval: nan
    middle = len(x) // 2
    marks: list[Mark] = []
    if not np.isnan(bounds).any():
        marks.append(Band(x, bounds[:, 0], bounds[:, 1], tone))
    marks += [Line(x, value, tone, dashed=tone == OTHER), Dots(x, value, np.full(len(x), 0.6), tone)]
    return [*marks, Note(float(x[middle]), float(min(value[middle] + 0.06, 0.94)), label, tone)]


_ends = np.array([0.0, 1.0])


def _said_prevalence(share: float, right: float) -> Note:
    """Below its line, or where the curve is not: it runs at most so high over the right of the panel."""
    text = f"prevalence {share:#.2g}"
    if share >= 0.14:
        return Note(1.0, share - 0.1, text, anchor="end")
    return Note(1.0, 0.9, text, anchor="end") if right < 0.8 else Note(0.04, share + 0.04, text)


def _unit(label: str) -> Axis:
    return Axis(label, 0.0, 1.0, ((0.0, "0"), (0.5, ".5"), (1.0, "1")))


def _tick(value: float) -> str:
    """Such as .25, or 2."""
    return f"{value:.3g}".removeprefix("0") or "0"


def _said(row: Mapping[str, Any]) -> str:
    """Such as 0.812 (0.774 to 0.846)."""
    low, high = row["ci95"]
    value = f"{row['value']:.3f}"
    return value if low is None else f"{value} ({low:.3f} to {high:.3f})"


def _point(row: Mapping[str, Any]) -> tuple[float, float, float | None] | None:
    """Sensitivity, specificity and PPV at the balanced point, if it was chosen."""
    at = row["operating_points"].get(POINT)
    return None if at is None else (at["sensitivity"]["value"], at["specificity"]["value"], at["ppv"]["value"])


def _place(probability: Any) -> Any:
    """Log odds, as far as the score axis goes."""
    near = np.clip(np.asarray(probability, np.float64), 0.001, 0.999)
    return np.log(near / (1 - near))


def _ceiling(highest: float) -> float:
    """The upper end of an axis: a rare finding lives below .1 and would be a dot in the corner of a whole one."""
    return next((top for top in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if highest <= top), 1.0)


def _thin(fpr: Floats, tpr: Floats, along: Floats) -> tuple[Floats, Floats]:
    """A curve of few points, evenly spaced along a measure that rises with it."""
    if len(fpr) <= MAX_POINTS:
        return fpr, tpr
    rows = np.unique(np.append(np.searchsorted(along, np.linspace(0, along[-1], MAX_POINTS)), len(fpr) - 1))
    return fpr[rows], tpr[rows]

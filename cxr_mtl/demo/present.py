"""What the demo's page shows of a prediction, as HTML made from values only. No Gradio, no files.

Rules of the page: what is not flagged is grey, never green; colour is never alone; nothing hides behind hover.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from cxr_mtl.demo.film import INVERTED, film_html, stroke
from cxr_mtl.demo.rows import CALLS, Row, rows
from cxr_mtl.errors import CxrError, ImageError
from cxr_mtl.predict.marks import format_number
from cxr_mtl.types import DISCLAIMER, Node, Prediction, Radiograph

MODES = {"balanced": "Balanced", "sensitive": "Sensitive", "specific": "Specific", "f1": "Best F1"}
TREE_HELP = (
    "The tree has probabilities of its own: no finding is likelier than its parents. "
    "They may differ from the table's, by which findings are flagged."
)
MODES_HELP = "Where to draw the line. Sensitive misses less and flags more; specific the reverse."


@dataclass(frozen=True, slots=True)
class Screen:
    """Everything right of the controls. ``body`` is the contract's JSON, unchanged."""

    film: str
    table: str
    tree: str
    body: dict[str, Any] | None
    facts: str


def answered(film: Radiograph, prediction: Prediction, heatmap: str | None, seconds: float) -> Screen:
    """The screen of one film's answer.

    Args:
        film: what was judged.
        prediction: the answer.
        heatmap: finding in focus; its map is shown if the prediction has it, and other findings' boxes step back.
        seconds: from submission to answer.
    """
    shown = rows(prediction)
    heat = next((h for h in prediction.heatmaps if h.finding == heatmap), None)
    return Screen(
        film=film_html(film, prediction, heat, focus=heatmap),
        table=table_html(shown, heatmap),
        tree=tree_html(prediction),
        body=prediction.to_dict(),
        facts=facts_html(prediction, seconds),
    )


def refused(error: CxrError) -> Screen:
    """The screen of a film that could not be judged: what, and what to do."""
    if isinstance(error, ImageError):
        title, body = "This file was not judged", error.to_dict()
    else:
        code = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
        title = "No answer"
        body = {"error": {"code": code, "message": error.message, "hint": error.hint}}
    html = (
        f'<div class="cxr-refusal" role="alert"><h2>{title}</h2><p>{escape(error.message)}</p>'
        f"<p>{escape(error.hint)}</p></div>"
    )
    return Screen(film=html, table="", tree="", body=body, facts="")


def blank() -> Screen:
    """The screen before the first film."""
    html = '<div class="cxr-blank">Drop a frontal chest film: PNG, JPEG or DICOM.</div>'
    return Screen(film=html, table="", tree="", body=None, facts="")


def banner_html() -> str:
    return f'<div class="cxr-banner" role="note">{DISCLAIMER}</div>'


def table_html(shown: Sequence[Row], focus: str | None = None) -> str:
    """All the picture says, in rows; a finding's name is a button that asks for its heat map."""
    body = "".join(_row(row, row.name == focus) for row in shown)
    names = ("Finding", "Probability", "Threshold", "Call", "Boxes")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        '<div class="cxr-scroll"><table class="cxr-table"><caption>Press a finding for its heat map.</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def tree_html(prediction: Prediction) -> str:
    """The findings under their parents; one with two parents stands under each. Open where something is flagged."""
    names = {node.name for node in prediction.hierarchy}
    flagged = {row.name for row in rows(prediction) if row.flagged}
    trained = {node.name for node in prediction.hierarchy if node.probability is not None}
    children: dict[str | None, list[Node]] = {}
    for node in prediction.hierarchy:
        if not trained.issuperset(node.parents):  # its conditional is given its trained ancestors, which are not these
            node = replace(node, conditional=None)
        parents: list[str | None] = [name for name in node.parents if name in names]
        for parent in parents or [None]:
            children.setdefault(parent, []).append(node)
    return f'<div class="cxr-tree"><p>{TREE_HELP}</p>{_branch(None, children, flagged)}</div>'


def facts_html(prediction: Prediction, seconds: float) -> str:
    """What was judged, by what, how fast."""
    image, model = prediction.image, prediction.model
    facts = {
        "Film": f"{image.get('width')} × {image.get('height')} px, {image.get('format')}",
        "Grey scale": INVERTED if image.get("inverted") else "as stored",
        "Orientation": "assumed frontal and upright; not checked",
        "Model": f"{model.get('name')} {model.get('version')}, ontology {model.get('ontology')}",
        "Bundle SHA-256": str(model.get("sha256", "")),
        "Film SHA-256": str(image.get("sha256", "")),
        "Operating point": prediction.operating_point,
        "Answered in": f"{seconds:.2f} s",
    }
    pairs = [(name, escape(str(value))) for name, value in facts.items()]
    pairs += [("Note", escape(note)) for note in prediction.warnings]
    return f'<dl class="cxr-facts">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in pairs)}</dl>'


def _row(row: Row, pressed: bool) -> str:
    call = row.call
    name, numbers, boxes = escape(row.name), "<td>–</td><td>–</td>", "–"
    if call.probability is not None and call.threshold is not None:
        bar = _bar(call.probability, call.threshold)
        numbers = f"<td>{_number(call.probability)}{bar}</td><td>{_number(call.threshold)}</td>"
        asks = f'data-finding="{name}" aria-pressed="{str(pressed).lower()}"'
        name = f'<button type="button" {asks}>{name}</button>'
    if row.style is not None:
        line = f'<line x1="1" y1="6" x2="27" y2="6" {stroke(row.style)}/>'
        boxes = f'{row.num_boxes}<svg class="swatch" width="28" height="12" aria-hidden="true">{line}</svg>'
    kind = "flagged" if row.flagged else "untrained" if call.call == "not_trained" else "unflagged"
    return (
        f'<tr class="{kind}"><th scope="row">{name}</th>{numbers}<td class="call">{row.words}</td><td>{boxes}</td></tr>'
    )


def _branch(parent: str | None, children: dict[str | None, list[Node]], flagged: set[str]) -> str:
    items = []
    for node in children.get(parent, ()):
        label = _node(node, node.name in flagged)
        if node.name in children:
            opened = " open" if parent is None or _leads_to(node.name, children, flagged) else ""
            label = f"<details{opened}><summary>{label}</summary>{_branch(node.name, children, flagged)}</details>"
        items.append(f"<li>{label}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _leads_to(name: str, children: dict[str | None, list[Node]], flagged: set[str]) -> bool:
    return any(child.name in flagged or _leads_to(child.name, children, flagged) for child in children.get(name, ()))


def _node(node: Node, flagged: bool) -> str:
    name = f'<span class="name">{escape(node.name)}</span>'
    if node.probability is None:
        return f'<span class="node untrained">{name}<span class="call">{CALLS["not_trained"]}</span></span>'
    given = ""
    if node.parents and node.conditional is not None:
        parents = escape(" and ".join(node.parents))
        given = f'<span class="given">{_number(node.conditional)} given {parents}</span>'
    mark = f'<span class="call">{CALLS["positive"] if flagged else ""}</span>'
    kind = "flagged" if flagged else "unflagged"
    return f'<span class="node {kind}">{name}{_bar(node.probability)}{_number(node.probability)}{mark}{given}</span>'


def _bar(probability: float, threshold: float | None = None) -> str:
    tick = "" if threshold is None else f";--t:{threshold:.4f}"
    return f'<span class="bar" style="--p:{probability:.4f}{tick}" aria-hidden="true"></span>'


def _number(value: float) -> str:
    return f'<span class="number">{escape(format_number(value))}</span>'

"""The findings as a tree on the demo's page: under their parents, with lines between them. Pure.

A branch is open where it leads to something that is flagged, and the line that leads there is drawn strong.
"""

from __future__ import annotations

from dataclasses import replace
from html import escape

from cxr_mtl.demo.rows import CALLS, FEW, bar, number, rows
from cxr_mtl.types import Node, Prediction

TREE_HELP = "The tree has probabilities of its own; they may differ from the table's, by which findings are flagged."
COHERENT = "No finding is likelier than its parents."
INCOHERENT = "Here a finding is likelier than its parent: this model judges each by itself."
_Children = dict[str | None, list[Node]]


def tree_html(prediction: Prediction) -> str:
    """The findings under their parents; one with two parents stands under each. Open where something is flagged."""
    names = {node.name for node in prediction.hierarchy}
    shown = rows(prediction)
    flagged = {row.name for row in shown if row.flagged}
    called = {row.name: row.words for row in shown}
    trained = {node.name for node in prediction.hierarchy if node.probability is not None}
    children: _Children = {}
    for node in prediction.hierarchy:
        if not trained.issuperset(node.parents):  # its conditional is given its trained ancestors, which are not these
            node = replace(node, conditional=None)
        parents: list[str | None] = [name for name in node.parents if name in names]
        for parent in parents or [None]:
            children.setdefault(parent, []).append(node)
    branches = _branch(None, children, flagged, called)
    told = f"{_holds(prediction)} {TREE_HELP}"
    return f'<div class="cxr-tree"><h2>Tree of findings</h2>{branches}<p class="help">{told}</p></div>'


def _holds(prediction: Prediction) -> str:
    """Whether this answer is coherent, which one of a flat head need not be."""
    known = {node.name: node.probability for node in prediction.hierarchy if node.probability is not None}
    pairs = [
        (known[node.name], known.get(up, 1.0))
        for node in prediction.hierarchy
        if node.name in known
        for up in node.parents
    ]
    return COHERENT if all(own <= above for own, above in pairs) else INCOHERENT


def _branch(parent: str | None, children: _Children, flagged: set[str], called: dict[str, str]) -> str:
    items = []
    here = children.get(parent, [])
    silent = [node for node in here if _is_silent(node, children)]
    if len(silent) <= FEW:
        silent = []
    for node in here:
        if node in silent:
            continue
        leads = _leads_to(node.name, children, flagged)
        label = _node(node, node.name in flagged, leads, called)
        if node.name in children:
            below = _branch(node.name, children, flagged, called)
            label = f"<details{' open' if leads else ''}><summary>{label}</summary>{below}</details>"
        kind = ' class="leads"' if leads or node.name in flagged else ""
        items.append(f"<li{kind}>{label}</li>")
    if silent:
        names = escape(", ".join(dict.fromkeys(name for node in silent for name in _names(node, children))))
        items.append(f'<li><p class="untrained"><span class="call">{CALLS["not_trained"]}:</span> {names}</p></li>')
    return f"<ul>{''.join(items)}</ul>"


def _is_silent(node: Node, children: _Children) -> bool:
    """Whether neither it nor anything below it was trained."""
    return node.probability is None and all(_is_silent(child, children) for child in children.get(node.name, ()))


def _names(node: Node, children: _Children) -> list[str]:
    return [node.name, *(name for child in children.get(node.name, ()) for name in _names(child, children))]


def _leads_to(name: str, children: _Children, flagged: set[str]) -> bool:
    return any(child.name in flagged or _leads_to(child.name, children, flagged) for child in children.get(name, ()))


def _node(node: Node, flagged: bool, leads: bool, called: dict[str, str]) -> str:
    name = f'<span class="name">{escape(node.name)}</span>'
    if node.probability is None:
        return f'<span class="node untrained">{name}<span class="call">{CALLS["not_trained"]}</span></span>'
    given = ""
    if node.parents and node.conditional is not None:
        parents = escape(" and ".join(node.parents))
        given = f' <span class="given">{number(node.conditional)} given {parents}</span>'
    # A group has no threshold and so no call of its own.
    words = called.get(node.name) or ("flagged below" if leads else "group")
    kind = "flagged" if flagged else "unflagged"
    mark = f'<span class="call">{words}</span>'
    return (
        f'<span class="node {kind}" data-finding="{escape(node.name)}"><span>{name}{given}</span>'
        f"{bar(node.probability)}{number(node.probability)}{mark}</span>"
    )

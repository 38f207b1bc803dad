"""report.html: one file that needs nothing else, for a browser, a phone or a printer.

Every number on the page is one of results.json; a chart's points come from the same answers. The page stays below 6 MB:
films are at most thirty small JPEGs, a chart is a few kB, and of the refused films only the first are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxr_mtl.bundle import Bundle
from cxr_mtl.evaluate.chart import Chart, to_svg
from cxr_mtl.evaluate.films import Shown
from cxr_mtl.evaluate.limits import SHAKY, limits, warnings

TEMPLATES = Path(__file__).parent / "templates"
PAGE_BYTES = 6_000_000
MOST_NAMED = 50  # refused films of one code on the page
PANELS = ("roc", "pr", "reliability", "scores")
WIDE = ("boxes", "froc")
_LOW, _HIGH = 0.3, 1.0  # ends of the small scales beside an AUROC

_SECTIONS = {
    "findings": "Findings",
    "each": "Finding by finding",
    "together": "Findings together",
    "tree": "Tree of findings",
    "boxes": "Boxes",
    "subgroups": "Groups of patients",
    "films": "Films",
    "limits": "Limits",
    "data": "Data and model",
    "words": "Words",
}


def write_report(
    path: Path,
    results: Mapping[str, Any],
    bundle: Bundle,
    drawn: Mapping[str, Mapping[str, Chart]],
    shown: Sequence[Shown] | None,
) -> None:
    """Lay results out as a page.

    Args:
        path: of the page.
        results: as in results.json.
        bundle: that was measured.
        drawn: charts by kind and finding, as ``charts.draw_all``.
        shown: films to show; None for a page that names no film.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": num, "span": span, "share": share, "place": place}
    page = environment.get_template("report.html.j2").render(_context(results, bundle, drawn, shown))
    path.write_text(page, encoding="utf-8")


def _context(
    results: Mapping[str, Any],
    bundle: Bundle,
    drawn: Mapping[str, Mapping[str, Chart]],
    shown: Sequence[Shown] | None,
) -> dict[str, Any]:
    found, description = results["classification"], bundle.description
    measured = {**found["findings"], **found["few"]}
    absent = {
        "films": not shown,
        "together": len(results["cooccurrence"]["findings"]) < 2,
    }
    roots = tree(results, bundle)
    groups = [row for kind in results["subgroups"].values() for row in kind.values()]
    return {
        "r": results,
        "sections": [(key, title) for key, title in _SECTIONS.items() if not absent.get(key)],
        "measured": measured,
        "anchors": {name: f"finding-{i}" for i, name in enumerate(measured)},
        "panels": {
            name: [Markup(to_svg(drawn[kind][name])) for kind in PANELS if name in drawn.get(kind, {})]
            for name in measured
        },
        "wide": [Markup(to_svg(chart)) for kind in WIDE for chart in drawn.get(kind, {}).values()],
        "tree": roots,
        "num_undrawn": len(bundle.ontology.names) - _size(roots),
        "gaps": results["subgroup_gaps"]["kinds"],
        "rated": any("sensitivity" in row for row in groups),
        "shown": None if shown is None else _by_finding(shown),
        "named": shown is not None,
        "refused": _by_code(results["data"]["unread"]),
        "most_named": MOST_NAMED,
        "shaky": SHAKY,
        "rules": {point: rule["rule"] for point, rule in description.rules.items()},
        "fitted_on": fitted_on(description.fitted_on),
        "limits": limits(results, bundle),
        "warnings": warnings(results),
    }


def num(row: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A value, or a dash where it is not defined."""
    return "–" if row is None or row["value"] is None else f"{row['value']:.{digits}f}"


def span(row: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Its interval, or nothing."""
    if row is None or row["ci95"][0] is None:
        return ""
    low, high = (f"{end:.{digits}f}".replace("-", "−") for end in row["ci95"])
    return f"{low} to {high}" if low.startswith("−") else f"{low}–{high}"


def share(row: Mapping[str, Any]) -> str:
    """A value as a percentage, with a decimal where it is small."""
    value = row["value"]
    return "–" if value is None else f"{100 * value:.1f}\u00a0%" if value < 0.1 else f"{100 * value:.0f}\u00a0%"


def place(value: float) -> float:
    """Where an AUROC lies on the small scale beside it, 0 to 100."""
    return round(100 * min(1.0, max(0.0, (value - _LOW) / (_HIGH - _LOW))), 2)


def fitted_on(fitted: Mapping[str, Any]) -> list[str]:
    """What fitted calibration and thresholds, in words; after it, what had fitted them before it."""
    plain = {key: value for key, value in fitted.items() if key != "before"}
    said = [
        f"{key.replace('_', ' ')} {', '.join(value) or 'none' if isinstance(value, list) else value}"
        for key, value in plain.items()
    ]
    return ["; ".join(said), *(fitted_on(fitted["before"]) if "before" in fitted else [])]


def tree(results: Mapping[str, Any], bundle: Bundle) -> list[dict[str, Any]]:
    """The roots, each with its children under their first parent, and so on down.

    A node has its ``row`` of results.json or ``why`` there is none, its AUROC ``given`` its parents, the further
    parents that it is ``also`` under, and the children that are drawn ``elsewhere``. What was never trained, and has
    nothing trained below it, is left out: an ontology for all datasets has many such nodes.
    """
    found, ontology = results["classification"], bundle.ontology
    rows = {**found["groups"], **found["few"], **found["findings"]}
    given = results["hierarchy"]["conditional_auroc"]["findings"]
    idle = set(found["not_trained"])
    idle = {name for name in idle if ontology.descendants(name) <= idle}

    def node(column: int) -> dict[str, Any]:
        finding = ontology.findings[column]
        below = [
            child
            for child, parents in enumerate(ontology.parents)
            if column in parents and ontology.names[child] not in idle
        ]
        return {
            "name": finding.name,
            "also": finding.parents[1:],
            "elsewhere": [ontology.names[child] for child in below if ontology.parents[child][0] != column],
            "row": rows.get(finding.name),
            "why": "not trained" if finding.name in found["not_trained"] else "one class only",
            "given": given.get(finding.name),
            "children": [node(child) for child in below if ontology.parents[child][0] == column],
        }

    roots = [column for column, parents in enumerate(ontology.parents) if not parents]
    return [node(column) for column in roots if ontology.names[column] not in idle]


def _size(nodes: Sequence[Mapping[str, Any]]) -> int:
    return sum(1 + _size(node["children"]) for node in nodes)


def _by_finding(shown: Sequence[Shown]) -> dict[str, list[Shown]]:
    groups: dict[str, list[Shown]] = {}
    for one in shown:
        groups.setdefault(one.case.finding, []).append(one)
    return groups


def _by_code(unread: Sequence[Mapping[str, str]]) -> dict[str, list[Mapping[str, str]]]:
    groups: dict[str, list[Mapping[str, str]]] = {}
    for film in unread:
        groups.setdefault(film["code"], []).append(film)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))

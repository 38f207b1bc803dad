"""report.html: one file that needs nothing else, for a browser, a phone or a printer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxr_mtl.bundle import Bundle
from cxr_mtl.evaluate.plots import Panel, to_svg

TEMPLATE = "report.html.j2"
FEW = 20  # positives below which a finding's numbers are called shaky


def write_report(
    path: Path, results: Mapping[str, Any], bundle: Bundle, drawn: Mapping[str, Mapping[str, Panel]]
) -> None:
    """Lay results out as a page.

    Args:
        path: of the page.
        results: as in results.json.
        bundle: that was measured.
        drawn: panels by figure and finding, as ``plots.panels``.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": num, "span": span, "share": share, "place": place}
    page = environment.get_template(TEMPLATE).render(
        r=results,
        tree=_tree(results, bundle),
        fitted_on=bundle.description.fitted_on,
        limits=limits(results, bundle),
        figures=_figures(drawn),
    )
    path.write_text(page, encoding="utf-8")


def num(row: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A value, or a dash where it is not defined."""
    return "–" if row is None or row["value"] is None else f"{row['value']:.{digits}f}"


def span(row: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Its interval, or nothing."""
    if row is None or row["ci95"][0] is None:
        return ""
    low, high = row["ci95"]
    return f"{low:.{digits}f}–{high:.{digits}f}"


def share(row: Mapping[str, Any]) -> str:
    """A value as a percentage, with a decimal where it is small."""
    value = row["value"]
    return "–" if value is None else f"{100 * value:.1f}\u00a0%" if value < 0.1 else f"{100 * value:.0f}\u00a0%"


def place(value: float, low: float, high: float) -> float:
    """Where a value lies between two ends, 0 to 100."""
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


def limits(results: Mapping[str, Any], bundle: Bundle) -> list[str]:
    """What a reader should hold against these numbers, in words."""
    found, data, fitted = results["classification"], results["data"], bundle.description.fitted_on
    lines = [
        "Research use only. Nothing here says that a person may be treated, or not treated, on the model's word.",
        f"The numbers hold for films like these ({results['dataset']}, split {results['split']}). Another hospital, "
        "another machine or another share of sick patients gives others; precision, PPV and calibration move first.",
        "Presence is what the dataset's labels state. Labels mined from reports are wrong at times, and the numbers "
        "inherit that.",
    ]
    if films := fitted.get("films"):
        lines.append(
            f"Probabilities and thresholds were fitted on {films} films of split {fitted.get('split', '?')} "
            f"({fitted.get('dataset', '?')}), not on these films, unless the list below says so."
        )
    if shaky := [name for name, row in found["findings"].items() if row["n_pos"] < FEW]:
        lines.append(
            f"Fewer than {FEW} films show {_and(shaky)}: their numbers, and their part of the mean, are shaky."
        )
    if found["skipped"]:
        lines.append(f"Not measured, for only one class is known: {_and(found['skipped'])}.")
    if found["not_trained"]:
        lines.append(f"Never trained, so neither answered nor measured: {_and(found['not_trained'])}.")
    lines.append(
        "Intervals are percentiles over resampled patients. They hold the spread of patients, not that of training. "
        "The ECE of a resample is larger than that of the sample, so its interval lies high."
    )
    lines.append(
        "A box is only called wrong on films with a box of that finding and on films without the finding. Where one "
        "lesion of two is boxed, finding the other counts as wrong."
    )
    return lines + _warnings(data)


def _warnings(data: Mapping[str, Any]) -> list[str]:
    lines = []
    if count := data["films_the_bundle_learned_from"]:
        lines.append(
            f"WARNING: {count} of these films were used to train or calibrate the bundle. The numbers flatter it."
        )
    if count := data["patients_also_in_other_splits"]:
        lines.append(f"WARNING: {count} of these patients are also in another split of the manifest.")
    if unread := data["unread"]:
        lines.append(f"{len(unread)} films could not be read and are in none of the numbers; they are named below.")
    if unknown := data["findings_unknown_to_the_model"]:
        lines.append(f"Labelled in the data but unknown to the model's ontology: {_and(unknown)}.")
    return lines


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _tree(results: Mapping[str, Any], bundle: Bundle) -> list[dict[str, Any]]:
    """One row a node, parents before children and children under their first parent."""
    ontology = bundle.ontology
    rows = results["classification"]["groups"] | results["classification"]["findings"]
    given = results["hierarchy"]["conditional_auroc"]["findings"]
    lines: list[dict[str, Any]] = []

    def add(column: int, indent: int) -> None:
        finding = ontology.findings[column]
        lines.append(
            {
                "name": finding.name,
                "indent": indent,
                "also": finding.parents[1:],
                "n_pos": rows[finding.name]["n_pos"] if finding.name in rows else None,
                "auroc": rows[finding.name]["auroc"] if finding.name in rows else None,
                "given": given.get(finding.name),
            }
        )
        for child, parents in enumerate(ontology.parents):
            if parents and parents[0] == column:
                add(child, indent + 1)

    for column, parents in enumerate(ontology.parents):
        if not parents:
            add(column, 0)
    return lines


def _figures(drawn: Mapping[str, Mapping[str, Panel]]) -> dict[str, list[Markup]]:
    size = {"boxes": {"width": 4.2, "height": 2.8}}
    return {
        figure: [Markup(to_svg(panel, **size.get(figure, {}))) for panel in group.values()]
        for figure, group in drawn.items()
    }

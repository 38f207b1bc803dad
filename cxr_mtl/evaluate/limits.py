"""What a reader should hold against the numbers, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxr_mtl.bundle import Bundle

SHAKY = 20  # positives below which a finding's numbers are called shaky


def limits(results: Mapping[str, Any], bundle: Bundle) -> list[str]:
    """What the numbers hold for, and what they leave out."""
    found, fitted = results["classification"], bundle.description.fitted_on
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
            f"({fitted.get('dataset', '?')}), not on these films, unless a warning at the top says so."
        )
    if shaky := [name for name, row in found["findings"].items() if row["n_pos"] < SHAKY]:
        lines.append(
            f"Fewer than {SHAKY} films show {_and(shaky)}: their numbers, and their part of the mean, are shaky."
        )
    if few := list(found["few"]):
        lines.append(f"Too few films show {_and(few)} for a part in the mean; their intervals may be far too narrow.")
    if unread := results["data"]["unread"]:
        counts = results["data"]["refused_positives"]
        shown = _and([f"{count} show {name}" for name, count in counts.items()]) if counts else "none shows a finding"
        lines.append(f"Films refused: {len(unread)}; of them {shown}. Sensitivity holds for films that pass.")
    if unmeasured := len(found["skipped"]) + len(found["not_trained"]):
        lines.append(
            f"{unmeasured} findings are in none of the numbers; below the table of findings stands which, and why."
        )
    lines.append(
        "Intervals are percentiles over resampled patients. They hold the spread of patients, not that of training. "
        "The ECE of a resample is larger than that of the sample, so its interval lies high."
    )
    lines.append(
        "A box is only called wrong on films with a box of that finding and on films without the finding. Where one "
        "lesion of two is boxed, finding the other counts as wrong."
    )
    lines.append("A heat map shows where the score is sensitive. It does not show where disease is.")
    if unknown := results["data"]["findings_unknown_to_the_model"]:
        lines.append(f"Labelled in the data but unknown to the model's ontology: {_and(unknown)}.")
    return lines


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What must stand above the numbers, because it may make them wrong."""
    data, lines = results["data"], []
    if count := data["films_the_bundle_learned_from"]:
        lines.append(
            f"WARNING: {count} of these films were used to train or calibrate the bundle. The numbers flatter it."
        )
    if count := data["patients_also_in_other_splits"]:
        lines.append(f"WARNING: {count} of these patients are also in another split of the manifest.")
    if unread := data["unread"]:
        lines.append(f"Films refused: {len(unread)}. They are in none of the numbers; the end of the report has why.")
    return lines


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

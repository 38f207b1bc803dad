"""Is one bundle better than another on the same films? The door for two bundles."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.leaks import check_seen, seen_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.errors import DataError
from cxr_mtl.evaluate.ask import Answerer
from cxr_mtl.evaluate.collect import collect
from cxr_mtl.evaluate.paired import Side, comparisons, measure_pair, same_films
from cxr_mtl.evaluate.results import Row
from cxr_mtl.evaluate.run import learned_from
from cxr_mtl.metrics.intervals import patient_resamples
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import DISCLAIMER

COMPARISON, SCHEMA = "comparison.json", "cxr-mtl.comparison/1"


def compare(
    first: Path | Answerer,
    second: Path | Answerer,
    manifest_path: Path,
    split: str,
    out: Path,
    *,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
    allow_seen: bool = False,
) -> Row:
    """Ask two bundles for the same films, and write how far apart they are.

    Args:
        first: A, a bundle's folder, or what answers for one.
        second: B; every difference is A - B.
        manifest_path: of the films.
        split: ``train``, ``val`` or ``test``.
        out: folder for comparison.json.
        resamples: of patients; the same ones for both.
        seed: of the resamples.
        batch_size: films a model looks at together.
        progress: whether to show a bar.
        allow_seen: test on patients that a bundle learned from, too; the file counts them.

    Returns:
        What comparison.json holds.

    Raises:
        CheckpointError: a bundle cannot be loaded.
        DataError: the manifest cannot be read, a bundle learned from some of the split's patients, or no film can be
            read by both.
    """
    started = time.monotonic()
    manifest = load_manifest(manifest_path)
    asked = [LocalPredictor(one) if isinstance(one, Path) else one for one in (first, second)]
    if not allow_seen:
        for predictor in asked:
            _check_seen(predictor.bundle, manifest, split)
    sides = [Side(p.bundle, collect(p, manifest, split, batch_size=batch_size, progress=progress)) for p in asked]
    pair = same_films(*sides)
    films = pair[0].answered.manifest
    if not len(films):
        raise DataError(f"No film of split {split!r} can be read by both bundles.", hint="Evaluate each to see why.")
    draws = patient_resamples(films.patient_ids, resamples, seed)
    result: Row = {
        "schema": SCHEMA,
        "dataset": ", ".join(sorted(set(films.table["dataset"]))),
        "split": split,
        "n_images": len(films),
        "n_patients": draws.num_patients,
        "manifest": manifest_path.name,
        **{letter: _subject(side, films, split) for letter, side in zip("ab", sides, strict=True)},
        "bootstrap": {"unit": "patient", "resamples": len(draws) - 1, "seed": seed, "interval": "percentile, 95 %"},
        **measure_pair(pair, draws),
    }
    made = list(comparisons(result))
    result |= {
        "comparisons": {"made": len(made), "excluding_zero": sum(row["excludes_zero"] for row in made)},
        "seconds": round(time.monotonic() - started, 2),
        "disclaimer": DISCLAIMER,
    }
    _save(result, out / COMPARISON)
    return result


def comparison_lines(result: Mapping[str, Any]) -> list[str]:
    """What a terminal shows: both numbers and their difference a line, ``*`` where its interval excludes zero."""
    made, apart = result["comparisons"]["made"], result["comparisons"]["excluding_zero"]
    means = {"macro": result["classification"]["macro"], **result["hierarchy"], **result["localization"]}
    rows = list(_rows("", means))
    rows += _rows("", result["classification"]["findings"])
    width = max((len(name) for name, _ in rows), default=0)
    lines = [
        f"{result['n_images']} films of {result['n_patients']} patients, {result['dataset']} {result['split']}",
        *(f"{letter.upper()}: {_described(result[letter])}" for letter in "ab"),
        f"A - B with 95 % intervals from the same {result['bootstrap']['resamples']} resamples of patients; "
        "* where the interval excludes zero. Of brier and ece the smaller is the better.",
        f"{'':<{width}}{'A':>9}{'B':>9}{'A - B':>9}",
        *(f"{name:<{width}}{_line(row)}" for name, row in rows),
        f"{apart} of {made} intervals exclude zero. They are not corrected for being so many: between two bundles that "
        f"are equally good, about {made * 0.05:.0f} of {made} would, too.",
    ]
    named = {
        "Only A answers": result["only_a"],
        "Only B answers": result["only_b"],
        f"Fewer than {result['min_positives']} films with or without": result["few"],
    }
    lines += [f"{what}: {', '.join(names)}" for what, names in named.items() if names]
    if unread := {film["image_id"] for letter in "ab" for film in result[letter]["unread"]}:
        lines.append(f"Films not answered by one of them or by both: {len(unread)}; {COMPARISON} names them.")
    if differing := result["labels_read_differently"]:
        lines.append(f"{differing} labels that the two bundles read differently were left out.")
    return lines


def _check_seen(bundle: Bundle, manifest: Manifest, split: str) -> None:
    try:
        check_seen(learned_from(bundle), manifest, split)
    except DataError as error:
        raise DataError(f"{bundle.folder}: {error.message}", hint=error.hint) from error


def _subject(side: Side, films: Manifest, split: str) -> Row:
    bundle = side.bundle
    return {
        "name": bundle.name,
        "version": bundle.version,
        "ontology": bundle.ontology.name,
        "bundle_sha256": bundle.sha256,
        "weak_box_findings": list(bundle.weak_box_findings),
        "films_the_bundle_learned_from": len(seen_films(learned_from(bundle), films, split)),
        "unread": [film.to_dict() for film in side.answered.unread],
    }


def _save(result: Row, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _described(subject: Mapping[str, Any]) -> str:
    seen = subject["films_the_bundle_learned_from"]
    warning = f"; it learned from {seen} of these films, which flatters it" if seen else ""
    return f"{subject['name']} {subject['version']} ({subject['bundle_sha256'][:12]}){warning}"


def _rows(name: str, node: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every pair of numbers by the way to it, what goes without saying left out."""
    if "difference" in node:
        yield name, node
        return
    for key, child in node.items():
        if isinstance(child, Mapping):
            yield from _rows(name if key == "operating_points" else f"{name} {key}".strip(), child)


def _line(row: Mapping[str, Any]) -> str:
    shown = [f"{'-' if v is None else f'{v:.3f}':>9}" for v in (row["a"]["value"], row["b"]["value"])]
    value, (low, high) = row["difference"]["value"], row["difference"]["ci95"]
    gap = f"{'-' if value is None else f'{value:+.3f}':>9}"
    between = "" if low is None else f"  ({low:+.3f} to {high:+.3f}){' *' * row['excludes_zero']}"
    return "".join(shown) + gap + between

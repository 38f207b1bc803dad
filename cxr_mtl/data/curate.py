"""Curations: which of a dataset's films a run learns from, as rules in its run file (``data.curate``).

The rules are read between the dataset's tables and the split, so the splits are dealt among the films that are left.
No rule changes a label, and none is silent: the report has a line for each reason that a film is left out for.

N films, C findings in the ontology's order.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.config import CurateConfig, CurationRule, DataConfig
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.data.sources import ImportReport, import_source
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology, load_ontology
from cxr_mtl.types import ABSENT, PRESENT, UNCERTAIN

Flags = NDArray[np.bool_]


def write_curated(data: DataConfig, root: Path, *, allow_missing_images: bool = False) -> list[str]:
    """Curate a dataset, write the manifest that the run reads, and say what was left out.

    Returns:
        The report, line by line.

    Raises:
        ConfigError: the run file has no curation, or asks for what the ontology or the source does not have.
        DataError: what the dataset's folder lacks, or no film is left, or the manifest cannot be written.
    """
    manifest, report = curate(data, root, allow_missing_images=allow_missing_images)
    save_manifest(manifest, data.manifest)
    return [*report.lines(), f"Wrote {data.manifest}. Next: cxr-mtl data doctor {data.manifest}"]


def curate(data: DataConfig, root: Path, *, allow_missing_images: bool = False) -> tuple[Manifest, ImportReport]:
    """Read the dataset that a run file names and keep what its rules keep.

    Args:
        root: the folder that the dataset was unpacked in.
        allow_missing_images: keep rows without a film, to try out tables alone.

    Raises:
        ConfigError: the run file has no curation, or asks for what the ontology or the source does not have.
        DataError: what the dataset's folder lacks, or no film is left.
    """
    plan = data.curate
    if plan is None:
        raise ConfigError("This run file has no section data.curate.", hint="See configs/lung10_nih.yaml for one.")
    ontology = load_ontology(plan.ontology)
    _check(plan, data.findings, ontology)

    def rules(manifest: Manifest, unlisted: Flags | None, tally: Tally) -> Manifest:
        return select(manifest, plan.rules, tally, findings=data.findings, unlisted=unlisted, seed=plan.seed)

    return import_source(
        plan.source,
        root,
        ontology=ontology,
        allow_missing_images=allow_missing_images,
        seed=plan.seed,
        select=rules,
        **plan.options,
    )


def select(
    manifest: Manifest,
    rules: Sequence[CurationRule],
    tally: Tally,
    *,
    findings: Collection[str] = (),
    unlisted: Flags | None = None,
    seed: int = 0,
) -> Manifest:
    """The films that all rules keep, in the order they were in; whatever that order is, the same films.

    Args:
        findings: those that are listed; empty lists all of the ontology. What is below a listed one is listed, too.
        unlisted: (N,) films with a label that the ontology has no finding for; None where that is not known.
        seed: of the films that are drawn.

    Raises:
        ConfigError: a rule needs what the ontology or the source does not have.
        DataError: a rule leaves no film.
    """
    films = _films(manifest, findings, unlisted)
    live, told = np.ones(len(manifest), dtype=bool), []
    for rule in rules:
        name, value = rule.setting
        before = int(live.sum())
        for reason, out in _RULES[name](films, value, live, seed).items():
            tally.drop(reason, manifest.table.loc[live & out, "image_path"])
            live = live & ~out
        told.append({name: list(value) if isinstance(value, tuple) else value, "left_out": before - int(live.sum())})
        if not live.any():
            hint = "Left out: " + "; ".join(f"{d.count:,} {reason}" for reason, d in tally.dropped.items()) + "."
            raise DataError(f"No film is left after the rule '{name}: {value}'.", hint=hint)
    if findings and unlisted is None and any(rule.unlisted for rule in rules):
        tally.note("the source does not tell which of its labels the ontology lacks: such films are kept")
    how = {"seed": seed, "findings": list(findings), "rules": told}
    table = manifest.table[live].reset_index(drop=True)
    return replace(manifest, table=table, info=manifest.info | {"curation": how})


def _check(plan: CurateConfig, findings: Collection[str], ontology: Ontology) -> None:
    for name in findings:
        ontology.index(name)
    taken = [name for name, p in inspect.signature(import_source).parameters.items() if p.kind is not p.VAR_KEYWORD]
    if wrong := sorted(set(plan.options) & set(taken)):
        hint = "Options are the source's own; the rest has settings and rules of its own."
        raise ConfigError(f"data.curate.options: {wrong[0]!r} is no option of a source.", hint=hint)


@dataclass(frozen=True)
class _Films:
    """What rules ask of films.

    Attributes:
        normal: (N,) the normal finding is present; None where the ontology has no such finding.
        ill: (N,) something other than normal is present or uncertain, or normal is absent.
        shown: (N,) how many of the findings listed are present; of a finding and what it implies, the finding.
        astray: (N,) a finding that is not listed is present.
        outside: (N,) there is a label that the ontology has no finding for; None where that is not known.
    """

    table: pd.DataFrame
    patients: NDArray[np.str_]
    ontology: str
    all_listed: bool
    normal: Flags | None
    ill: Flags
    shown: NDArray[np.intp]
    astray: Flags
    outside: Flags | None


def _films(manifest: Manifest, findings: Collection[str], outside: Flags | None) -> _Films:
    ontology, labels = manifest.ontology, manifest.labels()
    present = labels == PRESENT
    shown = present.copy()
    for column, name in enumerate(ontology.names):
        below = [ontology.index(other) for other in ontology.descendants(name)]
        shown[:, column] &= ~present[:, below].any(axis=1)
    listed = np.asarray(
        [
            not findings or name in findings or not ontology.ancestors(name).isdisjoint(findings)
            for name in ontology.names
        ]
    )
    healthy = _shown_by_the_healthy(ontology)
    ill = (shown | (labels == UNCERTAIN))[:, [name not in healthy for name in ontology.names]].any(axis=1)
    normal = None
    if ontology.normal is not None:
        stated = labels[:, ontology.index(ontology.normal)]
        normal, ill = stated == PRESENT, ill | (stated == ABSENT)
    return _Films(
        table=manifest.table,
        patients=manifest.patient_ids,
        ontology=ontology.name,
        all_listed=not findings,
        normal=normal,
        ill=ill,
        shown=shown[:, listed].sum(axis=1),
        astray=shown[:, ~listed].any(axis=1),
        outside=outside,
    )


def _shown_by_the_healthy(ontology: Ontology) -> frozenset[str]:
    """The normal finding, what a normal film may show, and what implies nothing else."""
    names = {*ontology.normal_allows, *([ontology.normal] if ontology.normal else [])}
    for finding in ontology.findings:
        if finding.parents and names.issuperset(finding.parents):
            names.add(finding.name)
    return frozenset(names)


# Each rule: the films, its value, (N,) the films that are left, the seed -> reason: (N,) films to leave out.


def _views(films: _Films, views: tuple[str, ...], live: Flags, seed: int) -> dict[str, Flags]:
    view = films.table["view"]
    return {f"view is {name}": (view == name).to_numpy(bool) for name in sorted(set(view[live]) - set(views))}


def _min_age(films: _Films, years: float, live: Flags, seed: int) -> dict[str, Flags]:
    age = films.table["age"].to_numpy(np.float64)
    return {"age is unknown": np.isnan(age), f"patient is younger than {years:g}": age < years}


def _unlisted(films: _Films, what: str, live: Flags, seed: int) -> dict[str, Flags]:
    reasons = {} if films.all_listed else {"film shows a finding that is not among data.findings": films.astray}
    if films.outside is not None:
        reasons["film has a label that the ontology lacks"] = films.outside
    elif films.all_listed:
        what = "data.curate.rules: 'unlisted: drop', but this source cannot tell which labels the ontology lacks."
        raise ConfigError(what, hint="Leave the rule out, or list data.findings.")
    return reasons


def _min_shown(films: _Films, least: int, live: Flags, seed: int) -> dict[str, Flags]:
    none = "film shows none of the findings listed"
    return {none if least == 1 else f"film shows fewer than {least} of the findings listed": films.shown < least}


def _max_shown(films: _Films, most: int, live: Flags, seed: int) -> dict[str, Flags]:
    return {f"film shows more than {most} of the findings listed": films.shown > most}


def _normal_patients(films: _Films, who: str, live: Flags, seed: int) -> dict[str, Flags]:
    of_ill = np.isin(films.patients, np.unique(films.patients[live & films.ill]))
    return {"normal film of a patient who shows a finding on this or another film": _normal(films) & of_ill}


def _max_normal(films: _Films, most: int, live: Flags, seed: int) -> dict[str, Flags]:
    normal = films.table.loc[live & _normal(films), ["image_id", "image_path"]]
    out = np.zeros(len(live), dtype=bool)
    if len(normal) > most:
        # In the order of names, not of rows. pandas draws with numpy's RandomState, whose stream is frozen for good.
        order = normal.sort_values(["image_id", "image_path"]).index
        drawn = order.to_series().sample(most, random_state=seed)
        out[order.difference(pd.Index(drawn))] = True
    return {f"normal film beyond the {most:,} that are drawn": out}


def _normal(films: _Films) -> Flags:
    if films.normal is None:
        what = f"data.curate.rules: ontology {films.ontology} has no finding that says a film is normal."
        raise ConfigError(what, hint="Leave the rules on normal films out, or choose another ontology.")
    return films.normal


_RULES: dict[str, Callable[[_Films, Any, Flags, int], dict[str, Flags]]] = {
    "views": _views,
    "min_age": _min_age,
    "unlisted": _unlisted,
    "min_shown": _min_shown,
    "max_shown": _max_shown,
    "normal_patients": _normal_patients,
    "max_normal": _max_normal,
}

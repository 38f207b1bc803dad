"""Where films and labels come from: one file a dataset, a function from its folder to what its tables state.

What is common to all datasets is done here, once: what follows from the stated labels, the views that are wanted, the
split, and the report.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.manifest import Manifest, tabulate
from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.report import ImportReport, Tally, make_report
from cxr_mtl.data.sources.tables.labels import complete_all
from cxr_mtl.data.split import carve_validation, check_patients, split_by_patient, with_split
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology, load_ontology

__all__ = ["SOURCES", "VIEWS", "Found", "ImportReport", "Select", "Source", "import_source"]

VIEWS = ("PA", "AP", "LATERAL", "UNKNOWN")


class Source(Protocol):
    """What each file in this folder offers; further keywords are the dataset's own options."""

    def __call__(
        self, root: Path, ontology: Ontology, tally: Tally, *, allow_missing_images: bool, **options: Any
    ) -> Found: ...


Select = Callable[[Manifest, "NDArray[np.bool_] | None", Tally], Manifest]
"""Leaves films out of a manifest, telling the tally; the flags are ``Found.unlisted``, for the manifest's rows."""

SOURCES = {
    "nih": "cxr_mtl.data.sources.nih:read_nih",
    "chexpert": "cxr_mtl.data.sources.chexpert:read_chexpert",
    "mimic": "cxr_mtl.data.sources.mimic:read_mimic",
    "padchest": "cxr_mtl.data.sources.padchest:read_padchest",
    "vindr": "cxr_mtl.data.sources.vindr:read_vindr",
    "vinbigdata": "cxr_mtl.data.sources.vinbigdata:read_vinbigdata",
    "rsna": "cxr_mtl.data.sources.rsna:read_rsna",
    "kermany": "cxr_mtl.data.sources.kermany:read_kermany",
    "folders": "cxr_mtl.data.sources.own.folders:read_folders",
    "csv": "cxr_mtl.data.sources.own.csv_table:read_csv_table",
}
"""The command line's word for a dataset, and where its function is; imported when asked for."""

OWN = ("folders", "csv")
"""Sources that read anybody's films, so that no ontology has their words."""

_FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def import_source(
    name: str,
    root: Path,
    *,
    ontology: str | Path | Ontology = "thorax",
    allow_missing_images: bool = False,
    views: Collection[str] | None = None,
    select: Select | None = None,
    seed: int = 0,
    validation: float = 0.12,
    dataset: str | None = None,
    **options: Any,
) -> tuple[Manifest, ImportReport]:
    """Read a dataset in its own layout.

    Args:
        root: the folder that the dataset was unpacked in; for ``csv`` it may be the table itself.
        allow_missing_images: keep rows without a film, to try out tables alone.
        views: keep these only; None keeps every film.
        select: leaves out further films, before any are dealt into splits; see ``data.curate``.
        seed: of the patients who are dealt into splits.
        validation: share of the official training films to validate on where no validation split is stated; 0 for none.
        dataset: what to call the films of ``folders`` and ``csv``; the source's own name by default.
        options: the source's own, such as ``readers`` of VinDr.

    Raises:
        ConfigError: no such source, option, view or ontology, or the ontology has nothing that the dataset labels.
        DataError: what the folder lacks.
    """
    read = _source(name, options)
    if strange := set(views or ()) - set(VIEWS):
        raise ConfigError(f"There is no view {sorted(strange)[0]!r}.", hint=f"Views: {', '.join(VIEWS)}.")
    root = Path(root).expanduser()
    if not (root.is_dir() or (name == "csv" and root.is_file())):
        raise DataError(f"{root} is not a folder.", hint=f"Give the folder that {name} was unpacked in.")
    tree = ontology if isinstance(ontology, Ontology) else load_ontology(ontology)
    called = _dataset_name(name, dataset)
    if name not in OWN and not tree.labelled_by(name):
        raise ConfigError(f"Ontology {tree.name} has no finding that {name} labels.", hint="Choose another --ontology.")
    tally = Tally()
    found = read(root, tree, tally, allow_missing_images=allow_missing_images, **options)
    if views is not None:
        found = _only_views(found, views, tally)
    manifest = _manifest(found, root, tree, called, name)
    if select is not None:
        manifest = select(manifest, found.unlisted, tally)
    if found.split_how is None:
        tally.note("the dataset states no split: dealt by patient, not comparable with published numbers")
        manifest = split_by_patient(manifest, _FRACTIONS, seed)
    else:
        manifest = _official(manifest, found.split_how, validation, seed, tally)
    report = make_report(called, manifest, tally)
    manifest.info["datasets"][called]["report"] = report.to_dict()
    return manifest, report


def _source(name: str, options: dict[str, Any]) -> Source:
    if name not in SOURCES:
        near = get_close_matches(name.lower(), SOURCES, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Sources: {', '.join(SOURCES)}."
        raise ConfigError(f"There is no source {name!r}.", hint=hint)
    module, function = SOURCES[name].split(":")
    source = cast("Source", getattr(import_module(module), function))
    own = [p.name for p in inspect.signature(source).parameters.values() if p.kind is p.KEYWORD_ONLY]
    own.remove("allow_missing_images")
    for option in options:
        if option not in own:
            hint = f"Its own options: {', '.join(own)}." if own else "It has no options of its own."
            raise ConfigError(f"Source {name!r} has no option {option!r}.", hint=hint)
    return source


def _dataset_name(source: str, dataset: str | None) -> str:
    if dataset is None or dataset == source:
        return source
    if source not in OWN:
        raise ConfigError(f"{source} films are called {source}, not {dataset!r}.", hint="Leave --name out.")
    if dataset in SOURCES or not dataset.replace("-", "").replace("_", "").isalnum():
        hint = "Take a name of letters, digits, - and _ that is no public dataset's."
        raise ConfigError(f"Films of your own cannot be called {dataset!r}.", hint=hint)
    return dataset


def _only_views(found: Found, views: Collection[str], tally: Tally) -> Found:
    """Leave out all other views."""
    view = found.rows.get("view", pd.Series(["UNKNOWN"] * len(found.rows)))
    for unwanted in sorted(set(view) - set(views)):
        tally.drop(f"view is {unwanted}", found.rows.loc[(view == unwanted).to_numpy(bool), "image_path"])
    keep = view.isin(list(views)).to_numpy(bool)
    if not keep.any():
        raise DataError(f"No film is of the view {' or '.join(views)}.", hint="Ask for other --views, or for all.")
    unlisted = None if found.unlisted is None else found.unlisted[keep]
    return replace(found, rows=found.rows[keep].reset_index(drop=True), stated=found.stated[keep], unlisted=unlisted)


def _manifest(found: Found, root: Path, ontology: Ontology, dataset: str, source: str) -> Manifest:
    labels = complete_all(found.stated, ontology, dataset)
    about = {"source": source} | found.info | {"labelled": sorted(found.labelled), "boxed": sorted(found.boxed)}
    info: dict[str, Any] = {"datasets": {dataset: about}}
    return tabulate(found.rows.assign(dataset=dataset), labels, found.root or root, ontology, info)


def _official(manifest: Manifest, how: dict[str, Any], validation: float, seed: int, tally: Tally) -> Manifest:
    """The split that the dataset states, with validation carved out of training where it states none."""
    manifest = with_split(manifest, manifest.splits, how)
    check_patients(manifest)
    split = manifest.splits
    if unlisted := sum(name is None for name in split):
        first = manifest.table["image_id"].iat[list(split).index(None)]
        tally.note(f"{unlisted:,} films are in none of the dataset's lists (first: {first}): in no split")
    if not validation or (split == "val").any():
        return manifest
    if len(set(manifest.where(split="train").patient_ids)) < 2:
        tally.note("too few patients are in the training list to validate on some of them")
        return manifest
    tally.note(
        f"the dataset states no validation split: {validation:.0%} of its training films, by patient, seed {seed}"
    )
    return carve_validation(manifest, validation, seed)

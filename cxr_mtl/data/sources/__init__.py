"""Where records come from: one file a dataset, a function from its folder to a manifest and a report."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.sources.report import ImportReport
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology, load_ontology

__all__ = ["SOURCES", "ImportReport", "Source", "import_source"]


class Source(Protocol):
    """What each file in this folder offers."""

    def __call__(
        self, root: Path, ontology: Ontology, *, allow_missing_images: bool, seed: int, **options: Any
    ) -> tuple[Manifest, ImportReport]: ...


SOURCES = {"nih": "cxr_mtl.data.sources.nih:import_nih"}
"""The command line's word for a dataset, and where its function is; imported when asked for."""


def import_source(
    name: str,
    root: Path,
    *,
    ontology: str | Path | Ontology = "thorax",
    allow_missing_images: bool = False,
    seed: int = 0,
    **options: Any,
) -> tuple[Manifest, ImportReport]:
    """Read a dataset in its own layout.

    Args:
        root: the folder that the dataset was unpacked in.
        allow_missing_images: keep rows without a film, to try out tables alone.
        options: the source's own, such as ``validation`` of NIH.

    Raises:
        ConfigError: no such source or ontology, or the ontology has nothing that the dataset labels.
        DataError: what the folder lacks.
    """
    if name not in SOURCES:
        near = get_close_matches(name.lower(), SOURCES, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Sources: {', '.join(SOURCES)}."
        raise ConfigError(f"There is no source {name!r}.", hint=hint)
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.", hint=f"Give the folder that {name} was unpacked in.")
    tree = ontology if isinstance(ontology, Ontology) else load_ontology(ontology)
    if not tree.labelled_by(name):
        raise ConfigError(f"Ontology {tree.name} has no finding that {name} labels.", hint="Choose another --ontology.")
    module, function = SOURCES[name].split(":")
    source = cast("Source", getattr(import_module(module), function))
    return source(root, tree, allow_missing_images=allow_missing_images, seed=seed, **options)

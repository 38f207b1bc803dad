"""Several manifests made one: every dataset keeps what it states, and is silent on the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mtl.data.leaks import check_leaks
from cxr_mtl.data.manifest import LABEL, Manifest
from cxr_mtl.data.split import check_patients
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import merge_ontologies


def merge_manifests(manifests: Sequence[Manifest]) -> Manifest:
    """One manifest of all films.

    Findings of the same name are one finding. A finding that a film's dataset does not speak of stays unknown on that
    film; what its labels imply in the other's tree is filled in when they are learned. Each film keeps its split.

    Raises:
        ConfigError: the ontologies contradict one another.
        DataError: a film is in two of the manifests, films are on different drives, or the splits would leak.
    """
    ontology, renamed = merge_ontologies([manifest.ontology for manifest in manifests])
    root = _common_root(manifests)
    tables, datasets = [], dict[str, Any]()
    for manifest, new in zip(manifests, renamed, strict=True):
        called = _rename(manifest, new).expressed_in(ontology)
        below = os.path.relpath(manifest.root.resolve(), root)
        paths = [path if below == "." else f"{Path(below).as_posix()}/{path}" for path in called.table["image_path"]]
        tables.append(called.table.assign(image_path=pd.Series(paths, dtype="str")))
        for name, about in called.info["datasets"].items():
            labelled = {*datasets.get(name, {}).get("labelled", ()), *about["labelled"]}
            boxed = {*datasets.get(name, {}).get("boxed", ()), *about.get("boxed", ())}
            datasets[name] = datasets.get(name, {}) | about | {"labelled": sorted(labelled), "boxed": sorted(boxed)}
    table = pd.concat(tables, ignore_index=True)
    again = table.duplicated(["dataset", "image_id"])
    if again.any():
        first = table["image_path"].iat[int(again.to_numpy().argmax())]
        raise DataError(
            f"{int(again.sum()):,} films are in more than one of the manifests, first: {first}.",
            hint="Give each dataset once; films of your own get a name of their own with --name.",
        )
    parts = [
        {"films": len(m), "datasets": sorted(m.table["dataset"].unique())} | m.info.get("split", {}) for m in manifests
    ]
    merged = Manifest(table, root, ontology, {"datasets": datasets, "split": {"how": "merged", "parts": parts}})
    check_patients(merged)
    check_leaks(merged)
    return merged


def _rename(manifest: Manifest, new: dict[str, str]) -> Manifest:
    """The same manifest with some findings called otherwise; only the names change, not the tree."""
    if not new:
        return manifest
    plain = manifest.ontology.to_dict()
    plain["normal"] = new.get(plain["normal"], plain["normal"])
    for finding in plain["findings"]:
        finding["name"] = new.get(finding["name"], finding["name"])
    columns = {LABEL + old: LABEL + name for old, name in new.items()}
    datasets = {
        str(name): manifest.info.get("datasets", {}).get(name, {})
        | {"labelled": sorted(new.get(finding, finding) for finding in manifest.labelled(str(name)))}
        for name in manifest.table["dataset"].unique()
    }
    ontology = type(manifest.ontology).from_dict(plain)
    return Manifest(
        manifest.table.rename(columns=columns), manifest.root, ontology, manifest.info | {"datasets": datasets}
    )


def _common_root(manifests: Sequence[Manifest]) -> Path:
    try:
        return Path(os.path.commonpath([manifest.root.resolve() for manifest in manifests]))
    except ValueError:
        raise DataError("The films are on different drives.", hint="Bring them onto one, and import again.") from None

"""Several manifests made one: every dataset keeps what it states, and is silent on the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mtl.data.leaks import check_leaks
from cxr_mtl.data.manifest import LABEL, Manifest
from cxr_mtl.data.sources import OWN
from cxr_mtl.data.split import check_patients, with_split
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import merge_ontologies


def merge_manifests(manifests: Sequence[Manifest]) -> tuple[Manifest, tuple[str, ...]]:
    """One manifest of all films.

    Findings of the same name are one finding. A finding that a film's dataset does not speak of stays unknown on that
    film; what its labels imply in the other's tree is filled in when they are learned. Each film keeps its split, but
    for another dataset's patient (RSNA's films are NIH's, ``nih:13``): it goes where that dataset has the patient.

    Returns:
        the manifest, and what the user should know.

    Raises:
        ConfigError: the ontologies contradict one another.
        DataError: a film is in two of the manifests, two own datasets have one name, films are on different drives, or
            the splits would leak.
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
            _check_same(name, datasets.setdefault(name, about), about)
    table = pd.concat(tables, ignore_index=True)
    again = table.duplicated(["dataset", "image_id"])
    if again.any():
        first = table["image_path"].iat[int(again.to_numpy().argmax())]
        raise DataError(
            f"{int(again.sum()):,} films are in more than one of the manifests, first: {first}.", hint="Give each once."
        )
    parts = [
        {"films": len(m), "datasets": sorted(m.table["dataset"].unique())}
        | {key: m.info[key] for key in ("split", "curation") if key in m.info}
        for m in manifests
    ]
    merged = Manifest(table, root, ontology, {"datasets": datasets, "split": {"how": "merged", "parts": parts}})
    merged, moved = _with_owners(merged)
    check_patients(merged)
    check_leaks(merged)
    notes = [
        f"{num:,} films of {name} took the split that {owner} has for their patient" for (name, owner), num in moved
    ]
    return merged, tuple(notes)


def _check_same(name: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Refuse two datasets of one name that speak of different findings: then nobody could say what a blank means."""
    if one is other:
        return
    if other.get("source") in OWN or any(set(one[key]) != set(other[key]) for key in ("labelled", "boxed")):
        raise DataError(
            f"Two of the manifests call their films {name!r}.",
            hint="Import films of your own under a --name of their own; a public dataset once, on one ontology.",
        )


def _with_owners(merged: Manifest) -> tuple[Manifest, list[tuple[tuple[str, str], int]]]:
    """Films of another dataset's patient in that dataset's split; and how many of which dataset were moved."""
    dataset, patient, split = merged.table["dataset"].to_numpy(str), merged.patient_ids, merged.splits
    owner = np.asarray([name.partition(":")[0] for name in patient])
    owned = owner == dataset
    known = dict(zip(patient[owned], split[owned], strict=True))
    wanted = np.asarray([known.get(name, old) for name, old in zip(patient, split, strict=True)], dtype=object)
    moved = ~owned & (wanted != split)
    pairs = Counter(zip(dataset[moved].tolist(), owner[moved].tolist(), strict=True))
    return with_split(merged, np.where(moved, wanted, split), merged.info["split"]), sorted(pairs.items())


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

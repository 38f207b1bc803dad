"""A split as a file: which film is where, how they were dealt, and a hash to tell two splits apart.

It travels with the run and the bundle, so that others can test on the same films and nobody on films that were learned
from. One comment line with the manner, the seed and the hash; then a CSV.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.split import SPLITS, check_patients, hash_of, with_split
from cxr_mtl.errors import DataError

COLUMNS = ("dataset", "image_id", "patient_id", "split")
_MARK = "# cxr-mtl split "
_HINT = "Give the split.csv of a run or bundle, or what `cxr-mtl data split --save` wrote."


def split_text(manifest: Manifest) -> str:
    """The file: every film in the order of dataset and image_id; a film in no split has an empty one."""
    return split_table_text(manifest.table, manifest.info.get("split", {}))


def split_table_text(table: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """The same of a table with the four ``COLUMNS``, and of what is said of how it was dealt."""
    first = json.dumps(dict(about) | {"sha256": hash_of(table)}, sort_keys=True)
    return f"{_MARK}{first}\n{table[list(COLUMNS)].sort_values(['dataset', 'image_id']).to_csv(index=False)}"


def save_split(manifest: Manifest, path: Path) -> None:
    """Write the file whole or not at all, with the folders that it wants.

    Raises:
        DataError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(split_text(manifest), encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.", hint="Choose another place.") from error


def read_split(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Films and splits of a file, all text, and what its first line says.

    Raises:
        DataError: no such file, not one of ours, or one that was changed after it was written.
    """
    try:
        first, _, rest = path.read_text(encoding="utf-8").partition("\n")
        about = json.loads(first.removeprefix(_MARK))
        table = pd.read_csv(io.StringIO(rest), dtype=str, keep_default_na=False)[list(COLUMNS)]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", hint=_HINT) from error
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} is no split file.", hint=_HINT) from error
    if not first.startswith(_MARK) or not table["split"].isin([*SPLITS, ""]).all() or not isinstance(about, dict):
        raise DataError(f"{path} is no split file.", hint=_HINT)
    if about.get("sha256") not in (None, hash_of(table)):
        hint = "Restore it; or, if the change is meant, leave sha256 out of its first line."
        raise DataError(f"{path} was changed after it was written: its hash does not fit.", hint=hint)
    return table, about


def take_split(manifest: Manifest, path: Path) -> Manifest:
    """The same films in the splits that a file says; a film that the file does not name is in none.

    Raises:
        DataError: the file names none of the films, or two splits would share a patient.
    """
    table, about = read_split(path)
    said = dict(zip(zip(table["dataset"], table["image_id"], strict=True), table["split"], strict=True))
    films = zip(manifest.table["dataset"], manifest.table["image_id"], strict=True)
    split = np.asarray([said.get(film) or None for film in films], dtype=object)
    if all(name is None for name in split):
        raise DataError(f"{path} names none of the manifest's films.", hint=_HINT)
    how = {name: value for name, value in about.items() if name != "sha256"}
    taken = with_split(manifest, split, how | {"file": path.name})
    check_patients(taken)
    return taken

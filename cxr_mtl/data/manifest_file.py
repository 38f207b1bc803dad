"""The manifest's file: Parquet, with the films' folder, the ontology and where the labels came from in its metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxr_mtl.data.manifest import COLUMNS, LABEL, NULLABLE, Manifest, column_of
from cxr_mtl.errors import CxrError, DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import Box

MANIFEST_SCHEMA = "cxr-mtl.manifest/1"
WHO = ("image_path", "image_id", "patient_id", "study_id")
"""The columns that name a film."""

_METADATA = b"cxr_mtl"
_BOX = pa.struct(
    [("finding", pa.string())] + [(c, pa.float64()) for c in ("x1", "y1", "x2", "y2")] + [("reader", pa.string())]
)
_TYPES: dict[str, pa.DataType] = {
    "age": pa.float32(),
    "width": pa.int32(),
    "height": pa.int32(),
    "boxes": pa.list_(_BOX),
    "boxes_exhaustive": pa.bool_(),
}
_COLUMNS: dict[str, pa.DataType] = {name: _TYPES.get(name, pa.string()) for name in COLUMNS}
_REIMPORT = "Make it again with: cxr-mtl data import SOURCE ROOT --out FILE.parquet"


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write the Parquet file whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pq.write_table(_to_arrow(manifest, path.parent), draft, compression="zstd")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as err:
        raise DataError(f"{path} cannot be written: {err.strerror or err}.", hint="Choose another --out.") from err


def load_manifest(path: Path) -> Manifest:
    """Read what ``save_manifest`` wrote.

    Raises:
        DataError: what is wrong with the file, in one line.
    """
    path = Path(path)
    table = _read_parquet(path)
    meta = _read_metadata(path, table)
    try:
        ontology = Ontology.from_dict(meta["ontology"])
    except (CxrError, KeyError, TypeError, ValueError) as err:
        raise DataError(f"{path}: the ontology in its metadata cannot be read ({err}).", hint=_REIMPORT) from err
    frame = _to_pandas(path, table, ontology)
    return Manifest(frame, _find_root(path, meta, str(frame["image_path"].iat[0])), ontology, meta["info"])


def list_films(path: Path, split: str | None = None) -> tuple[pa.Table, Path]:
    """Who and where the films are, and the folder that their paths are relative to.

    Without labels and boxes a million rows take some 100 MB; ``load_manifest`` makes gigabytes of them.

    Args:
        path: of the manifest.
        split: ``train``, ``val`` or ``test``; None for all rows.

    Returns:
        (N, len(WHO)) texts, in the manifest's order.

    Raises:
        DataError: what is wrong with the file, or that no film is in the split.
    """
    path = Path(path)
    table = _read_parquet(path, [*WHO, "split"])
    meta = _read_metadata(path, table)
    if missing := [c for c in (*WHO, "split") if c not in table.column_names]:
        raise DataError(f"{path} lacks the column {', '.join(missing)}.", hint=_REIMPORT)
    if not table.num_rows:
        raise DataError(f"{path} has no rows.", hint=_REIMPORT)
    root = _find_root(path, meta, str(table["image_path"][0].as_py()))
    if split is not None:
        held = sorted({str(name) for name in table["split"].unique().to_pylist() if name})
        table = table.filter(pc.equal(table["split"], split))
        if not table.num_rows:
            what = f"No film of {path} is in split {split!r}."
            raise DataError(what, hint=f"It has: {', '.join(held) or 'none; `cxr-mtl data split` deals them'}.")
    return table.select(WHO).cast(pa.schema([(name, pa.string()) for name in WHO])).combine_chunks(), root


def _to_arrow(manifest: Manifest, folder: Path) -> pa.Table:
    table, root = manifest.table, manifest.root.resolve()
    meta = {
        "schema": MANIFEST_SCHEMA,
        # The relative one survives moving films and manifest together, the absolute one moving the manifest alone.
        "root": os.path.relpath(root, folder.resolve()) if root.anchor == folder.resolve().anchor else str(root),
        "root_absolute": str(root),
        "ontology": manifest.ontology.to_dict(),
        "info": manifest.info,
    }
    arrays = [_boxes_to_arrow(table[c]) if c == "boxes" else _to_array(table[c], t) for c, t in _COLUMNS.items()]
    labels = [LABEL + name for name in manifest.ontology.names]
    arrays += [_to_array(table[c], pa.float32()) for c in labels]
    packed = pa.Table.from_arrays(arrays, names=[*_COLUMNS, *labels])
    return packed.replace_schema_metadata({_METADATA: json.dumps(meta, sort_keys=True).encode()})


def _to_array(column: pd.Series[Any], kind: pa.DataType) -> pa.Array:
    # A missing float stays nan: null would be a second spelling of unknown.
    return pa.array(column.to_numpy(np.float32)) if kind == pa.float32() else pa.array(column, kind, from_pandas=True)


def _boxes_to_arrow(column: pd.Series[Any]) -> pa.Array:
    boxes = [box for row in column for box in row]
    parts = [pa.array([getattr(b, part.name) for b in boxes], part.type) for part in _BOX]
    ends = np.cumsum([0, *(len(row) for row in column)], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(parts, fields=list(_BOX)))


def _boxes_from_arrow(column: pa.ChunkedArray) -> list[tuple[Box, ...]]:
    return [tuple(Box(**box) for box in row or ()) for row in column.to_pylist()]


def _read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path} does not exist.", hint=_REIMPORT)
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as err:
        raise DataError(f"{path} is not a readable Parquet file.", hint=_REIMPORT) from err


def _read_metadata(path: Path, table: pa.Table) -> dict[str, Any]:
    try:
        meta = json.loads((table.schema.metadata or {})[_METADATA])
        schema, _, _ = meta["schema"], meta["root"], meta["info"]
    except (KeyError, TypeError, ValueError) as err:
        raise DataError(f"{path} is a Parquet file but not a cxr_mtl manifest.", hint=_REIMPORT) from err
    if schema != MANIFEST_SCHEMA:
        raise DataError(f"{path} is a {schema!r}; this version reads {MANIFEST_SCHEMA!r}.", hint=_REIMPORT)
    return cast("dict[str, Any]", meta)


def _to_pandas(path: Path, table: pa.Table, ontology: Ontology) -> pd.DataFrame:
    wanted = _COLUMNS | {LABEL + name: pa.float32() for name in ontology.names}
    if missing := [c for c in wanted if c not in table.column_names]:
        raise DataError(f"{path} lacks the column {', '.join(missing)}.", hint=_REIMPORT)
    if unknown := [c for c in table.column_names if c not in wanted]:
        where = f"a manifest on ontology {ontology.name}"
        raise DataError(f"{path} has the column {', '.join(unknown)}, which {where} does not have.", hint=_REIMPORT)
    if not table.num_rows:
        raise DataError(f"{path} has no rows.", hint=_REIMPORT)
    columns: dict[str, Any] = {}
    for name, kind in wanted.items():
        try:
            column = table[name].cast(kind)
        except pa.ArrowException as err:
            raise DataError(f"{path}: the column {name} is {table[name].type}, not {kind}.", hint=_REIMPORT) from err
        if column.null_count and name in _COLUMNS and name not in NULLABLE and name not in ("age", "boxes"):
            raise DataError(f"{path}: {column.null_count} rows have no {name}.", hint=_REIMPORT)
        columns[name] = _from_arrow(name, column)
    return pd.DataFrame(columns)


def _from_arrow(name: str, column: pa.ChunkedArray) -> Any:
    if name == "boxes":
        return column_of(name, _boxes_from_arrow(column))
    if name in ("width", "height"):
        return column_of(name, column.to_pylist())
    return column.to_pandas()


def _find_root(path: Path, meta: dict[str, Any], first: str) -> Path:
    beside = Path(os.path.normpath(path.resolve().parent / meta["root"]))
    choices = [beside, Path(meta.get("root_absolute", beside))]
    return next((root for root in choices if (root / first).exists()), beside)

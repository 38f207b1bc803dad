"""The manifest: one row an image; what every later step reads instead of a dataset's own tables.

N images, C findings (all nodes of the ontology, in its order).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import Box, Record

LABEL = "label:"

COLUMNS = (
    "image_path",
    "image_id",
    "patient_id",
    "study_id",
    "dataset",
    "split",
    "view",
    "age",
    "sex",
    "width",
    "height",
    "boxes",
    "boxes_exhaustive",
)
"""Of a manifest's table, before a column ``label:<Finding>`` for each finding."""
NULLABLE = ("split", "sex", "width", "height")

_DEFAULTS: dict[str, Any] = {
    "split": None,
    "view": "UNKNOWN",
    "age": np.nan,
    "sex": None,
    "width": None,
    "height": None,
    "boxes": (),
    "boxes_exhaustive": False,
}


@dataclass
class Manifest:
    """A table of films and what it needs to be understood.

    Attributes:
        table: the columns of design.md section 3, rows numbered from 0; ``boxes`` holds tuples of ``Box``.
        root: the folder that ``image_path`` is relative to.
        info: where the labels come from: source, versions and hashes of files, seed. JSON values only.
    """

    table: pd.DataFrame
    root: Path
    ontology: Ontology
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def patient_ids(self) -> NDArray[np.str_]:
        """(N,) ``dataset:patient``: patient 1 of one dataset is not patient 1 of another.

        A film of another dataset's patient already says so (RSNA's films are NIH's: ``nih:13``) and is left as it is.
        """
        own = self.table["patient_id"]
        return np.asarray(own.where(own.str.contains(":", regex=False), self.table["dataset"] + ":" + own), np.str_)

    def labelled(self, dataset: str) -> frozenset[str]:
        """The findings that a dataset speaks of; of all others it says nothing."""
        stated = self.info.get("datasets", {}).get(dataset, {}).get("labelled")
        if stated is None and not (stated := self.ontology.labelled_by(dataset)):
            labels = self.labels()[(self.table["dataset"] == dataset).to_numpy(bool)]
            known = np.asarray(~np.isnan(labels).all(axis=0))
            stated = [name for name, one in zip(self.ontology.names, known, strict=True) if one]
        return frozenset(stated)

    def boxed(self, dataset: str) -> frozenset[str]:
        """The findings that a dataset draws boxes for, all unless it says which; no box may mean absent for these."""
        stated = self.info.get("datasets", {}).get(dataset, {}).get("boxed")
        return frozenset(self.ontology.names if stated is None else stated)

    @property
    def splits(self) -> NDArray[np.object_]:
        """(N,) ``train``, ``val``, ``test`` or None."""
        return np.asarray([name if isinstance(name, str) else None for name in self.table["split"]], dtype=object)

    @property
    def frames(self) -> NDArray[np.float64]:
        """(N, 2) width and height of the frame that boxes are in; nan unknown."""
        return self.table[["width", "height"]].to_numpy(np.float64, na_value=np.nan)

    def boxed_exhaustively(self, findings: Sequence[str]) -> NDArray[np.bool_]:
        """(N, D) whether a film without a box of a finding is known not to show it, for D findings."""
        exhaustive = np.zeros((len(self), len(findings)), dtype=bool)
        for dataset, rows in self.table.groupby("dataset").indices.items():
            boxed = self.boxed(str(dataset))
            exhaustive[rows] = [name in boxed for name in findings]
        return np.asarray(exhaustive & self.table["boxes_exhaustive"].to_numpy(bool)[:, None])

    def expressed_in(self, ontology: Ontology) -> Manifest:
        """The same films with another ontology's findings: what has the same name keeps its label, all else is unknown.

        A normal film is a normal film, whatever either ontology calls it. Boxes keep their findings, known to the other
        ontology or not; so does what each dataset labels.
        """
        labels, normal = self.labels(), self.ontology.normal
        called = {normal: ontology.normal} if normal and ontology.normal else {}
        shared = {called.get(name, name): labels[:, column] for column, name in enumerate(self.ontology.names)}
        rows = self.table[list(COLUMNS)]
        unknown = np.full(len(self), np.nan, dtype=np.float32)
        columns = {LABEL + name: shared.get(name, unknown) for name in ontology.names}
        datasets = {
            str(name): self.info.get("datasets", {}).get(name, {})
            | {
                "labelled": sorted(called.get(finding, finding) for finding in self.labelled(str(name))),
                "boxed": sorted(self.boxed(str(name))),
            }
            for name in self.table["dataset"].unique()
        }
        table = pd.concat([rows, pd.DataFrame(columns, index=rows.index)], axis=1)
        return Manifest(table, self.root, ontology, self.info | {"datasets": datasets})

    def path(self, i: int) -> Path:
        """Where film ``i`` lies."""
        return self.root / str(self.table["image_path"].iat[i])

    def labels(self) -> NDArray[np.float32]:
        """(N, C) as stated: 1 present, 0 absent, nan unknown, -1 uncertain."""
        return self.table[[LABEL + name for name in self.ontology.names]].to_numpy(np.float32)

    def boxes(self, i: int) -> tuple[Box, ...]:
        """The boxes of film ``i``, in its ``width`` by ``height`` frame."""
        return cast("tuple[Box, ...]", self.table["boxes"].iat[i])

    def record(self, i: int) -> Record:
        """Row ``i`` with its missing values as None."""
        row = self.table.iloc[i]
        values = {f.name: row[f.name] for f in fields(Record) if f.name != "labels"}
        for name in NULLABLE:
            values[name] = None if pd.isna(values[name]) else values[name]
        for name in ("width", "height"):
            values[name] = None if values[name] is None else int(values[name])
        values["age"], values["boxes_exhaustive"] = float(row["age"]), bool(row["boxes_exhaustive"])
        stated = {name: float(row[LABEL + name]) for name in self.ontology.names}
        return Record(**values, labels={name: value for name, value in stated.items() if not np.isnan(value)})

    def where(self, *, split: str | None = None, dataset: str | None = None) -> Manifest:
        """The rows of one split, of one dataset, or of both; possibly none."""
        keep = np.ones(len(self), dtype=bool)
        for column, wanted in (("split", split), ("dataset", dataset)):
            if wanted is not None:
                keep &= (self.table[column] == wanted).to_numpy(bool)
        return replace(self, table=self.table[keep].reset_index(drop=True))


def make_manifest(records: Iterable[Record], root: Path, ontology: Ontology, info: dict[str, Any]) -> Manifest:
    """Lay records out as a table.

    Raises:
        DataError: no record at all, or a label that the ontology does not have.
    """
    records = list(records)
    rows = pd.DataFrame({name: pd.Series([getattr(r, name) for r in records], dtype=object) for name in COLUMNS})
    return tabulate(rows, _label_matrix(records, ontology), root, ontology, info)


def tabulate(
    rows: pd.DataFrame, labels: NDArray[np.float32], root: Path, ontology: Ontology, info: dict[str, Any]
) -> Manifest:
    """Lay rows and labels out as a manifest; columns that the rows lack are unknown.

    Args:
        rows: one a film, with some columns of design.md section 3.
        labels: (N, C) 1, 0, -1, nan.

    Raises:
        DataError: no row at all.
    """
    if not len(rows):
        raise DataError("There is no film to make a manifest of.", hint="Check the folder and the table of labels.")
    columns: dict[str, Any] = {
        name: column_of(name, rows[name].tolist() if name in rows else [_DEFAULTS[name]] * len(rows))
        for name in COLUMNS
    }
    columns |= {LABEL + name: labels[:, c] for c, name in enumerate(ontology.names)}
    return Manifest(pd.DataFrame(columns), Path(root), ontology, dict(info))


def column_of(name: str, values: Sequence[Any]) -> Any:
    """One column of the table, in the type that it has in every manifest."""
    if name == "boxes":
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return pd.Series(column, dtype=object)
    if name in ("width", "height"):
        return pd.array(values, dtype="Int32")
    if name == "age":
        return np.asarray(values, dtype=np.float32)
    if name == "boxes_exhaustive":
        return np.asarray(values, dtype=bool)
    return pd.Series(values, dtype="str")


def _label_matrix(records: Sequence[Record], ontology: Ontology) -> NDArray[np.float32]:
    place = {name: c for c, name in enumerate(ontology.names)}
    labels = np.full((len(records), len(place)), np.nan, dtype=np.float32)
    for row, record in enumerate(records):
        try:
            labels[row, [place[name] for name in record.labels]] = list(record.labels.values())
        except KeyError as err:
            what = f"{record.image_path} has a label {err}, which ontology {ontology.name} does not have."
            raise DataError(what, hint="Translate a dataset's own names with Ontology.find.") from err
    return labels

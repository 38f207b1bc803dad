"""The fourteen columns of CheXpert's labeller, which CheXpert and MIMIC-CXR-JPG share.  N films, C findings."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.labels import Flags, Labels, stated_columns
from cxr_mtl.ontology import Ontology

# fmt: off
LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)
# fmt: on

_OTHER_NAMES = {"airspace opacity": "Lung Opacity"}
"""CheXlocalize and MIMIC's radiologist write it so."""

_BY_WORD = {label.casefold(): label for label in LABELS} | _OTHER_NAMES


def label_of(column: str) -> str | None:
    """The labeller's own name for a column: any case, with spaces or underscores; None for another column."""
    return _BY_WORD.get(" ".join(column.replace("_", " ").split()).casefold())


def read_marks(
    table: pd.DataFrame, dataset: str, ontology: Ontology, tally: Tally, *, not_labels: Collection[str]
) -> tuple[Labels, Flags, Flags]:
    """What the table states.

    Args:
        table: N rows of text.
        not_labels: columns that are known to be none; any further column that is no label is noted.

    Returns:
        (N, C) 1, 0, -1, nan.
        (N,) rows with a mark that is none of 1, 0, -1 and empty.
        (N,) films with a present label that the ontology has no finding for.
    """
    meanings: dict[str, str | None] = {}
    strange: list[str] = []
    for column in map(str, table.columns):
        label = label_of(column)
        finding = ontology.find(dataset, label or column)
        if label is not None or finding is not None:
            meanings[column] = finding
        elif column not in not_labels and not column.startswith("Unnamed"):
            strange.append(column)
    if strange:
        tally.note(f"columns that are not read: {', '.join(strange)}")
    stated, bad = stated_columns(table, meanings, ontology, tally)
    unlisted = np.zeros(len(table), dtype=bool)
    for column, finding in meanings.items():
        if finding is None:
            unlisted |= table[column].isin(["1", "1.0"]).to_numpy(bool)
    return stated, bad, unlisted

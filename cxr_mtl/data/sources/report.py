"""What an import kept, what it left out, and why: nothing is dropped without a line here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.types import ABSENT, PRESENT, UNCERTAIN


@dataclass(frozen=True)
class Dropped:
    """How many rows were left out for one reason, and the first of them."""

    count: int
    first: str


@dataclass
class Tally:
    """Counts while an import runs."""

    dropped: dict[str, Dropped] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, examples: Iterable[object]) -> None:
        """Count what is left out for this reason; counting nothing leaves no trace."""
        names = [str(example) for example in examples]
        if names:
            before = self.dropped.get(reason, Dropped(0, names[0]))
            self.dropped[reason] = Dropped(before.count + len(names), before.first)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class ImportReport:
    """The answer of an import.

    Attributes:
        source: the dataset.
        kept: films in the manifest.
        patients: how many they are of.
        dropped: reason -> how many rows of the dataset's tables were left out for it.
        labels: one row a finding; columns present, absent, unknown, uncertain (films) and boxes.
        splits: films in train, val, test and, where there are any, none.
        notes: what the user should know, a sentence each.
    """

    source: str
    kept: int
    patients: int
    dropped: dict[str, Dropped]
    labels: pd.DataFrame
    splits: dict[str, int]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report as plain text."""
        out = [f"{self.source}: kept {self.kept:,} films of {self.patients:,} patients"]
        out += [f"left out {d.count:,}: {reason} (first: {d.first})" for reason, d in self.dropped.items()]
        out.append("split: " + ", ".join(f"{name} {num:,}" for name, num in self.splits.items()))
        silent = self.labels["unknown"] == self.kept
        out += self.labels[~silent].rename_axis(None).map("{:,}".format).to_string().splitlines()
        if silent.any():
            out.append(f"unknown on every film ({int(silent.sum())}): {', '.join(self.labels.index[silent])}")
        return out + [f"note: {note}" for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "source": self.source,
            "kept": self.kept,
            "patients": self.patients,
            "dropped": {reason: {"count": d.count, "first": d.first} for reason, d in self.dropped.items()},
            "labels": {str(name): {str(c): int(n) for c, n in row.items()} for name, row in self.labels.iterrows()},
            "splits": self.splits,
            "notes": list(self.notes),
        }


def make_report(source: str, manifest: Manifest, tally: Tally) -> ImportReport:
    """Count the manifest and add what was left out on the way to it."""
    values, names = manifest.labels(), manifest.ontology.names
    boxes = pd.Series([box.finding for row in manifest.table["boxes"] for box in row], dtype="str").value_counts()
    labels = pd.DataFrame(
        {
            "present": (values == PRESENT).sum(axis=0),
            "absent": (values == ABSENT).sum(axis=0),
            "unknown": np.isnan(values).sum(axis=0),
            "uncertain": (values == UNCERTAIN).sum(axis=0),
            "boxes": boxes.reindex(names, fill_value=0).to_numpy(),
        },
        index=pd.Index(names, name="finding"),
    )
    split = manifest.table["split"]
    splits = {name: int((split == name).sum()) for name in ("train", "val", "test")}
    if unassigned := int(split.isna().sum()):
        splits["none"] = unassigned
    patients = len(set(manifest.patient_ids))
    return ImportReport(source, len(manifest), patients, tally.dropped, labels, splits, tuple(tally.notes))

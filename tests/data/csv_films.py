"""What the tests of own tables write, and how they look at what was read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.own.csv_table import read_csv_table
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.ontology import load_ontology

UNKNOWN = -9.0
HEADER = "image_path,patient_id,split,age,sex,view,No Finding,Effusion,Support_Devices"
ROWS = ["a.png,P1,train,63,F,PA,0,1,", "b.png,P2,train,7,M,AP,1,,", "c.png,P3,test,,,lateral,,-1,0"]


def write(folder: Path, *lines: str, name: str = "films.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def film(path: Path, width: int = 100, height: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, height)).save(path)


def read(root: Path, ontology: str = "thorax", **options: object) -> tuple[Found, Tally]:
    tally = Tally()
    return read_csv_table(root, load_ontology(ontology), tally, **options), tally  # type: ignore[arg-type]


def labels(found: Found, ontology: str = "thorax") -> dict[str, list[float]]:
    """Path -> labels of the findings that are known of any film; unknown is -9."""
    known = np.flatnonzero((found.stated >= -1).any(axis=0))
    assert {load_ontology(ontology).names[column] for column in known} <= set(found.labelled)
    marks = np.nan_to_num(found.stated, nan=UNKNOWN)[:, known]
    return dict(zip(found.rows["image_path"], marks.tolist(), strict=True))


def dropped(tally: Tally) -> dict[str, str]:
    return {reason: f"{lost.count} {lost.first}" for reason, lost in tally.dropped.items()}


def noted(tally: Tally, text: str) -> bool:
    return any(text in note for note in tally.notes)

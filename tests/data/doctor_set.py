"""A sound set for the doctor: drawn chests, of which nothing is to be said; faults are planted in it one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.synthetic import draw_film, plan_films
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box, Record

ONTOLOGY = load_ontology("nih14")
SIDE, FRAME, NUM = 256, 1024, 36
SICK = {"No Finding": 0.0, "Pleural": 1.0, "Effusion": 1.0, "Mass": 0.0}
WELL = {"No Finding": 1.0, "Pleural": 0.0, "Effusion": 0.0, "Mass": 0.0}
MASS = {"No Finding": 0.0, "Pleural": 0.0, "Effusion": 0.0, "Mass": 1.0}


def draw(seed: int, side: int = SIDE) -> np.ndarray[Any, Any]:
    """(side, side) uint8, bright is dense."""
    return draw_film(plan_films(1, seed)[0], side).pixels


def save(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    Image.fromarray(pixels).save(path, format="PNG", compress_level=1)


def write_films(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(NUM):
        save(root / f"{i}.png", draw(i))
    return root


def sound() -> list[Record]:
    """Twelve films a split, each of a patient: in turn an effusion with its box, nothing, and a mass."""
    records = []
    for i in range(NUM):
        labels = (SICK, WELL, MASS)[i % 3]
        boxes = (Box("Effusion", 0, 100.5, FRAME - 200 + i, 900),) if labels is SICK else ()
        split = ("train", "val", "test")[i // 12]
        name = f"{i}.png"
        records.append(
            Record(name, f"i{i}", f"p{i}", f"s{i}", "clinic", split, "PA", 50, "F", FRAME, FRAME, boxes, labels=labels)
        )
    return records


def changed(changes: dict[int, dict[str, Any]]) -> list[Record]:
    """The sound set with some fields of some films changed."""
    return [replace(record, **changes.get(i, {})) for i, record in enumerate(sound())]


def manifest(root: Path, records: list[Record]) -> Manifest:
    return make_manifest(records, root, ONTOLOGY, {})

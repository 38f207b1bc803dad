"""VinDr-CXR's tables, written as PhysioNet has them."""

from __future__ import annotations

from typing import Any

from cxr_mtl.data.sources.vindr_tables import WORDS


def ticks(films: dict[str, dict[str, list[str]]], *, test: bool = False) -> str:
    """Training spells it Other diseases; test has no rad_id."""
    words = [word if test or word != "Other disease" else "Other diseases" for word in WORDS]
    lines = [",".join(["image_id", *([] if test else ["rad_id"]), *words])]
    for name, readers in films.items():
        for reader, said in readers.items():
            marks = [str(int(word in said)) for word in WORDS]
            lines.append(",".join([name, *([] if test else [reader]), *marks]))
    return "\n".join(lines) + "\n"


def drawn(rows: list[tuple[Any, ...]], *, test: bool = False) -> str:
    header = "image_id,class_name,x_min,y_min,x_max,y_max"
    header = header if test else header.replace("image_id", "image_id,rad_id")
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"

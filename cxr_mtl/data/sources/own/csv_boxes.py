"""Boxes of one's own: a table beside the table of films.

Columns ``image_path``, ``finding``, ``x1``, ``y1``, ``x2``, ``y2`` in pixels from the top left; ``width``, ``height``
where the boxes were drawn on another size than the file's; ``reader``. A row with an ``image_path`` alone says that the
film was searched and shows none of the findings that the table has boxes of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.own.csv_text import numbers, read_cells
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.files import short_hash
from cxr_mtl.data.sources.tables.sizes import MAX_SIDE, are_sizes, film_size
from cxr_mtl.data.sources.tables.unboxed import unboxed
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import Box

_SIDES = ["x1", "y1", "x2", "y2"]
_COLUMNS = ("image_path", "finding", *_SIDES)
_SLACK = 2.0
"""Pixels that a box may reach out of its film by: readers' tools round."""

Frame = tuple[int, int]
_NO_SIZE = (0, 0)


@dataclass
class Drawn:
    """What was drawn on one film.

    Attributes:
        frame: width and height that the boxes are in.
        searched: a row says so.
        spoilt: a box of it was left out, so a finding without a box may be there all the same.
    """

    boxes: list[Box] = field(default_factory=list)
    frame: Frame | None = None
    searched: bool = False
    spoilt: bool = False


def read_boxes(
    path: Path, root: Path, films: pd.Series[str], ontology: Ontology, info: dict[str, Any], tally: Tally
) -> dict[str, Drawn]:
    """What was drawn, by ``image_path``.

    Args:
        films: path as the table of films writes it, in its clean form -> where the film lies, relative to ``root``.

    Raises:
        DataError: the table cannot be read or lacks a column.
    """
    table = read_cells(path, tally)
    table.columns = table.columns.str.casefold()
    if missing := [name for name in _COLUMNS if name not in table]:
        raise DataError(f"{path} has no column {missing[0]!r}.", hint=f"It needs: {', '.join(_COLUMNS)}.")
    info |= {"box_file": path.name, "box_sha256": short_hash(path)}
    given = [str(films.get(clean_path(text, root) or "", "")) for text in table["image_path"]]
    sides = np.column_stack([numbers(table[name]) for name in _SIDES])
    frames = _frames(table)
    readers = table["reader"] if "reader" in table else pd.Series("", table.index)
    blank = (table[["finding", *_SIDES]] == "").all(axis=1)
    drawn: dict[str, Drawn] = {}
    for line, film, word, xyxy, frame, reader, is_blank in zip(
        table.index, given, table["finding"], sides, frames, readers, blank, strict=True
    ):
        finding = ontology.understand(word)
        normal = finding is not None and finding == ontology.normal
        if not film:
            tally.drop("box of a film that was left out or is in no row", [f"line {line}"])
            continue
        here = drawn.setdefault(film, Drawn())
        if is_blank or (normal and np.isnan(xyxy).all()):
            here.searched = True
        elif finding is None or normal:
            # The word is not quoted: in a shifted row it may be anybody's name.
            tally.drop(f"box of what is no finding with a place in ontology {ontology.name}", [f"line {line}"])
            here.spoilt = True
        else:
            if frame != _NO_SIZE:
                here.frame = here.frame or frame or film_size(root / film)
            if reason := _misplaced(xyxy, frame, here.frame):
                tally.drop(reason, [f"line {line}"])
                here.spoilt = True
            else:
                x1, y1, x2, y2 = xyxy.tolist()
                here.boxes.append(Box(finding, x1, y1, x2, y2, reader))
    if unknown := [film for film, one in drawn.items() if one.boxes and one.frame is None]:
        tally.note(f"{len(unknown):,} films with boxes have a frame that is not known (first: {unknown[0]})")
    return drawn


def box_columns(
    films: pd.Series[str],
    drawn: Mapping[str, Drawn],
    stated: NDArray[np.float32],
    boxed: Sequence[str],
    ontology: Ontology,
    exhaustive: bool,
    tally: Tally,
) -> dict[str, pd.Series[Any]]:
    """Columns ``boxes``, ``width``, ``height`` and ``boxes_exhaustive`` of N films.

    A film's boxes are not exhaustive, whoever says so, where one of them was lost or where a finding that has boxes on
    other films is there, or may be, without one.

    Args:
        films: N ``image_path``.
        stated: (N, C) labels.
        boxed: findings that have boxes.
        exhaustive: whether every film was searched, not only those whose rows say so.
    """
    found = [drawn.get(film, Drawn()) for film in films]
    searched = np.asarray([exhaustive or one.searched for one in found], dtype=bool)
    spoilt = np.asarray([one.spoilt for one in found], dtype=bool)
    lacking = unboxed([one.boxes for one in found], stated, boxed, ontology)
    for out, why in ((spoilt, "lost a box"), (lacking & ~spoilt, "show, or may show, a boxed finding without a box")):
        if (lost := searched & out).any():
            first = films.iloc[int(np.argmax(lost))]
            tally.note(f"{int(lost.sum()):,} films that were searched {why} (first: {first}): boxes not exhaustive")
    sizes = [one.frame or (None, None) for one in found]
    return {
        "boxes": pd.Series([tuple(one.boxes) for one in found], films.index, dtype=object),
        "width": pd.Series([width for width, _ in sizes], films.index, dtype="Int32"),
        "height": pd.Series([height for _, height in sizes], films.index, dtype="Int32"),
        "boxes_exhaustive": pd.Series(searched & ~spoilt & ~lacking, films.index),
    }


def clean_path(text: str, folder: Path) -> str | None:
    """A path below a folder, with slashes and without dots; None for one that leads elsewhere."""
    path = text.replace("\\", "/")
    for start in {f"{folder.absolute().as_posix()}/", f"{folder.resolve().as_posix()}/"}:
        path = path.removeprefix(start)
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part == "..":
            return None
        elif part not in ("", "."):
            parts.append(part)
    return None if path.startswith("/") or not parts or parts[0].endswith(":") else "/".join(parts)


def _misplaced(xyxy: NDArray[np.float64], frame: Frame | None, of_film: Frame | None) -> str | None:
    """Why a box cannot be where it is said to be."""
    x1, y1, x2, y2 = xyxy.tolist()
    if not np.isfinite(xyxy).all():
        return "box is not four numbers"
    if x2 <= x1 or y2 <= y1:
        return "box has no area"
    if frame == _NO_SIZE:
        return f"box has a width or height that is no whole number from 1 to {MAX_SIDE:,}"
    if of_film is None:
        return None
    if frame is not None and frame != of_film:
        return "box is in another frame than the first box of its film"
    if max(x2 - of_film[0], y2 - of_film[1], -x1, -y1) > _SLACK:
        return "box reaches out of its film (drawn on another size? then give width and height)"
    return None


def _frames(table: pd.DataFrame) -> list[Frame | None]:
    """The size that each box was drawn on; None where the row states none, ``_NO_SIZE`` where it is none."""
    if not {"width", "height"} <= set(table.columns):
        return [None] * len(table)
    sizes = np.column_stack([numbers(table["width"]), numbers(table["height"])])
    good: NDArray[np.bool_] = np.all(are_sizes(sizes), axis=1)
    empty = (table[["width", "height"]] == "").all(axis=1)
    whole = np.where(good[:, None], sizes, 0).astype(int).tolist()
    return [None if none else (width, height) for (width, height), none in zip(whole, empty, strict=True)]

"""Boxes that a table lists, and the frame they are in where the table leaves it out.  N films, K boxes.

VinDr and VinBigData give boxes in pixels of the original DICOM, but not how large that is. In this order it is taken
from columns ``width`` and ``height`` beside the boxes (as some copies have them), from a table of sizes in the folder,
and from the header of the DICOM file. The size of a PNG or JPEG is never taken for it: most copies are smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.files import read_table, short_hash
from cxr_mtl.data.sources.tables.sizes import MAX_SIDE, are_sizes, film_size
from cxr_mtl.errors import DataError

CORNERS = ("x_min", "y_min", "x_max", "y_max")
"""Columns of a table of boxes: xyxy in pixels of the original film."""

SIZE_TABLES = ("train_meta.csv", "test_meta.csv")
"""Tables of original sizes: image_id, dim0 (height), dim1 (width), as Kaggle's PNG copies have them."""

SIZE_HINT = "Put train_meta.csv (image_id,dim0,dim1: height and width of the original DICOM) beside the table."

_XYXY = ("x1", "y1", "x2", "y2")
_ENDS = ("", ".gz")
_DICOM = (".dcm", ".dicom")
_SIZES = (["width", "height"], ["dim1", "dim0"])
_SLACK = 2.0  # pixels; a box that ends on the last line may be written as ending beyond it
_MANY, _SHARE = 10, 0.01  # so many boxes, and such a share of all, reach out of their frame only if the frame is wrong


def read_boxes(table: pd.DataFrame, film: NDArray[np.intp], tally: Tally) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """The boxes of a table that have an area.

    Args:
        table: K rows of text with ``image_id``, ``reader``, ``word`` and the corners.
        film: (K,) row of the film of each.

    Returns:
        Columns ``film``, ``reader``, ``word``, ``x1``, ``y1``, ``x2``, ``y2``; and the films of boxes left out.
    """
    corners = table[list(CORNERS)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    numbers = np.isfinite(corners).all(axis=1)
    with np.errstate(invalid="ignore"):
        area = numbers & (corners[:, 0] < corners[:, 2]) & (corners[:, 1] < corners[:, 3])
    tally.drop("box is not four numbers", table["image_id"][~numbers])
    tally.drop("box has no area", table["image_id"][numbers & ~area])
    boxes = pd.DataFrame({"film": film, "reader": table["reader"].to_numpy(), "word": table["word"].to_numpy()})
    boxes = boxes.assign(**{name: corners[:, c] for c, name in enumerate(_XYXY)})
    return boxes[area].reset_index(drop=True), film[~area]


def read_frames(
    root: Path,
    rows: pd.DataFrame,
    wanted: NDArray[np.bool_],
    beside: Sequence[pd.DataFrame],
    info: dict[str, Any],
    tally: Tally,
) -> NDArray[np.float64]:
    """Width and height of the original films.

    Args:
        rows: N films with ``image_id`` and ``image_path``.
        wanted: (N,) films whose header is worth reading: those with boxes.
        beside: the tables of boxes, with an ``image_id``; their columns ``width`` and ``height``, if any, go first.
        info: where the sizes come from is added to it, as ``sizes_from``.

    Returns:
        (N, 2) pixels; nan unknown.

    Raises:
        DataError: a table of sizes cannot be read or lacks its columns.
    """
    tables = [(table, "the table of boxes") for table in beside if set(_SIZES[0]) <= set(table.columns)]
    tables += [(read_table(path, needed=["image_id"]), f"{path.name} {short_hash(path)}") for path in _tables(root)]
    sizes = np.full((len(rows), 2), np.nan)
    for table, name in tables:
        sizes = np.where(np.isnan(sizes), _stated(table, name, rows["image_id"], tally), sizes)
    headers = 0
    for row in np.flatnonzero(np.isnan(sizes[:, 0]) & wanted).tolist():
        path = root / str(rows["image_path"].iat[row])
        if path.suffix.lower() in _DICOM and (size := film_size(path)):
            sizes[row] = size
            headers += 1
    info["sizes_from"] = [name for _, name in tables] + (["DICOM headers"] if headers else [])
    return sizes


def fit_boxes(boxes: pd.DataFrame, frames: NDArray[np.float64], names: Sequence[str], tally: Tally) -> pd.DataFrame:
    """Cut off what reaches out of the frame, leave out what lies outside. A box without a frame stays as it is.

    Args:
        boxes: as ``read_boxes`` gives them.
        frames: (N, 2) width and height; nan unknown.
        names: of the N films.

    Raises:
        DataError: so many boxes reach out that the frames must be wrong, such as height and width swapped.
    """
    edge = np.tile(frames[boxes["film"].to_numpy(np.intp)], 2)
    xyxy = boxes[list(_XYXY)].to_numpy(np.float64)
    beyond = ((xyxy < -_SLACK) | (xyxy > edge + _SLACK)).any(axis=1)
    film = [names[row] for row in boxes["film"]]
    if num := int(beyond.sum()):
        first = f"first: {film[int(np.argmax(beyond))]}"
        if num >= _MANY and num > _SHARE * len(boxes):
            raise DataError(
                f"{num:,} of {len(boxes):,} boxes reach out of their film ({first}): its size is wrong.",
                hint="Sizes are the original film's; dim0 is its height, dim1 its width.",
            )
        tally.note(f"{num:,} boxes reach out of their film ({first}): cut off at its edge")
    xyxy = np.clip(xyxy, 0.0, np.where(np.isnan(edge), np.inf, edge))
    outside = (xyxy[:, 0] >= xyxy[:, 2]) | (xyxy[:, 1] >= xyxy[:, 3])
    tally.drop("box lies outside its film", [name for name, out in zip(film, outside, strict=True) if out])
    fitted: pd.DataFrame = boxes.assign(**{name: xyxy[:, c] for c, name in enumerate(_XYXY)})[~outside]
    return fitted.reset_index(drop=True)


def _tables(root: Path) -> list[Path]:
    named = [
        folder / f"{name}{end}" for folder in (root, root / "annotations") for name in SIZE_TABLES for end in _ENDS
    ]
    return [path for path in named if path.is_file()]


def _stated(table: pd.DataFrame, name: str, films: pd.Series[str], tally: Tally) -> NDArray[np.float64]:
    """(N, 2) what one table says of the films; nan where it says nothing, or nothing that is a size."""
    columns = next((pair for pair in _SIZES if set(pair) <= set(table.columns)), None)
    if columns is None:
        its = ", ".join(table.columns)
        raise DataError(f"{name.split()[0]} has no columns dim0 and dim1.", hint=f"Its columns: {its}.")
    stated = table.drop_duplicates("image_id").set_index("image_id")[columns]
    text = stated.reindex(films).fillna("")
    sizes = text.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    good: NDArray[np.bool_] = np.all(are_sizes(sizes), axis=1)
    strange = ~good & (text != "").any(axis=1).to_numpy(bool)
    if num := int(strange.sum()):
        first = films.iloc[int(np.argmax(strange))]
        what = f"that are no whole numbers from 1 to {MAX_SIDE:,}"
        tally.note(f"{num:,} films have sizes in {name} {what} (first: {first}): unknown")
    return np.where(good[:, None], sizes, np.nan)

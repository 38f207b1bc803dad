"""What several readers say of a film, made into one answer.  N films, C findings.

| readers  | a finding is present where          | boxes                                             |
|----------|-------------------------------------|---------------------------------------------------|
| any      | one reader marks it                 | every reader's own                                |
| majority | more than half of its readers do    | every reader's own, of these findings             |
| fusion   | one reader marks it                 | those of different readers that overlap, made one |

``No finding`` is a film's, not a reader's: under any and fusion it needs every reader, for one finding is enough to
make a film not normal; under majority more than half. A reader who marks a finding does not call the film normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.sources.found import Found
from cxr_mtl.data.sources.readers.drawn import SIZE_HINT, fit_boxes, read_boxes, read_frames
from cxr_mtl.data.sources.readers.fusion import SAME, fuse_boxes
from cxr_mtl.data.sources.readers.votes import Readings, Verdict, count_votes, describe_readers
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.sources.tables.unboxed import unboxed
from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import PRESENT, Box

POLICIES = {
    "any": "one reader is enough for a finding",
    "majority": "more than half of a film's readers must mark a finding",
    "fusion": f"one reader is enough for a finding; boxes of different readers become one from an IoU of {SAME}",
}


def check_readers(readers: str) -> str:
    """The policy that a word means.

    Raises:
        ConfigError: it means none.
    """
    if readers in POLICIES:
        return readers
    near = get_close_matches(str(readers), POLICIES, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "any: one is enough; majority: more than half; fusion: any, fused."
    raise ConfigError(f"readers is {readers!r}, not any, majority or fusion.", hint=hint)


@dataclass(frozen=True)
class Annotated:
    """Films with what their readers say and draw, before it is made into one answer.

    Attributes:
        rows: N films, as in ``Found.rows``, without boxes and their frame.
        readings: of these films.
        drawn: K rows of text: ``image_id`` (all of ``rows``), ``reader``, ``word`` and the corners.
        drawn_all: (N,) bool, the table of boxes covers the film.
        sizes: tables that may have columns width and height.
    """

    rows: pd.DataFrame
    readings: Readings
    drawn: pd.DataFrame
    drawn_all: NDArray[np.bool_]
    sizes: Sequence[pd.DataFrame]


def settle(
    annotated: Annotated,
    root: Path,
    dataset: str,
    ontology: Ontology,
    tally: Tally,
    *,
    readers: str,
    local: Sequence[str],
    info: dict[str, Any],
    keep_unframed: bool,
) -> Found:
    """One answer a film, labels and boxes.

    Args:
        readers: a key of ``POLICIES``.
        local: the dataset's words that boxes are drawn for.
        info: goes to ``Found.info``, with what is decided here.
        keep_unframed: keep boxes whose frame is not known, which nothing can be trained on.
    """
    rows = annotated.rows
    film = pd.Index(rows["image_id"]).get_indexer(pd.Index(annotated.drawn["image_id"])).astype(np.intp)
    boxes, lost = read_boxes(annotated.drawn, film, tally)
    whole = annotated.drawn_all.copy()
    whole[lost] = False
    wanted = np.bincount(boxes["film"], minlength=len(rows)) > 0
    frames = read_frames(root, rows, wanted, annotated.sizes, info, tally)
    boxes = fit_boxes(boxes, frames, rows["image_id"].tolist(), tally)
    boxes = _framed(boxes, frames, rows, tally, keep=keep_unframed)
    verdict = count_votes(annotated.readings, dataset, ontology, tally, majority=readers == "majority")
    drawn = _boxes_of(boxes, verdict, dataset, ontology, rows, tally)
    before = sum(len(of_film) for of_film in drawn)
    if readers == "fusion":
        drawn = [fuse_boxes(of_film) for of_film in drawn]
    after = sum(len(of_film) for of_film in drawn)
    boxed = tuple(sorted({name for word in local if (name := ontology.find(dataset, word))}, key=ontology.index))
    _note_policy(readers, annotated.readings, verdict, (before, after), info, tally)
    return Found(
        rows=rows.assign(
            width=_whole_numbers(frames[:, 0], rows.index),
            height=_whole_numbers(frames[:, 1], rows.index),
            boxes=pd.Series(drawn, rows.index, dtype=object),
            boxes_exhaustive=whole & ~unboxed(drawn, verdict.stated, boxed, ontology),
        ),
        stated=verdict.stated,
        info=info,
        labelled=ontology.labelled_by(dataset),
        boxed=boxed,
        unlisted=verdict.unlisted,
    )


def _framed(
    boxes: pd.DataFrame, frames: NDArray[np.float64], rows: pd.DataFrame, tally: Tally, *, keep: bool
) -> pd.DataFrame:
    """Leave out boxes whose frame is not known, unless they are to be kept."""
    film = boxes["film"].to_numpy(np.intp)
    unframed = np.isnan(frames[film, 0])
    if not unframed.any():
        return boxes
    if keep:
        tally.note(f"{int(unframed.sum()):,} boxes have no frame, so nothing can be trained on them. {SIZE_HINT}")
        return boxes
    tally.drop("box whose frame, the size of the original film, is not known", rows["image_id"].iloc[film[unframed]])
    tally.note(f"neither a table nor a DICOM header says how large these films were. {SIZE_HINT}")
    framed: pd.DataFrame = boxes[~unframed]
    return framed


def _boxes_of(
    boxes: pd.DataFrame, verdict: Verdict, dataset: str, ontology: Ontology, rows: pd.DataFrame, tally: Tally
) -> list[tuple[Box, ...]]:
    """Of each film the boxes of the findings that it has."""
    found = {word: ontology.find(dataset, word) for word in boxes["word"].unique()}
    images: list[str] = rows["image_id"].tolist()
    out: list[list[Box]] = [[] for _ in images]
    outvoted: list[str] = []
    unknown: dict[str, list[str]] = {}
    columns = [boxes[name].tolist() for name in ("film", "reader", "word", "x1", "y1", "x2", "y2")]
    for film, reader, word, x1, y1, x2, y2 in zip(*columns, strict=True):
        name = found[word]
        if name is None:
            unknown.setdefault(word, []).append(images[film])
        elif verdict.stated[film, ontology.index(name)] != PRESENT:
            outvoted.append(images[film])
        else:
            out[film].append(Box(name, x1, y1, x2, y2, reader))
    for word, films in sorted(unknown.items()):
        tally.drop(f"box of {word}, which ontology {ontology.name} does not have", films)
    tally.drop("box of a finding that too few readers mark", outvoted)
    return [tuple(of_film) for of_film in out]


def _note_policy(
    readers: str,
    readings: Readings,
    verdict: Verdict,
    num_boxes: tuple[int, int],
    info: dict[str, Any],
    tally: Tally,
) -> None:
    info["readers"] = readers
    info["one_reader_only"] = {name: lone for name, (lone, _) in verdict.lone.items()}
    lone = ", ".join(f"{name} {one:,} of {films:,}" for name, (one, films) in verdict.lone.items() if films)
    what = "outvoted" if readers == "majority" else "kept"
    tally.note(f"readers {readers}: {POLICIES[readers]}; films have {describe_readers(readings)}")
    if any(one for one, _ in verdict.lone.values()):
        tally.note(f"films whose finding only one of several readers marks, {what}: {lone}")
    if readers == "fusion":
        tally.note(f"{num_boxes[0]:,} boxes became {num_boxes[1]:,}")


def _whole_numbers(sizes: NDArray[np.float64], index: pd.Index[Any]) -> pd.Series[Any]:
    return pd.Series([None if np.isnan(size) else round(size) for size in sizes.tolist()], index, dtype=object)

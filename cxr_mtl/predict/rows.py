"""Answers as rows of a table, in the columns of evaluate's predictions.parquet where they mean the same.

Null: there is no answer. NaN: never trained, or nobody says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.types import FindingCall, Node, Prediction

Answers = Sequence[Prediction | ImageError]
Model = dict[str, Any]

_BOX = pa.struct(
    [("finding", pa.string())]
    + [(name, pa.float64()) for name in ("score", "x1", "y1", "x2", "y2")]
    + [("weak", pa.bool_())]
)


def to_table(who: pa.Table, answers: Answers) -> pa.Table:
    """One row a film.

    Args:
        who: (N, 4) the films' names and places.
        answers: N.
    """
    films = [answer if isinstance(answer, Prediction) else None for answer in answers]
    errors = [answer if isinstance(answer, ImageError) else None for answer in answers]
    images = [film and film.image for film in films]
    columns: dict[str, pa.Array] = {
        **{name: who[name] for name in who.column_names},
        "width": pa.array([image and image["width"] for image in images], pa.int32()),
        "height": pa.array([image and image["height"] for image in images], pa.int32()),
        "format": pa.array([image and image["format"] for image in images], pa.string()),
        "image_sha256": pa.array([image and image["sha256"] for image in images], pa.string()),
        "error_code": pa.array([error and error.code for error in errors], pa.string()),
        "error_message": pa.array([error and error.message for error in errors], pa.string()),
        "warnings": pa.array([film and list(film.warnings) for film in films], pa.list_(pa.string())),
        "novelty": pa.array([film and _novelty(film) for film in films], pa.float64()),
        "boxes": pa.array([film and _boxes(film) for film in films], pa.list_(_BOX)),
    }
    if known := next((film for film in films if film), None):
        calls = [film.findings if film else None for film in films]
        nodes = [film.hierarchy if film else None for film in films]
        columns |= _numbers("probability", known.findings, calls)
        columns |= {
            f"call:{finding.name}": pa.array([row and row[i].call for row in calls], pa.string())
            for i, finding in enumerate(known.findings)
        }
        columns |= _numbers("hierarchy", known.hierarchy, nodes, "probability")
        columns |= _numbers("conditional", known.hierarchy, nodes)
    return pa.table(columns)


def model_of(answers: Answers) -> Model | None:
    """Which model answered, and with which thresholds; None where it refused all films.

    Raises:
        ServeError: two models answered.
    """
    return one_model(
        {**answer.model, "thresholds": {f.name: f.threshold for f in answer.findings if f.threshold is not None}}
        for answer in answers
        if isinstance(answer, Prediction)
    )


def one_model(said: Iterable[Model | None]) -> Model | None:
    """What all say, as far as they say it.

    Raises:
        ServeError: two say two things: a server's model was exchanged while films were asked.
    """
    found: Model | None = None
    for own in said:
        if own and found and own != found:
            names = [f"{m.get('name')} {m.get('version')} ({str(m.get('sha256'))[:12]})" for m in (found, own)]
            hint = "Ask one of them for all films, into another --out."
            raise ServeError(f"Two models answered: {names[0]} and {names[1]}.", hint=hint)
        found = own or found
    return found


def _numbers(
    kind: str, known: Sequence[FindingCall | Node], rows: Sequence[Sequence[FindingCall | Node] | None], field: str = ""
) -> dict[str, pa.Array]:
    def value(one: FindingCall | Node) -> float:
        number = getattr(one, field or kind)
        return math.nan if number is None else float(number)

    return {
        f"{kind}:{one.name}": pa.array([None if row is None else value(row[i]) for row in rows], pa.float64())
        for i, one in enumerate(known)
    }


def _novelty(film: Prediction) -> float:
    return float(film.image["novelty"]["score"]) if "novelty" in film.image else math.nan


def _boxes(film: Prediction) -> list[dict[str, Any]]:
    corners = ("x1", "y1", "x2", "y2")
    return [
        {"finding": box.finding, "score": box.score, **dict(zip(corners, box.xyxy, strict=True)), "weak": box.weak}
        for box in film.boxes
    ]

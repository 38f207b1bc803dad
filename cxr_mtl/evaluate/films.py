"""The films of the report: for a few findings the surest right and the worst wrong answers, as small pictures.

A picture shows a film with what readers and the model drew on it, and its heat map. It carries the manifest's
``image_id`` and no more of the patient, though text may be burnt into the film itself: reports that leave the house are
made without films.  K boxes, xyxy.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.geometry import rescale_boxes
from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError
from cxr_mtl.evaluate.collect import Answered
from cxr_mtl.metrics.localize import Boxes
from cxr_mtl.predict.marks import XYXY, format_number
from cxr_mtl.predict.overlay import HEAT_STRENGTH, film_image, find_heatmap, heat_caption, heat_layer
from cxr_mtl.types import Heatmap, Options, Prediction

POINT = "balanced"
MOST_FINDINGS = 5
MOST_BOXES = 3  # of the model's, on one film: best first
SIDE = 512  # px of a picture's longer side
MAX_BYTES = 48_000  # of one JPEG, so that 5 findings x 3 films x 2 pictures stay below 2 MB of page
_QUALITIES = (80, 65, 50, 35)


@runtime_checkable
class Mapper(Protocol):
    """A predictor that can say where it looked; one that cannot gets films without heat maps."""

    def predict(self, sources: Sequence[Path | bytes], options: Options) -> list[Prediction | ImageError]: ...


@dataclass(frozen=True, slots=True)
class Case:
    """One answer worth a look: ``film`` is its row among those answered."""

    finding: str
    kind: str
    film: int
    probability: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Outline:
    """A box in the pixels of the picture: ``who`` drew it, and what to write beside it."""

    who: str
    label: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Picture:
    """A JPEG as a data address, with its size in pixels and what is said of it."""

    source: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A case with its pictures: no ``film`` where it can no longer be read, no ``heat`` where there is no heat map."""

    case: Case
    image_id: str
    film: Picture | None
    heat: Picture | None
    outlines: tuple[Outline, ...]


def choose(bundle: Bundle, answered: Answered, findings: Sequence[str]) -> list[Case]:
    """For each of a few findings the surest true positive, the worst miss and the surest false positive.

    The findings are those with the most annotated boxes, then those with the most films: there a picture says most. For
    the same reason the first two are of films with an annotated box, where there are any.

    Args:
        findings: those that were measured.
    """
    cuts = bundle.operating_points.get(POINT, {})
    drawn = [box.finding for film in range(len(answered.manifest)) for box in answered.manifest.boxes(film)]
    boxed = Counter(drawn)

    def weight(name: str) -> tuple[int, int]:
        return boxed[name], int((answered.presence[:, bundle.ontology.index(name)] == 1).sum())

    order = sorted((name for name in findings if name in cuts), key=weight, reverse=True)
    return [case for name in order[:MOST_FINDINGS] for case in _of_finding(bundle, answered, name, cuts[name])]


def _of_finding(bundle: Bundle, answered: Answered, name: str, cut: float) -> list[Case]:
    column = bundle.ontology.index(name)
    presence, probability = answered.presence[:, column], answered.probability[:, column]
    present, absent, called = presence == 1, presence == 0, probability >= cut
    boxed = np.array([bool(_by_readers(answered, film, name)) for film in range(len(presence))])
    wanted = {
        "true positive": (_if_any(present & called, boxed), -probability),
        "false negative": (_if_any(present & (probability < cut), boxed), probability),
        "false positive": (absent & called, -probability),
    }
    cases = []
    for kind, (eligible, order) in wanted.items():
        rows = np.flatnonzero(eligible)
        if len(rows):
            film = int(rows[np.argmin(order[rows])])
            cases.append(Case(name, kind, film, float(probability[film]), float(cut)))
    return cases


def _by_readers(answered: Answered, film: int, finding: str) -> list[XYXY]:
    """What readers drew, whether or not the model has boxes of the finding."""
    return [box.xyxy for box in answered.manifest.boxes(film) if box.finding == finding]


def _if_any(rows: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of the rows that are wanted; all of them where none is."""
    return rows & wanted if (rows & wanted).any() else rows


def show(cases: Sequence[Case], answered: Answered, bundle: Bundle, predictor: object) -> list[Shown]:
    """Draw the chosen films; the predictor is asked for heat maps of these alone, if it can give any."""
    return [_shown(case, answered, bundle, _heat(case, answered, predictor)) for case in cases]


def _heat(case: Case, answered: Answered, predictor: object) -> Heatmap | None:
    if not isinstance(predictor, Mapper):
        return None
    options = Options(POINT, heatmaps=(case.finding,))
    (prediction,) = predictor.predict([answered.manifest.path(case.film)], options)
    if isinstance(prediction, ImageError) or not prediction.heatmaps:
        return None
    return find_heatmap(prediction, case.finding)


def _shown(case: Case, answered: Answered, bundle: Bundle, heat: Heatmap | None) -> Shown:
    image_id = str(answered.manifest.table["image_id"].iat[case.film])
    try:
        film = read_image(answered.manifest.path(case.film))
    except ImageError:  # it was there when it was judged
        return Shown(case, image_id, None, None, ())
    grey = film_image(film, SIDE)
    outlines = _outlines(case, answered, bundle, grey.size)
    picture = Picture(to_jpeg(grey), *grey.size, _boxes_in_words(outlines))
    if heat is None:
        return Shown(case, image_id, picture, None, outlines)
    lit = Image.alpha_composite(grey.convert("RGBA"), heat_layer(heat, grey.size, HEAT_STRENGTH)).convert("RGB")
    return Shown(case, image_id, picture, Picture(to_jpeg(lit), *lit.size, heat_caption(heat)), outlines)


def _outlines(case: Case, answered: Answered, bundle: Bundle, size: tuple[int, int]) -> tuple[Outline, ...]:
    """The finding's boxes: all that readers drew, and of the model's the best of those that it would answer with."""
    readers, own = _by_readers(answered, case.film, case.finding), _by_model(case, answered, bundle)
    model = "model" if case.finding in bundle.box_findings else "≈ model"
    labels = [("reader", "reader")] * len(readers) + [("model", f"{model} {format_number(s)}") for s in own.score]
    width, height = (int(side) for side in answered.frames[case.film])
    xyxy = rescale_boxes([*readers, *own.xyxy.tolist()], (width, height), size).round(1)
    return tuple(
        Outline(who, label, x1, y1, x2 - x1, y2 - y1)
        for (who, label), (x1, y1, x2, y2) in zip(labels, xyxy.tolist(), strict=True)
    )


def _by_model(case: Case, answered: Answered, bundle: Bundle) -> Boxes:
    d = bundle.located.index(case.finding) if case.finding in bundle.located else -1
    found = answered.proposed.keep((answered.proposed.film == case.film) & (answered.proposed.finding == d))
    if case.finding in bundle.box_findings:
        found = found.keep(found.score >= bundle.box_min_score)
    elif case.probability < case.threshold:  # a weak box is shown of what is called, as in an answer
        found = found.keep(found.score > np.inf)
    return found.keep(np.argsort(-found.score, kind="stable")[:MOST_BOXES])


def _boxes_in_words(outlines: Sequence[Outline]) -> str:
    readers = sum(outline.who == "reader" for outline in outlines)
    model = [outline.label for outline in outlines if outline.who == "model"]
    return f"Boxes by readers: {readers or 'none'}; by the model: {', '.join(model) or 'none'}."


def to_jpeg(picture: Image.Image) -> str:
    """A data address of at most ``MAX_BYTES`` of JPEG: coarser, then smaller, until it fits."""
    for quality in _QUALITIES:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() <= MAX_BYTES:
            return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
    return to_jpeg(picture.resize((max(1, picture.width // 2), max(1, picture.height // 2))))

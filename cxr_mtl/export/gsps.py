"""The presentation state: boxes with their labels, to be laid over the film by a viewer.  Imports highdicom."""

from __future__ import annotations

import numpy as np
from highdicom import PresentationLUTShapeValues, pr
from highdicom.content import PresentationLUTTransformation
from pydicom.dataset import Dataset

from cxr_mtl.export.parts import about, corners, finish
from cxr_mtl.predict.marks import format_number
from cxr_mtl.types import DISCLAIMER, Prediction, ScoredBox

_FOOT = (0.02, 0.95, 0.98, 0.99)  # of the displayed area: left, top, right, bottom


def make_gsps(film: Dataset, prediction: Prediction) -> Dataset:
    """Each box as a closed line with finding and score, and the disclaimer at the foot of the film.

    The film's own window comes along, for a viewer that applies a state takes it from there. A film that stores dense
    as dark is INVERSE: beside a state, a viewer does not look at the film's photometric interpretation.

    Args:
        film: its header, from ``read_film``.
        prediction: the film's answer.
    """
    for table in film.get("VOILUTSequence", ()):
        _to_full_range(table)
    film.setdefault("SamplesPerPixel", 1)  # what was judged is one grey picture, but the film need not say so
    boxes, note = pr.GraphicLayer("CXRMTL_BOXES", 1, "Boxes of a model"), pr.GraphicLayer("CXRMTL_NOTE", 2, DISCLAIMER)
    disclaimer = pr.TextObject(DISCLAIMER, pr.AnnotationUnitsValues.DISPLAY, bounding_box=_FOOT)
    annotations = [pr.GraphicAnnotation([film], note, text_objects=[disclaimer])]
    if prediction.boxes:
        outlines = [
            pr.GraphicObject(pr.GraphicTypeValues.POLYLINE, corners(box), pr.AnnotationUnitsValues.PIXEL)
            for box in prediction.boxes
        ]
        labels = [_label(box) for box in prediction.boxes]
        annotations.append(pr.GraphicAnnotation([film], boxes, graphic_objects=outlines, text_objects=labels))
    inverted = prediction.image.get("inverted", False)
    shape = PresentationLUTShapeValues.INVERSE if inverted else PresentationLUTShapeValues.IDENTITY
    made = pr.GrayscaleSoftcopyPresentationState(
        [film],
        content_label="CXRMTL",
        content_description=DISCLAIMER,
        graphic_layers=[boxes, note] if prediction.boxes else [note],
        graphic_annotations=annotations,
        presentation_lut_transformation=PresentationLUTTransformation(shape),
        **about(prediction, "PR"),
    )
    made.Laterality = ""  # of a paired part, which a chest is not; validators cannot tell, and want it there
    return finish(made)


def _label(box: ScoredBox) -> pr.TextObject:
    """Finding and score, at the box's upper left corner."""
    x, y = box.xyxy[:2]
    text = f"{box.finding} {format_number(box.score)}{' (weak)' if box.weak else ''}"
    return pr.TextObject(text, pr.AnnotationUnitsValues.PIXEL, anchor_point=(x, y), anchor_point_visible=False)


def _to_full_range(table: Dataset) -> None:
    """Let a look-up table's entries use 16 bits: a film's may have any from 10 on, a state's only 8 or 16."""
    first, start, bits = table.LUTDescriptor
    if not 8 < bits < 16:
        return
    data = table.LUTData
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data)
    table.LUTData = np.rint(entries * (0xFFFF / ((1 << bits) - 1))).clip(0, 0xFFFF).astype("<u2").tobytes()
    table.LUTDescriptor = [first, start, 16]
    table["LUTData"].VR = "OW"

"""The segmentation: where heat maps are strong, and what boxes enclose, as binary segments.  Imports highdicom.

Binary, and not fractional: DICOM's fraction of a pixel is a probability, or the part of it that is filled, and a heat
map is neither. What a map says is where a finding's score comes from; the segment is where it says so at half its
strength or more, and is called just that.  H W pixels of the film.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from highdicom import AlgorithmIdentificationSequence, seg
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from cxr_mtl.export.codes import BOX_AREA, HEAT_AREA, Coded
from cxr_mtl.export.parts import about, concept, finish, new_uid, parameters, short
from cxr_mtl.predict.overlay import decode_heatmap
from cxr_mtl.types import DISCLAIMER, Prediction, ScoredBox

STRONG = 0.5
"""Of a heat map: half of what the strongest place of a called finding has."""


@dataclass(frozen=True)
class _Area:
    """One segment: (H, W) bool, the kind of area it is, and how it is called."""

    inside: NDArray[np.bool_]
    kind: Coded
    label: str


def make_seg(film: Dataset, prediction: Prediction) -> tuple[Dataset | None, tuple[str, ...]]:
    """A segment of each called finding's heat map, and one of each finding that has boxes.

    Args:
        film: its header, from ``read_film``.
        prediction: the film's answer.

    Returns:
        The segmentation, or None where there is neither, for DICOM knows none without segments; and in words the maps
        and boxes that have no segment.
    """
    called = {found.name for found in prediction.findings if found.call == "positive"}
    considered = _heat_areas(prediction, called) + _box_areas(prediction)
    areas = [area for area in considered if area.inside.any()]
    left_out = tuple(
        [
            f"seg: the heat map of {heat.finding}, which is not called"
            for heat in prediction.heatmaps
            if heat.finding not in called
        ]
        + [f"seg: no pixel is in {area.label}" for area in considered if not area.inside.any()]
    )
    if not areas:
        return None, left_out or ("seg: there is no heat map and no box",)
    by = AlgorithmIdentificationSequence(
        name=short(prediction.model["name"]),
        family=codes.DCM.ArtificialIntelligence,
        version=short(prediction.model["version"]),
        parameters=parameters(prediction),
    )
    described = [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=short(area.label),
            segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
            segmented_property_type=concept(area.kind),
            algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=by,
            tracking_uid=new_uid(),
            tracking_id=short(area.label),
        )
        for number, area in enumerate(areas, 1)
    ]
    made = seg.Segmentation(
        source_images=[film],
        pixel_array=np.stack([area.inside for area in areas], axis=-1)[None],
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        content_label="CXRMTL",
        content_description=DISCLAIMER,
        **about(prediction, "SEG"),
    )
    # Wanted where nothing else tells how the patient lies in the picture; empty is DICOM's word for unknown.
    made.PatientOrientation = film.get("PatientOrientation") or ""
    return finish(made), left_out


def _heat_areas(prediction: Prediction, called: Set[str]) -> list[_Area]:
    """Of what is called alone: an area looks the same however faint the map that it was cut from."""
    width, height = prediction.image["width"], prediction.image["height"]
    areas = []
    for heat in prediction.heatmaps:
        if heat.finding not in called:
            continue
        map_on_film = decode_heatmap(heat).resize((width, height), Image.Resampling.BILINEAR)
        inside = np.asarray(map_on_film) >= round(STRONG * 255)
        areas.append(_Area(inside, HEAT_AREA, f"{heat.finding}: heat map of {STRONG:g} or more, {heat.method}"))
    return areas


def _box_areas(prediction: Prediction) -> list[_Area]:
    shape = (prediction.image["height"], prediction.image["width"])
    named: dict[str, list[ScoredBox]] = {}
    for box in prediction.boxes:
        named.setdefault(box.finding, []).append(box)
    areas = []
    for finding, boxes in named.items():
        inside = np.zeros(shape, bool)
        for box in boxes:
            inside |= _inside(box, shape)
        areas.append(_Area(inside, BOX_AREA, f"{finding}: {len(boxes)} box{'es' if len(boxes) > 1 else ''}"))
    return areas


def _inside(box: ScoredBox, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) pixels whose centre lies in the box."""
    x1, y1, x2, y2 = box.xyxy
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    within: NDArray[np.bool_] = ((rows >= y1) & (rows < y2))[:, None] & ((columns >= x1) & (columns < x2))
    return within

"""Every shape that crosses a room, written once.

B batch, C findings (all nodes of the ontology, in its order), D findings that can have a box, H W pixels, S input side,
K boxes. Boxes are xyxy: x right, y down, pixels; the frame is said at each field.
Three words, three meanings: ``presence`` is a label, ``probability`` is calibrated, ``score`` is not.
"""

from cxr_mtl.types.answers import (
    DEFAULT_OPTIONS,
    DISCLAIMER,
    EXPLANATIONS,
    FLAGGED,
    HEATMAP_FORMATS,
    PREDICTION_SCHEMA,
    RESULTS_SCHEMA,
    Answer,
    FindingCall,
    HeatArray,
    Heatmap,
    Node,
    Options,
    Prediction,
    Region,
    ScoredBox,
)
from cxr_mtl.types.films import ABSENT, PRESENT, UNCERTAIN, UNKNOWN, Batch, Box, Outputs, Radiograph, Record

__all__ = [
    "ABSENT",
    "DEFAULT_OPTIONS",
    "DISCLAIMER",
    "EXPLANATIONS",
    "FLAGGED",
    "HEATMAP_FORMATS",
    "PREDICTION_SCHEMA",
    "PRESENT",
    "RESULTS_SCHEMA",
    "UNCERTAIN",
    "UNKNOWN",
    "Answer",
    "Batch",
    "Box",
    "FindingCall",
    "HeatArray",
    "Heatmap",
    "Node",
    "Options",
    "Outputs",
    "Prediction",
    "Radiograph",
    "Record",
    "Region",
    "ScoredBox",
]

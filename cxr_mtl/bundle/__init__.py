"""The bundle: a folder that can answer, and the one door for weights.

    weights.safetensors   all weights, float32
    bundle.yaml           what the weights mean: encoder, ontology, findings, calibration, operating points, versions
    gate.safetensors      what tells a chest film from other pictures, where there were films enough to fit it
    split.csv             which film was in which split
    results.json          once evaluated
    model_card.md         for people

No pickle. Loading checks names and shapes of every weight and says which differ.
"""

from cxr_mtl.bundle.description import SCHEMA, Description
from cxr_mtl.bundle.folder import (
    CARD,
    DESCRIPTION,
    GATE,
    RESULTS,
    SPLIT,
    WEIGHTS,
    Bundle,
    bundle_sha256,
    load_bundle,
    load_description,
    save_bundle,
)
from cxr_mtl.bundle.gate_file import Door, gate_bytes, gate_section

__all__ = [
    "CARD",
    "DESCRIPTION",
    "GATE",
    "RESULTS",
    "SCHEMA",
    "SPLIT",
    "WEIGHTS",
    "Bundle",
    "Description",
    "Door",
    "bundle_sha256",
    "gate_bytes",
    "gate_section",
    "load_bundle",
    "load_description",
    "save_bundle",
]

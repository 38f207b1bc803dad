"""The bundle: a folder that can answer, and the one door for weights.

    weights.safetensors   all weights, float32
    bundle.yaml           what the weights mean: encoder, ontology, findings, calibration, operating points, versions
    split.csv             which film was in which split
    results.json          once evaluated
    model_card.md         for people

No pickle. Loading checks names and shapes of every weight and says which differ.
"""

from cxr_mtl.bundle.description import SCHEMA, Description
from cxr_mtl.bundle.folder import (
    CARD,
    DESCRIPTION,
    RESULTS,
    SPLIT,
    WEIGHTS,
    Bundle,
    bundle_sha256,
    load_bundle,
    load_description,
    save_bundle,
)

__all__ = [
    "CARD",
    "DESCRIPTION",
    "RESULTS",
    "SCHEMA",
    "SPLIT",
    "WEIGHTS",
    "Bundle",
    "Description",
    "bundle_sha256",
    "load_bundle",
    "load_description",
    "save_bundle",
]

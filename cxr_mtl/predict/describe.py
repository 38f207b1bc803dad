"""What a server says of its model to those who run it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from cxr_mtl.bundle import CARD, Bundle
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import DISCLAIMER

MODEL_SCHEMA = "cxr-mtl.model/1"


def describe(predictor: LocalPredictor) -> dict[str, Any]:
    """A bundle and how it is run, as JSON has it: no nan, and null for what there is none of."""
    bundle = predictor.bundle
    description = bundle.description
    said = {
        "schema": MODEL_SCHEMA,
        "model": {"name": bundle.name, "version": bundle.version, "sha256": bundle.sha256},
        "input": {"size": bundle.image_size, "channels": 1},
        "ontology": bundle.ontology.name,
        "findings": _findings(bundle),
        "operating_points": {
            point: {"rule": description.rules[point], "thresholds": dict(thresholds)}
            for point, thresholds in bundle.operating_points.items()
        },
        "calibration": {"fitted_on": dict(description.fitted_on)},
        "gate": dict(description.gate),
        "engine": asdict(predictor.engine),
        "card": _card(bundle),
        "disclaimer": DISCLAIMER,
    }
    plain: dict[str, Any] = _plain(said)
    return plain


def _findings(bundle: Bundle) -> list[dict[str, Any]]:
    return [
        {
            "name": finding.name,
            "parents": list(finding.parents),
            "group": finding.group,
            "trained": finding.name in bundle.trained,
            "boxes": finding.name in bundle.located,
        }
        for finding in bundle.ontology.findings
    ]


def _card(bundle: Bundle) -> str | None:
    file = bundle.folder / CARD
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

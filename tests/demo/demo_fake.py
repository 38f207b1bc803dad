"""A film, an answer and a predictor for the demo's tests; the answer has every case the page must tell apart."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ImageError
from cxr_mtl.types import FindingCall, Heatmap, Node, Options, Prediction, Radiograph, ScoredBox

FINDINGS = (
    FindingCall("Pneumonia", "negative", 0.0314, 0.42),
    FindingCall("Effusion", "positive", 0.8312, 0.41),
    FindingCall("Mass", "positive", 0.12, 0.09),
    FindingCall("Hernia", "not_trained"),
    FindingCall("No Finding", "positive", 0.97, 0.5),
)
HIERARCHY = (
    Node("Lung", (), 0.62, 0.62),
    Node("Pleural", (), 0.91, 0.91),
    Node("Pneumonia", ("Lung",), 0.0314, 0.05),
    Node("Effusion", ("Pleural",), 0.8312, 0.92),
    Node("Tuberculosis", ("Lung", "Pleural"), None, None),
)


def make_film(width: int = 300, height: int = 200) -> Radiograph:
    """Brighter to the right and, less, downwards, so that a turned or mirrored film is seen as one."""
    x, y = np.meshgrid(np.linspace(0, 0.8, width), np.linspace(0, 0.2, height))
    pixels = (x + y).astype(np.float32)
    return Radiograph(pixels, "png", False, hashlib.sha256(pixels.tobytes()).hexdigest())


def make_heatmap(finding: str, values: np.ndarray, method: str = "grad_cam") -> Heatmap:
    stream = io.BytesIO()
    Image.fromarray((values * 255).round().astype(np.uint8)).save(stream, "png")
    return Heatmap(finding, base64.b64encode(stream.getvalue()).decode(), method)


def make_prediction(film: Radiograph, options: Options = Options()) -> Prediction:  # noqa: B008 (frozen)
    w, h = film.width, film.height
    boxes = (
        ScoredBox("Effusion", 0.7134, (0.1 * w, 0.5 * h, 0.3 * w, 0.9 * h)),
        ScoredBox("Mass", 0.31, (0.6 * w, 0.1 * h, 0.7 * w, 0.2 * h)),
    )
    lit = np.zeros((h, w))
    lit[:, : w // 3] = 0.5
    return Prediction(
        model={"name": "fake", "version": "1.0", "sha256": "f" * 64, "ontology": "thorax"},
        image={"width": w, "height": h, "format": film.format, "inverted": film.inverted, "sha256": film.sha256},
        operating_point=options.operating_point,
        findings=FINDINGS,
        hierarchy=HIERARCHY,
        boxes=boxes,
        warnings=film.notes,
        heatmaps=tuple(make_heatmap(name, lit) for name in options.heatmaps if name != "Hernia"),
    )


class FakePredictor:
    """Reads the film it is given and answers the same of each; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Options] = []

    def predict(self, sources: Sequence[Path | bytes], options: Options = Options()) -> list[Prediction | ImageError]:  # noqa: B008
        self.asked.append(options)
        results: list[Prediction | ImageError] = []
        for source in sources:
            try:
                results.append(make_prediction(read_image(source), options))
            except ImageError as error:
                results.append(error)
        return results

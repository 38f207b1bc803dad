"""What comes out: the numbers of a film, and the answer that a person or program reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREDICTION_SCHEMA = "cxr-mtl.prediction/1"
RESULTS_SCHEMA = "cxr-mtl.results/1"
DISCLAIMER = "Research use only. Not for clinical use."
EXPLANATIONS = ("grad_cam", "attention", "integrated_gradients", "occlusion")
"""Methods of a heat map; what each shows stands in predict/explain.py."""
_OLD_METHOD = "grad_cam"  # of answers from before there was a choice, which do not say it
HEATMAP_FORMATS = ("png", "array")
FLAGGED = "flagged"
"""Instead of a finding to map: every one that is called, but for the one that says that a film shows nothing."""


@dataclass(frozen=True, slots=True)
class ScoredBox:
    """A box the model proposes, in the pixels of the submitted file.

    ``weak``: learned without boxes, from where the findings head looks.
    """

    finding: str
    score: float
    xyxy: tuple[float, float, float, float]
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Region:
    """A place, in the pixels of the submitted file, with every finding that has a box there and that box's score."""

    xyxy: tuple[float, float, float, float]
    findings: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """All the numbers the model has for one film, before any operating point is chosen. C in the ontology's order.

    Attributes:
        finding_probability: (C,) calibrated, from the findings head; nan where never trained.
        hierarchy_probability: (C,) calibrated, never above any parent's; nan where never trained.
        hierarchy_conditional: (C,) calibrated, given that all parents are present.
        boxes: the best few of each finding that boxes were trained for, best first, however low the score; then one
            weak box of each that none were trained for, if the model has an attention map of it.
    """

    finding_probability: NDArray[np.float64]
    hierarchy_probability: NDArray[np.float64]
    hierarchy_conditional: NDArray[np.float64]
    boxes: tuple[ScoredBox, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller of a prediction wants.

    Attributes:
        operating_point: ``balanced``, ``f1``, ``sensitive`` or ``specific``.
        findings: only these; None for all.
        boxes: whether to answer with boxes.
        heatmaps: findings to answer with a heat map for; ``flagged`` for each that is called.
        explain: one of ``EXPLANATIONS``, by which the maps are made; None for the model's own attention where it has
            one, and Grad-CAM else. Without ``heatmaps`` it asks for those of what is flagged.
        heatmap_format: one of ``HEATMAP_FORMATS``.
        top_k: the most probable findings to answer with, of ``findings`` where both are given; None for all.
            What is left out has no box, and is not flagged; a heat map that is asked for by name is made all the same.
    """

    operating_point: str = "balanced"
    findings: tuple[str, ...] | None = None
    boxes: bool = True
    heatmaps: tuple[str, ...] = ()
    explain: str | None = None
    heatmap_format: str = "png"
    top_k: int | None = None


DEFAULT_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class FindingCall:
    """``call`` is ``positive``, ``negative`` or ``not_trained``; the numbers are None for the last."""

    name: str
    call: str
    probability: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the tree of findings; the numbers are None where it was never trained.

    ``conditional`` is given that all parents are present; nearest trained ancestors stand in for untrained ones.
    """

    name: str
    parents: tuple[str, ...]
    probability: float | None
    conditional: float | None


@dataclass(frozen=True, slots=True)
class HeatArray:
    """``shape`` rows and columns of ``dtype``, row by row, in base64: ``np.frombuffer`` takes it as it stands."""

    shape: tuple[int, int]
    data: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Where one finding's score is sensitive, 0 to 1, covering the whole submitted film.

    Attributes:
        finding: by name.
        png: 8-bit grey, 255 for 1, in base64; None where an array was asked for.
        method: the one of ``EXPLANATIONS`` that made it.
        array: the numbers themselves; None where a PNG was asked for.
    """

    finding: str
    png: str | None
    method: str
    array: HeatArray | None = None

    def to_dict(self) -> dict[str, Any]:
        said: dict[str, Any] = {"finding": self.finding, "method": self.method}
        if self.png is not None:
            said["png"] = self.png
        if self.array is not None:
            said["array"] = {"dtype": self.array.dtype, "shape": list(self.array.shape), "data": self.array.data}
        return said

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Heatmap:
        """The inverse of ``to_dict``."""
        array = None
        if (given := said.get("array")) is not None:
            rows, columns = given["shape"]
            array = HeatArray((rows, columns), given["data"], given["dtype"])
        return cls(said["finding"], said.get("png"), said.get("method", _OLD_METHOD), array)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one film; ``to_dict`` is the JSON that evaluation, server, command line and demo share."""

    model: Mapping[str, str]
    image: Mapping[str, Any]
    operating_point: str
    findings: tuple[FindingCall, ...]
    hierarchy: tuple[Node, ...]
    boxes: tuple[ScoredBox, ...]
    warnings: tuple[str, ...] = ()
    heatmaps: tuple[Heatmap, ...] = ()
    regions: tuple[Region, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "schema": PREDICTION_SCHEMA,
            "model": dict(self.model),
            "image": dict(self.image),
            "operating_point": self.operating_point,
            "findings": [
                {"name": f.name, "call": f.call}
                if f.probability is None
                else {"name": f.name, "probability": f.probability, "threshold": f.threshold, "call": f.call}
                for f in self.findings
            ],
            "hierarchy": [
                {
                    "name": n.name,
                    "parents": list(n.parents),
                    "probability": n.probability,
                    "conditional": n.conditional,
                }
                for n in self.hierarchy
            ],
            "boxes": [
                {"finding": b.finding, "score": b.score, "xyxy": list(b.xyxy)} | ({"weak": True} if b.weak else {})
                for b in self.boxes
            ],
            "warnings": list(self.warnings),
            "disclaimer": DISCLAIMER,
        }
        if self.regions:
            body["regions"] = [
                {"xyxy": list(r.xyxy), "findings": [{"finding": name, "score": score} for name, score in r.findings]}
                for r in self.regions
            ]
        if self.heatmaps:
            body["heatmaps"] = [heatmap.to_dict() for heatmap in self.heatmaps]
        return body

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Prediction:
        """The inverse of ``to_dict``; the demo reads a server's answer with it."""
        return cls(
            model=body["model"],
            image=body["image"],
            operating_point=body["operating_point"],
            findings=tuple(
                FindingCall(f["name"], f["call"], f.get("probability"), f.get("threshold")) for f in body["findings"]
            ),
            hierarchy=tuple(
                Node(n["name"], tuple(n["parents"]), n["probability"], n["conditional"]) for n in body["hierarchy"]
            ),
            boxes=tuple(
                ScoredBox(b["finding"], b["score"], _four(b["xyxy"]), b.get("weak", False)) for b in body["boxes"]
            ),
            warnings=tuple(body["warnings"]),
            heatmaps=tuple(Heatmap.from_dict(heatmap) for heatmap in body.get("heatmaps", ())),
            regions=tuple(
                Region(_four(r["xyxy"]), tuple((f["finding"], f["score"]) for f in r["findings"]))
                for r in body.get("regions", ())
            ),
        )


def _four(values: list[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2

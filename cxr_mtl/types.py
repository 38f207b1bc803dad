"""Every shape that crosses a room, written once.

B batch, C findings (all nodes of the ontology, in its order), D findings that can have a box, H W pixels, S input side,
K boxes. Boxes are xyxy: x right, y down, pixels; the frame is said at each field.
Three words, three meanings: ``presence`` is a label, ``probability`` is calibrated, ``score`` is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PREDICTION_SCHEMA = "cxr-mtl.prediction/1"
RESULTS_SCHEMA = "cxr-mtl.results/1"
DISCLAIMER = "Research use only. Not for clinical use."

PRESENT, ABSENT, UNCERTAIN = 1.0, 0.0, -1.0
UNKNOWN = float("nan")


@dataclass(frozen=True, slots=True)
class Box:
    """One annotated box, in the frame of its record (``Record.width`` by ``Record.height``)."""

    finding: str
    x1: float
    y1: float
    x2: float
    y2: float
    reader: str = ""

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.x1, self.y1, self.x2, self.y2


@dataclass(frozen=True, slots=True)
class Record:
    """What the tables say of one image; no pixels.

    ``labels`` holds only what the dataset states: 1 present, 0 absent, -1 uncertain; a finding not in it is unknown.
    ``width`` and ``height`` are the frame the boxes are in, which need not be the file's own size; None when unknown.
    """

    image_path: str
    image_id: str
    patient_id: str
    study_id: str
    dataset: str
    split: str | None = None
    view: str = "UNKNOWN"
    age: float = UNKNOWN
    sex: str | None = None
    width: int | None = None
    height: int | None = None
    boxes: tuple[Box, ...] = ()
    boxes_exhaustive: bool = False
    labels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Radiograph:
    """Pixels as they are to be looked at: bright is dense, 0 to 1, in the submitted file's own frame.

    Attributes:
        pixels: (H, W) float32, 0 to 1.
        format: ``png``, ``jpeg`` or ``dicom``.
        inverted: True where the file stores dense as dark (MONOCHROME1) and was turned round.
        sha256: of the submitted bytes.
        notes: what reading did, in words, such as the window applied.
        view: what the file says: ``PA``, ``AP``, ``LATERAL`` or ``UNKNOWN``; PNG and JPEG do not say it.
    """

    pixels: NDArray[np.float32]
    format: str
    inverted: bool
    sha256: str
    notes: tuple[str, ...] = ()
    view: str = "UNKNOWN"

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


@dataclass(slots=True)
class Batch:
    """Tensors for one step.

    Attributes:
        images: (B, 1, S, S) uint8 as packed, or float after augmentation and normalisation.
        labels: (B, C) 1 present, 0 absent, nan unknown.
        boxes: B tensors (K, 4), xyxy in the input frame.
        box_findings: B tensors (K,) int64, index into the D findings that can have a box.
        has_boxes: (B,) bool; False says that nobody drew boxes on this film, so it must give no box loss.
        absent_known: (B, D) bool; an unboxed region of the film is known not to show the finding.
        index: (B,) int64 row of the manifest.
        step: (T,) int64 rows of all films of the optimizer step, those of other ranks and forward passes included: what
            a loss is a mean over.
    """

    images: Tensor
    labels: Tensor
    boxes: list[Tensor]
    box_findings: list[Tensor]
    has_boxes: Tensor
    absent_known: Tensor
    index: Tensor
    step: Tensor


@dataclass  # without slots: ZeRO stage 3 looks into a network's answer through vars()
class Outputs:
    """One forward pass.

    Attributes:
        findings: (B, C) logits, each finding for itself.
        hierarchy: (B, C) conditional logits: a finding given that all its parents are present.
        box_logits: per pyramid level (B, A*D, H, W).
        box_deltas: per pyramid level (B, A*4, H, W).
        features: the encoder's last two maps, (B, F, H, W) and (B, G, H/2, W/2), for heat maps.
    """

    findings: Tensor
    hierarchy: Tensor
    box_logits: list[Tensor]
    box_deltas: list[Tensor]
    features: list[Tensor]


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
        heatmaps: findings to answer with a heat map for.
    """

    operating_point: str = "balanced"
    findings: tuple[str, ...] | None = None
    boxes: bool = True
    heatmaps: tuple[str, ...] = ()


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
class Heatmap:
    """Where one finding's score is sensitive: PNG, 8-bit grey, base64, covering the whole submitted film."""

    finding: str
    png: str


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
        if self.heatmaps:
            body["heatmaps"] = [{"finding": h.finding, "png": h.png} for h in self.heatmaps]
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
            heatmaps=tuple(Heatmap(h["finding"], h["png"]) for h in body.get("heatmaps", ())),
        )


def _four(values: list[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2

"""What goes in: records, films, batches, and what the network makes of them; letters as in the room's own text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

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
        draw: (B,) int64 what the film's random numbers follow from: its row, or another number where an epoch draws it
            again.
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
    draw: Tensor
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

"""A network whose forward pass is recorded on a GPU as CUDA graphs.  B films, S input side.

A GPU is done with one film before a process has handed it the hundreds of small steps of a network one by one, so the
process is what one waits for. A graph is handed over at once; its steps, and so its numbers, are the same.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxr_mtl.model.multitask import MultiTaskModel
from cxr_mtl.types import Outputs

MOST_FILMS = 16
"""Of one graph; each size of batch has one, with memory of its own. More films keep a GPU busy by themselves."""
MOST_APART = 1e-4
"""A logit may differ by this from the network's that was not recorded."""
_WARM_UPS = 3
_logger = logging.getLogger(__name__)


def record(model: MultiTaskModel, films: int, side: int) -> MultiTaskModel:
    """The model, recorded for 1 to ``films`` films of ``side`` pixels; other numbers are recorded when they come.

    A network that cannot be recorded, or answers otherwise when it is, is given back as it is, and that is logged.

    Args:
        model: on a GPU, in evaluation mode.

    Raises:
        torch.OutOfMemoryError: the GPU has no room for it.
    """
    recorded = RecordedModel(model)
    device = next(model.parameters()).device
    try:
        # In a block of its own, because a recording that fails leaves its stream behind.
        with torch.no_grad(), torch.cuda.stream(torch.cuda.current_stream(device)):
            for size in {_padded(count) for count in range(1, min(films, MOST_FILMS) + 1)}:
                images = torch.randn(size, 1, side, side, device=device)
                apart = _apart(recorded(images), model(images))
                if not apart <= MOST_APART:
                    _logger.warning("The network answers otherwise when recorded (by %.1e), so it is not.", apart)
                    return model
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        _logger.warning("The network cannot be recorded, so each answer takes longer: %s", reason)
        return model
    return recorded


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    outputs: Outputs


class RecordedModel(MultiTaskModel):
    """In the place of the model that it was made from; without gradients."""

    def __init__(self, model: MultiTaskModel) -> None:
        """Record nothing yet: a size of batch is recorded when it first comes.

        Args:
            model: on a GPU, in evaluation mode.
        """
        nn.Module.__init__(self)  # the network's parts are the model's
        self.model = model
        self._recordings: dict[int, _Recording] = {}
        self._weights = 0
        self._one_at_a_time = threading.Lock()

    def forward(self, images: Tensor, box_rows: Tensor | None = None) -> Outputs:
        """As ``MultiTaskModel.forward``; ``box_rows``, which only training has, cannot be recorded."""
        if box_rows is not None or not 1 <= len(images) <= MOST_FILMS:
            outputs: Outputs = self.model(images, box_rows)
            return outputs
        return self._replay(images)

    def judge_findings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As ``MultiTaskModel.judge_findings``; the boxes of a graph cost less than another graph."""
        outputs = self(images)
        return outputs.findings, outputs.hierarchy

    @torch.no_grad()
    def _replay(self, images: Tensor) -> Outputs:
        size = _padded(len(images))
        with self._one_at_a_time:
            if self._weights != (weights := next(self.model.parameters()).data_ptr()):
                self._recordings.clear()  # they read the weights where these were
                self._weights = weights
            recording = self._recordings.get(size)
            if recording is None:
                recording = self._recordings[size] = self._record(images.new_zeros(size, *images.shape[1:]))
            recording.images[: len(images)].copy_(images)
            recording.graph.replay()
            return _first(len(images), recording.outputs)

    def _record(self, images: Tensor) -> _Recording:
        with torch.cuda.device(images.device):
            aside = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream(images.device))
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):  # libraries choose their kernels now, and not while recording
                    self.model(images)
            torch.cuda.current_stream(images.device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=aside):
                outputs: Outputs = self.model(images)
        return _Recording(graph, images, outputs)


def _padded(films: int) -> int:
    """The next power of two: films of nothing fill up."""
    return 1 << (films - 1).bit_length()


def _first(count: int, outputs: Outputs) -> Outputs:
    """Of the first films, in memory that the next replay leaves alone."""

    def some(tensors: list[Tensor]) -> list[Tensor]:
        return [tensor[:count].clone() for tensor in tensors]

    findings, hierarchy = some([outputs.findings, outputs.hierarchy])
    return Outputs(findings, hierarchy, some(outputs.box_logits), some(outputs.box_deltas), some(outputs.features))


def _apart(one: Outputs, other: Outputs) -> float:
    """The largest difference of a logit."""
    mine, theirs = ([some.findings, some.hierarchy, *some.box_logits] for some in (one, other))
    return max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True))

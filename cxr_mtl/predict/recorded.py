"""A network whose forward pass is recorded on a GPU as CUDA graphs.  B films, S input side.

A GPU is done with one film before a process has handed it the hundreds of small steps of a network one by one, so the
process is what one waits for. A graph is handed over at once; its steps, and so its numbers, are the same.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from cxr_mtl.model.multitask import MultiTaskModel
from cxr_mtl.types import Outputs

MOST_FILMS = 16
"""Of one graph; each size of batch has one, with memory of its own. More films keep a GPU busy by themselves."""
_WARM_UPS = 3


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    outputs: Outputs


class RecordedModel(MultiTaskModel):
    """Answers as the model that it was made from; without gradients."""

    def __init__(self, model: MultiTaskModel) -> None:
        """Record nothing yet: a size of batch is recorded when it first comes.

        Args:
            model: on a GPU, in evaluation mode; its weights are shared, and must stay where they are.
        """
        super().__init__(model.encoder, model.findings, model.hierarchy, model.boxes)
        self.eval()
        self._recordings: dict[int, _Recording] = {}
        self._one_at_a_time = threading.Lock()

    def forward(self, images: Tensor, box_rows: Tensor | None = None) -> Outputs:
        """As ``MultiTaskModel.forward``; ``box_rows``, which only training has, cannot be recorded."""
        if box_rows is not None or not 1 <= len(images) <= MOST_FILMS:
            with _float32():
                return super().forward(images, box_rows)
        return self._replay(images)

    def judge_findings(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As ``MultiTaskModel.judge_findings``; the boxes of a graph cost less than another graph."""
        outputs = self(images)
        return outputs.findings, outputs.hierarchy

    def record(self, most: int, side: int) -> None:
        """Make ready for 1 to ``most`` films of ``side`` pixels, so that the first to come need not wait.

        The recording of a size takes a tenth of a second, that of the first, which starts the GPU's libraries, one or
        more.
        """
        device = next(self.parameters()).device
        for size in {_padded(count) for count in range(1, min(most, MOST_FILMS) + 1)}:
            self._replay(torch.zeros(size, 1, side, side, device=device))

    def compute(self, images: Tensor) -> Outputs:
        """What is recorded."""
        return super().forward(images)

    @torch.no_grad()
    def _replay(self, images: Tensor) -> Outputs:
        size = _padded(len(images))
        with self._one_at_a_time:
            recording = self._recordings.get(size)
            if recording is None:
                recording = self._recordings[size] = self._record(images.new_zeros(size, *images.shape[1:]))
            recording.images[: len(images)].copy_(images)
            recording.graph.replay()
            return _first(len(images), recording.outputs)

    def _record(self, images: Tensor) -> _Recording:
        with torch.cuda.device(images.device), _float32():
            return self._record_here(images)

    def _record_here(self, images: Tensor) -> _Recording:
        aside = torch.cuda.Stream(images.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):  # libraries choose their kernels now, and not while recording
                self.compute(images)
        torch.cuda.current_stream(images.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.compute(images)
        return _Recording(graph, images, outputs)


def _float32() -> AbstractContextManager[None]:
    """By default cuDNN rounds the factors of convolutions to TF32; that moved probabilities by up to 8e-5."""
    exact: AbstractContextManager[None] = torch.backends.cudnn.flags(allow_tf32=False)
    return exact


def _padded(films: int) -> int:
    """The next power of two: films of nothing fill up."""
    return 1 << (films - 1).bit_length()


def _first(count: int, outputs: Outputs) -> Outputs:
    """Of the first films, in memory that the next replay leaves alone."""

    def some(tensors: list[Tensor]) -> list[Tensor]:
        return [tensor[:count].clone() for tensor in tensors]

    findings, hierarchy = some([outputs.findings, outputs.hierarchy])
    return Outputs(findings, hierarchy, some(outputs.box_logits), some(outputs.box_deltas), some(outputs.features))

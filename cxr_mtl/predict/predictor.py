"""A bundle that answers.  B films, C findings, S input side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mtl.bundle import Bundle, load_bundle
from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.data.read import read_frontal
from cxr_mtl.data.refuse import no_memory
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import ImageError
from cxr_mtl.metrics.hierarchy import compose, decompose, either, own_logits
from cxr_mtl.model.localize import flatten_levels, make_anchors, select_boxes
from cxr_mtl.model.multitask import MultiTaskModel, judge, pooled
from cxr_mtl.model.weak import weak_boxes
from cxr_mtl.predict.admit import Admitted, admit_film, novelties
from cxr_mtl.predict.compiled import doubtful, load_compiled, replace_rows
from cxr_mtl.predict.device import pick_device
from cxr_mtl.predict.heatmap import make_heatmaps
from cxr_mtl.predict.neighbours import Neighbours
from cxr_mtl.predict.recorded import record
from cxr_mtl.predict.response import check_options, respond
from cxr_mtl.predict.watch import Stopwatch, lap
from cxr_mtl.types import DEFAULT_OPTIONS, Answer, Options, Outputs, Prediction, Radiograph, ScoredBox

FloatTable = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Predictor(Protocol):
    """Whatever turns films into predictions: a bundle here, or a server elsewhere."""

    def predict(
        self, sources: Sequence[Path | bytes], options: Options = DEFAULT_OPTIONS
    ) -> list[Prediction | ImageError]:
        """One prediction or error for each source, in order; a bad film never costs its neighbours theirs."""
        ...


@dataclass(frozen=True, slots=True)
class Looked:
    """What a bundle says of B films.

    Attributes:
        answers: B, calibrated.
        findings: (B, C) logits.
        hierarchy: (B, C) logits of the tree's nodes.
        features: (B, F) of the encoder, pooled.
        novelty: (B,) how unlike each is to the films learned from; nan without a gate, or for a film not admitted.
    """

    answers: list[Answer]
    findings: FloatTable
    hierarchy: FloatTable
    features: FloatTable
    novelty: FloatTable


@dataclass(frozen=True, slots=True)
class Engine:
    """What computes the encoder."""

    name: str
    precision: str
    device: str
    threads: int

    def __str__(self) -> str:
        return f"{self.name} {self.precision} on {self.device}, {self.threads} threads"


class LocalPredictor:
    """A bundle on this machine.

    Attributes:
        bundle: what it answers with.
        engine: what computes its encoder.
    """

    def __init__(
        self,
        bundle: Path | Bundle,
        device: str | None = None,
        threads: int | None = None,
        neighbours: Neighbours | None = None,
        films: int = 1,
    ) -> None:
        """Load a bundle.

        Args:
            bundle: folder, or one already loaded.
            device: see ``pick_device``.
            threads: of torch, for the whole process; None leaves torch's own choice.
            neighbours: who else answers on these cores. While none of them is busy, all cores are used.
            films: that come at once at most. A GPU makes ready for these numbers now, for others when they come.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self._device = pick_device(device)
        self.bundle.model.to(self._device).eval()
        self._anchors = torch.cat(make_anchors(self.bundle.image_size))
        self._model = self._exact = self.bundle.model
        self._margins, name, precision = dict[str, float](), "torch", "float32"
        threads_used = {torch.get_num_threads()}
        self._busy: Callable[[], AbstractContextManager[None]] = nullcontext
        self._all_cores: Callable[[], AbstractContextManager[None]] = nullcontext
        if neighbours and self._device.type == "cpu":
            threads_used.add(neighbours.cores)
            self._busy, self._all_cores = neighbours.busy, neighbours.all_cores
        compiled = load_compiled(self.bundle, sorted(threads_used)) if self._device.type == "cpu" else None
        if compiled is not None:
            self._model, self._exact, self._margins = compiled.model, compiled.exact, dict(compiled.margins)
            name, precision = "openvino", compiled.precision
        elif self._device.type == "cuda":
            self._model = self._exact = record(self.bundle.model, films, self.bundle.image_size)
        self.engine = Engine(name, precision, str(self._device), torch.get_num_threads())

    def predict(
        self, sources: Sequence[Path | bytes], options: Options = DEFAULT_OPTIONS
    ) -> list[Prediction | ImageError]:
        """Read and judge films.

        Args:
            sources: paths or file contents; PNG, JPEG or DICOM.
            options: what is wanted of each.
        """
        requests = [(source, options) for source in sources]
        try:
            return self.predict_each(requests)
        except MemoryError:  # one film's, or all films' together: alone, the others have their answers
            return [self._alone(request) for request in requests]

    def predict_each(
        self, requests: Sequence[tuple[Path | bytes, Options]], watch: Stopwatch | None = None
    ) -> list[Prediction | ImageError]:
        """The same with options for each film, as a server's batch brings them, and a watch to time the steps by."""
        with self._busy():
            return self._predict_each(requests, watch or Stopwatch())

    def _predict_each(
        self, requests: Sequence[tuple[Path | bytes, Options]], watch: Stopwatch
    ) -> list[Prediction | ImageError]:
        results: list[Prediction | ImageError | None] = [None] * len(requests)
        films: dict[int, Admitted] = {}
        for i, (source, options) in enumerate(requests):
            try:
                check_options(self.bundle, options)
                with lap(watch.preprocess):
                    films[i] = admit_film(self.bundle, read_frontal(source), source)
            except ImageError as error:
                results[i] = error
        if films:
            points = [requests[i][1].operating_point for i in films]
            with self._all_cores():
                outputs, answers = self._judge(list(films.values()), points, watch)
            unlike = novelties(self.bundle, [film.looks for film in films.values()], _numpy(pooled(outputs)))
            for row, ((i, film), answer) in enumerate(zip(films.items(), answers, strict=True)):
                prediction = respond(self.bundle, film.film, answer, requests[i][1], unlike[row])
                maps = [m[row : row + 1] for m in outputs.features]
                try:
                    heatmaps = make_heatmaps(self.bundle, film, maps, answer, prediction, requests[i][1], watch.end)
                    results[i] = replace(prediction, heatmaps=heatmaps)
                except ImageError as error:
                    results[i] = error
        return [r for r in results if r is not None]

    def _alone(self, request: tuple[Path | bytes, Options]) -> Prediction | ImageError:
        try:
            return self.predict_each([request])[0]
        except MemoryError:
            return no_memory()

    def answer(self, films: Sequence[Radiograph]) -> list[Answer]:
        """All numbers for films already read."""
        return self.look(films).answers

    def look(self, films: Sequence[Radiograph | Admitted], operating_point: str | None = None) -> Looked:
        """The same with the logits that they come from; the door of evaluation and calibration.

        Args:
            films: to look at.
            operating_point: whose calls are to be exact; None where none is called. See ``compiled``.
        """
        size = self.bundle.image_size
        seen = [f if isinstance(f, Admitted) else Admitted(f, *to_input(f.pixels, size), None) for f in films]
        outputs, answers = self._judge(seen, [operating_point] * len(seen), Stopwatch())
        features = _numpy(pooled(outputs))
        unlike = novelties(self.bundle, [film.looks for film in seen], features)
        scores = np.array([film.score if film else np.nan for film in unlike])
        return Looked(answers, _numpy(outputs.findings), _numpy(outputs.hierarchy), features, scores)

    def _judge(
        self, films: Sequence[Admitted], points: Sequence[str | None], watch: Stopwatch
    ) -> tuple[Outputs, list[Answer]]:
        """One pass over all films, and a second in float32 over those whose call the first is too coarse for."""
        squares, boxes = [film.square for film in films], [film.box for film in films]
        with lap(watch.model):
            outputs = self._forward(squares, self._model)
            answers = self._answers(outputs, boxes)
        again = [
            row for row, (answer, at) in enumerate(zip(answers, points, strict=True)) if at and self._doubts(answer, at)
        ]
        if again:
            watch.again.append(len(again))
            with lap(watch.model):
                exact = self._forward([squares[row] for row in again], self._exact)
                replace_rows(outputs, again, exact)
                for row, answer in zip(again, self._answers(exact, [boxes[row] for row in again]), strict=True):
                    answers[row] = answer
        return outputs, answers

    def _doubts(self, answer: Answer, operating_point: str) -> bool:
        thresholds = self.bundle.operating_points[operating_point]
        return doubtful(answer.finding_probability, self.bundle.ontology.names, self._margins, thresholds)

    @torch.no_grad()
    def _forward(self, squares: Sequence[NDArray[np.uint8]], model: MultiTaskModel) -> Outputs:
        images = torch.from_numpy(np.stack(squares))[:, None].to(self._device)
        return judge(model, images, self.bundle.description.model.views)

    def _answers(self, outputs: Outputs, boxes: Sequence[Letterbox]) -> list[Answer]:
        bundle = self.bundle
        trained = np.array([name in bundle.trained for name in bundle.ontology.names])
        findings = bundle.findings_calibration.apply(_numpy(outputs.findings))
        parents, tree = bundle.ontology.parents_among(bundle.trained), bundle.description.model.tree
        own = bundle.hierarchy_calibration.apply(own_logits(_numpy(outputs.hierarchy), trained, parents, tree))
        hierarchy = compose(own, parents, tree)
        conditional = own if tree == "conditional" else decompose(hierarchy, parents)
        findings = either(findings, hierarchy)
        for table in (findings, conditional, hierarchy):
            table[:, ~trained] = np.nan
        proposed = [
            drawn + weak
            for drawn, weak in zip(self._boxes(outputs, boxes), self._weak_boxes(outputs, boxes), strict=True)
        ]
        return [Answer(*numbers) for numbers in zip(findings, hierarchy, conditional, proposed, strict=True)]

    def _boxes(self, outputs: Outputs, letterboxes: Sequence[Letterbox]) -> list[tuple[ScoredBox, ...]]:
        names = self.bundle.box_findings
        if not names:
            return [()] * len(letterboxes)
        # On the CPU: it is light, and asks for intermediate results dozens of times, which a GPU is slow to give.
        selected = select_boxes(
            flatten_levels(outputs.box_logits, len(names)).cpu(),
            flatten_levels(outputs.box_deltas, 4).cpu(),
            self._anchors,
            self.bundle.image_size,
        )
        return [
            _scored(letterbox, [names[d] for d in findings.tolist()], boxes.double().numpy(), scores.tolist())
            for letterbox, (boxes, scores, findings) in zip(letterboxes, selected, strict=True)
        ]

    @torch.no_grad()
    def _weak_boxes(self, outputs: Outputs, letterboxes: Sequence[Letterbox]) -> list[tuple[ScoredBox, ...]]:
        names = self.bundle.weak_box_findings
        if not names:
            return [()] * len(letterboxes)
        head = self.bundle.model.findings
        columns = [self.bundle.ontology.index(name) for name in names]
        boxes, scores = weak_boxes(head.places(head.normed(outputs.features))[:, columns], self.bundle.image_size)
        return [
            _scored(letterbox, names, film_boxes.astype(np.float64), film_scores.tolist(), weak=True)
            for letterbox, film_boxes, film_scores in zip(letterboxes, boxes, scores, strict=True)
        ]


def _scored(
    letterbox: Letterbox, names: Sequence[str], boxes: FloatTable, scores: Sequence[float], *, weak: bool = False
) -> tuple[ScoredBox, ...]:
    """Boxes of the input square, (K, 4), as boxes of the submitted film."""
    return tuple(
        ScoredBox(name, round(score, 6), (round(x1, 2), round(y1, 2), round(x2, 2), round(y2, 2)), weak)
        for name, score, (x1, y1, x2, y2) in zip(names, scores, letterbox.to_source(boxes).tolist(), strict=True)
    )


def _numpy(values: Tensor) -> FloatTable:
    return values.double().cpu().numpy()

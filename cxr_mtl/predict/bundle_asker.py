"""A bundle asked for many films; in a file of its own, for a rank that asks a server needs no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cxr_mtl.cores import num_cores
from cxr_mtl.data.read import read_frontal
from cxr_mtl.data.refuse import no_memory
from cxr_mtl.errors import ConfigError, ImageError
from cxr_mtl.predict.admit import Admitted, admit_film, novelties
from cxr_mtl.predict.askers import Results
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import out_of_memory
from cxr_mtl.predict.response import check_options, respond
from cxr_mtl.predict.shards import Rank
from cxr_mtl.predict.wire import name_of
from cxr_mtl.types import Options

MOST_READERS = 16


class BundleAsker:
    """Reads and admits films while the model judges others. Each rank of a machine takes its share of the cores.

    Raises:
        CheckpointError: the bundle cannot be loaded.
        ConfigError: an option is none of the model's.
    """

    def __init__(self, bundle: Path, options: Options, rank: Rank) -> None:
        gpus = torch.cuda.device_count()
        cores = max(1, num_cores() // rank.beside)
        crowded = rank.beside > 1 and not gpus and "OMP_NUM_THREADS" not in os.environ
        device = f"cuda:{rank.local % gpus}" if gpus else "cpu"
        self._predictor = LocalPredictor(bundle, device, cores if crowded else None)
        self._options = options
        self.threads = min(MOST_READERS, max(2, cores))
        self.model = {"sha256": self._predictor.bundle.sha256}
        try:
            check_options(self._predictor.bundle, options)
        except ImageError as error:
            raise ConfigError(error.message, hint=error.hint).on_all_ranks() from error

    def prepare(self, source: Path) -> Admitted | ImageError:
        """What the model sees of a film, or why it is not to."""
        try:
            seen = admit_film(self._predictor.bundle, read_frontal(source), source)
        except ImageError as error:
            return error
        except MemoryError:  # once for this film; passed on, it would end every run at this place
            return no_memory(name_of(source))
        # Of the pixels the size alone is needed from here on, and films wait: a zero of that size takes no memory.
        nothing = np.broadcast_to(np.float32(0), seen.film.pixels.shape)
        return replace(seen, film=replace(seen.film, pixels=nothing))

    def give_up(self) -> None:
        """A film is soon prepared."""

    def judge(self, prepared: Sequence[Admitted | ImageError]) -> Results:
        """As ``LocalPredictor.predict`` of the same films; one that finds no memory costs the others nothing."""
        try:
            return self._judge(prepared)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler above: while the error is at hand, so is all the memory that the batch took.
        return [self.judge([seen])[0] for seen in prepared] if len(prepared) > 1 else [no_memory()]

    def _judge(self, prepared: Sequence[Admitted | ImageError]) -> Results:
        bundle = self._predictor.bundle
        good = [seen for seen in prepared if isinstance(seen, Admitted)]
        if not good:
            return [seen for seen in prepared if isinstance(seen, ImageError)]
        looked = self._predictor.look(good, self._options.operating_point)
        unlike = novelties(bundle, [seen.looks for seen in good], looked.features)
        answers = (
            respond(bundle, seen.film, answer, self._options, novelty)
            for seen, answer, novelty in zip(good, looked.answers, unlike, strict=True)
        )
        return [seen if isinstance(seen, ImageError) else next(answers) for seen in prepared]

"""From pack and manifest to batches.  N films, B batch, C findings, D findings that can have a box, S input side.

The order of films is a pure function of seed and epoch, and each rank takes every world-th of them: a run that is
resumed at an epoch's start sees what the undisturbed one saw, and two ranks together see what one sees.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event, Thread

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cxr_mtl.config.learn import SamplingConfig
from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.pack import Pack
from cxr_mtl.data.sampling import epoch_draw, occurrence
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.types import Batch, Box

AS_THEY_COME = SamplingConfig()


@dataclass(frozen=True)
class Examples:
    """What training knows of each film of a manifest.

    Attributes:
        pack: the films.
        rows: (M,) rows of the manifest that are used, readable ones only.
        labels: (N, C) 0 to 1, nan unknown, after a label policy.
        boxes: N arrays (K, 4) xyxy in the input frame.
        box_findings: N arrays (K,) index into D.
        has_boxes: (N,) bool; somebody drew boxes on this film.
        absent_known: (N, D) bool; an unboxed region of the film is known not to show the finding.
        datasets: (N,) a number for each dataset.
        patients: (N,) a number for each patient.
    """

    pack: Pack
    rows: NDArray[np.int64]
    labels: NDArray[np.float32]
    boxes: list[NDArray[np.float32]]
    box_findings: list[NDArray[np.int64]]
    has_boxes: NDArray[np.bool_]
    absent_known: NDArray[np.bool_]
    datasets: NDArray[np.int64]
    patients: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(
        self, rows: NDArray[np.int64], step: NDArray[np.int64] | None = None, again: NDArray[np.int64] | None = None
    ) -> Batch:
        """Collect some rows of the manifest.

        Args:
            rows: (B,).
            step: those of the whole optimizer step, where there are more.
            again: (B,) how often the epoch has drawn each before; None where never.
        """
        draw = rows if again is None else rows + again * len(self.labels)
        return Batch(
            images=torch.from_numpy(self.pack.films(rows))[:, None],
            labels=torch.from_numpy(self.labels[rows]),
            boxes=[torch.from_numpy(self.boxes[r]) for r in rows],
            box_findings=[torch.from_numpy(self.box_findings[r]) for r in rows],
            has_boxes=torch.from_numpy(self.has_boxes[rows]),
            absent_known=torch.from_numpy(self.absent_known[rows]),
            index=torch.from_numpy(rows),
            draw=torch.from_numpy(draw),
            step=torch.from_numpy(rows if step is None else step),
        )


def make_examples(
    manifest: Manifest, pack: Pack, split: str, box_findings: Sequence[str], labels: NDArray[np.float32]
) -> Examples:
    """Everything training needs of one split.

    Args:
        manifest: all films, row for row those of the pack.
        pack: decoded films.
        split: ``train``, ``val`` or ``test``.
        box_findings: the D findings boxes are learned for; boxes of others are left out.
        labels: (N, C) targets to learn from, or labels to measure by; see ``data.policy``.
    """
    column = [manifest.ontology.index(name) for name in box_findings]
    order = {name: d for d, name in enumerate(box_findings)}
    boxes, findings = [], []
    has_boxes = np.zeros(len(manifest), dtype=bool)
    absent_known = labels[:, column] == 0
    # Only for the findings that the film's own dataset draws: RSNA's boxes are all there are of pneumonia, no more.
    exhaustive = manifest.boxed_exhaustively(box_findings)
    absent_known |= exhaustive
    for row, (drawn, width, height) in enumerate(_box_rows(manifest)):
        kept = [b for b in drawn if b.finding in order]
        xyxy = np.array([b.xyxy for b in kept], dtype=np.float32).reshape(-1, 4)
        if len(kept):
            xyxy = Letterbox(width, height, pack.side).to_input(xyxy).astype(np.float32)
        boxes.append(xyxy)
        findings.append(np.array([order[b.finding] for b in kept], dtype=np.int64))
        # A film whose only boxes are of findings left out says nothing of the D, unless its boxes are all there are.
        has_boxes[row] = bool(kept) or exhaustive[row].any()
        absent_known[row, [order[b.finding] for b in kept]] = True
    rows = np.flatnonzero((manifest.table["split"] == split).to_numpy() & pack.usable)
    return Examples(
        pack,
        rows.astype(np.int64),
        labels,
        boxes,
        findings,
        has_boxes,
        absent_known,
        datasets=_codes(manifest.table["dataset"].to_numpy(str)),
        patients=_codes(manifest.patient_ids.astype(str)),
    )


def _codes(names: NDArray[np.str_]) -> NDArray[np.int64]:
    return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)


def _box_rows(manifest: Manifest) -> Iterator[tuple[Sequence[Box], int, int]]:
    table = manifest.table
    for row, (width, height) in enumerate(zip(table["width"], table["height"], strict=True)):
        drawn = manifest.boxes(row)
        if drawn and (pd.isna(width) or pd.isna(height)):
            raise DataError(
                f"{table['image_path'].iat[row]} has boxes, but the manifest lacks their frame (width, height).",
                hint="See: cxr-mtl data doctor.",
            )
        yield drawn, int(width) if drawn else 0, int(height) if drawn else 0


def train_batches(
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    sampling: SamplingConfig = AS_THEY_COME,
    start: int = 0,
) -> Iterator[Batch]:
    """One epoch of training batches; the last films that fill no batch are left for another epoch's order.

    Args:
        examples: of the training split.
        batch_size: films of this rank in one forward pass.
        accumulate: forward passes of one optimizer step.
        sampling: which films are drawn.
        start: batches that were learned already, and are not collected again.
    """
    rows = examples.rows
    drawn = epoch_draw(examples.datasets[rows], examples.patients[rows], examples.labels[rows], sampling, seed, epoch)
    order = rows[drawn]
    again = occurrence(drawn)
    together = batch_size * world
    for first in range(start * together, len(order) - together + 1, together):
        step = order[first - first % (together * accumulate) :][: together * accumulate]
        mine = slice(first + rank, first + together, world)
        yield examples.batch(order[mine], step, again[mine])


def share_out(examples: Examples, batch_size: int, accumulate: int = 1, world: int = 1) -> tuple[int, int]:
    """How an epoch is shared: films of a rank's forward pass, and forward passes of each rank.

    Whole optimizer steps only: a rest of forward passes would leak into the next epoch.

    Args:
        examples: of the training split.
        batch_size: films of an optimizer step, over all ranks and forward passes.
        accumulate: forward passes of an optimizer step.
        world: ranks.

    Raises:
        ConfigError: there are too few films for one step.
    """
    steps = len(examples) // batch_size
    if not steps:
        raise ConfigError(f"train.batch_size: {batch_size} is more than the {len(examples)} training films.")
    return batch_size // (world * accumulate), steps * accumulate


def eval_batches(examples: Examples, *, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Every film exactly once over all ranks; the last batches may be short or, for some rank, missing."""
    mine = examples.rows[rank::world]
    for start in range(0, len(mine), batch_size):
        yield examples.batch(mine[start : start + batch_size])


def prefetch(batches: Iterable[Batch], *, ahead: int = 2, pin: bool = False) -> Generator[Batch, None, None]:
    """The same batches in the same order, collected in a thread while the network works on those before.

    One thread is enough: collecting is copying, and waits for the disk, neither of which holds Python's lock. Close the
    generator to end the thread early. MONAI's ThreadDataLoader is not used, because an error in its thread looks like
    the end of the epoch.

    Args:
        batches: what to collect.
        ahead: batches that wait ready.
        pin: put images and labels where a GPU can fetch them by itself, while it computes.

    Raises:
        whatever collecting raises, where its batch would have been.
    """
    ready: Queue[Batch | BaseException | None] = Queue(ahead)
    closed = Event()

    def put(item: Batch | BaseException | None) -> None:
        while not closed.is_set():
            with suppress(Full):
                ready.put(item, timeout=0.1)
                return

    def collect() -> None:
        try:
            for batch in batches:
                put(_pinned(batch) if pin else batch)
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = Thread(target=collect, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()


def _pinned(batch: Batch) -> Batch:
    for name in ("images", "labels", "has_boxes", "absent_known"):
        setattr(batch, name, getattr(batch, name).pin_memory())
    return batch

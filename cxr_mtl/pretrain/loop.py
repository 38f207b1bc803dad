"""Pretraining from the first film to the encoder that `train` starts from: read this file first.

DINO (Caron et al., 2021): a student learns to say of any crop of a film what its teacher says of another; the teacher
is the running mean of the student. Loss, head and mean are lightly's.

A run folder holds  config.yaml  split.csv  log.jsonl  encoder.safetensors (the teacher's)  checkpoints/ (to resume
from). Everything random is a function of seed, epoch, batch, rank and film, so a run that was killed and resumed at any
step goes the way the undisturbed one would have gone.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from cxr_mtl.config import PretrainConfig, RunConfig
from cxr_mtl.data.chance import seed_of
from cxr_mtl.data.loader import Examples, prefetch, share_out, train_batches
from cxr_mtl.engine.distributed import device, gather, mean_over_ranks, ranks, together
from cxr_mtl.engine.engine import DIVERGED, Engine, check_finite
from cxr_mtl.engine.journal import Journal, stated
from cxr_mtl.engine.keeper import Keeper
from cxr_mtl.engine.schedule import warm_cosine
from cxr_mtl.engine.settings import deepspeed_settings
from cxr_mtl.errors import ConfigError, EngineError
from cxr_mtl.model.multitask import normalise
from cxr_mtl.pretrain.crops import make_crops
from cxr_mtl.pretrain.films import make_films
from cxr_mtl.pretrain.network import follow, make_pair
from cxr_mtl.pretrain.probe import Floats, look, pixel_features
from cxr_mtl.pretrain.record import ENCODER, LOG, MAY_DIFFER, save_encoder
from cxr_mtl.pretrain.watch import check_collapse, effective_rank, sureness, watch
from cxr_mtl.types import Batch

logger = logging.getLogger("cxr_mtl.pretrain")

TEACHER = "teacher.safetensors"
# The loss's centre, and what was said in the epoch under way: beside the teacher's weights, whose names all have a dot.
CENTER, SAID = "center", "said"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pretrain(config: RunConfig, *, resume: bool = False) -> Path:
    """Pretrain an encoder; gives its file.

    Args:
        config: the run; without a ``pretrain`` section it has that section's defaults.
        resume: go on from the newest whole checkpoint.

    Raises:
        ConfigError: the run exists already, or a setting does not fit.
        DataError: the films do not do.
        CheckpointError: nothing to resume from, or it does not fit.
        EngineError: another rank, the disk or the loss failed; the last checkpoint is whole.
        Stopped: a signal asked for it, and a checkpoint was written.
        CollapseError: the teacher no longer tells films apart.
    """
    config = config.model_copy(update={"pretrain": config.pretrain or PretrainConfig()})
    with ranks() as (rank, world):
        run = Run(config, rank, world)
        first, done = run.restore() if resume else run.begin()
        with run.keeper.stop:
            for epoch in range(first, config.train.epochs):
                run.learn(epoch, done)
                run.keep(epoch)
                done = 0
        return config.folder / ENCODER


class Run:
    """One rank of a pretraining run."""

    def __init__(self, config: RunConfig, rank: int, world: int) -> None:
        self.config, self.rank, self.world = config, rank, world
        self.settings = config.pretrain or PretrainConfig()
        self.main = rank == 0
        deepspeed_settings(config.train, world)  # refuse what cannot be shared out before films are decoded
        if config.train.zero_stage == 3:
            raise ConfigError("train.zero_stage: the teacher follows whole weights; ZeRO stage 3 has none, so take 1.")
        self.films = make_films(config, main=self.main)
        steps = config.train
        self.micro_batch, self.batches = share_out(self.films.train, steps.batch_size, steps.accumulate, world)
        torch.manual_seed(config.seed)
        self.student, self.teacher = make_pair(config.model, self.settings)
        self.teacher.to(device())
        from lightly.loss import DINOLoss, KoLeoLoss  # seconds to import

        temperature = self.settings.teacher_temperature
        self.loss = DINOLoss(
            self.settings.prototypes,
            teacher_temp=temperature,
            student_temp=self.settings.student_temperature,
            center_momentum=self.settings.center_momentum,
        ).to(device())
        self.apart = KoLeoLoss()
        schedule = warm_cosine(config.train, self.batches // config.train.accumulate)
        self.engine = Engine(self.student, config.train, world, schedule)
        self.keeper = Keeper("pretrain", config, self.films.manifest, self.engine, rank, world, may_differ=MAY_DIFFER)
        self.journal = Journal(config.folder / LOG) if self.main else None
        self.said: list[tuple[float, float]] = []  # information and agreement of each pass of the epoch under way
        self.information = self.agreement = math.nan  # means of the last epoch

    def begin(self) -> tuple[int, int]:
        """Make the run folder and look at the films with random weights; gives the first epoch, and 0 batches of it."""
        self.keeper.begin()
        if self.journal:
            self.journal.start()
        self.look(0)
        return 0, 0

    def restore(self) -> tuple[int, int]:
        """Load the newest whole checkpoint; gives the epoch to go on with, and how many of its batches are learned."""
        checkpoint, progress = self.keeper.restore()
        state = load_file(checkpoint / TEACHER, device=str(device()))
        self.loss.center.copy_(state.pop(CENTER))
        self.said = [(information, agreement) for information, agreement in state.pop(SAID).tolist()]
        self.teacher.load_state_dict(state)
        if self.journal:
            self.journal.resume(progress.epochs, self.engine.steps)
        return progress.epochs, progress.batches

    def learn(self, epoch: int, done: int) -> None:
        """The steps of an epoch, but for its first ``done`` batches."""
        config, engine = self.config, self.engine
        engine.train_mode()
        self.student.head_learns = epoch >= self.settings.freeze_head_epochs
        order = train_batches(
            self.films.train,
            batch_size=self.micro_batch,
            seed=config.seed,
            epoch=epoch,
            rank=self.rank,
            world=self.world,
            start=done,
        )
        started = time.monotonic()
        title = f"epoch {epoch + 1}/{config.train.epochs}"
        with (
            tqdm(total=self.batches, initial=done, desc=title, disable=None if self.main else True, leave=False) as bar,
            closing(prefetch(order, pin=device().type == "cuda")) as batches,
        ):
            for number in range(done, self.batches):
                batch = next(batches)
                torch.manual_seed(seed_of(config.seed, epoch, number, self.rank))  # drop path
                step = engine.steps + 1
                figures = self._step(batch, epoch)
                self.said.append((figures["information"], figures["agreement"]))
                pace = (number + 1 - done) * self.micro_batch * self.world / (time.monotonic() - started)
                bar.set_postfix_str(
                    f"loss {figures['loss']:.3f} information {figures['information']:.3f} {pace:.0f} images/s"
                )
                bar.update()
                self._note("step", epoch + 1, step=step, lr=engine.lr, **figures)
                if engine.steps == step and self.keeper.due():
                    self._check_weights()
                    self._save(epoch, number + 1)
                    self.keeper.leave_if_asked()

    def keep(self, epoch: int) -> None:
        """Stop where the teacher has collapsed; otherwise write its encoder and a checkpoint."""
        epochs = epoch + 1
        self._check_weights()
        self.information, self.agreement = np.mean(self.said, axis=0).tolist()
        self.said.clear()
        rank = self.look(epochs)
        check_collapse(self.settings, epochs, self.information, rank)
        weights, file = self.teacher.encoder.net.state_dict(), self.config.folder / ENCODER
        together(
            lambda: save_encoder(weights, self.config.model, epochs, file) if self.main else None,
            disk=f"{ENCODER} was not written",
        )
        self._save(epochs, 0)

    def look(self, epochs: int) -> float:
        """Tell how the teacher does after some epochs, and every few how much its features know; gives their rank."""
        self.teacher.eval()
        every = self.settings.probe_every
        due = epochs in (0, self.config.train.epochs) or bool(every and epochs % every == 0)
        shown = self._features_of(self.films.shown)
        rank = gather(effective_rank(torch.from_numpy(shown)))[0]
        text = f"effective rank {rank:.1f}"
        figures = {"information": self.information, "agreement": self.agreement, "rank": rank}
        if epochs:
            text = f"information {self.information:.3f}, agreement {self.agreement:.3f}, {text}"
        if due and (probe := self.films.probe):
            known, judged = self._features_of(probe.known), self._features_of(probe.judged)
            figures["auroc"] = probe.score(known, judged, self.settings.neighbours)
            text += f", AUROC by neighbours {figures['auroc']:.3f}"
            if not epochs and self.main:
                figures["pixels_auroc"] = probe.score(
                    *pixel_features(probe.known, probe.judged), self.settings.neighbours
                )
                text += f", by neighbours in pixels {figures['pixels_auroc']:.3f}"
        if self.main:
            logger.info("epoch %d/%d: %s", epochs, self.config.train.epochs, text)
        self._note("epoch", epochs, **figures)
        return float(rank)

    def _check_weights(self) -> None:
        """Before the teacher is looked at or saved: a step after a good loss can spoil both networks."""
        with self.engine.whole_weights() as student:
            state = [*student.values(), *self.teacher.state_dict().values(), self.loss.center]
            check_finite("A weight", state, self.engine.steps)

    def _save(self, epochs: int, batches: int) -> None:
        said = torch.tensor(self.said, dtype=torch.float64).reshape(-1, 2)

        def add_ours(checkpoint: Path) -> None:
            save_file(self.teacher.state_dict() | {CENTER: self.loss.center, SAID: said}, checkpoint / TEACHER)

        self.keeper.save(epochs, batches, add_ours)

    def _note(self, event: str, epoch: int, *, step: int | None = None, **figures: float) -> None:
        """A line of the journal; epochs are counted from 1, and 0 is before the first."""
        if self.journal:
            counted = {"event": event, "epoch": epoch} | ({} if step is None else {"step": step})
            self.journal.write(counted | stated(figures))

    def _step(self, batch: Batch, epoch: int) -> dict[str, float]:
        """One forward pass of both networks, and the student's way back."""
        films = batch.images.to(device(), non_blocking=True)
        large, small = make_crops(
            films,
            batch.index.numpy(),
            self.settings.crops,
            self.config.augment,
            seed=self.config.seed,
            epoch=epoch,
        )
        crops = [normalise(torch.cat(same)) for same in (large, small) if same]
        self.teacher.train()
        with torch.no_grad(), self._autocast():
            _, taught = self.teacher(self.engine.arrange(crops[:1]))
        features, said = self.engine(crops)
        p = torch.softmax((taught - self.loss.center[0]) / self.settings.teacher_temperature, 1)
        loss = self.loss(list(taught.chunk(len(large))), list(said.chunk(len(large) + len(small))))
        total = loss
        if self.settings.spread:
            views = features[: len(taught)].chunk(len(large))
            total = loss + self.settings.spread * torch.stack([self.apart(view) for view in views]).mean()
        if self.engine.backward_and_step(total):
            follow(self.teacher, self.engine.module, self._momentum(self.engine.steps))
        mean = mean_over_ranks(torch.cat([total[None].detach(), loss[None].detach(), sureness(p)]))
        if not mean[:2].isfinite().all():
            what = f"The loss is no longer a number (epoch {epoch + 1}, step {self.engine.steps})."
            raise EngineError(what, hint=DIVERGED).on_all_ranks()
        seen = watch(mean[2:], len(taught) * self.world)
        return {
            "loss": float(mean[1]),
            "entropy": seen.entropy,
            "mean_entropy": seen.mean_entropy,
            "information": seen.information,
            "agreement": seen.agreement(float(mean[1])),
        }

    def _features_of(self, films: Examples) -> Floats:
        def features(images: Tensor) -> Tensor:
            with self._autocast():
                return self.teacher.features(self.engine.arrange(normalise(images.to(device()))))

        found = look(features, films, rank=self.rank, world=self.world)
        check_finite("A feature of the teacher", [torch.from_numpy(found)], self.engine.steps)
        return found

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self.config.train.precision]
        return torch.autocast(device().type, dtype, enabled=dtype != torch.float32)

    def _steps(self) -> int:
        return self.config.train.epochs * self.batches // self.config.train.accumulate

    def _momentum(self, step: int) -> float:
        from lightly.utils.scheduler import cosine_schedule

        return float(cosine_schedule(min(step, self._steps()), self._steps(), self.settings.teacher_momentum, 1.0))

"""Pretraining from the first film to the encoder that `train` starts from: read this file first.

DINO (Caron et al., 2021): a student learns to say of any crop of a film what its teacher says of another; the teacher
is the running mean of the student. Loss, head and mean are lightly's.

A run folder holds  config.yaml  split.csv  log.jsonl  encoder.safetensors (the teacher's)  checkpoints/ (to resume
from). Everything random is a function of seed, epoch, rank and film, so a run that was killed and resumed goes the way
the undisturbed one would have gone.
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

from cxr_mtl.config import PretrainConfig, RunConfig, save_config
from cxr_mtl.data.chance import seed_of
from cxr_mtl.data.loader import Examples, prefetch, share_out, train_batches
from cxr_mtl.data.split import split_hash
from cxr_mtl.data.split_file import save_split
from cxr_mtl.engine.checkpoint import latest_tag
from cxr_mtl.engine.distributed import device, gather, mean_over_ranks, ranks, together
from cxr_mtl.engine.engine import DIVERGED, Engine
from cxr_mtl.engine.schedule import warm_cosine
from cxr_mtl.engine.settings import deepspeed_settings
from cxr_mtl.errors import CheckpointError, ConfigError, EngineError
from cxr_mtl.model.multitask import normalise
from cxr_mtl.pretrain.crops import make_crops
from cxr_mtl.pretrain.films import make_films
from cxr_mtl.pretrain.network import follow, make_pair
from cxr_mtl.pretrain.probe import Floats, look, pixel_features
from cxr_mtl.pretrain.record import (
    CHECKPOINTS,
    CONFIG,
    ENCODER,
    LOG,
    Log,
    find_checkpoint,
    save_encoder,
    save_settings,
)
from cxr_mtl.pretrain.watch import check_collapse, effective_rank, sureness, watch
from cxr_mtl.types import Batch

logger = logging.getLogger("cxr_mtl.pretrain")

SPLIT, TEACHER = "split.csv", "teacher.safetensors"
CENTER = "center"  # of the loss; lies beside the teacher's weights, whose names all have a dot
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pretrain(config: RunConfig, *, resume: bool = False) -> Path:
    """Pretrain an encoder; gives its file.

    Args:
        config: the run; without a ``pretrain`` section it has that section's defaults.
        resume: go on from the newest whole checkpoint.

    Raises:
        ConfigError: the run exists already, a setting does not fit, or the loss is no number any more.
        DataError: the films do not do.
        CheckpointError: nothing to resume from, or it does not fit.
        CollapseError: the teacher no longer tells films apart.
    """
    config = config.model_copy(update={"pretrain": config.pretrain or PretrainConfig()})
    with ranks() as (rank, world):
        run = Run(config, rank, world)
        first = run.restore() if resume else run.begin()
        for epoch in range(first, config.train.epochs):
            run.learn(epoch)
            run.keep(epoch)
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
        self.log: Log | None = None
        self.information = self.agreement = math.nan  # of the last epoch's steps

    def begin(self) -> int:
        """Make the run folder and look at the films with random weights; gives the first epoch."""
        folder = self.config.folder
        if latest_tag(folder / CHECKPOINTS) is not None:
            raise ConfigError(
                f"{folder} holds a run already.", hint="Go on with --resume, choose another name, or remove the folder."
            )

        def make() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            save_config(self.config, folder / CONFIG)
            save_split(self.films.manifest, folder / SPLIT)
            self.log = Log(folder / LOG, 0)

        together(make if self.main else lambda: None)
        self.look(0)
        return 0

    def restore(self) -> int:
        """Load the newest checkpoint; gives the epoch to go on with."""
        split = split_hash(self.films.manifest)
        found = together(
            lambda: find_checkpoint(self.config, split, self.world) if self.main else None, raised=CheckpointError
        )
        checkpoint, finished = gather(found)[0]  # what the first rank found, for all of them
        epochs = int(finished)
        self.engine.load(checkpoint)
        state = load_file(checkpoint / TEACHER, device=str(device()))
        self.loss.center.copy_(state.pop(CENTER))
        self.teacher.load_state_dict(state)
        if self.main:
            self.log = Log(self.config.folder / LOG, epochs)
        return epochs

    def learn(self, epoch: int) -> None:
        """One epoch of steps."""
        config = self.config
        torch.manual_seed(seed_of(config.seed, epoch, self.rank))  # drop path
        self.engine.train_mode()
        self.student.head_learns = epoch >= self.settings.freeze_head_epochs
        order = train_batches(
            self.films.train,
            batch_size=self.micro_batch,
            seed=config.seed,
            epoch=epoch,
            rank=self.rank,
            world=self.world,
        )
        started, said = time.monotonic(), []  # information and agreement of each step
        title = f"epoch {epoch + 1}/{config.train.epochs}"
        with (
            tqdm(total=self.batches, desc=title, disable=None if self.main else True, leave=False) as bar,
            closing(prefetch(order, pin=device().type == "cuda")) as batches,
        ):
            for done, batch in zip(range(1, self.batches + 1), batches, strict=False):
                figures = self._step(batch, epoch)
                said.append((figures["information"], figures["agreement"]))
                pace = done * self.micro_batch * self.world / (time.monotonic() - started)
                bar.set_postfix_str(f"loss {figures['loss']:.3f} information {said[-1][0]:.3f} {pace:.0f} images/s")
                bar.update()
                if self.log:
                    self.log.write("step", epoch + 1, step=self.engine.steps, lr=self.engine.lr, **figures)
        self.information, self.agreement = np.mean(said, axis=0).tolist()

    def keep(self, epoch: int) -> None:
        """Stop where the teacher has collapsed; otherwise write its encoder and a checkpoint."""
        epochs = epoch + 1
        rank = self.look(epochs)
        check_collapse(self.settings, epochs, self.information, rank)
        folder = self.config.folder

        def add_ours(checkpoint: Path) -> None:
            save_file(self.teacher.state_dict() | {CENTER: self.loss.center}, checkpoint / TEACHER)
            save_settings(self.config, split_hash(self.films.manifest), self.world, epochs, checkpoint)

        weights = self.teacher.encoder.net.state_dict()
        together(
            lambda: save_encoder(weights, self.config.model, epochs, folder / ENCODER) if self.main else None,
            disk=f"{ENCODER} was not written",
        )
        self.engine.save(folder / CHECKPOINTS, f"epoch{epochs:04d}", add_ours, main=self.main)

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
        if self.log:
            logger.info("epoch %d/%d: %s", epochs, self.config.train.epochs, text)
            self.log.write("epoch", epochs, **figures)
        return float(rank)

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
            _, taught = self.teacher(crops[:1])
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
                return self.teacher.features(normalise(images.to(device())))

        return look(features, films, rank=self.rank, world=self.world)

    def _autocast(self) -> torch.autocast:
        dtype = DTYPES[self.config.train.precision]
        return torch.autocast(device().type, dtype, enabled=dtype != torch.float32)

    def _steps(self) -> int:
        return self.config.train.epochs * self.batches // self.config.train.accumulate

    def _momentum(self, step: int) -> float:
        from lightly.utils.scheduler import cosine_schedule

        return float(cosine_schedule(min(step, self._steps()), self._steps(), self.settings.teacher_momentum, 1.0))

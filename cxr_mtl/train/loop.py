"""Training from the first film to the finished bundle: read this file first.

A run folder holds  config.yaml  split.csv  log.jsonl  best/ (a bundle)  checkpoints/ (to resume from), and weights.json
where it did not start from random weights.
Everything random is a function of seed, epoch and rank, so a run that was killed and resumed goes the way the
undisturbed one would have gone.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from cxr_mtl.bundle import CARD, SPLIT, save_bundle
from cxr_mtl.card import model_card
from cxr_mtl.config import RunConfig, save_config
from cxr_mtl.data.augment import augment
from cxr_mtl.data.loader import num_batches, prefetch, train_batches
from cxr_mtl.data.split import split_hash
from cxr_mtl.data.split_file import split_text
from cxr_mtl.engine.distributed import barrier, device, mean_over_ranks, ranks
from cxr_mtl.engine.engine import Engine, latest_tag
from cxr_mtl.engine.settings import deepspeed_settings
from cxr_mtl.errors import ConfigError
from cxr_mtl.model.multitask import MultiTaskModel, make_model, normalise
from cxr_mtl.train.ema import WeightMean
from cxr_mtl.train.fit import Scores, describe, provenance, score
from cxr_mtl.train.log import RunLog
from cxr_mtl.train.objective import HEADS, Objective
from cxr_mtl.train.progress import CHECKPOINTS, Progress, find_checkpoint, save_progress
from cxr_mtl.train.start import start_from
from cxr_mtl.train.study import Study, make_study, positive_weights, prior_logits
from cxr_mtl.train.validate import look

logger = logging.getLogger("cxr_mtl.train")

BEST, LOG, CONFIG, WEIGHTS_REPORT = "best", "log.jsonl", "config.yaml", "weights.json"
MEAN_FILE, BALANCE_FILE = "weight_mean.safetensors", "balance.safetensors"


def train(config: RunConfig, *, resume: bool = False) -> Path:
    """Train a run; gives the folder of its best bundle.

    Args:
        config: the run.
        resume: go on from the newest whole checkpoint.

    Raises:
        ConfigError: the run exists already, or the loss is no number any more.
        DataError: the films or their labels do not do.
        CheckpointError: nothing to resume from, or it does not fit.
    """
    with ranks() as (rank, world):
        run = Run(config, rank, world)
        first = run.restore() if resume else run.begin()
        for epoch in range(first, config.train.epochs):
            run.learn(epoch)
            run.keep(epoch)
        return config.folder / BEST


class Run:
    """One rank of a training run."""

    def __init__(self, config: RunConfig, rank: int, world: int) -> None:
        self.config, self.rank, self.world = config, rank, world
        self.main = rank == 0
        deepspeed_settings(config.train, world)  # refuse what cannot be shared out before films are decoded
        self.study = make_study(config, main=self.main)
        self.micro_batch = config.train.batch_size // (world * config.train.accumulate)
        batches = num_batches(self.study.train, self.micro_batch, world)
        # Whole optimizer steps only: a rest of forward passes would leak into the next epoch.
        self.batches = batches - batches % config.train.accumulate
        if not self.batches:
            raise ConfigError(
                f"train.batch_size: {config.train.batch_size} is more than the {len(self.study.train)} training films."
            )
        torch.manual_seed(config.seed)
        model = make_model(
            config.model,
            len(self.study.manifest.ontology.names),
            len(self.study.box_findings),
            weights=config.model.weights,
        )
        _set_priors(model, self.study)
        self.start = start_from(model, config.model, self.study)
        self.judge = make_model(
            config.model.model_copy(update={"pretrained": False}),
            len(self.study.manifest.ontology.names),
            len(self.study.box_findings),
        ).to(device())
        self.objective = Objective(
            config.loss,
            self.study.parents,
            len(self.study.box_findings),
            config.model.image_size,
            self.study.train.labels,
            self.study.train.has_boxes,
            tree=config.model.tree,
            positives=positive_weights(self.study.train.labels[self.study.train.rows], config.loss.positives),
        ).to(device())
        self.engine = Engine(model, config.train, world, self._schedule)
        with self.engine.whole_weights() as weights:
            self.mean = WeightMean(weights, config.train.ema)
        self.log = RunLog(config.folder / LOG) if self.main else None
        self.best = -math.inf

    def begin(self) -> int:
        """Make the run folder; gives the first epoch."""
        folder = self.config.folder
        if latest_tag(folder / CHECKPOINTS) is not None:
            raise ConfigError(
                f"{folder} holds a run already.", hint="Go on with --resume, choose another name, or remove the folder."
            )
        if self.main:
            folder.mkdir(parents=True, exist_ok=True)
            save_config(self.config, folder / CONFIG)
            (folder / SPLIT).write_text(self._split_csv())
            if self.start:
                self.start.save(folder / WEIGHTS_REPORT)
                logger.info("weights: %s", self.start)
        if self.log:
            self.log.start()
        barrier()
        return 0

    def restore(self) -> int:
        """Load the newest checkpoint; gives the epoch to go on with."""
        checkpoint, progress = find_checkpoint(self.config, split_hash(self.study.manifest), self.world)
        self.engine.load(checkpoint)
        self.mean.load(load_file(checkpoint / MEAN_FILE, device=str(device())))
        self.objective.load_state_dict(load_file(checkpoint / BALANCE_FILE, device=str(device())))
        self.best = progress.best
        if self.log:
            self.log.resume(progress.epochs)
        return progress.epochs

    def learn(self, epoch: int) -> None:
        """One epoch of steps."""
        config, engine = self.config, self.engine
        torch.manual_seed(_seed(config.seed, epoch, self.rank))  # drop path, dropout, anchor sampling
        engine.train_mode()
        started, films = time.monotonic(), 0
        order = train_batches(
            self.study.train,
            batch_size=self.micro_batch,
            seed=config.seed,
            epoch=epoch,
            rank=self.rank,
            world=self.world,
            accumulate=config.train.accumulate,
            sampling=config.train.sampling,
        )
        anchors = _seed(config.seed, epoch)
        conditional = epoch < config.loss.conditional * config.train.epochs
        title = f"epoch {epoch + 1}/{config.train.epochs}"
        with (
            tqdm(total=self.batches, desc=title, disable=None if self.main else True, leave=False) as bar,
            closing(prefetch(order, pin=device().type == "cuda")) as batches,
        ):
            for _, batch in zip(range(self.batches), batches, strict=False):
                batch = augment(batch, config.augment, seed=config.seed, epoch=epoch, device=device())
                batch = _to(batch, device())
                outputs = engine(normalise(batch.images), self.objective.box_rows(batch))
                losses = self.objective(outputs, batch, seed=anchors, conditional=conditional)
                if engine.backward_and_step(losses["total"]):
                    with engine.whole_weights() as weights:
                        self.mean.update(weights, engine.steps)
                shown = self._check(losses, epoch)
                films += self.micro_batch * self.world
                pace = films / (time.monotonic() - started)
                bar.set_postfix_str(" ".join(f"{h} {shown[h]:.3f}" for h in HEADS) + f" {pace:.0f} images/s")
                bar.update()
                if self.log:
                    self.log.step(epoch, engine.steps, engine.lr, shown, pace)

    def keep(self, epoch: int) -> None:
        """Validate the mean of the weights, keep the best as a bundle, and write a checkpoint."""
        self.judge.load_state_dict(self.mean.mean)
        seen = look(
            self.judge,
            self.study.val,
            len(self.study.box_findings),
            views=self.config.model.views,
            rank=self.rank,
            world=self.world,
        )
        scores = score(seen, self.study, self.config.loss)
        better = not scores.chosen_by <= self.best  # so that the last is kept where nothing could be measured
        self.best = max(self.best, scores.chosen_by)
        if self.main and self.log:
            if better:
                description = describe(seen, self.study, self.config)
                start = {"started_from": str(self.start or "random weights")}
                card = model_card(description, provenance(self.study, "train") | start)
                files = {SPLIT: self._split_csv(), CARD: card}
                save_bundle(self.config.folder / BEST, description, self.mean.mean, files)
            self._tell(epoch, self.log.epoch(epoch, scores.to_dict(), best=better), scores, better)
        progress = Progress(epoch + 1, self.best, split_hash(self.study.manifest), self.world)

        def add_ours(checkpoint: Path) -> None:
            save_file(self.mean.mean, checkpoint / MEAN_FILE)
            save_file(self.objective.state_dict(), checkpoint / BALANCE_FILE)
            save_progress(progress, self.config, checkpoint)

        self.engine.save(self.config.folder / CHECKPOINTS, f"epoch{epoch + 1:04d}", add_ours, main=self.main)

    def _schedule(self, step: int) -> float:
        """Linear warm-up, then half a cosine to a hundredth."""
        steps_an_epoch = self.batches // self.config.train.accumulate
        warm = self.config.train.warmup_epochs * steps_an_epoch
        if step < warm:
            return (step + 1) / (warm + 1)
        whole = max(1.0, self.config.train.epochs * steps_an_epoch - warm)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / whole)))

    def _check(self, losses: dict[str, Any], epoch: int) -> dict[str, float]:
        """Losses as numbers, averaged over ranks; stops a run that has gone wrong."""
        names = [*HEADS, "total"]
        values = mean_over_ranks(torch.stack([losses[name] for name in names])).tolist()
        if not all(map(math.isfinite, values)):
            raise ConfigError(
                f"The loss is no longer a number (epoch {epoch + 1}, step {self.engine.steps}).",
                hint="Lower train.lr or use train.precision=fp32, and go on with --resume.",
            )
        return dict(zip(names, values, strict=True))

    def _tell(self, epoch: int, loss: float, scores: Scores, better: bool) -> None:
        logger.info(
            "epoch %d/%d: loss %.4f%s%s",
            epoch + 1,
            self.config.train.epochs,
            loss,
            scores.in_words(),
            " (best)" if better else "",
        )

    def _split_csv(self) -> str:
        return split_text(self.study.manifest)


def _set_priors(model: MultiTaskModel, study: Study) -> None:
    labels = study.train.labels[study.train.rows]
    for head, bias in zip((model.findings, model.hierarchy), prior_logits(labels, study.parents), strict=True):
        head.linear.bias.data.copy_(torch.from_numpy(bias))


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _to(batch: Any, target: torch.device) -> Any:
    for name in ("images", "labels", "has_boxes", "absent_known"):
        setattr(batch, name, getattr(batch, name).to(target, non_blocking=True))
    batch.boxes = [b.to(target) for b in batch.boxes]
    batch.box_findings = [f.to(target) for f in batch.box_findings]
    return batch

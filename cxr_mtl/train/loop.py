"""Training from the first film to the finished bundle: read this file first.

A run folder holds  config.yaml  split.csv  log.jsonl  tensorboard/  best/ (a bundle)  checkpoints/ (to resume from),
and weights.json where it did not start from random weights.
Everything random is a function of seed, epoch, batch and rank, so a run that was killed and resumed at any step goes
the way the undisturbed one would have gone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Set
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cxr_mtl.bundle import CARD, SPLIT, save_bundle
from cxr_mtl.card import model_card
from cxr_mtl.config import RunConfig
from cxr_mtl.data.augment import augment
from cxr_mtl.data.chance import seed_of
from cxr_mtl.data.loader import prefetch, share_out, train_batches
from cxr_mtl.data.split_file import split_text
from cxr_mtl.engine.distributed import device, ranks, together
from cxr_mtl.engine.engine import Engine, check_finite
from cxr_mtl.engine.keeper import Keeper
from cxr_mtl.engine.progress import MAY_DIFFER
from cxr_mtl.engine.schedule import warm_cosine
from cxr_mtl.engine.settings import deepspeed_settings
from cxr_mtl.model.multitask import MultiTaskModel, make_model, normalise
from cxr_mtl.train.ema import WeightMean
from cxr_mtl.train.fit import Doorkeeper, Scores, describe, fit_doorkeeper, gate_files, provenance, score
from cxr_mtl.train.log import RunLog
from cxr_mtl.train.meter import Meter
from cxr_mtl.train.objective import Objective
from cxr_mtl.train.start import start_from
from cxr_mtl.train.study import Study, make_study, positive_weights, prior_logits
from cxr_mtl.train.validate import Seen, look

logger = logging.getLogger("cxr_mtl.train")

BEST, WEIGHTS_REPORT = "best", "weights.json"
MEAN_FILE, BALANCE_FILE = "weight_mean.safetensors", "balance.safetensors"


def train(config: RunConfig, *, resume: bool = False) -> Path:
    """Train a run; gives the folder of its best bundle.

    Args:
        config: the run.
        resume: go on from the newest whole checkpoint.

    Raises:
        ConfigError: the run exists already.
        DataError: the films or their labels do not do.
        CheckpointError: nothing to resume from, or it does not fit.
        EngineError: another rank, the disk or the loss failed; the last checkpoint is whole.
        Stopped: a signal asked for it, and a checkpoint was written.
    """
    with ranks() as (rank, world):
        run = Run(config, rank, world)
        first, done = run.restore() if resume else run.begin()
        with run.keeper.stop:
            for epoch in range(first, config.train.epochs):
                run.learn(epoch, done)
                run.keep(epoch)
                done = 0
        if run.log:
            run.log.close()
        return config.folder / BEST


class Run:
    """One rank of a training run."""

    def __init__(self, config: RunConfig, rank: int, world: int) -> None:
        self.config, self.rank, self.world = config, rank, world
        self.main = rank == 0
        deepspeed_settings(config.train, world)  # refuse what cannot be shared out before films are decoded
        self.study = make_study(config, main=self.main)
        settings = config.train
        self.micro_batch, self.batches = share_out(self.study.train, settings.batch_size, settings.accumulate, world)
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
        schedule = warm_cosine(config.train, self.batches // config.train.accumulate)
        self.engine = Engine(model, config.train, world, schedule)
        with self.engine.whole_weights() as weights:
            self.mean = WeightMean(weights, config.train.ema)
        self.log = RunLog(config.folder) if self.main else None
        self.meter = Meter(self.log, epochs=config.train.epochs, batches=self.batches, films=self.micro_batch * world)
        self.keeper = Keeper(
            "train", config, self.study.manifest, self.engine, rank, world, may_differ=may_differ(config)
        )
        self.best = -math.inf

    def begin(self) -> tuple[int, int]:
        """Make the run folder; gives the first epoch, and the batches of it that are learned: none."""
        self.keeper.begin()
        together(self._report_start if self.main else lambda: None)
        if self.log:
            self.log.start()
        return 0, 0

    def restore(self) -> tuple[int, int]:
        """Load the newest whole checkpoint; gives the epoch to go on with, and how many of its batches are learned."""
        checkpoint, progress = self.keeper.restore()
        self.mean.load(load_file(checkpoint / MEAN_FILE, device=str(device())))
        self.objective.load_state_dict(load_file(checkpoint / BALANCE_FILE, device=str(device())))
        self.best = progress.best
        if self.log:
            self.log.resume(progress.epochs, self.engine.steps)
        return progress.epochs, progress.batches

    def learn(self, epoch: int, done: int) -> None:
        """The steps of an epoch, but for its first ``done`` batches."""
        config, engine, meter = self.config, self.engine, self.meter
        engine.train_mode()
        order = train_batches(
            self.study.train,
            batch_size=self.micro_batch,
            seed=config.seed,
            epoch=epoch,
            rank=self.rank,
            world=self.world,
            accumulate=config.train.accumulate,
            sampling=config.train.sampling,
            start=done,
        )
        anchors = seed_of(config.seed, epoch)
        conditional = epoch < config.loss.conditional * config.train.epochs
        with meter.epoch(epoch, done), closing(prefetch(order, pin=device().type == "cuda")) as batches:
            for number in range(done, self.batches):
                with meter.waiting():
                    batch = next(batches)
                torch.manual_seed(seed_of(config.seed, epoch, number, self.rank))  # drop path and dropout
                batch = augment(batch, config.augment, seed=config.seed, epoch=epoch, device=device())
                batch = _to(batch, device())
                step = engine.steps + 1
                outputs = engine(normalise(batch.images), self.objective.box_rows(batch))
                losses = self.objective(outputs, batch, seed=anchors, conditional=conditional)
                if engine.backward_and_step(losses["total"]):
                    self.objective.settle()
                    if config.train.ema:
                        self._follow()
                meter.add(epoch, step, engine.lr, losses)
                if engine.steps == step and self.keeper.due():
                    self._settle()
                    self._save(epoch, number + 1)
                    self.keeper.leave_if_asked()

    def keep(self, epoch: int) -> None:
        """Validate the mean of the weights, keep the best as a bundle, and write a checkpoint."""
        config = self.config
        with self.meter.between():
            self._settle()
            self.judge.load_state_dict(self.mean.mean)
            seen = look(
                self.judge,
                self.study.val,
                len(self.study.box_findings),
                views=config.model.views,
                rank=self.rank,
                world=self.world,
            )
            scores = score(seen, self.study, config.loss)
            better = not scores.chosen_by <= self.best  # so that the last is kept where nothing could be measured
            self.best = max(self.best, scores.chosen_by)
            together(lambda: self._save_best(seen) if better and self.main else None, disk=f"{BEST}/ was not written")
            if self.log:
                loss = self.log.epoch(epoch, self.engine.steps, scores.to_dict(), best=better)
            self._save(epoch + 1, 0)
        if self.log:
            self._tell(epoch, loss, scores, better)

    def _follow(self) -> None:
        with self.engine.whole_weights() as weights:
            self.mean.update(weights, self.engine.steps)

    def _settle(self) -> None:
        """Before weights are judged or saved: no weight that is no number gets into a checkpoint."""
        self.meter.look()
        if not self.config.train.ema:
            self._follow()
        check_finite("A weight", self.mean.mean.values(), self.engine.steps)

    def _save(self, epochs: int, batches: int) -> None:
        def add_ours(checkpoint: Path) -> None:
            save_file(self.mean.mean, checkpoint / MEAN_FILE)
            save_file(self.objective.state_dict(), checkpoint / BALANCE_FILE)

        self.keeper.save(epochs, batches, add_ours, best=self.best)

    def _save_best(self, seen: Seen) -> None:
        gate, about = gate_files(self.doorkeeper, seen, self.study)
        description = replace(describe(seen, self.study, self.config), gate=about)
        learned = provenance(self.study, "train") | {"started_from": str(self.start or "random weights")}
        files = {SPLIT: split_text(self.study.manifest), CARD: model_card(description, learned)}
        save_bundle(self.config.folder / BEST, description, self.mean.mean, files, gate)

    @cached_property
    def doorkeeper(self) -> Doorkeeper | str:
        """Fitted once in a process, when there is a first bundle to put its gate into."""
        return fit_doorkeeper(self.study, self.config.seed)

    def _tell(self, epoch: int, loss: float, scores: Scores, better: bool) -> None:
        logger.info(
            "epoch %d/%d: loss %.4f%s%s; %s",
            epoch + 1,
            self.config.train.epochs,
            loss,
            scores.in_words(),
            " (best)" if better else "",
            self.meter.left() if epoch + 1 < self.config.train.epochs else "done",
        )

    def _report_start(self) -> None:
        if self.start:
            self.start.save(self.config.folder / WEIGHTS_REPORT)
            logger.info("weights: %s", self.start)


def may_differ(config: RunConfig) -> Set[str]:
    """Settings in which a continuation need not agree with its run."""
    free = MAY_DIFFER | {"pretrain"}
    return free - {"train.epochs"} if config.loss.conditional else free  # that is a share of the epochs


def _set_priors(model: MultiTaskModel, study: Study) -> None:
    labels = study.train.labels[study.train.rows]
    plain, given_parents = prior_logits(labels, study.parents)
    model.findings.linear.bias.data.copy_(torch.from_numpy(plain))
    model.hierarchy.linear.bias.data.copy_(torch.from_numpy(given_parents if study.tree == "conditional" else plain))


def _to(batch: Any, target: torch.device) -> Any:
    for name in ("images", "labels", "has_boxes", "absent_known"):
        setattr(batch, name, getattr(batch, name).to(target, non_blocking=True))
    batch.boxes = [b.to(target) for b in batch.boxes]
    batch.box_findings = [f.to(target) for f in batch.box_findings]
    return batch

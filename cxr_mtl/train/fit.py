"""What validation films decide besides the weights: calibration, thresholds, the box cut, and which epoch is best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cxr_mtl.bundle import Description, Door, gate_bytes, gate_section
from cxr_mtl.bundle.fit import Said, fit_points
from cxr_mtl.config import LossConfig, RunConfig
from cxr_mtl.data.gate.fit import MAX_TRAIN, MAX_VAL, MIN_TRAIN, MIN_VAL, Fitted, choose, fit_gate
from cxr_mtl.data.gate.thumbs import Glimpses, glimpse
from cxr_mtl.data.gate.usual import FOLDS, fit_usual
from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.data.loader import Examples
from cxr_mtl.data.split import split_hash
from cxr_mtl.metrics.calibrate import fit_calibration
from cxr_mtl.metrics.classify import auroc, per_finding
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.hierarchy import compose, own_logits
from cxr_mtl.metrics.localize import askable, best_boxes, choose_box_threshold
from cxr_mtl.train.study import Study
from cxr_mtl.train.validate import Seen

MODEL_VERSION = "1.0"
BOX_IOU = 0.5  # at which a box counts as right while training
NO_BOX_CUT = 0.5  # where validation films have no box to choose a cut by


@dataclass(frozen=True)
class Scores:
    """How good some weights are on validation films.

    Attributes:
        auroc: macro over findings, of the findings head; groups and the normal film are no findings. Nan where the
            run gives the head no weight, for chance must not choose the epoch.
        hierarchy_auroc: the same of the tree's probabilities.
        box_accuracy: share of annotated (film, finding) whose best box reaches IoU .5; nan without boxes.
    """

    auroc: float
    hierarchy_auroc: float
    box_accuracy: float

    @property
    def chosen_by(self) -> float:
        """Mean over what could be measured; the epoch with the highest is kept."""
        return float(known_mean(np.array([self.auroc, self.hierarchy_auroc, self.box_accuracy])))

    def in_words(self) -> str:
        """What could be measured, such as ``, validation AUROC 0.812``."""
        words = {
            "validation AUROC": self.auroc,
            "of the tree": self.hierarchy_auroc,
            "boxes right at IoU .5": self.box_accuracy,
        }
        return "".join(f", {word} {value:.3f}" for word, value in words.items() if not np.isnan(value))

    def to_dict(self) -> dict[str, float]:
        return {"auroc": self.auroc, "hierarchy_auroc": self.hierarchy_auroc, "box_accuracy": self.box_accuracy}


def score(seen: Seen, study: Study, learned: LossConfig) -> Scores:
    """Measure what a model said of the validation films; of the heads that the run learns."""
    ontology = study.manifest.ontology
    nodes = expit(own_logits(seen.hierarchy, study.trained, study.parents, study.tree))
    own = [i for i, f in enumerate(ontology.findings) if not f.group and f.name != ontology.normal]
    present, tree = seen.labels[:, own], compose(nodes, study.parents, study.tree)[:, own]
    iou = best_boxes(seen.annotated, seen.proposed).iou

    def macro(scores: NDArray[np.float64], weight: float) -> float:
        return float(known_mean(per_finding(auroc, present, scores))) if weight else float("nan")

    return Scores(
        auroc=macro(seen.findings[:, own], learned.findings),
        hierarchy_auroc=macro(tree, learned.hierarchy),
        box_accuracy=float(np.mean(iou >= BOX_IOU)) if len(iou) else float("nan"),
    )


def describe(seen: Seen, study: Study, config: RunConfig) -> Description:
    """Fit everything that validation films decide.

    Args:
        seen: what the weights to be kept said of the validation films.
    """
    ontology = study.manifest.ontology
    labels = seen.labels.astype(np.float64)
    said = Said(labels, seen.findings, seen.hierarchy, study.trained, study.parents, study.tree)
    calibration = fit_calibration(said.presence, said.findings, study.trained & bool(config.loss.findings))
    nodes = fit_calibration(said.asked, said.own, study.trained & bool(config.loss.hierarchy))
    points, rules = fit_points(said.presence, said.probability(calibration, nodes), ontology.names)
    return Description(
        name=config.name,
        version=MODEL_VERSION,
        model=config.model.model_copy(update={"weights": None}),
        ontology=ontology,
        trained=tuple(
            name
            for name, enough in zip(ontology.names, study.trained, strict=True)
            if enough and (config.loss.findings or config.loss.hierarchy)
        ),
        box_findings=study.box_findings,
        findings_calibration=calibration,
        hierarchy_calibration=nodes,
        operating_points=points,
        rules=rules,
        box_min_score=_box_cut(seen, study),
        fitted_on=provenance(study, "val"),
        config=_without_folders(config.model_dump(mode="json")),
    )


@dataclass(frozen=True)
class Doorkeeper:
    """The gate of a run, and what it takes to say how unlike a film is to the run's.

    Attributes:
        fitted: a function of films and seed alone: it knows nothing of the weights, so one fit serves all epochs.
        train: looks of training films.
        val: looks of validation films.
        rows: of the manifest, of those.
        about: whose films they are.
    """

    fitted: Fitted
    train: NDArray[np.float64]
    val: NDArray[np.float64]
    rows: NDArray[np.int64]
    about: dict[str, Any]

    def door(self, seen: Seen, study: Study) -> Door:
        """With what the encoder makes of the validation films."""
        features = seen.features[np.searchsorted(seen.rows, self.rows)].astype(np.float64)
        return Door(self.fitted.gate, fit_usual(self.train, self.val, features, study.val.patients[self.rows]))


def fit_doorkeeper(study: Study, seed: int) -> Doorkeeper | str:
    """Fit the gate; with too few films or patients for one, say so."""
    train, val = study.train.rows, study.val.rows
    if len(train) < MIN_TRAIN or len(val) < MIN_VAL:
        have = f"{len(train)} training and {len(val)} validation films"
        return f"{have}; {MIN_TRAIN} and {MIN_VAL} are needed to fit one"
    rows = choose(val, MAX_VAL, seed)
    if (people := len(np.unique(study.val.patients[rows]))) < FOLDS:
        return f"validation films of {people} patients; {FOLDS} are needed to fit one"
    learned, judged = _glimpses(study.train, choose(train, MAX_TRAIN, seed)), _glimpses(study.val, rows)
    where = {"dataset": provenance(study, "train")["dataset"], "split_sha256": split_hash(study.manifest)}
    count = {"train_films": len(learned), "val_films": len(judged)}
    return Doorkeeper(fit_gate(learned.thumbs, judged.thumbs, seed), learned.looks, judged.looks, rows, where | count)


def gate_files(keeper: Doorkeeper | str, seen: Seen, study: Study) -> tuple[bytes | None, dict[str, Any]]:
    """The gate's file, if there is one, and what bundle.yaml says of it."""
    if isinstance(keeper, str):
        return None, {"none": keeper}
    door = keeper.door(seen, study)
    file = gate_bytes(door)
    limit = {"novelty_limit": round(door.usual.limit, 4)}
    return file, gate_section(file, keeper.about | keeper.fitted.to_dict() | limit)


def _glimpses(examples: Examples, rows: NDArray[np.int64]) -> Glimpses:
    pack = examples.pack
    return glimpse(
        (pack.images[place], Letterbox(int(width), int(height), pack.side))
        for place, (width, height) in zip(pack.at[rows], pack.sizes[rows], strict=True)
    )


def provenance(study: Study, split: str) -> dict[str, Any]:
    """Which films these were, in words that tell another run of the same films."""
    rows = (study.train if split == "train" else study.val).rows
    return {
        "dataset": ", ".join(sorted(set(study.manifest.table["dataset"].iloc[rows]))),
        "split": split,
        "films": len(rows),
        "patients": len(set(study.manifest.patient_ids[rows])),
        "split_sha256": split_hash(study.manifest),
    }


def _box_cut(seen: Seen, study: Study) -> float:
    columns = [study.manifest.ontology.index(name) for name in study.box_findings]
    exhaustive = study.manifest.boxed_exhaustively(study.box_findings)[seen.rows]
    asked = askable(seen.labels[:, columns], seen.annotated, exhaustive)
    cut = choose_box_threshold(seen.annotated, seen.proposed, asked).score
    return NO_BOX_CUT if np.isnan(cut) else cut


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Files by their name alone: where they lay on the machine that trained is nobody's business."""
    config.pop("output")
    for section, key in (
        ("data", "manifest"),
        ("data", "pack"),
        ("model", "weights"),
        ("train", "deepspeed"),
        ("pretrain", "probe"),
    ):
        if config.get(section):
            path = config[section][key]
            config[section][key] = path and Path(path).name
    return config

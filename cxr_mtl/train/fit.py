"""What validation films decide besides the weights: calibration, thresholds, the box cut, and which epoch is best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cxr_mtl.bundle import Description
from cxr_mtl.card import RULES
from cxr_mtl.config import LossConfig, RunConfig
from cxr_mtl.data.split import split_hash
from cxr_mtl.metrics.calibrate import choose_operating_points, fit_calibration
from cxr_mtl.metrics.classify import auroc, per_finding
from cxr_mtl.metrics.counts import known_mean
from cxr_mtl.metrics.hierarchy import asked_presence, compose, either, own_logits
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
    calibration = fit_calibration(seen.labels, seen.findings, study.trained & bool(config.loss.findings))
    own = own_logits(seen.hierarchy, study.trained, study.parents, study.tree)
    asked = asked_presence(seen.labels, study.parents, study.tree)
    nodes = fit_calibration(asked, own, study.trained & bool(config.loss.hierarchy))
    probability = either(calibration.apply(seen.findings), compose(nodes.apply(own), study.parents, study.tree))
    points = choose_operating_points(seen.labels, probability, ontology.names)
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
        operating_points={
            point: {finding: cut.threshold for finding, cut in cuts.items()} for point, cuts in points.items()
        },
        rules={
            point: {"rule": RULES[point], "reached": {finding: cut.to_dict() for finding, cut in cuts.items()}}
            for point, cuts in points.items()
        },
        box_min_score=_box_cut(seen, study),
        fitted_on=provenance(study, "val"),
        config=_without_folders(config.model_dump(mode="json")),
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

"""What the weights of a bundle mean: ``bundle.yaml``."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cxr_mtl.config import ModelConfig
from cxr_mtl.metrics.calibrate import Calibration
from cxr_mtl.model.multitask import MEAN, SPREAD
from cxr_mtl.ontology import Ontology

SCHEMA = "cxr-mtl.bundle/2"  # 1 had other anchors for small and large inputs
NO_GATE = {"none": "trained before there were gates"}
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pydicom", "pillow")


@dataclass(frozen=True)
class Description:
    """What ``bundle.yaml`` says.

    Attributes:
        name: of the model.
        version: of the model, such as 1.0.
        model: how to build the network.
        ontology: all nodes; their order is that of every output.
        trained: findings that had enough films; the others answer ``not_trained``.
        box_findings: the findings of the box head, in its order.
        findings_calibration: of the findings head's logits.
        hierarchy_calibration: of the hierarchy head's conditional logits.
        operating_points: threshold by finding, by name of the point.
        rules: what each operating point means, in words, and what it reached on the films that fitted it.
        box_min_score: boxes scored lower are not shown.
        fitted_on: the films that fitted calibration, thresholds and box_min_score.
        config: the run file in force.
        gate: what fitted the gate, its cut and what it reached, with the hash of its file; or ``none``: why there is
            none.
    """

    name: str
    version: str
    model: ModelConfig
    ontology: Ontology
    trained: tuple[str, ...]
    box_findings: tuple[str, ...]
    findings_calibration: Calibration
    hierarchy_calibration: Calibration
    operating_points: Mapping[str, Mapping[str, float]]
    rules: Mapping[str, Any]
    box_min_score: float
    fitted_on: Mapping[str, Any]
    config: Mapping[str, Any]
    gate: Mapping[str, Any] = field(default_factory=lambda: dict(NO_GATE))

    @property
    def learned_datasets(self) -> frozenset[str]:
        """The datasets of the run's own films, whoever calibrated it since."""
        first = self.fitted_on
        while "before" in first:
            first = first["before"]
        return frozenset(str(first.get("dataset", "")).split(", "))

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "research_use_only": True,
            "encoder": self.model.model_dump(mode="json"),
            "heads": {
                "findings": list(self.ontology.names),
                "hierarchy": list(self.ontology.names),
                "boxes": list(self.box_findings),
            },
            "trained": list(self.trained),
            "input": {"size": self.model.image_size, "channels": 1, "mean": MEAN, "spread": SPREAD},
            "calibration": {
                "findings": self.findings_calibration.to_dict(self.ontology.names),
                "hierarchy": self.hierarchy_calibration.to_dict(self.ontology.names),
                "fitted_on": dict(self.fitted_on),
            },
            "operating_points": {name: dict(values) for name, values in self.operating_points.items()},
            "operating_point_rules": dict(self.rules),
            "box_min_score": self.box_min_score,
            "gate": dict(self.gate),
            "ontology": self.ontology.to_dict(),
            "versions": {"cxr-mtl": _version("cxr-mtl")} | {name: _version(name) for name in LIBRARIES},
            "config": dict(self.config),
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Description:
        """Raises KeyError, TypeError or ValueError where the tree is not what ``to_dict`` makes."""
        if tree["schema"] != SCHEMA:
            raise ValueError(f"schema {tree['schema']}, expected {SCHEMA}")
        ontology = Ontology.from_dict(tree["ontology"])
        if list(ontology.names) != tree["heads"]["findings"]:
            raise ValueError("heads.findings and ontology name different findings")
        if (tree["input"]["mean"], tree["input"]["spread"]) != (MEAN, SPREAD):
            raise ValueError("input: normalised otherwise than this version of cxr-mtl does")
        return cls(
            name=tree["name"],
            version=str(tree["version"]),
            model=ModelConfig.model_validate(tree["encoder"]),
            ontology=ontology,
            trained=tuple(tree["trained"]),
            box_findings=tuple(tree["heads"]["boxes"]),
            findings_calibration=Calibration.from_dict(tree["calibration"]["findings"], ontology.names),
            hierarchy_calibration=Calibration.from_dict(tree["calibration"]["hierarchy"], ontology.names),
            operating_points=tree["operating_points"],
            rules=tree["operating_point_rules"],
            box_min_score=float(tree["box_min_score"]),
            fitted_on=tree["calibration"]["fitted_on"],
            config=tree["config"],
            gate=tree.get("gate", NO_GATE),
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

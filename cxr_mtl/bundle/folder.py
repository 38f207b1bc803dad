"""A bundle on disk, read and written whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cxr_mtl.bundle.description import Description
from cxr_mtl.bundle.gate_file import Door, load_gate
from cxr_mtl.bundle.plain_yaml import read_yaml, write_yaml
from cxr_mtl.errors import CheckpointError, CxrError
from cxr_mtl.metrics.calibrate import Calibration
from cxr_mtl.model.multitask import MultiTaskModel, make_model
from cxr_mtl.ontology import Ontology

WEIGHTS, DESCRIPTION, GATE = "weights.safetensors", "bundle.yaml", "gate.safetensors"
SPLIT, RESULTS, CARD = "split.csv", "results.json", "model_card.md"


@dataclass(frozen=True)
class Bundle:
    """A description with its weights.

    Attributes:
        folder: where it was loaded from.
        sha256: of weights and description; names this very model in every answer.
        gate: what looks at a film first; None where there were too few films to fit one.
    """

    folder: Path
    description: Description
    model: MultiTaskModel
    sha256: str
    gate: Door | None = None

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def version(self) -> str:
        return self.description.version

    @property
    def ontology(self) -> Ontology:
        return self.description.ontology

    @property
    def trained(self) -> tuple[str, ...]:
        return self.description.trained

    @property
    def box_findings(self) -> tuple[str, ...]:
        return self.description.box_findings

    @property
    def weak_box_findings(self) -> tuple[str, ...]:
        """Findings that get a box from the findings head's attention, because nobody drew boxes to learn from."""
        if self.description.model.pooling != "attention":
            return ()
        own = [f.name for f in self.ontology.findings if not f.group and f.name != self.ontology.normal]
        return tuple(name for name in own if self.sees(name) and name not in self.box_findings)

    def sees(self, finding: str) -> bool:
        """Whether the findings head has learned it; in a run of the tree alone it has learned none."""
        return bool(np.isfinite(self.findings_calibration.scale[self.ontology.index(finding)]))

    @property
    def located(self) -> tuple[str, ...]:
        """All findings that get boxes, the box head's first."""
        return self.box_findings + self.weak_box_findings

    @property
    def image_size(self) -> int:
        return self.description.model.image_size

    @property
    def findings_calibration(self) -> Calibration:
        return self.description.findings_calibration

    @property
    def hierarchy_calibration(self) -> Calibration:
        return self.description.hierarchy_calibration

    @property
    def operating_points(self) -> Mapping[str, Mapping[str, float]]:
        return self.description.operating_points

    @property
    def box_min_score(self) -> float:
        return self.description.box_min_score


def save_bundle(
    folder: Path,
    description: Description,
    weights: Mapping[str, Tensor] | Path,
    files: Mapping[str, str] | None = None,
    gate: bytes | None = None,
) -> None:
    """Write a bundle whole, in place of the one that was there.

    Args:
        folder: of the bundle.
        description: what the weights mean.
        weights: by name, as the model's ``state_dict``; or another bundle's file, to be copied byte for byte.
        files: further text files by name, such as split.csv and model_card.md.
        gate: what ``gate_bytes`` made; the description holds its hash.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write(part, description, weights, files or {})
        if gate is not None:
            (part / GATE).write_bytes(gate)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # of no use, and on a full disk the room is needed
        raise
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(
    part: Path, description: Description, weights: Mapping[str, Tensor] | Path, files: Mapping[str, str]
) -> None:
    part.mkdir(parents=True)
    if isinstance(weights, Path):
        shutil.copyfile(weights, part / WEIGHTS)
    else:
        save_file({name: value.detach().float().cpu().contiguous() for name, value in weights.items()}, part / WEIGHTS)
    (part / WEIGHTS).chmod(0o644)  # safetensors writes for its owner alone; a server runs as another user
    text = write_yaml(description.to_dict())
    (part / DESCRIPTION).write_text(text, encoding="utf-8")
    for name, content in files.items():
        (part / name).write_text(content, encoding="utf-8")


def load_description(folder: Path) -> Description:
    """Read ``bundle.yaml`` alone.

    Raises:
        CheckpointError: what is wrong, in one line.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        raise CheckpointError(f"{folder} is not a bundle: it has no {DESCRIPTION}.", hint="Train one: cxr-mtl train.")
    try:
        return Description.from_dict(read_yaml(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, CxrError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file} is not a bundle's description: {type(error).__name__}: {reason}") from None


def load_bundle(folder: Path | str) -> Bundle:
    """Read a bundle and build its network.

    Raises:
        CheckpointError: a file is missing or damaged, or weights do not fit; says which.
    """
    folder = Path(folder)
    description = load_description(folder)
    # The bundle brings all weights, so the encoder must not look for any.
    config = description.model.model_copy(update={"pretrained": False, "weights": None})
    model = make_model(config, len(description.ontology.names), len(description.box_findings))
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {reason}", hint="Copy the bundle again.") from None
    _check_fit(model, weights, folder)
    model.load_state_dict(weights)
    gate = load_gate(folder / GATE, description.gate)
    return Bundle(folder, description, model.eval(), bundle_sha256(folder), gate)


def bundle_sha256(folder: Path) -> str:
    """Of the weights followed by the description."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, DESCRIPTION):
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _check_fit(model: MultiTaskModel, weights: Mapping[str, Tensor], folder: Path) -> None:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    missing = sorted(set(expected) - set(given))
    unknown = sorted(set(given) - set(expected))
    differing = sorted(name for name in set(expected) & set(given) if expected[name] != given[name])
    if missing or unknown or differing:
        details = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", differing))
            if names
        ]
        raise CheckpointError(f"{folder / WEIGHTS} does not fit bundle.yaml: {', '.join(details)}.")

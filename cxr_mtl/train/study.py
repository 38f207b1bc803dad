"""What a run learns from: manifest, pack and the examples of its splits, and which findings there is enough of."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.config import RunConfig
from cxr_mtl.config.model import Tree
from cxr_mtl.data.leaks import check_leaks
from cxr_mtl.data.loader import Examples, make_examples
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.data.policy import learned_labels, measured_labels
from cxr_mtl.data.split import check_patients
from cxr_mtl.engine.packs import shared_pack
from cxr_mtl.errors import DataError
from cxr_mtl.metrics.hierarchy import given_parents
from cxr_mtl.ontology import Ontology

logger = logging.getLogger("cxr_mtl.train")


@dataclass(frozen=True)
class Study:
    """Attributes:
    manifest: all films.
    train: examples to learn from.
    val: examples to choose, calibrate and set thresholds on.
    trained: (C,) bool; findings with enough present and absent films.
    box_findings: the D findings with enough boxes, in the ontology's order.
    parents: for each of the C nodes its nearest trained ancestors; what conditions it.
    tree: how the tree's logits compose.
    """

    manifest: Manifest
    train: Examples
    val: Examples
    trained: NDArray[np.bool_]
    box_findings: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    tree: Tree


def make_study(config: RunConfig, *, main: bool) -> Study:
    """Read the manifest, decode the films once, and gather the examples.

    Raises:
        ConfigError: the run file names a finding that the ontology does not have.
        DataError: a split is missing or empty, patients are in two splits, or no finding has enough films.
    """
    manifest = load_manifest(config.data.manifest)
    check_patients(manifest)
    check_leaks(manifest)
    for split in ("train", "val"):
        if not (manifest.table["split"] == split).any():
            raise DataError(
                f"{config.data.manifest}: no film is in the split '{split}'.",
                hint="Make one with: cxr-mtl data split.",
            )
    # The names in the run file are read before hours of decoding: they may be misspelt.
    wanted = wanted_findings(manifest.ontology, config.data.findings)
    policy = config.data.labels
    learned, measured = learned_labels(manifest, policy, config.seed), measured_labels(manifest, policy)
    pack = shared_pack(config.data, manifest, config.model.image_size, main=main)
    box_findings = _enough_boxes(manifest, config.data.min_positives) if config.loss.boxes else ()
    box_findings = tuple(name for name in box_findings if wanted[manifest.ontology.index(name)])
    train = make_examples(manifest, pack, "train", box_findings, learned)
    val = make_examples(manifest, pack, "val", box_findings, measured)
    if not len(train) or not len(val):
        raise DataError(f"{config.data.manifest}: no film of the training or validation split could be read.")
    trained = enough_films(train.labels[train.rows], config.data.min_positives) & wanted
    if not trained.any():
        raise DataError(
            f"{config.data.manifest}: no finding has {config.data.min_positives} films present and absent.",
            hint="Lower data.min_positives or bring more films.",
        )
    if pack.unread and main:
        first = next(iter(pack.unread.values()))
        logger.warning(
            "%d of %d films could not be read and are left out, first: %s", len(pack.unread), len(manifest), first
        )
    headline = [f.name != manifest.ontology.normal and not f.group for f in manifest.ontology.findings]
    if not enough_films(val.labels[val.rows][:, trained & headline], 1).any():
        raise DataError(
            f"{config.data.manifest}: no finding is present in one validation film and absent in another.",
            hint="Make a larger validation split with: cxr-mtl data split.",
        )
    names = {name for name, enough in zip(manifest.ontology.names, trained, strict=True) if enough}
    parents = manifest.ontology.parents_among(names)
    return Study(
        manifest, _only(train, trained), _only(val, trained), trained, box_findings, parents, config.model.tree
    )


def enough_films(labels: NDArray[np.float32], minimum: int) -> NDArray[np.bool_]:
    """(C,) whether (M, C) labels hold at least ``minimum`` present and as many absent films of each finding."""
    return np.asarray(((labels == 1).sum(0) >= minimum) & ((labels == 0).sum(0) >= minimum))


def prior_logits(labels: NDArray[np.float32], parents: tuple[tuple[int, ...], ...]) -> tuple[NDArray[np.float32], ...]:
    """Biases that make an untrained network answer with the training split's prevalence.

    Args:
        labels: (M, C) 1, 0, nan.
        parents: indices of the parents of each of the C nodes.

    Returns:
        (C,) logits of each finding's prevalence, and (C,) of its prevalence among films with all parents present.
    """

    def logit(table: NDArray[np.floating]) -> NDArray[np.float32]:
        # One film added to either side keeps a finding that is always present from a bias of infinity.
        present, absent = (table == 1).sum(0) + 1, (table == 0).sum(0) + 1
        return np.asarray(np.log(present / absent), dtype=np.float32)

    return logit(labels), logit(given_parents(labels, parents))


def positive_weights(labels: NDArray[np.float32], most: float) -> NDArray[np.float32] | None:
    """(C,) absent over present films of each finding, from 1 to ``most``; None where ``most`` is 1.

    Args:
        labels: (M, C) of the training films.
    """
    if most == 1:
        return None
    present, absent = (labels == 1).sum(0), (labels == 0).sum(0)
    return np.asarray(np.where(present, absent / np.maximum(present, 1), 1).clip(1, most), dtype=np.float32)


def wanted_findings(ontology: Ontology, findings: Sequence[str]) -> NDArray[np.bool_]:
    """(C,) the findings that the run file asks for; all where it names none."""
    wanted = np.full(len(ontology.names), not findings)
    wanted[[ontology.index(name) for name in findings]] = True
    return wanted


def _only(examples: Examples, trained: NDArray[np.bool_]) -> Examples:
    labels = examples.labels.copy()
    labels[:, ~trained] = np.nan
    return replace(examples, labels=labels)


def _enough_boxes(manifest: Manifest, minimum: int) -> tuple[str, ...]:
    rows = np.flatnonzero((manifest.table["split"] == "train").to_numpy())
    count = Counter(box.finding for row in rows for box in manifest.boxes(int(row)))
    return tuple(name for name in manifest.ontology.names if count[name] >= minimum)

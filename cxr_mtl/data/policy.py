"""What training makes of labels that are uncertain or were left blank, finding by finding.  N films, C findings.

A manifest keeps what a dataset states. What to learn from "cannot be excluded", or from a report that does not mention
a finding at all, is a choice of the run: it stands in ``data.labels`` of the run file and is made here, once.
Metrics never count an uncertain label, whatever a run learned from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.config_data import LabelsConfig
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT, UNCERTAIN

Labels = NDArray[np.float32]
Word = TypeVar("Word", bound=str)


def learned_labels(manifest: Manifest, policy: LabelsConfig, seed: int = 0) -> Labels:
    """(N, C) targets to learn from: 0 to 1, nan unknown, in agreement with the tree.

    1. What is stated goes along the tree: presence up, then absence down to what is unknown.
    2. A blank of a finding that the film's dataset speaks of becomes absent where the policy says so, unless something
       below it is present or uncertain.
    3. An uncertain label becomes 1, 0, unknown or a random target near either, as the policy says; but absent where
       something it implies is absent.
    4. What became present or absent goes along the tree.

    Args:
        seed: of the random targets; they are drawn once, so a film keeps its own through all epochs.

    Raises:
        ConfigError: the policy names a finding that the ontology does not have.
    """
    tree = manifest.ontology
    labels = _fill_blanks(tree.propagate(manifest.labels()), tree, spoken_of(manifest), policy)
    words = _of_each(tree, policy.uncertain)
    targets = {"ones": (1.0, 1.0), "zeros": (0.0, 0.0), "ignore": (np.nan, np.nan)}
    targets |= {"smooth_ones": policy.smooth_ones, "smooth_zeros": policy.smooth_zeros}
    rng = np.random.default_rng([seed, len(labels)])
    for column, word in enumerate(words):  # parents before children
        uncertain = labels[:, column] == UNCERTAIN
        low, high = targets[word]
        drawn = low + (high - low) * rng.random(len(labels))
        implied = [tree.index(name) for name in tree.ancestors(tree.names[column])]
        excluded = (labels[:, implied] == ABSENT).any(axis=1)
        drawn = np.where(excluded & (drawn != PRESENT), ABSENT, drawn)
        labels[uncertain, column] = drawn[uncertain]
    return tree.propagate(labels)


def measured_labels(manifest: Manifest, policy: LabelsConfig) -> Labels:
    """(N, C) labels that a metric may count: 1, 0, nan. As ``learned_labels``, but an uncertain label is unknown."""
    tree = manifest.ontology
    labels = _fill_blanks(tree.propagate(manifest.labels()), tree, spoken_of(manifest), policy)
    return tree.propagate(np.where(labels == UNCERTAIN, np.float32(np.nan), labels))


def spoken_of(manifest: Manifest) -> NDArray[np.bool_]:
    """(N, C) whether the film's dataset has a word for the finding, so that a blank is a blank and not silence."""
    speaks = np.zeros((len(manifest), len(manifest.ontology.names)), dtype=bool)
    for dataset, rows in manifest.table.groupby("dataset").indices.items():
        said = manifest.labelled(str(dataset))
        speaks[rows] = [name in said for name in manifest.ontology.names]
    return speaks


def _fill_blanks(labels: Labels, tree: Ontology, speaks: NDArray[np.bool_], policy: LabelsConfig) -> Labels:
    absent = np.asarray([word == "absent" for word in _of_each(tree, policy.blank)])
    if not absent.any():
        return labels
    # Whether something below a finding is present or may be, gathered from the leaves upwards.
    possible = (labels == PRESENT) | (labels == UNCERTAIN)
    for child, parent in reversed(tree.edges):
        possible[:, parent] |= possible[:, child]
    blank = np.isnan(labels) & speaks & absent & ~possible
    return tree.propagate(np.where(blank, np.float32(ABSENT), labels))


def _of_each(tree: Ontology, choice: Word | Mapping[str, Word]) -> list[Word]:
    """The word for each finding, in order; a mapping's ``default`` is for those that it does not name."""
    if isinstance(choice, str):
        return [choice] * len(tree.names)
    for name in choice:
        if name != "default":
            tree.index(name)
    return [choice.get(name, choice["default"]) for name in tree.names]

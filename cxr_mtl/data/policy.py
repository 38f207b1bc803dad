"""What training makes of labels that are uncertain or were left blank, finding by finding.  N films, C findings.

A manifest keeps what a dataset states. What to learn from "cannot be excluded", or from a report that does not mention
a finding at all, is a choice of the run: it stands in ``data.labels`` of the run file and is made here, once.
Metrics never count an uncertain label, whatever a run learned from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT, UNCERTAIN

Labels = NDArray[np.float32]
Flags = NDArray[np.bool_]
Word = TypeVar("Word", bound=str)

BLANKS = ("chexpert", "mimic", "csv")
"""Sources with a mark or none for each finding. An empty place elsewhere is no blank: PadChest's unchanged films say
nothing of anything, and a pneumonia of unknown germ is none of no germ."""


def learned_labels(manifest: Manifest, policy: LabelsConfig, seed: int = 0) -> Labels:
    """(N, C) targets to learn from: 0 to 1, nan unknown; never more for a finding than for what it implies.

    1. What is stated goes along the tree: presence up, then absence down to what is unknown.
    2. A blank becomes absent where the policy says so, unless something below it is present or uncertain.
    3. An uncertain label becomes 1, 0, unknown or a random target near either, as the policy says; but absent where
       something it implies is known to be. An uncertain ancestor gets at least as much as what implies it.
    4. What became present goes up the tree, what became absent down.
    5. A finding that a dataset's labels can imply but never exclude is unknown on its films: NIH's cardiomegaly implies
       an enlarged mediastinum, but nothing in NIH excludes one, so "comes from NIH" would become a sign of it.

    Args:
        seed: of the random targets; they are drawn once, so a film keeps its own through all epochs.

    Raises:
        ConfigError: the policy names a finding that the ontology does not have.
    """
    tree = manifest.ontology
    labels = _fill_blanks(tree.propagate(manifest.labels()), manifest, policy, None)
    uncertain = labels == UNCERTAIN
    targets = {"ones": (1.0, 1.0), "zeros": (0.0, 0.0), "ignore": (np.nan, np.nan)}
    targets |= {"smooth_ones": policy.smooth_ones, "smooth_zeros": policy.smooth_zeros}
    rng = np.random.default_rng([seed, len(labels)])
    excluded = _below(labels == ABSENT, tree)
    for column, word in enumerate(_of_each(tree, policy.uncertain)):
        low, high = targets[word]
        drawn = np.where(excluded[:, column], ABSENT, low + (high - low) * rng.random(len(labels)))
        labels[uncertain[:, column], column] = drawn[uncertain[:, column]]
    least = np.nan_to_num(labels, nan=0.0)  # carried through what is unknown, which stays so
    for child, parent in reversed(tree.edges):
        least[:, parent] = np.maximum(least[:, parent], least[:, child])
    labels = np.where(uncertain & ~np.isnan(labels), least, labels)
    return _without_one_sided(tree.propagate(labels), manifest)


def measured_labels(manifest: Manifest, policy: LabelsConfig, datasets: Collection[str] | None = None) -> Labels:
    """(N, C) labels that a metric may count: 1, 0, nan. As ``learned_labels``, but an uncertain label is unknown.

    Args:
        datasets: whose blanks the policy is for; None for all. How a run read its own datasets' blanks says nothing of
            what another hospital left empty.
    """
    tree = manifest.ontology
    labels = _fill_blanks(tree.propagate(manifest.labels()), manifest, policy, datasets)
    return _without_one_sided(tree.propagate(np.where(labels == UNCERTAIN, np.float32(np.nan), labels)), manifest)


def may_be_blank(manifest: Manifest, datasets: Collection[str] | None = None) -> Flags:
    """(N, C) where an unknown label is a blank: a finding that a source with marks speaks of, on a film with labels.

    The normal finding is none of these: nobody writes "not normal", so its absence follows from findings alone.
    """
    tree, blank = manifest.ontology, np.zeros((len(manifest), len(manifest.ontology.names)), dtype=bool)
    for name, rows in manifest.table.groupby("dataset").indices.items():
        dataset = str(name)
        source = manifest.info.get("datasets", {}).get(dataset, {}).get("source", dataset)
        if source in BLANKS and (datasets is None or dataset in datasets):
            spoken = manifest.labelled(dataset) - {tree.normal}
            blank[rows] = [finding in spoken for finding in tree.names]
    return blank & ~np.isnan(manifest.labels()).all(axis=1, keepdims=True)


def _fill_blanks(labels: Labels, manifest: Manifest, policy: LabelsConfig, datasets: Collection[str] | None) -> Labels:
    tree = manifest.ontology
    absent = np.asarray([word == "absent" for word in _of_each(tree, policy.blank)])
    if not absent.any():
        return labels
    possible = _above((labels == PRESENT) | (labels == UNCERTAIN), tree)
    blank = np.isnan(labels) & may_be_blank(manifest, datasets) & absent & ~possible
    filled = tree.propagate(np.where(blank, np.float32(ABSENT), labels))
    return tree.propagate(_close_groups(filled, manifest, blank.any(axis=1)))


def _close_groups(labels: Labels, manifest: Manifest, rows: Flags) -> Labels:
    """Call a group absent where the film's dataset is complete for it and all that it labels below is absent."""
    tree, labels = manifest.ontology, labels.copy()
    dataset = manifest.table["dataset"].to_numpy(str)
    for column in reversed(range(len(tree.names))):
        group = tree.findings[column]
        below = tree.descendants(group.name) if group.group else ()
        for name in group.complete_in:
            labelled = [tree.index(finding) for finding in tree.labelled_by(name) if finding in below]
            of_dataset = rows & (dataset == name) & np.isnan(labels[:, column])
            none = of_dataset & (labels[:, labelled] == ABSENT).all(axis=1) & bool(labelled)
            labels[none, column] = ABSENT
    return labels


def _without_one_sided(labels: Labels, manifest: Manifest) -> Labels:
    """Forget what a dataset's labels can imply but never exclude."""
    tree, labels = manifest.ontology, labels.copy()
    for name, rows in manifest.table.groupby("dataset").indices.items():
        excludable = manifest.labelled(str(name)) | {f.name for f in tree.findings if name in f.complete_in}
        both_ways = _below(np.asarray([[finding in excludable for finding in tree.names]]), tree)[0]
        labels[np.ix_(rows, ~both_ways)] = np.nan
    return labels


def _above(flags: Flags, tree: Ontology) -> Flags:
    """(N, C) where the finding or something below it is flagged."""
    flags = flags.copy()
    for child, parent in reversed(tree.edges):
        flags[:, parent] |= flags[:, child]
    return flags


def _below(flags: Flags, tree: Ontology) -> Flags:
    """(N, C) where the finding or something that it implies is flagged."""
    flags = flags.copy()
    for child, parent in tree.edges:
        flags[:, child] |= flags[:, parent]
    return flags


def _of_each(tree: Ontology, choice: Word | Mapping[str, Word]) -> list[Word]:
    """The word for each finding, in order; a mapping's ``default`` is for those that it does not name."""
    if isinstance(choice, str):
        return [choice] * len(tree.names)
    for name in choice:
        if name != "default":
            tree.index(name)
    return [choice.get(name, choice["default"]) for name in tree.names]

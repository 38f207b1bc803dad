"""Which films a pretraining run sees: those of the training split, and for the probe those that have labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from cxr_mtl.config import DataConfig, RunConfig
from cxr_mtl.data.leaks import check_leaks, seen_films
from cxr_mtl.data.loader import Examples, make_examples
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.data.policy import measured_labels
from cxr_mtl.data.split import check_patients
from cxr_mtl.engine.packs import shared_pack
from cxr_mtl.errors import DataError
from cxr_mtl.pretrain.probe import MOST_FILMS, Probe

logger = logging.getLogger("cxr_mtl.pretrain")


@dataclass(frozen=True)
class PretrainFilms:
    """Attributes:
    manifest: all films.
    train: those to learn from; nobody looks at their labels.
    shown: as many of them as the watch looks at.
    probe: None where there are no labels to probe with.
    """

    manifest: Manifest
    train: Examples
    shown: Examples
    probe: Probe | None


def make_films(config: RunConfig, *, main: bool) -> PretrainFilms:
    """Read manifest and films.

    Raises:
        DataError: no training film, patients in two splits, or a probe manifest that will not do.
    """
    manifest = load_manifest(config.data.manifest)
    train = _examples(config, config.data, manifest, "train", main=main)
    if not len(train):
        raise DataError(
            f"{config.data.manifest}: no film is in the split 'train', or none could be read.",
            hint="Make one with: cxr-mtl data split.",
        )
    unread = len(train.pack.unread)
    if unread and main:
        logger.warning("%d of %d films could not be read and are left out", unread, len(manifest))
    wanted = config.pretrain.probe if config.pretrain else None
    probe = _probe(config, manifest, main=main)
    if wanted and probe is None:
        raise DataError(f"pretrain.probe: {wanted} has no finding that its validation films can be judged by.")
    return PretrainFilms(manifest, train, _some(train), probe)


def _probe(config: RunConfig, manifest: Manifest, *, main: bool) -> Probe | None:
    data, labelled = config.data, manifest
    if config.pretrain and config.pretrain.probe:
        data = config.data.model_copy(update={"manifest": config.pretrain.probe, "pack": None})
        labelled = load_manifest(data.manifest)
        learned = manifest.table[manifest.table["split"] == "train"]
        seen = seen_films(learned, labelled, "val")
        if len(seen):
            raise DataError(
                f"pretrain.probe: {data.manifest} has {len(seen):,} validation films of patients learned from.",
                hint="Give both manifests the same split.",
            )
    known, judged = (_some(_examples(config, data, labelled, split, main=main)) for split in ("train", "val"))
    measurable = [
        index
        for index, finding in enumerate(labelled.ontology.findings)
        if not finding.group
        and finding.name != labelled.ontology.normal
        and all(np.isin([0, 1], films.labels[films.rows, index]).all() for films in (known, judged))
    ]
    return Probe(known, judged, np.array(measurable)) if measurable else None


def _examples(config: RunConfig, data: DataConfig, manifest: Manifest, split: str, *, main: bool) -> Examples:
    check_patients(manifest)
    check_leaks(manifest)
    pack = shared_pack(data, manifest, config.model.image_size, main=main)
    return make_examples(manifest, pack, split, (), measured_labels(manifest, data.labels))


def _some(films: Examples) -> Examples:
    """As many films as a look takes, from all over the split."""
    every = -(-len(films) // MOST_FILMS)
    return replace(films, rows=films.rows[:: max(1, every)])

"""Answers without films or network: what the arithmetic of evaluation is given, made of random numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

from cxr_mtl.data.manifest import COLUMNS, Manifest
from cxr_mtl.evaluate.collect import Answered
from cxr_mtl.metrics.localize import make_boxes, median_sizes
from cxr_mtl.ontology import load_ontology

ONTOLOGY = load_ontology("nih14")
NAMES = ONTOLOGY.names
LOCATED = ("Effusion", "Mass")


def bundle(*, trained=NAMES, ontology=ONTOLOGY, located=LOCATED, cut=0.5):
    """As much of a bundle as evaluation looks at once it has the answers."""
    points = {point: dict.fromkeys(trained, cut) for point in ("balanced", "specific")}
    return SimpleNamespace(ontology=ontology, trained=tuple(trained), operating_points=points, located=located)


def films(count, patients, rng, **columns):
    """A manifest's table of ``count`` films of random patients."""
    patient = rng.integers(patients, size=count).astype(str)
    table = pd.DataFrame({"image_path": [f"{i}.png" for i in range(count)], "patient_id": patient})
    table = table.assign(dataset="nih", study_id=None, sex="F", age=50.0, view="PA").assign(**columns)
    return Manifest(table.reindex(columns=[*COLUMNS]), None, ONTOLOGY, {})


def answered(manifest, presence, probability):
    """Presence and probability, (N, C), of the whole ontology; the tree answers as the findings head does."""
    count = len(manifest)
    annotated = make_boxes([(i, i % 2, (0, 0, 10 + i % 7, 10), 1.0) for i in range(0, count, 3)])
    proposed = make_boxes([(i, i % 2, (0, 0, 12, 10), (i * 7 % 11) / 11) for i in range(count)])
    frames = np.full((count, 2), 100.0)
    return Answered(
        manifest=manifest,
        presence=presence,
        probability=probability,
        hierarchy=probability,
        conditional=probability,
        novelty=np.full(count, np.nan),
        frames=frames,
        annotated=annotated,
        proposed=proposed,
        asked=np.ones((count, 2), bool),
        box_sizes=median_sizes(annotated, frames, 2),
        box_sizes_from="evaluated",
        unread=(),
    )


def drawn(count=300, patients=120, seed=0, skill=1.0, **columns):
    """Films of which every finding is present on a third."""
    rng = np.random.default_rng(seed)
    presence = (rng.random((count, len(NAMES))) < 1 / 3).astype(float)
    probability = 1 / (1 + np.exp(-(rng.normal(size=presence.shape) + skill * (presence - 0.5))))
    return answered(films(count, patients, rng, **columns), presence, probability)

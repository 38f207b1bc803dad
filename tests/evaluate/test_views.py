"""Looks at several sizes: validation, prediction and evaluation give one film the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_mtl.bundle import Bundle, load_bundle
from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.loader import Examples, make_examples
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.pack import make_pack, open_pack
from cxr_mtl.data.policy import measured_labels
from cxr_mtl.data.read import read_image
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.engine.distributed import ranks
from cxr_mtl.evaluate.collect import collect
from cxr_mtl.metrics.hierarchy import compose, own_logits
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.train.validate import look
from cxr_mtl.types import Prediction

SPLIT = "train"  # the one with films enough


@pytest.fixture
def films(tmp_path: Path) -> Manifest:
    write_study_set(tmp_path / "films", 12, 0, 96)
    manifest, _ = import_source("nih", tmp_path / "films", ontology="nih14", seed=0)
    return manifest


@pytest.fixture
def examples(films: Manifest, tiny_bundle: Path, tmp_path: Path) -> Examples:
    bundle = load_bundle(tiny_bundle)
    make_pack(films, bundle.image_size, tmp_path / "pack")
    labels = measured_labels(films, LabelsConfig())
    return make_examples(films, open_pack(tmp_path / "pack", films), SPLIT, bundle.box_findings, labels)


def looking(folder: Path, views: int) -> Bundle:
    bundle = load_bundle(folder)
    model = bundle.description.model.model_copy(update={"views": views})
    return replace(bundle, description=replace(bundle.description, model=model))


def validated(bundle: Bundle, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """(M, C) probabilities of findings and of the tree, by what training's validation saw."""
    with ranks():
        seen = look(bundle.model, examples, len(bundle.box_findings), views=bundle.description.model.views)
    trained = np.array([name in bundle.trained for name in bundle.ontology.names])
    parents = bundle.ontology.parents_among(bundle.trained)
    tree = compose(bundle.hierarchy_calibration.apply(own_logits(seen.hierarchy, trained, parents)), parents)
    findings = bundle.findings_calibration.apply(seen.findings)
    return np.where(trained, findings, np.nan), np.where(trained, tree, np.nan)


@pytest.mark.slow
def test_validation_prediction_and_evaluation_look_alike(
    films: Manifest, examples: Examples, tiny_bundle: Path
) -> None:
    bundle = looking(tiny_bundle, 3)
    findings, tree = validated(bundle, examples)
    paths = [films.path(int(row)) for row in examples.rows]
    assert len(paths) > 2

    predictor = LocalPredictor(bundle)
    answers = predictor.answer([read_image(path) for path in paths])
    np.testing.assert_allclose([a.finding_probability for a in answers], findings, atol=1e-5)
    np.testing.assert_allclose([a.hierarchy_probability for a in answers], tree, atol=1e-5)

    evaluated = collect(predictor, films, SPLIT, batch_size=4, progress=False)
    assert [evaluated.manifest.path(row) for row in range(len(paths))] == paths
    np.testing.assert_allclose(evaluated.probability, findings, atol=1e-5)
    np.testing.assert_allclose(evaluated.hierarchy, tree, atol=1e-5)

    for path, expected in zip(paths, findings, strict=True):
        (prediction,) = predictor.predict([path])
        assert isinstance(prediction, Prediction)
        given = {call.name: call.probability for call in prediction.findings if call.probability is not None}
        assert given == pytest.approx({name: expected[bundle.ontology.index(name)] for name in given}, abs=1e-5)

    once, _ = validated(looking(tiny_bundle, 1), examples)
    assert np.nanmax(np.abs(findings - once)) > 1e-3  # the looks do differ

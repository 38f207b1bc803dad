"""The whole bundle as one network: its outputs are the predictor's own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from other_networks import SWIN, varied
from torchvision.ops import box_iou

from cxr_mtl.bundle import load_bundle
from cxr_mtl.data.transforms import to_input
from cxr_mtl.metrics.hierarchy import compose
from cxr_mtl.model.multitask import normalise
from cxr_mtl.package.whole import OneTable, WholeNetwork, compose_columns
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Radiograph


def films(count: int) -> list[Radiograph]:
    rng = np.random.default_rng(3)
    shapes = [(60 + 7 * i, 90 - 5 * i) for i in range(count)]
    return [Radiograph(rng.random(shape, np.float32), "png", False, "0", (), "PA") for shape in shapes]


def as_input(shown: list[Radiograph], size: int) -> torch.Tensor:
    return normalise(torch.from_numpy(np.stack([to_input(film.pixels, size)[0] for film in shown]))[:, None])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tree": "max"},
        {"tree": "flat", "views": 3},
        {"pooling": "attention", "views": 2},
        {"encoder": "swin_tiny_patch4_window7_224", "encoder_args": SWIN},
    ],
    ids=str,
)
def test_it_answers_as_the_predictor_does(tiny_bundle: Path, changes: dict[str, Any]) -> None:
    bundle, shown = varied(tiny_bundle, **changes), films(3)
    network = WholeNetwork(bundle)
    with torch.no_grad():
        found = dict(zip(network.outputs, network(as_input(shown, bundle.image_size)), strict=True))
        table = OneTable(bundle)(as_input(shown, bundle.image_size))
    answers = LocalPredictor(bundle, device="cpu").answer(shown)
    names = list(bundle.ontology.names)
    for film, answer in enumerate(answers):
        findings = [answer.finding_probability[names.index(name)] for name in network.findings]
        nodes = [answer.hierarchy_probability[names.index(name)] for name in network.nodes]
        assert found["findings"][film].numpy() == pytest.approx(findings, abs=2e-6)
        assert found["hierarchy"][film].numpy() == pytest.approx(nodes, abs=2e-6)
        assert table[film].numpy() == pytest.approx([*findings, *nodes], abs=2e-6)
    assert np.std(found["findings"].numpy(), axis=0).max() > 1e-3, "films that are told apart"


def test_its_columns_are_what_an_answer_calls(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    network = WholeNetwork(bundle)
    called = LocalPredictor(bundle, device="cpu").bundle.ontology.findings
    assert network.findings == [f.name for f in called if not f.group and f.name != "Hernia"]
    assert network.nodes == [f.name for f in called if f.name != "Hernia"]
    assert network.outputs == ("findings", "hierarchy", "boxes", "box_scores")
    assert WholeNetwork(bundle, boxes=False).outputs == ("findings", "hierarchy")


def test_its_boxes_are_those_that_suppression_starts_from(tiny_bundle: Path) -> None:
    bundle, shown = varied(tiny_bundle), films(2)
    network = WholeNetwork(bundle)
    with torch.no_grad():
        found = dict(zip(network.outputs, network(as_input(shown, bundle.image_size)), strict=True))
    for film, answer in enumerate(LocalPredictor(bundle, device="cpu").answer(shown)):
        _, letterbox = to_input(shown[film].pixels, bundle.image_size)
        for d, finding in enumerate(bundle.box_findings):
            best = next(box for box in answer.boxes if box.finding == finding)
            scores = found["box_scores"][film, :, d]
            assert float(scores.max()) == pytest.approx(best.score, abs=2e-6)
            mine = letterbox.to_source(found["boxes"][film, int(scores.argmax())].numpy()[None])
            assert float(box_iou(torch.tensor(mine), torch.tensor([best.xyxy]).double())) > 0.99


@given(st.data(), st.sampled_from(["conditional", "max", "flat"]))
def test_the_tree_is_composed_as_evaluation_does(data: st.DataObject, tree: str) -> None:
    count = data.draw(st.integers(1, 7))
    parents = tuple(
        tuple(sorted(data.draw(st.sets(st.integers(0, c - 1), max_size=3)))) if c else () for c in range(count)
    )
    known = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    own = np.array(data.draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count)))
    exact = compose(np.where(known, own, np.nan)[None], parents, tree)[0]
    columns = [torch.tensor([p]) if is_known else None for p, is_known in zip(own.tolist(), known, strict=True)]
    found = [np.nan if c is None else float(c) for c in compose_columns(columns, parents, tree)]
    assert found == pytest.approx(exact.tolist(), abs=1e-6, nan_ok=True)

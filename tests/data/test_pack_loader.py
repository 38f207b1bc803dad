"""The loader: every film once, in an order that seed and epoch decide; unknown stays unknown."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.loader import (
    Examples,
    eval_batches,
    make_examples,
    prefetch,
    share_out,
    train_batches,
)
from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.pack import Pack, make_pack
from cxr_mtl.data.policy import measured_labels
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Batch, Box, Record

PIL = pytest.importorskip("PIL.Image")
SIDE = 64


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Ten films, twice as wide as high, of which one cannot be read; one boxed, one looked at and found empty."""
    root = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    records = []
    for i in range(10):
        PIL.fromarray(rng.integers(0, 255, (50, 100), dtype=np.uint8)).save(root / f"{i}.png")
        records.append(
            Record(
                image_path=f"{i}.png",
                image_id=str(i),
                patient_id=str(i // 2),
                study_id=str(i),
                dataset="test",
                split="train" if i < 8 else "val",
                width=1000,
                height=500,
                boxes=(Box("Effusion", 100, 50, 300, 250),) if i == 2 else (),
                boxes_exhaustive=i == 3,
                labels={"Effusion": 1.0, "Mass": 0.0} if i == 2 else {"Mass": -1.0} if i == 4 else {},
            )
        )
    (root / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return make_manifest(records, root, load_ontology("nih14"), {})


@pytest.fixture(scope="module")
def pack(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_pack(manifest, SIDE, tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def examples(manifest: Manifest, pack: Pack) -> Examples:
    return make_examples(manifest, pack, "train", ("Effusion", "Mass"), measured_labels(manifest, LabelsConfig()))


def test_unreadable_film_is_left_out(pack: Pack, examples: Examples) -> None:
    assert list(pack.unread) == ["5"]
    assert examples.rows.tolist() == [0, 1, 2, 3, 4, 6, 7]


def test_unknown_stays_unknown_and_presence_climbs(manifest: Manifest) -> None:
    spoken = {"test": {"labelled": list(manifest.ontology.names)}}
    labels = measured_labels(replace(manifest, info={"datasets": spoken}), LabelsConfig())
    names = manifest.ontology
    assert np.isnan(labels[0]).all()
    assert labels[2, names.index("Effusion")] == 1
    assert all(labels[2, names.index(a)] == 1 for a in names.ancestors("Effusion"))
    assert np.isnan(labels[4, names.index("Mass")])


def test_boxes_land_in_the_input_frame(examples: Examples) -> None:
    # 1000 x 500 into 64 x 64: a scale of .064, 16 px of padding above and below.
    assert np.allclose(examples.boxes[2], [[6.4, 19.2, 19.2, 32.0]])
    assert examples.has_boxes.tolist() == [False, False, True, True] + [False] * 6
    assert examples.absent_known[2].tolist() == [True, True]  # Effusion is boxed, Mass stated absent
    assert examples.absent_known[3].tolist() == [True, True]  # boxes are exhaustive
    assert not examples.absent_known[0].any()


def test_boxes_without_a_frame_are_refused(manifest: Manifest, pack: Pack) -> None:
    table = manifest.table.copy()
    table["width"] = pd.NA
    with pytest.raises(DataError, match=r"2.png has boxes, but the manifest lacks their frame"):
        make_examples(replace(manifest, table=table), pack, "train", ("Effusion",), manifest.labels())


def test_every_film_once_over_all_ranks(examples: Examples) -> None:
    for world in (1, 2, 3):
        rows = [
            r
            for rank in range(world)
            for b in eval_batches(examples, batch_size=2, rank=rank, world=world)
            for r in b.index
        ]
        assert sorted(int(r) for r in rows) == examples.rows.tolist()


def test_two_ranks_see_what_one_sees(examples: Examples) -> None:
    one = [set(b.index.tolist()) for b in train_batches(examples, batch_size=4, seed=1, epoch=3)]
    two = [list(train_batches(examples, batch_size=2, seed=1, epoch=3, rank=r, world=2)) for r in (0, 1)]
    assert one == [set(a.index.tolist()) | set(b.index.tolist()) for a, b in zip(*two, strict=True)]
    assert share_out(examples, 4) == (4, 1)
    assert share_out(examples, 4, world=2) == (2, 1)
    assert share_out(examples, 4, accumulate=2) == (2, 2)
    with pytest.raises(ConfigError, match=r"train.batch_size: 8 is more than the 7 training films\."):
        share_out(examples, 8)


def test_epochs_differ_and_repeat(examples: Examples) -> None:
    def order(epoch: int) -> list[int]:
        return [int(i) for b in train_batches(examples, batch_size=1, seed=0, epoch=epoch) for i in b.index]

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == examples.rows.tolist()


def test_exhaustive_boxes_speak_for_what_their_dataset_draws(manifest: Manifest, pack: Pack) -> None:
    """RSNA boxes only pneumonia: a film of it without a box is known to show no pneumonia, and no more than that."""
    drawn = replace(manifest, info={"datasets": {"test": {"boxed": ["Effusion"]}}})
    examples = make_examples(drawn, pack, "train", ("Effusion", "Mass"), manifest.labels())
    assert examples.absent_known[3].tolist() == [True, False]
    assert examples.has_boxes[3]
    other = replace(manifest, info={"datasets": {"test": {"boxed": ["Pneumonia"]}}})
    examples = make_examples(other, pack, "train", ("Effusion", "Mass"), manifest.labels())
    assert examples.absent_known[3].tolist() == [False, False]
    assert not examples.has_boxes[3]  # nobody looked for the D there


def test_prefetched_batches_are_the_same(examples: Examples) -> None:
    plain = list(train_batches(examples, batch_size=2, seed=1, epoch=0))
    fetched = list(prefetch(train_batches(examples, batch_size=2, seed=1, epoch=0), ahead=1))
    assert len(plain) == len(fetched) == 3
    for one, other in zip(plain, fetched, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.images, other.images)


def test_an_error_in_the_thread_surfaces_where_its_batch_would_be(examples: Examples) -> None:
    def broken() -> Iterator[Batch]:
        yield examples.batch(np.array([0]))
        raise DataError("the disk is gone")

    batches = prefetch(broken())
    assert next(batches).index.tolist() == [0]
    with pytest.raises(DataError, match="the disk is gone"):
        next(batches)
    assert not running()


def test_closing_early_ends_the_thread(examples: Examples) -> None:
    asked = []

    def endless() -> Iterator[Batch]:
        while True:
            asked.append(1)
            yield examples.batch(np.array([0]))

    with closing(prefetch(endless(), ahead=2)) as batches:
        next(batches)
        assert running()
    assert not running()
    assert len(asked) <= 5  # no more is collected than is wanted soon


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]

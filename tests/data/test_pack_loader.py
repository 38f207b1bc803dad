"""Pack and loader: every film once, in an order that seed and epoch decide; unknown stays unknown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mtl.config_data import LabelsConfig
from cxr_mtl.data.loader import (
    Examples,
    eval_batches,
    make_examples,
    num_batches,
    train_batches,
)
from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.pack import INDEX, Pack, make_pack, open_pack
from cxr_mtl.data.policy import measured_labels
from cxr_mtl.data.read import read_image
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box, Record

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


def test_pack_holds_what_predict_would_see(manifest: Manifest, pack: Pack) -> None:
    for row in (0, 9):
        expected, _ = to_input(read_image(manifest.path(row)).pixels, SIDE)
        assert np.array_equal(pack.images[row], expected)


def test_unreadable_film_is_named_and_left_out(pack: Pack, examples: Examples) -> None:
    assert list(pack.unread) == ["5"]
    assert examples.rows.tolist() == [0, 1, 2, 3, 4, 6, 7]


def test_finished_pack_is_opened_not_made_again(manifest: Manifest, tmp_path: Path) -> None:
    make_pack(manifest, SIDE, tmp_path)
    stamp = (tmp_path / "images.npy").stat().st_mtime_ns
    make_pack(manifest, SIDE, tmp_path)
    assert (tmp_path / "images.npy").stat().st_mtime_ns == stamp
    make_pack(manifest, 96, tmp_path)
    assert open_pack(tmp_path).side == 96


def test_mended_film_is_decoded_again(manifest: Manifest, tmp_path: Path) -> None:
    """The doctor's advice was followed: a film was replaced under its old name."""
    root = Path(shutil.copytree(manifest.root, tmp_path / "films"))
    moved = replace(manifest, root=root)
    before = make_pack(moved, SIDE, tmp_path / "pack")
    shutil.copy(root / "0.png", root / "5.png")  # of another size than the broken file
    after = make_pack(moved, SIDE, tmp_path / "pack")
    assert list(before.unread) == ["5"]
    assert after.unread == {}
    assert np.array_equal(after.images[5], after.images[0])
    assert not before.images[5].any()  # who had the old films mapped still sees them


def test_unfinished_or_foreign_folder_is_not_a_pack(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a finished pack"):
        open_pack(tmp_path)


def test_all_unreadable_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of the 1 films could be read"):
        make_pack(replace(manifest, table=manifest.table.iloc[[5]].reset_index(drop=True)), SIDE, tmp_path)
    assert not (tmp_path / INDEX).exists()


def test_unknown_stays_unknown_and_presence_climbs(manifest: Manifest) -> None:
    labels = measured_labels(manifest, LabelsConfig())
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
    assert num_batches(examples, 4) == num_batches(examples, 2, 2) == 1


def test_epochs_differ_and_repeat(examples: Examples) -> None:
    def order(epoch: int) -> list[int]:
        return [int(i) for b in train_batches(examples, batch_size=1, seed=0, epoch=epoch) for i in b.index]

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == examples.rows.tolist()


def test_index_is_written_last(pack: Pack, manifest: Manifest, tmp_path: Path) -> None:
    make_pack(manifest, SIDE, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["side"] == SIDE
    assert not list(tmp_path.glob("*.part"))

"""Known leaks are refused, and what only looks like one is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mtl.data import leaks
from cxr_mtl.data.leaks import boxed_in_train, check_leaks, check_seen, find_leaks, seen_films
from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.split_file import read_split, split_text
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box, Record

ONTOLOGY = load_ontology("nih14")


def films(*rows: tuple[str, str, str | None], boxed: bool = False, how: dict[str, object] | None = None) -> Manifest:
    """A manifest of (dataset, patient, split), one film each."""
    boxes = (Box("Mass", 1, 1, 9, 9),) if boxed else ()
    records = [Record(f"{d}/{i}.png", f"{d}{i}", p, f"{d}{i}", d, s, boxes=boxes) for i, (d, p, s) in enumerate(rows)]
    return make_manifest(records, Path(), ONTOLOGY, {"split": how or {}})


@pytest.mark.parametrize("borrower", ["rsna", "siim", "google-nih", "chestx-det"])
def test_films_of_nih_under_another_name_are_refused_beside_nih(borrower: str) -> None:
    manifest = films(("nih", "1", "train"), (borrower, "a", "test"), (borrower, "b", "test"))
    (leak,) = find_leaks(manifest)
    assert (leak.check, leak.rows.tolist()) == ("leak-same-films", [1, 2])
    with pytest.raises(DataError, match=f"2 films of {borrower} are nih's films.*{borrower}/1.png") as caught:
        check_leaks(manifest)
    assert "mapping" in caught.value.hint


@pytest.mark.parametrize(
    "rows",
    [
        [("nih", "1", "train"), ("nih", "2", "test"), ("rsna", "nih:2", "test")],
        [("nih", "1", "train"), ("rsna", "a", "train"), ("rsna", "b", None)],
        [("rsna", "a", "train"), ("rsna", "b", "test")],
        [("nih", "1", "train"), ("nih", "2", "test")],
        [("rsna", "a", "train"), ("padchest", "b", "test")],
        [("vindr", "a", "train"), ("vinbigdata", "vindr:b", "test")],
    ],
    ids=["named", "one split", "alone", "nih alone", "others", "vindr"],
)
def test_what_is_no_leak_is_let_through(rows: list[tuple[str, str, str | None]]) -> None:
    assert find_leaks(films(*rows)) == []
    check_leaks(films(*rows))


def test_two_borrowers_of_one_dataset_leak_into_each_other() -> None:
    (leak,) = find_leaks(films(("rsna", "a", "train"), ("siim", "b", "test")))
    assert leak.rows.tolist() == [0, 1]
    (leak,) = find_leaks(films(("vindr", "a", "train"), ("vinbigdata", "b", "test")))
    assert leak.rows.tolist() == [1]


OFFICIAL = {"how": "official lists", "test_sha256": "0"}
MERGED = {"how": "merged", "parts": [{"datasets": ["kermany"], "how": "dealt"}, {"datasets": ["nih"]} | OFFICIAL]}


@pytest.mark.parametrize("how", [OFFICIAL, MERGED], ids=["alone", "merged"])
def test_boxed_films_of_nih_in_train_contradict_its_official_lists(
    how: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "_WHOLE_NIH", 3)
    rows = (("nih", "1", "train"), ("nih", "2", "test"), ("nih", "3", "val"))
    (leak,) = find_leaks(films(*rows, boxed=True, how=how))
    assert (leak.check, leak.rows.tolist()) == ("leak-nih-boxes", [0, 2])
    assert find_leaks(films(*rows, boxed=False, how=how)) == []
    assert find_leaks(films(*rows, boxed=True, how={"how": "by patient"})) == []
    # A part of NIH with lists of its own, such as the project's test data: a warning of the doctor's, no refusal.
    part = films(*rows[:2], boxed=True, how=how)
    assert find_leaks(part) == []
    assert boxed_in_train(part).tolist() == [0]


def test_boxes_of_other_datasets_are_for_training() -> None:
    assert boxed_in_train(films(("vindr", "1", "train"), boxed=True)).size == 0


def trained(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["dataset", "image_id", "patient_id", "split"], dtype="str")


@pytest.mark.parametrize(
    ("learned", "seen"),
    [
        ([("nih", "other", "1", "train")], [0]),
        ([("nih", "other", "2", "val")], [1]),
        ([("nih", "nih0", "typed otherwise", "train")], [0]),
        ([("nih", "other", "1", "test")], []),
        ([("nih", "other", "1", "")], []),
        ([("padchest", "nih0", "1", "train")], []),
        ([("nih", "other", "3", "train")], []),
        ([("rsna", "r", "nih:1", "train")], [0]),
        ([("rsna", "r", "of no known patient", "train")], [0, 1]),
        ([("vindr", "r", "1", "train")], []),
        ([], []),
    ],
    ids=["train", "val", "film", "test", "none", "namesake", "not asked", "mapped", "unmapped", "others", "nothing"],
)
def test_who_was_seen(learned: list[tuple[str, str, str, str]], seen: list[int]) -> None:
    manifest = films(("nih", "1", "test"), ("nih", "2", "test"), ("nih", "3", "val"))
    assert seen_films(trained(*learned), manifest, "test").tolist() == seen


def test_borrowed_films_are_seen_when_their_owner_was_learned_from() -> None:
    manifest = films(("rsna", "a", "test"), ("rsna", "nih:1", "test"), ("rsna", "nih:2", "test"), ("csv", "1", "test"))
    assert seen_films(trained(("nih", "x", "1", "train")), manifest, "test").tolist() == [0, 1]
    assert seen_films(trained(("siim", "x", "1", "train")), manifest, "test").tolist() == [0, 1, 2]
    assert seen_films(trained(("rsna", "x", "b", "train")), manifest, "test").size == 0


def test_only_a_test_is_refused() -> None:
    manifest = films(("nih", "1", "test"), ("nih", "1", "test"), ("nih", "3", "train"))
    table = trained(("nih", "x", "1", "train"), ("nih", "y", "3", "train"))
    with pytest.raises(DataError, match=r"2 films .1 patients. of split 'test' .* first: nih/0.png") as caught:
        check_seen(table, manifest, "test")
    assert "--allow-seen" in caught.value.hint
    check_seen(table, manifest, "train")
    check_seen(table, manifest, "val")
    check_seen(table.iloc[1:], manifest, "test")


def test_what_a_run_wrote_is_read_again(tmp_path: Path) -> None:
    manifest = films(("nih", "007", "train"), ("nih", "2", "val"), ("nih", "3", "test"), ("nih", "4", None))
    (tmp_path / "split.csv").write_text(split_text(manifest))
    table, _ = read_split(tmp_path / "split.csv")
    assert table["patient_id"].tolist() == ["007", "2", "3", "4"]
    assert table["split"].tolist() == ["train", "val", "test", ""]
    check_seen(table, manifest, "test")
    everything = replace(manifest, table=manifest.table.assign(split=pd.Series(["test"] * 4, dtype="str")))
    assert seen_films(table, everything, "test").tolist() == [0, 1]


def test_the_real_set_with_lists_of_its_own_is_no_leak(real_films: Path) -> None:
    manifest, _ = import_source("nih", real_films / "nih", ontology="nih14")
    assert find_leaks(manifest) == []
    learned = manifest.table[["dataset", "image_id", "patient_id", "split"]]
    check_seen(learned, manifest, "test")
    assert len(seen_films(learned, manifest, "train")) == int((manifest.splits == "train").sum())
    assert np.array_equal(seen_films(learned, manifest, "val"), np.flatnonzero(manifest.splits == "val"))

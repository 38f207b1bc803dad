"""No patient in two splits, each split alike, and the same answer whatever order the rows come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.split import (
    _cover,
    carve_validation,
    check_patients,
    split_by_patient,
    split_hash,
    with_split,
)
from cxr_mtl.data.split_file import split_text
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import ABSENT, PRESENT, Box, Record

ONTOLOGY = load_ontology("nih14")
FINDINGS = ("Atelectasis", "Effusion", "Mass", "Hernia")
THREE = {"train": 0.7, "val": 0.1, "test": 0.2}


def film(patient: int, number: int, present: Sequence[str], *, boxed: bool = False, split: str | None = None) -> Record:
    name = f"{patient:04d}_{number}"
    labels = {finding: PRESENT if finding in present else ABSENT for finding in FINDINGS}
    boxes = tuple(Box(finding, 0, 0, 9, 9) for finding in present) if boxed else ()
    return Record(
        f"{name}.png", name, str(patient), name, "nih", split, width=99, height=99, boxes=boxes, labels=labels
    )


def make(records: Sequence[Record]) -> Manifest:
    return make_manifest(records, Path(), ONTOLOGY, {"source": "test"})


def drawn(seed: int, num: int, rates: Sequence[float] = (0.4, 0.2, 0.1, 0.05)) -> Manifest:
    """Patients with 1 to 6 films and findings that go together."""
    rng = np.random.default_rng(seed)
    records = []
    for patient in range(num):
        sick = rng.random(len(FINDINGS)) < rates
        for number in range(rng.integers(1, 7)):
            shown = sick & (rng.random(len(FINDINGS)) < 0.7)
            present = [f for f, yes in zip(FINDINGS, shown, strict=True) if yes]
            records.append(film(patient, number, present, boxed=bool(rng.random() < 0.3)))
    return make(records)


def share(manifest: Manifest, split: str, finding: str | None = None) -> float:
    """Of all films, or of those that show the finding, how many are in the split."""
    rows = np.ones(len(manifest), dtype=bool)
    if finding is not None:
        rows = manifest.labels()[:, ONTOLOGY.index(finding)] == PRESENT
    return float((manifest.splits[rows] == split).mean())


manifests = st.builds(drawn, st.integers(0, 10**6), st.integers(60, 150))


@settings(max_examples=25, deadline=None)
@given(manifests, st.integers(0, 10**6))
def test_split_keeps_patients_together_and_fractions_near(manifest: Manifest, seed: int) -> None:
    done = split_by_patient(manifest, THREE, seed)
    check_patients(done)
    per_patient = done.table.groupby("patient_id")["split"]
    assert per_patient.nunique().eq(1).all()
    assert done.table["split"].notna().all()
    for name, wanted in THREE.items():
        assert abs(share(done, name) - wanted) * len(done) <= per_patient.size().max()


@settings(max_examples=25, deadline=None)
@given(manifests, st.integers(0, 10**6))
def test_every_finding_of_ten_patients_is_in_every_split(manifest: Manifest, seed: int) -> None:
    done = split_by_patient(manifest, THREE, seed)
    checked = 0
    for finding in FINDINGS:
        rows = done.labels()[:, ONTOLOGY.index(finding)] == PRESENT
        if len(set(done.patient_ids[rows])) >= 10:
            assert set(done.splits[rows]) == set(THREE)
            checked += 1
    assert checked  # Atelectasis is in 40 % of 60 patients or more


@settings(max_examples=15, deadline=None)
@given(manifests, st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_split_does_not_depend_on_the_order_of_rows(manifest: Manifest, seed: int, random: object) -> None:
    order = np.random.default_rng(seed).permutation(len(manifest))
    shuffled = replace(manifest, table=manifest.table.iloc[order].reset_index(drop=True))
    for deal in (lambda m: split_by_patient(m, THREE, seed), lambda m: carve_validation(_all_train(m), 0.12, seed)):
        first, second = deal(manifest), deal(shuffled)
        assert split_text(first) == split_text(second)
        assert split_hash(first) == split_hash(second)


def test_split_is_closer_to_its_shares_than_chance() -> None:
    """The oracle is what one would do otherwise: throw dice for each patient."""
    ours, dice = [], []
    for seed in range(5):
        manifest = drawn(seed, 300)
        done = split_by_patient(manifest, THREE, seed)
        ids, owner = np.unique(manifest.patient_ids, return_inverse=True)
        thrown = np.random.default_rng(seed).choice(np.array(list(THREE), dtype=object), len(ids), p=[*THREE.values()])
        random = with_split(manifest, thrown[owner], {})
        for found, split in ((ours, done), (dice, random)):
            found += [abs(share(split, s, f) - w) for s, w in THREE.items() for f in (None, *FINDINGS)]
    assert np.mean(ours) < 0.25 * np.mean(dice)
    assert max(ours) < 0.05


def test_seed_decides() -> None:
    manifest = drawn(1, 80)
    same, again, other = (split_hash(split_by_patient(manifest, THREE, seed)) for seed in (5, 5, 6))
    assert same == again != other


def test_films_with_boxes_are_dealt_in_proportion() -> None:
    # Only ten of a hundred patients with Mass have their boxes drawn: by labels alone, validation could get none.
    manifest = make([film(p, 0, ["Mass"], boxed=p < 10) for p in range(100)])
    for seed in range(5):
        done = carve_validation(_all_train(manifest), 0.2, seed)
        boxed = np.array([bool(row) for row in done.table["boxes"]])
        assert (done.splits[boxed] == "val").sum() == 2


def test_a_finding_of_ten_patients_reaches_every_split_whatever_else_they_have() -> None:
    # Each two of them share a rare finding; where those weigh more than Mass, all twelve go to the largest split.
    rare = [name for name in ONTOLOGY.names if name not in (*FINDINGS, ONTOLOGY.normal)][:6]
    sick = [replace(film(p, 0, []), labels={"Mass": PRESENT, rare[p // 2]: PRESENT}) for p in range(12)]
    manifest = make([*sick, *(film(p, 0, []) for p in range(12, 60))])
    for seed in range(10):
        done = split_by_patient(manifest, {"train": 0.8, "val": 0.1, "test": 0.1}, seed)
        assert set(done.splits[done.labels()[:, ONTOLOGY.index("Mass")] == PRESENT]) == set(THREE)


def test_cover_moves_only_whom_a_split_can_spare() -> None:
    # Stratum 0 lacks split 1. Patient 0 is the last of stratum 1 in split 0; patient 1 has a second beside him.
    shows = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=bool)
    shows = np.hstack([shows, np.ones((6, 1), dtype=bool)])
    dealt = _cover(shows, np.array([0, 0, 0, 1, 1, 1]), np.array([0.5, 0.5]))
    assert dealt.tolist() == [0, 1, 0, 1, 1, 1]


def _all_train(manifest: Manifest) -> Manifest:
    return with_split(manifest, np.full(len(manifest), "train", dtype=object), {})


def test_carving_leaves_test_alone() -> None:
    manifest = drawn(3, 100)
    official = np.where(manifest.table["patient_id"].astype(int) % 5 == 0, "test", "train").astype(object)
    official[:2] = None
    before = with_split(manifest, official, {"how": "official lists"})
    after = carve_validation(before, 0.12, 0)
    kept = ~np.isin(official.astype(str), ["train"])
    assert after.splits[kept].tolist() == official[kept].tolist()
    assert set(after.splits[~kept]) == {"train", "val"}
    val, train = (after.splits == "val").sum(), (official == "train").sum()
    assert abs(val / train - 0.12) < 0.03
    assert after.info["split"] == {"how": "official lists", "validation": 0.12, "seed": 0}
    assert before.splits.tolist() == official.tolist()


def test_carving_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"validation split already \(1 films\)"):
        carve_validation(make([film(1, 0, [], split="val"), film(2, 0, [], split="train")]), 0.1, 0)


def test_hash_is_of_films_and_their_splits() -> None:
    manifest = make([film(1, 0, [], split="train"), film(2, 0, [], split="val")])
    swapped = with_split(manifest, np.array(["val", "train"], dtype=object), {})
    unsplit = with_split(manifest, np.array(["train", None], dtype=object), {})
    assert len({split_hash(m) for m in (manifest, swapped, unsplit)}) == 3
    assert len(split_hash(manifest)) == 64


def test_shared_patients_are_refused_without_naming_them() -> None:
    films = [film(77123, 0, [], split="train"), film(77123, 1, [], split="test"), film(5, 0, [], split="train")]
    clean = [replace(films[0], image_path="x.png", image_id="x"), replace(films[1], split=None, image_path="y.png")]
    with pytest.raises(DataError, match=r"1 patient is in more than one split, first: a\.png") as caught:
        check_patients(make([films[2], replace(films[0], image_path="a.png"), films[1]]))
    assert "77123" not in str(caught.value)
    check_patients(make([*clean, films[2]]))


@pytest.mark.parametrize(
    "fractions",
    [{"train": 0.7, "val": 0.1}, {"train": 1.2, "val": -0.2}, {"train": 0.5, "dev": 0.5}, {}, {"train": float("nan")}],
)
def test_fractions_that_are_none_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        split_by_patient(drawn(0, 10), fractions, 0)


def test_a_fraction_of_zero_makes_no_split() -> None:
    done = split_by_patient(drawn(0, 30), {"train": 0.8, "val": 0.2, "test": 0}, 0)
    assert set(done.splits) == {"train", "val"}


def test_no_split_is_empty_while_there_are_patients_for_it() -> None:
    for num in (3, 4, 5):
        manifest = make([film(p, n, ["Mass"]) for p in range(num) for n in range(3)])
        assert set(split_by_patient(manifest, THREE, num).splits) == set(THREE)


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(DataError, match="2 patients cannot make 3 splits"):
        split_by_patient(make([film(1, 0, []), film(2, 0, []), film(2, 1, [])]), THREE, 0)

"""One answer of several readers: votes by hand, box fusion against ensemble-boxes and by its properties."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.data.sources.readers.drawn import fit_boxes, read_boxes, read_frames
from cxr_mtl.data.sources.readers.fusion import fuse_boxes, overlap
from cxr_mtl.data.sources.readers.settle import POLICIES, check_readers
from cxr_mtl.data.sources.readers.votes import Readings, Verdict, count_votes, make_readings
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box

THORAX = load_ontology("thorax")
WORDS = ("Atelectasis", "Consolidation", "Lung Opacity", "Nodule/Mass", "Lung tumor", "Other lesion", "No finding")
GOLDEN = Path(__file__).parent / "wbf_cases.json"

corner = st.integers(0, 80)
side = st.integers(1, 40)
drawn = st.builds(
    lambda x, y, w, h, reader, finding: Box(finding, x, y, x + w, y + h, reader),
    corner,
    corner,
    side,
    side,
    st.sampled_from(["R1", "R2", "R3"]),
    st.sampled_from(["Nodule", "Effusion"]),
)


def vote(readings: list[list[str]], *, majority: bool) -> tuple[Verdict, Tally]:
    """One film, a list of words a reader."""
    marks = np.array([[word in said for word in WORDS] for said in readings], dtype=np.float32)
    tally = Tally()
    readers = [f"R{n}" for n in range(len(readings))]
    made = make_readings(1, np.zeros(len(readings), dtype=np.intp), readers, WORDS, marks)
    return count_votes(made, "vindr", THORAX, tally, majority=majority), tally


def present(verdict: Verdict) -> set[str]:
    return {name for name, value in zip(THORAX.names, verdict.stated[0], strict=True) if value == 1}


@pytest.mark.parametrize(
    ("readings", "by_any", "by_majority"),
    [
        ([["Atelectasis"], ["Atelectasis"], ["No finding"]], {"Atelectasis"}, {"Atelectasis"}),
        ([["Atelectasis"], ["No finding"], ["No finding"]], {"Atelectasis"}, {"No Finding"}),
        ([["No finding"]] * 3, {"No Finding"}, {"No Finding"}),
        # of two readers both are more than half, one is not
        ([["Atelectasis"], ["Atelectasis"]], {"Atelectasis"}, {"Atelectasis"}),
        ([["Atelectasis"], ["No finding"]], {"Atelectasis"}, set()),
        ([["Atelectasis"]], {"Atelectasis"}, {"Atelectasis"}),
        # two words of one finding are two votes for it
        ([["Nodule/Mass"], ["Lung tumor"], ["No finding"]], {"Lung Lesion"}, {"Lung Lesion"}),
        # different opacities are both opacities
        (
            [["Atelectasis"], ["Consolidation"], ["No finding"]],
            {"Atelectasis", "Consolidation"},
            {"Lung Opacity"},
        ),
        ([["Atelectasis", "No finding"], [], []], {"Atelectasis"}, set()),
        ([["Other lesion"], ["Other lesion"], ["No finding"]], set(), set()),
    ],
)
def test_votes_by_hand(readings: list[list[str]], by_any: set[str], by_majority: set[str]) -> None:
    one, _ = vote(readings, majority=False)
    most, _ = vote(readings, majority=True)
    assert present(one) == by_any
    assert present(most) == by_majority
    asked = [THORAX.index(name) for name in ("Atelectasis", "Lung Opacity", "Lung Lesion", "No Finding")]
    assert set(one.stated[0, asked]) <= {0, 1}
    assert np.isnan(one.stated[0, THORAX.index("Hernia")])


def test_a_word_without_a_finding_is_told_and_flagged() -> None:
    one, tally = vote([["Other lesion"], ["No finding"], ["No finding"]], majority=False)
    most, _ = vote([["Other lesion"], ["No finding"], ["No finding"]], majority=True)
    assert (one.unlisted.tolist(), most.unlisted.tolist()) == ([True], [False])
    assert one.stated[0, THORAX.index("No Finding")] == 0
    assert any("no finding for Other lesion 1 " in note for note in tally.notes)
    assert "1 films are normal to one reader and not to another" in tally.notes


def test_contradictions_and_torn_films_are_told() -> None:
    _, tally = vote([["Atelectasis", "No finding"], ["Nodule/Mass"], ["No finding"]], majority=False)
    assert "1 times a reader marks a finding and calls the film normal: not normal" in tally.notes
    _, tally = vote([["Atelectasis"], ["Atelectasis"], ["Consolidation"]], majority=True)
    assert not any("agree on a group" in note for note in tally.notes)  # Atelectasis says it already
    _, tally = vote([["Atelectasis"], ["Consolidation"], []], majority=True)
    assert any("the group is present (Lung Opacity 1 films)" in note for note in tally.notes)
    _, tally = vote([["Atelectasis"], ["No finding"]], majority=True)
    assert any(note.startswith("1 films are not normal, but no finding has votes enough") for note in tally.notes)


def test_who_does_not_answer_does_not_vote() -> None:
    nan = np.nan
    marks = np.array([[1, 0, nan], [nan, 0, nan], [0, 0, nan]], dtype=np.float32)
    readings = Readings(1, np.zeros(3, dtype=np.intp), ("Atelectasis", "Edema", "Pneumonia"), marks)
    for majority, expected in ((False, 1), (True, 0)):  # one of two is not more than half
        stated = count_votes(readings, "vindr", THORAX, Tally(), majority=majority).stated[0]
        assert stated[THORAX.index("Atelectasis")] == expected
        assert stated[THORAX.index("Edema")] == 0
        assert np.isnan(stated[THORAX.index("Pneumonia")])


def test_a_reader_votes_once() -> None:
    marks = np.array([[1, 0], [0, 0], [0, 0], [np.nan, 1]], dtype=np.float32)
    film = np.zeros(4, dtype=np.intp)
    made = make_readings(1, film, ["R1", "R2", "R3", "R1"], ("Atelectasis", "Edema"), marks)
    np.testing.assert_array_equal(made.marks, [[1, 1], [0, 0], [0, 0]])
    verdict = count_votes(made, "vindr", THORAX, Tally(), majority=False)
    assert verdict.lone["Atelectasis"] == (1, 1)


@given(st.lists(st.lists(st.sampled_from(WORDS), unique=True), min_size=1, max_size=5), st.randoms())
def test_votes_do_not_depend_on_order_and_majority_finds_no_more(readings: list[list[str]], rng: random.Random) -> None:
    one, _ = vote(readings, majority=False)
    most, _ = vote(readings, majority=True)
    shuffled = rng.sample(readings, len(readings))
    for majority, verdict in ((False, one), (True, most)):
        np.testing.assert_array_equal(vote(shuffled, majority=majority)[0].stated, verdict.stated)
    up = [set(np.flatnonzero(THORAX.propagate(v.stated)[0] == 1)) for v in (one, most)]
    assert up[1] - {THORAX.index("No Finding")} <= up[0]


def test_check_readers() -> None:
    assert [check_readers(word) for word in POLICIES] == ["any", "majority", "fusion"]
    with pytest.raises(ConfigError, match="Did you mean 'majority'"):
        check_readers("majorty")
    with pytest.raises(ConfigError, match="not any, majority or fusion"):
        check_readers("")


# --- fusion ------------------------------------------------------------------------------------------------------


def test_fusion_by_hand() -> None:
    boxes = [
        Box("Nodule", 0, 0, 10, 10, "R8"),
        Box("Nodule", 0, 0, 12, 10, "R9"),  # IoU 100 / 120
        Box("Nodule", 6, 0, 16, 10, "R10"),  # 50 / 160 with the mean of the two
        Box("Mass", 0, 0, 10, 10, "R9"),
    ]
    assert fuse_boxes(boxes) == (
        Box("Mass", 0, 0, 10, 10, "R9"),
        Box("Nodule", 0, 0, 11, 10, "R8+R9"),
        Box("Nodule", 6, 0, 16, 10, "R10"),
    )
    assert fuse_boxes([]) == ()


def test_exactly_the_least_overlap_is_enough() -> None:
    a, b = Box("Nodule", 0, 0, 14, 1, "R1"), Box("Nodule", 6, 0, 20, 1, "R2")
    assert overlap(a, b) == 0.4
    assert len(fuse_boxes([a, b])) == 1
    assert len(fuse_boxes([a, Box("Nodule", 6.01, 0, 20, 1, "R2")])) == 2


def test_two_boxes_of_one_reader_stay_two() -> None:
    twin = [Box("Nodule", 0, 0, 10, 10, "R1"), Box("Nodule", 1, 0, 11, 10, "R1")]
    assert fuse_boxes(twin) == tuple(twin)
    fused = fuse_boxes([*twin, Box("Nodule", 1, 0, 11, 10, "R2")])
    assert fused == (twin[0], Box("Nodule", 1, 0, 11, 10, "R1+R2"))


@given(st.lists(drawn, max_size=9), st.randoms())
def test_fusion_properties(boxes: list[Box], rng: random.Random) -> None:
    fused = fuse_boxes(boxes)
    assert fuse_boxes(rng.sample(boxes, len(boxes))) == fused
    assert sum(box.reader.count("+") + 1 for box in fused) == len(boxes)
    assert {box.finding for box in fused} == {box.finding for box in boxes}
    for box in fused:
        names = box.reader.split("+")
        assert len(set(names)) == len(names)
        mine = [b for b in boxes if b.finding == box.finding and b.reader in names]
        hull = np.array([b.xyxy for b in mine])
        assert (hull.min(axis=0) - 1e-9 <= box.xyxy).all()
        assert (box.xyxy <= hull.max(axis=0) + 1e-9).all()
        if "+" not in box.reader:
            assert box in boxes


@given(drawn, st.integers(1, 5))
def test_the_same_box_of_all_readers_is_that_box(box: Box, num: int) -> None:
    copies = [Box(box.finding, *box.xyxy, f"R{n}") for n in range(num)]
    (fused,) = fuse_boxes(copies)
    assert fused.xyxy == pytest.approx(box.xyxy)
    assert fused.reader.split("+") == [f"R{n}" for n in range(num)]


def film_of(xyxy: list[list[float]]) -> list[Box]:
    """Every box by a reader of its own: then fusion is ensemble-boxes' own."""
    return [Box("Nodule", x1, y1, x2, y2, f"R{n}") for n, (x1, y1, x2, y2) in enumerate(xyxy)]


def test_ensemble_boxes_golden() -> None:
    """Expected: ensemble-boxes 1.0.9, weighted_boxes_fusion(iou_thr=.4), all scores 1, boxes from left to right."""
    cases = json.loads(GOLDEN.read_text())
    assert sum(len(case["fused"]) < len(case["boxes"]) for case in cases) > 20
    for case in cases:
        ours = sorted(box.xyxy for box in fuse_boxes(film_of(case["boxes"])))
        np.testing.assert_allclose(ours, sorted(case["fused"]), atol=1e-5)


# --- boxes of a table, and their frame -----------------------------------------------------------------------------


def box_table(corners: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    table = pd.DataFrame(corners, columns=["x_min", "y_min", "x_max", "y_max"], dtype="str")
    return table.assign(image_id=[f"film{n}" for n in range(len(table))], reader="R1", word="ILD")


def test_boxes_that_are_none_are_counted() -> None:
    good, swapped, flat = ("1", "2", "3.5", "4"), ("3", "2", "1", "4"), ("1", "2", "1", "4")
    blank, text, endless = ("", "", "", ""), ("a", "2", "3", "4"), ("1", "2", "inf", "4")
    tally = Tally()
    boxes, lost = read_boxes(box_table([good, swapped, flat, blank, text, endless]), np.arange(6), tally)
    assert boxes[["film", "x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[0, 1, 2, 3.5, 4]]
    assert lost.tolist() == [1, 2, 3, 4, 5]
    assert {reason: d.count for reason, d in tally.dropped.items()} == {
        "box is not four numbers": 3,
        "box has no area": 2,
    }


def rows_of(num: int) -> pd.DataFrame:
    names = [f"film{n}" for n in range(num)]
    return pd.DataFrame({"image_id": names, "image_path": [f"train/{name}.png" for name in names]})


def test_sizes_beside_the_boxes_go_before_a_table_of_sizes(tmp_path: Path) -> None:
    (tmp_path / "train_meta.csv").write_text("image_id,dim0,dim1\nfilm0,30,20\nfilm1,31,21\nfilm2,0,5\n")
    beside = pd.DataFrame({"image_id": ["film0"], "width": ["200"], "height": ["300"]})
    info: dict[str, object] = {}
    sizes = read_frames(tmp_path, rows_of(4), np.ones(4, dtype=bool), [beside], info, Tally())
    np.testing.assert_array_equal(sizes, [[200, 300], [21, 31], [np.nan] * 2, [np.nan] * 2])
    assert [str(name).split()[0] for name in info["sizes_from"]] == ["the", "train_meta.csv"]  # type: ignore[attr-defined]


def test_a_table_of_sizes_without_sizes(tmp_path: Path) -> None:
    (tmp_path / "train_meta.csv").write_text("image_id,rows\nfilm0,30\n")
    with pytest.raises(DataError, match=r"train_meta\.csv has no columns dim0 and dim1"):
        read_frames(tmp_path, rows_of(1), np.ones(1, dtype=bool), [], {}, Tally())


def test_sizes_that_no_film_has_are_unknown_and_noted(tmp_path: Path) -> None:
    table = [
        "image_id,dim0,dim1",
        "film0,99999999999,20",
        "film1,30.5,20",
        "film2,1e999,20",
        "film3,65535.0,1",
        "film4,,",
    ]
    (tmp_path / "train_meta.csv").write_text("\n".join(table) + "\n")
    tally = Tally()
    sizes = read_frames(tmp_path, rows_of(6), np.ones(6, dtype=bool), [], {}, tally)
    assert np.flatnonzero(~np.isnan(sizes[:, 0])).tolist() == [3]
    assert sizes[3].tolist() == [1, 65535]
    (note,) = tally.notes
    assert note.startswith("3 films have sizes in train_meta.csv ")
    assert note.endswith("that are no whole numbers from 1 to 65,535 (first: film0): unknown")


def boxes_at(xyxy: list[tuple[float, float, float, float]]) -> pd.DataFrame:
    table = pd.DataFrame(xyxy, columns=["x1", "y1", "x2", "y2"], dtype=float)
    return table.assign(film=0, reader="R1", word="ILD")


def test_boxes_are_cut_off_at_the_edge_or_left_out() -> None:
    tally = Tally()
    frames = np.array([[100.0, 50.0]])
    boxes = fit_boxes(boxes_at([(-1, 0, 100.5, 50), (90, 40, 120, 60), (101, 0, 120, 9)]), frames, ["film0"], tally)
    assert boxes[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[0, 0, 100, 50], [90, 40, 100, 50]]
    assert tally.notes == ["2 boxes reach out of their film (first: film0): cut off at its edge"]
    assert tally.dropped["box lies outside its film"].count == 1
    unknown = fit_boxes(boxes_at([(1, 2, 3000, 4)]), np.full((1, 2), np.nan), ["film0"], tally)
    assert unknown["x2"].tolist() == [3000]


def test_swapped_width_and_height_are_noticed() -> None:
    tall = boxes_at([(0, 100 + n, 40, 190) for n in range(12)])
    assert len(fit_boxes(tall, np.array([[100.0, 200.0]]), ["film0"], Tally())) == 12
    with pytest.raises(DataError, match=r"12 of 12 boxes reach out of their film.*dim0 is its height"):
        fit_boxes(tall, np.array([[200.0, 100.0]]), ["film0"], Tally())

"""Boxes of several findings at one place are one region; nothing is lost and nothing is told twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.predict.regions import fuse_regions
from cxr_mtl.types import ScoredBox

coordinates = st.integers(0, 200).map(float)
scored = st.builds(
    lambda name, score, x, y, w, h: ScoredBox(name, score, (x, y, x + w + 1, y + h + 1)),
    st.sampled_from(["Effusion", "Mass", "Nodule"]),
    st.floats(0, 1),
    *[coordinates] * 4,
)


def test_two_findings_at_one_place_are_one_region() -> None:
    boxes = [
        ScoredBox("Effusion", 0.2, (0, 0, 100, 100)),
        ScoredBox("Consolidation", 0.6, (0, 0, 100, 80)),
        ScoredBox("Nodule", 0.9, (300, 300, 320, 320)),
    ]
    nodule, both = fuse_regions(boxes)
    assert nodule.findings == (("Nodule", 0.9),)
    assert nodule.xyxy == (300, 300, 320, 320)
    assert both.findings == (("Consolidation", 0.6), ("Effusion", 0.2))
    assert both.xyxy == (0, 0, 100, 85)  # 80 weighs .6, 100 weighs .2


def test_two_boxes_of_one_finding_are_two_things() -> None:
    boxes = [ScoredBox("Nodule", s, (0, 0, 100, y)) for s, y in ((0.9, 100), (0.8, 95))]
    assert len(fuse_regions(boxes)) == 2


@given(st.lists(scored, max_size=8))
def test_every_box_is_in_one_region(boxes: list[ScoredBox]) -> None:
    regions = fuse_regions(boxes)
    told = sorted(pair for region in regions for pair in region.findings)
    assert told == sorted((box.finding, box.score) for box in boxes)
    for region in regions:
        names = [name for name, _ in region.findings]
        assert len(names) == len(set(names))
        assert region.xyxy[0] < region.xyxy[2]
        assert region.xyxy[1] < region.xyxy[3]
    tops = [max(score for _, score in region.findings) for region in regions]
    assert tops == sorted(tops, reverse=True)

"""The drawn study set: NIH's layout to the byte, boxes on what is drawn, and patients who stay themselves."""

from __future__ import annotations

import csv
import itertools
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_mtl.data.synthetic import BOX_FINDINGS, FINDINGS, FilmPlan, draw_film, plan_films, write_study_set
from cxr_mtl.data.synthetic.anatomy import make_chest
from cxr_mtl.data.synthetic.cases import CASES, CHRONIC
from cxr_mtl.errors import ConfigError, DataError

NUM_IMAGES, SIZE = 48, 128
NIH_LABELS = {
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
    *("Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
}
NIH_BOX_LABELS = {"Infiltrate" if name == "Infiltration" else name for name in BOX_FINDINGS}
PLANS = plan_films(4000, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "set"
    write_study_set(out, NUM_IMAGES, seed=7, size=SIZE)
    return out


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="ascii") as file:
        return list(csv.reader(file))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def films_of(finding: str, count: int) -> list[FilmPlan]:
    return [p for p in PLANS if finding in p.findings][:count]


def bounds(mask: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 of a mask in the 1024 frame."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    found: np.ndarray = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * (1024 / mask.shape[0])
    return found


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    both = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both))


# Layout


def test_the_files_are_those_of_nih(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        "BBox_List_2017.csv",
        "Data_Entry_2017_v2020.csv",
        "README.txt",
        "images",
        "test_list.txt",
        "train_val_list.txt",
    ]
    assert "not patients" in (folder / "README.txt").read_text()


def test_the_label_table_has_nih_header_and_one_row_a_film(folder: Path) -> None:
    header, *rows = rows_of(folder / "Data_Entry_2017_v2020.csv")
    assert ",".join(header) == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    assert len(header) == 11
    assert {len(row) for row in rows} == {11}
    assert len(rows) == NUM_IMAGES
    for name, labels, follow_up, patient, age, sex, view, *_ in rows:
        assert name == f"{int(patient):08d}_{int(follow_up):03d}.png"
        stated = labels.split("|")
        assert stated == ["No Finding"] or (set(stated) <= NIH_LABELS and stated == sorted(set(stated)))
        assert 18 <= int(age) <= 95
        assert sex in {"M", "F"}
        assert view in {"PA", "AP"}


def test_the_box_list_has_nih_header_line_ends_and_names(folder: Path) -> None:
    raw = (folder / "BBox_List_2017.csv").read_bytes()
    assert raw.startswith(b"Image Index,Finding Label,Bbox [x,y,w,h],,,\r\n")
    assert raw.count(b"\n") == raw.count(b"\r\n")
    header, *rows = rows_of(folder / "BBox_List_2017.csv")
    assert len(header) == 9
    assert {len(row) for row in rows} == {6}
    labels = {row[0]: set(row[1].split("|")) for row in rows_of(folder / "Data_Entry_2017_v2020.csv")[1:]}
    assert {row[1] for row in rows} <= NIH_BOX_LABELS
    assert "Infiltrate" in {row[1] for row in rows}
    for name, finding, *numbers in rows:
        assert {"Infiltrate": "Infiltration"}.get(finding, finding) in labels[name]
        x, y, width, height = map(float, numbers)
        assert x >= 0
        assert y >= 0
        assert min(width, height) >= 40
        assert x + width <= 1024
        assert y + height <= 1024
    pairs = [(row[0], row[1]) for row in rows]
    assert len(set(pairs)) == len(pairs), "NIH has one box at most of a finding on a film"


def test_a_film_has_all_its_boxes_or_none(folder: Path) -> None:
    boxed = defaultdict(set)
    for name, finding, *_ in rows_of(folder / "BBox_List_2017.csv")[1:]:
        boxed[name].add({"Infiltrate": "Infiltration"}.get(finding, finding))
    left_out = 0
    for name, labels, *_ in rows_of(folder / "Data_Entry_2017_v2020.csv")[1:]:
        boxable = set(labels.split("|")) & set(BOX_FINDINGS)
        assert boxed[name] in (boxable, set())
        left_out += bool(boxable) and not boxed[name]
    assert left_out, "some abnormal films must come without boxes, as most of NIH's do"


def test_films_are_grey_8_bit_and_on_one_list_each(folder: Path) -> None:
    train, test = ((folder / f"{name}_list.txt").read_text().split() for name in ("train_val", "test"))
    names = [row[0] for row in rows_of(folder / "Data_Entry_2017_v2020.csv")[1:]]
    assert sorted(train + test) == sorted(names) == sorted(p.name for p in (folder / "images").iterdir())
    assert {n[:8] for n in train}.isdisjoint({n[:8] for n in test})
    for name in names[:5]:
        with Image.open(folder / "images" / name) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (SIZE, SIZE))
            pixels = np.asarray(image)
        assert pixels.std() > 30
        assert (pixels == 255).mean() < 0.02


# Seeds and folders


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, count, seed in (("a", 6, 1), ("b", 6, 1), ("longer", 9, 1), ("other", 6, 2)):
        write_study_set(tmp_path / name, count, seed, size=64)
    first = bytes_of(tmp_path / "a")
    assert first == bytes_of(tmp_path / "b")
    films = {name: data for name, data in first.items() if name.endswith(".png")}
    assert len(films) == 6
    assert films.items() <= bytes_of(tmp_path / "longer").items()
    assert not films.items() & bytes_of(tmp_path / "other").items()


def test_a_taken_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not an empty folder"):
        write_study_set(tmp_path, 1, 0, size=64)
    with pytest.raises(DataError, match="not an empty folder"):
        write_study_set(tmp_path / "mine.txt", 1, 0, size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    write_study_set(tmp_path, 1, 0, size=64)
    assert (tmp_path / "Data_Entry_2017_v2020.csv").exists()
    assert not (tmp_path / ".part").exists()


def test_an_unwritable_place_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        write_study_set(tmp_path / "file" / "set", 1, 0, size=64)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cxr_mtl.data.synthetic.layout.draw_film", stop)
    with pytest.raises(KeyboardInterrupt):
        write_study_set(tmp_path / "set", 1, 0, size=64)
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize(("num_images", "seed", "size"), [(0, 0, 64), (1, -1, 64), (1, 0, 63)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, num_images: int, seed: int, size: int) -> None:
    with pytest.raises(ConfigError, match="must be"):
        write_study_set(tmp_path / "set", num_images, seed, size)
    assert not (tmp_path / "set").exists()


# Who is filmed


def test_patients_have_films_that_follow_up() -> None:
    films = defaultdict(list)
    for plan in PLANS:
        films[plan.patient].append(plan)
    assert max(map(len, films.values())) >= 4
    for own in films.values():
        assert [p.follow_up for p in own] == list(range(len(own)))
        assert len({(p.sex, p.test) for p in own}) == 1
        for before, after in itertools.pairwise(own):
            assert 0 <= after.age - before.age <= 1
            assert CHRONIC & set(before.findings) <= set(after.findings)


def test_shares_are_those_that_are_promised() -> None:
    share = Counter(f for p in PLANS for f in p.findings)
    assert set(share) == set(FINDINGS)
    assert min(share.values()) > 0.07 * len(PLANS)
    assert max(share.values()) < 0.20 * len(PLANS)
    normal = [not p.findings for p in PLANS]
    assert np.mean(normal) == pytest.approx(0.30, abs=0.03)
    assert np.mean([p.boxed for p in PLANS if p.findings]) == pytest.approx(0.70, abs=0.03)
    assert np.mean([p.test for p in PLANS]) == pytest.approx(0.20, abs=0.02)
    assert np.mean([p.view == "AP" for p in PLANS]) == pytest.approx(0.42, abs=0.05)
    assert {len(p.findings) for p in PLANS} == {0, 1, 2, 3}


def test_findings_that_go_together_are_seen_together() -> None:
    def both(a: str, b: str) -> float:
        return float(np.mean([a in p.findings and b in p.findings for p in PLANS]))

    def alone(a: str) -> float:
        return float(np.mean([a in p.findings for p in PLANS]))

    for a, b in (("Effusion", "Atelectasis"), ("Effusion", "Cardiomegaly"), ("Edema", "Cardiomegaly")):
        assert both(a, b) > 1.2 * alone(a) * alone(b)
    assert both("Cardiomegaly", "Emphysema") == 0


def test_whatever_lasts_can_be_followed_up() -> None:
    pictures = [case for case, _ in CASES]
    assert all(any(case & CHRONIC <= other for other in pictures) for case in pictures)
    assert set().union(*pictures) == set(FINDINGS) <= NIH_LABELS


# What is drawn


@pytest.mark.parametrize("finding", sorted(set(BOX_FINDINGS) - {"Cardiomegaly"}))
def test_a_box_is_tight_around_what_the_finding_changes(finding: str) -> None:
    for plan in films_of(finding, 4):
        shown, hidden = draw_film(plan, 256), draw_film(plan, 256, hide=frozenset({finding}))
        change = np.abs(shown.pixels.astype(int) - hidden.pixels.astype(int))
        # Ignore the faint skirt that blur and soft borders leave around what is drawn.
        drawn = bounds(change > 0.25 * np.percentile(change[change > 0], 95))
        assert overlap(drawn, np.array(shown.boxes[finding])) > 0.85, plan
        assert finding not in hidden.boxes


def test_a_finding_changes_nothing_far_from_its_box() -> None:
    for plan in films_of("Mass", 4):
        shown, hidden = draw_film(plan, 128), draw_film(plan, 128, hide=frozenset({"Mass"}))
        x1, y1, x2, y2 = (int(edge / 8) for edge in shown.boxes["Mass"])
        outside = np.ones((128, 128), bool)
        outside[y1 - 3 : y2 + 4, x1 - 3 : x2 + 4] = False
        assert np.array_equal(shown.pixels[outside], hidden.pixels[outside])


def test_films_without_findings_have_no_boxes_and_global_findings_none_of_their_own() -> None:
    normal = next(p for p in PLANS if not p.findings)
    assert draw_film(normal, 64).boxes == {}
    for plan in films_of("Edema", 6) + films_of("Emphysema", 6) + films_of("Pleural_Thickening", 6):
        assert set(draw_film(plan, 64).boxes) == set(plan.findings) & set(BOX_FINDINGS)


def test_a_large_heart_is_told_from_one_that_the_view_enlarges() -> None:
    def ratio(plan: FilmPlan) -> float:
        return make_chest(
            plan, large_heart="Cardiomegaly" in plan.findings, emphysema="Emphysema" in plan.findings
        ).heart_ratio

    large = [ratio(p) for p in PLANS if "Cardiomegaly" in p.findings]
    front = [ratio(p) for p in PLANS if "Cardiomegaly" not in p.findings and p.view == "AP"]
    back = [ratio(p) for p in PLANS if "Cardiomegaly" not in p.findings and p.view == "PA"]
    assert np.mean(back) + 0.04 < np.mean(front)
    assert max(back) < 0.50 < max(front) < 0.54 < 0.58 < min(large)


def test_the_heart_box_is_as_wide_as_the_heart_and_mostly_on_the_patients_left() -> None:
    for plan in films_of("Cardiomegaly", 6):
        x1, y1, x2, y2 = draw_film(plan, 128).boxes["Cardiomegaly"]
        assert 0.36 * 1024 < x2 - x1 < 0.60 * 1024
        assert 0.25 * 1024 < y2 - y1 < 0.50 * 1024
        assert (x1 + x2) / 2 > 512 - 0.02 * 1024


def test_the_size_changes_the_pixels_and_not_the_film() -> None:
    for plan in PLANS[:6]:
        small, large = draw_film(plan, 128), draw_film(plan, 256)
        shrunk = large.pixels.reshape(128, 2, 128, 2).mean(axis=(1, 3))
        assert np.corrcoef(shrunk.ravel(), small.pixels.ravel())[0, 1] > 0.985
        assert small.boxes.keys() == large.boxes.keys()
        for finding, box in small.boxes.items():
            assert np.abs(np.subtract(box, large.boxes[finding])).max() <= 24


def test_a_lasting_lump_stays_where_it_was() -> None:
    moved: list[float] = []
    for before, after in itertools.pairwise(PLANS[:400]):
        if before.patient == after.patient and "Mass" in before.findings and len(moved) < 6:
            centres = [np.array(draw_film(p, 64).boxes["Mass"]).reshape(2, 2).mean(axis=0) for p in (before, after)]
            moved.append(float(np.linalg.norm(centres[0] - centres[1])))
    assert len(moved) == 6
    # Breath and pose move it by some; another place would be hundreds of pixels away.
    assert np.median(moved) < 130


def test_the_left_side_is_marked() -> None:
    """An asymmetric film: a mirrored or transposed reader shows."""
    for plan in PLANS[:5]:
        corner = draw_film(plan, 128).pixels[:16, 110:]
        assert (corner == 245).sum() >= 8

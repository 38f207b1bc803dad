"""Each fault of a film, planted alone in a sound set, is found, and nothing else is; then all of them together."""

from __future__ import annotations

import io
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import pytest
from dicom_files import film as dicom
from dicom_files import saved
from doctor_set import NUM, SIDE, changed, draw, manifest, save, sound, write_films
from PIL import Image, ImageDraw, ImageFont
from scipy.sparse.csgraph import connected_components

from cxr_mtl.data.doctor import examine
from cxr_mtl.data.doctor.copies import ALIKE, same_pictures
from cxr_mtl.data.doctor.looks import lie_of, look_at
from cxr_mtl.data.doctor.text import lines_of_text
from cxr_mtl.data.read import read_image
from cxr_mtl.data.sources import import_source

TEXT = ("DOE, JOHN A.", "ID 8812-4471", "M 1961-04-03", "CHEST PA 15:22", "ST. MARY HOSPITAL")
SPLITS = [record.split for record in sound()]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("films"))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def recompressed(picture: Image.Image, quality: int = 60) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def write_text(picture: Image.Image, lines: int, size: int, corner: str) -> Image.Image:
    """The first lines of ``TEXT`` in a corner: tl, tr, bl or br."""
    picture = picture.copy()
    pen, font, step = ImageDraw.Draw(picture), ImageFont.load_default(size), round(size * 1.25)
    wide = max(pen.textlength(line, font=font) for line in TEXT[:lines])
    x = 4 if corner[1] == "l" else picture.width - wide - 4
    y = 4 if corner[0] == "t" else picture.height - lines * step - 6
    for i, line in enumerate(TEXT[:lines]):
        pen.text((x, y + i * step), line, font=font, fill=255)
    return picture


def _edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda root: save(root / name, change(pixels(root / name)))


def _halve_file(root: Path) -> None:
    (root / "12.png").write_bytes((root / "12.png").read_bytes()[: SIDE * SIDE // 3])


def _folder(root: Path) -> None:
    (root / "12.png").unlink()
    (root / "12.png").mkdir()


def _near_copy(root: Path, source: str, target: str) -> None:
    """Smaller, and once through JPEG."""
    small = Image.open(root / source).resize((232, 232), Image.Resampling.BICUBIC)
    save(root / target, np.asarray(recompressed(small)))


def _within_black(grey: np.ndarray) -> np.ndarray:
    wide = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
    wide[100 : 100 + SIDE, 60 : 60 + SIDE] = grey
    return wide


def _cut_at_255(grey: np.ndarray) -> np.ndarray:
    """What a careless conversion of 16 bits to 8 leaves: black and white."""
    deep = np.maximum(grey.astype(np.int32) - 40, 0) * 257
    return np.minimum(deep, 255).astype(np.uint8)


def _deep(root: Path) -> None:
    """One film of 16 bits a pixel, read right."""
    deep = pixels(root / "13.png").astype(np.uint16) * 257
    Image.fromarray(deep).save(root / "13.png")


def _burn_in(root: Path) -> None:
    large = Image.fromarray(draw(13, 512))
    save(root / "13.png", np.asarray(write_text(large, 4, 20, "tl")))


# How it is planted; then the problem: check, level, count, path. Films 12 and 13 are in val, 0 in train.
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, int, str]] = {
    "missing": (lambda root: (root / "12.png").unlink(), "file-missing", "error", 1, "12.png"),
    "truncated": (_halve_file, "file-unreadable", "error", 1, "12.png"),
    "text file": (lambda root: (root / "12.png").write_text("a note"), "file-unreadable", "error", 1, "12.png"),
    "folder": (_folder, "file-missing", "error", 1, "12.png"),
    "copied": (lambda root: shutil.copy(root / "13.png", root / "16.png"), "copy", "warning", 2, "13.png"),
    "two classes": (
        lambda root: shutil.copy(root / "13.png", root / "14.png"), "copy-contradicts", "warning", 2, "13.png",
    ),
    "leaked": (lambda root: shutil.copy(root / "0.png", root / "12.png"), "copy-across-splits", "error", 2, "0.png"),
    "near copy": (lambda root: _near_copy(root, "13.png", "16.png"), "near-copy", "warning", 2, "13.png"),
    "near, other labels": (
        lambda root: _near_copy(root, "13.png", "14.png"), "near-copy-contradicts", "warning", 2, "13.png",
    ),
    "near, leaked": (
        lambda root: _near_copy(root, "0.png", "12.png"), "near-copy-across-splits", "error", 2, "0.png",
    ),
    "cropped": (_edit("12.png", lambda grey: grey[10:, :-30]), "box-frame-aspect", "error", 1, "12.png"),
    "small": (lambda root: save(root / "12.png", draw(12, 223)), "small", "warning", 1, "12.png"),
    "large": (lambda root: save(root / "13.png", draw(13, 4 * SIDE + 8)), "size", "warning", 1, "13.png"),
    "strip": (
        lambda root: save(root / "13.png", np.asarray(Image.fromarray(draw(13)).resize((256, 800)))),
        "aspect", "warning", 1, "13.png",
    ),
    "blank": (_edit("12.png", np.zeros_like), "blank", "error", 1, "12.png"),
    "inverted": (_edit("12.png", lambda grey: 255 - grey), "inverted", "warning", 1, "12.png"),
    "on its head": (_edit("12.png", lambda grey: grey[::-1]), "turned", "warning", 1, "12.png"),
    "on its side": (_edit("12.png", lambda grey: np.rot90(grey)), "turned", "warning", 1, "12.png"),
    "16 bits cut at 255": (
        _edit("12.png", _cut_at_255), "washed-out", "error", 1, "12.png",
    ),
    "four bits": (_edit("12.png", lambda grey: grey >> 4), "few-greys", "warning", 1, "12.png"),
    "black borders": (_edit("13.png", _within_black), "mostly-black", "warning", 1, "13.png"),
    "burnt in": (_burn_in, "text", "warning", 1, "13.png"),
    "deep": (_deep, "format-mix", "warning", 1, "13.png"),
    "jpeg": (
        lambda root: Image.fromarray(draw(13)).save(root / "13.png", "JPEG"), "format-mix", "warning", 1, "13.png",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_film_is_found_and_nothing_else(films: Path, tmp_path: Path, fault: str) -> None:
    plant, check, level, count, path = FAULTS[fault]
    root = shutil.copytree(films, tmp_path / "films")
    plant(root)
    problems = examine(manifest(root, sound()))
    assert [(p.check, p.level, p.count, p.path) for p in problems] == [(check, level, count, path)]
    assert problems[0].fix


def test_all_faults_together_are_all_found_and_nothing_else(films: Path, tmp_path: Path) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    _halve_file(root)  # 12
    _burn_in(root)  # 13
    (root / "2.png").unlink()
    shutil.copy(root / "15.png", root / "27.png")
    _near_copy(root, "4.png", "7.png")
    for name, change in {
        "16": lambda grey: 255 - grey,
        "19": lambda grey: grey[::-1],
        "22": np.zeros_like,
        "25": _cut_at_255,
        "28": lambda grey: grey >> 4,
        "31": _within_black,
    }.items():
        _edit(f"{name}.png", change)(root)
    Image.fromarray(draw(34)).save(root / "34.png", "JPEG")
    changes = {0: {"view": "LATERAL", "age": 3}, 6: {"width": None}, 9: {"patient_id": "p24"}, 3: {"sex": "M"}}
    problems = examine(manifest(root, changed(changes | {1: {"labels": {}}, 5: {"patient_id": "p3"}})))
    levels = [p.level for p in problems]
    assert levels == sorted(levels), "errors come first"
    assert {(p.check, p.count, p.path) for p in problems} == {
        ("file-unreadable", 1, "12.png"), ("text", 1, "13.png"), ("file-missing", 1, "2.png"),
        ("copy-across-splits", 2, "15.png"), ("near-copy", 2, "4.png"), ("inverted", 1, "16.png"),
        ("turned", 1, "19.png"), ("blank", 1, "22.png"), ("washed-out", 1, "25.png"), ("few-greys", 1, "28.png"),
        ("mostly-black", 1, "31.png"), ("format-mix", 1, "34.png"), ("lateral", 1, "0.png"), ("child", 1, "0.png"),
        ("box-frame-unknown", 1, "6.png"), ("patient-overlap", 2, "9.png"), ("sex-differs", 2, "3.png"),
        ("unlabelled", 1, "1.png"),
    }  # fmt: skip
    assert len(problems) == 18


def test_a_format_that_goes_with_a_finding_is_a_shortcut(films: Path, tmp_path: Path) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    for i in range(0, NUM, 3):
        Image.fromarray(draw(i)).save(root / f"{i}.png", "JPEG")
    found = {p.check: p for p in examine(manifest(root, sound()))}
    assert set(found) == {"format-mix", "shortcut"}
    assert (found["shortcut"].level, found["shortcut"].count) == ("error", 2)
    assert "by file format alone" in found["shortcut"].message
    assert "clinic: png of 8 bits 24, jpeg 12" in found["format-mix"].message


def as_dicom(root: Path, inverted: set[int]) -> None:
    """Every film as DICOM, some stored with dense as dark and marked so."""
    for i in range(NUM):
        grey = draw(i)
        how = "MONOCHROME1" if i in inverted else "MONOCHROME2"
        values = 255 - grey if i in inverted else grey
        (root / f"{i}.png").write_bytes(saved(dicom(values, bits=8, PhotometricInterpretation=how)))


@pytest.mark.parametrize("inverted", [set(), set(range(NUM))], ids=["none", "all"])
def test_dicom_of_one_polarity_is_no_mix(films: Path, tmp_path: Path, inverted: set[int]) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    as_dicom(root, inverted)
    assert examine(manifest(root, sound())) == []


def test_dicom_of_two_polarities_in_one_dataset_is_told_of_with_its_number(films: Path, tmp_path: Path) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    as_dicom(root, {7, 8, 18})
    (problem,) = examine(manifest(root, sound()))
    assert (problem.check, problem.level, problem.count, problem.path) == ("photometric-mix", "warning", 3, "7.png")
    assert "(clinic: MONOCHROME1 3, MONOCHROME2 33)" in problem.message
    as_dicom(root, set(range(NUM)) - {7, 8})
    (problem,) = examine(manifest(root, sound()))
    assert (problem.check, problem.count, problem.path) == ("photometric-mix", 2, "7.png")
    apart = {i: {"dataset": "other"} for i in (7, 8)}
    checks = {p.check for p in examine(manifest(root, changed(apart)))}
    assert "photometric-mix" not in checks, "each dataset is of one polarity"


def test_a_polarity_that_goes_with_a_finding_is_a_shortcut(films: Path, tmp_path: Path) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    as_dicom(root, set(range(0, NUM, 3)))
    found = {p.check: p for p in examine(manifest(root, sound()))}
    assert set(found) == {"photometric-mix", "shortcut"}
    assert (found["shortcut"].level, found["shortcut"].count) == ("error", 2)
    assert "dicom MONOCHROME1 12:0" in found["shortcut"].message


def test_films_that_may_differ_in_shape_do(films: Path, tmp_path: Path) -> None:
    """A film without boxes may have any usual aspect, and a side rounded to a pixel is no crop."""
    root = shutil.copytree(films, tmp_path / "films")
    save(root / "13.png", np.asarray(Image.fromarray(draw(13)).resize((256, 400))))
    save(root / "12.png", draw(12)[1:])
    assert examine(manifest(root, sound())) == []


def test_a_lateral_film_is_not_held_against_a_frontal_chest(films: Path, tmp_path: Path) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    _edit("12.png", lambda grey: grey[::-1])(root)
    assert [p.check for p in examine(manifest(root, changed({12: {"view": "LATERAL"}})))] == ["lateral"]


def test_without_decoding_films_are_only_looked_for(films: Path, tmp_path: Path) -> None:
    root = shutil.copytree(films, tmp_path / "films")
    _halve_file(root)
    (root / "16.png").unlink()
    assert [(p.check, p.path) for p in examine(manifest(root, sound()), decode=False)] == [("file-missing", "16.png")]


def test_progress_counts_every_film_once(films: Path) -> None:
    steps: list[int] = []
    examine(manifest(films, sound()), threads=2, progress=steps.append)
    assert sum(steps) == NUM


@pytest.mark.parametrize("corner", ["tl", "tr", "bl", "br"])
def test_a_block_of_text_is_found_and_a_marker_is_not(corner: str) -> None:
    film = Image.fromarray(draw(3, 512))
    assert lines_of_text(film) < 3
    for lines in (1, 2):
        assert lines_of_text(recompressed(write_text(film, lines, 18, corner), 85)) < 3, f"{lines} lines are usual"
    assert lines_of_text(recompressed(write_text(film, 5, 18, corner), 85)) >= 3


def test_a_large_film_is_looked_at_as_a_small_one_is() -> None:
    """A radiograph of 3000 px, and its text, which is larger in pixels as well."""
    film = write_text(Image.fromarray(draw(3, 512)), 4, 20, "tl").resize((2048, 2048), Image.Resampling.BICUBIC)
    look = look_at(np.asarray(film, dtype=np.float32) / 255)
    assert look.text >= 3
    assert not look.inverted
    assert not look.turned


def test_pictures_without_contrast_are_no_copies_of_one_another() -> None:
    thumbs = np.full((4, 32, 32), 7, np.uint8)
    thumbs[2:] = draw(1, 64)[::2, ::2]
    assert [int(n) for n in np.bincount(same_pictures(thumbs))] == [1, 1, 2]
    assert len(same_pictures(np.zeros((0, 32, 32), np.uint8))) == 0


def made_up(num: int, copied: int, noise: float, seed: int = 0) -> np.ndarray:
    """(num, 32, 32) smooth pictures about one; the last are copies of the first, the later the noisier."""
    rng = np.random.default_rng(seed)
    waves = np.cos(np.pi * np.arange(8)[:, None] * (np.arange(32) + 0.5) / 32).astype(np.float32)
    spread = 40 / (1 + np.add.outer(np.arange(8), np.arange(8)))
    usual = rng.normal(size=(8, 8)) * spread
    thumbs = np.empty((num, 32, 32), np.uint8)
    for start in range(0, num, 5000):
        part = thumbs[start : start + 5000]
        some = (usual + rng.normal(size=(len(part), 8, 8)) * spread * 0.6).astype(np.float32)
        part[:] = np.clip(128 + waves.T @ some @ waves, 0, 255)
    grain = np.linspace(0, noise, copied)[:, None, None] * rng.normal(size=(copied, 32, 32))
    thumbs[num - copied :] = np.clip(np.rint(thumbs[:copied] + grain), 0, 255)
    return thumbs


def test_copies_are_those_that_comparing_each_film_with_each_finds() -> None:
    thumbs = made_up(1500, 300, 12.0)
    correlation = np.corrcoef(thumbs.reshape(len(thumbs), -1))
    apart = np.abs(correlation - ALIKE) > 1e-5
    assert apart.all(), "none is so near the limit that rounding decides"
    _, expected = connected_components(correlation >= ALIKE)
    found = same_pictures(thumbs)
    assert 1200 < len(set(expected.tolist())) < 1480, "some copies are beyond the limit, some within"
    assert (
        len(set(zip(found.tolist(), expected.tolist(), strict=True))) == len(set(found.tolist())) == expected.max() + 1
    )


def test_comparing_very_many_films_takes_no_array_of_floats_for_all_their_pixels() -> None:
    thumbs = made_up(30_000, 100, 2.0)
    tracemalloc.start()
    picture = same_pictures(thumbs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(picture[:100], picture[-100:])
    assert peak < 2.5 * thumbs.nbytes, "one such array would be four times the thumbnails"


@pytest.mark.slow
def test_comparing_very_many_films_is_quick() -> None:
    """.7 s on one core; a tree of all low frequencies at once, as at first, takes nearly four."""
    thumbs = made_up(40_000, 100, 2.0)
    start = process_time()
    same_pictures(thumbs)
    assert process_time() - start < 3


def _thumbs(paths: list[Path]) -> np.ndarray:
    return np.stack([look_at(read_image(path).pixels).thumb for path in paths])


def test_copies_of_real_films_are_told_from_films_of_the_same_patient(real_films: Path, tmp_path: Path) -> None:
    """The most filmed NIH patients, each film also at 224 px and quality 75."""
    table = import_source("nih", real_films / "nih", ontology="nih14")[0].table
    often = table["patient_id"].value_counts().index[:8]
    paths = [real_films / "nih" / path for path in table.loc[table["patient_id"].isin(often), "image_path"]]
    copies = []
    for path in paths:
        copies.append(tmp_path / f"{path.stem}.jpg")
        Image.open(path).convert("L").resize((224, 224), Image.Resampling.BICUBIC).save(copies[-1], quality=75)
    assert len(paths) > 60
    picture = same_pictures(_thumbs(paths + copies))
    assert np.array_equal(picture[: len(paths)], picture[len(paths) :])
    assert len(set(picture)) == len(paths)


@pytest.mark.slow
def test_the_real_films(real_films: Path) -> None:
    """Two of NIH's are one file, one lies on its head; some of the children's are small. Inverted, they are told."""
    whole, _ = import_source("nih", real_films / "nih", ontology="nih14")
    children, _ = import_source("kermany", real_films / "kermany", ontology="kermany")
    assert [(p.check, p.count) for p in examine(whole) if p.check not in ("child", "boxed-in-train")] == [
        ("copy", 2),
        ("turned", 1),
    ]
    assert [(p.check, p.count) for p in examine(children)] == [("child", 890), ("small", 39)]
    paths = [m.path(row) for m in (whole, children) for row in range(0, len(m), 10)]
    found = [lie_of(255 - thumb)[0] for thumb in _thumbs(paths)]
    assert np.mean(found) > 0.98

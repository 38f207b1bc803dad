"""Write a drawn study set as NIH distributes ChestX-ray14: two tables, two lists and a folder of PNG films."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from cxr_mtl.data.synthetic.cases import FilmPlan, film_rng, plan_films
from cxr_mtl.data.synthetic.film import Film, draw_film
from cxr_mtl.errors import ConfigError, DataError

# NIH leaves the commas inside the brackets unquoted: 11 and 9 tokens over 11 and 6 columns.
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
BOX_NAMES = {"Infiltration": "Infiltrate"}
"""Where NIH's box list names a finding otherwise than its label table."""

MIN_SIZE = 64
_ORIGINALS = {"PA": ((2500, 2048, 0.171), (2992, 2991, 0.143)), "AP": ((2500, 2048, 0.168), (3056, 2544, 0.139))}
_README = """Drawn chest films, not patients
===============================
Every film in this folder was drawn by a program (cxr-mtl data synth). No person was filmed, and nothing here says
anything about a person. The layout, the file names and the names of the findings are those of NIH ChestX-ray14, so that
the same import reads both. The original sizes and pixel spacings in the table are typical of NIH's; the drawings have
none.

films {num_images}, seed {seed}, {size} px a side, boxes in the 1024 px frame as in NIH's list
"""


def write_study_set(out: Path, num_images: int, seed: int, size: int = 512) -> None:
    """Draw ``num_images`` films into the folder ``out``, in NIH's layout.

    The same arguments give the same bytes on one machine; a longer set begins with the films of a shorter one. Patients
    are on one list only, about 20 % of them on the test list. An interrupted run leaves no tables behind.

    Args:
        out: must not exist, or be empty.
        num_images: at least 1.
        seed: 0 or more.
        size: pixels a side, at least 64.

    Raises:
        DataError: ``out`` is taken or cannot be written.
        ConfigError: a number is out of range.
    """
    for name, value, least in (("num_images", num_images, 1), ("seed", seed, 0), ("size", size, MIN_SIZE)):
        if value < least:
            raise ConfigError(f"{name} is {value}, and must be {least} or more.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder.", hint="Name another folder, or remove this one.")
    # Inside `out`, since that may be a mount point, which cannot be replaced as a whole.
    part = out / ".part"
    try:
        part.mkdir(parents=True)
        _write(part, plan_films(num_images, seed), size)
        (part / "README.txt").write_text(_README.format(num_images=num_images, seed=seed, size=size), encoding="utf-8")
        # The tables go last: a folder that has them is whole.
        for path in sorted(part.iterdir(), key=lambda p: (p.suffix == ".csv", p.name)):
            path.replace(out / path.name)
        part.rmdir()
    except OSError as error:
        raise DataError(f"Cannot write the study set to {out}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(folder: Path, plans: Sequence[FilmPlan], size: int) -> None:
    images = folder / "images"
    images.mkdir()
    boxes: list[tuple[str, str, float, float, float, float]] = []
    for plan in plans:
        film = draw_film(plan, size)
        # Noise does not compress: level 1 is as small as level 9 and several times as fast.
        Image.fromarray(film.pixels).save(images / plan.name, compress_level=1)
        boxes += _box_rows(plan, film)
    _write_table(folder / "Data_Entry_2017_v2020.csv", ENTRY_HEADER, map(_entry_row, plans), "\n")
    _write_table(folder / "BBox_List_2017.csv", BOX_HEADER, boxes, "\r\n")
    for name, test in (("train_val_list.txt", False), ("test_list.txt", True)):
        lines = "".join(f"{plan.name}\n" for plan in plans if plan.test is test)
        (folder / name).write_text(lines, encoding="ascii", newline="")


def _write_table(path: Path, header: str, rows: Iterable[Sequence[object]], newline: str) -> None:
    with path.open("w", encoding="ascii", newline="") as file:
        file.write(header + newline)
        csv.writer(file, lineterminator=newline).writerows(rows)


def _entry_row(plan: FilmPlan) -> tuple[object, ...]:
    originals = _ORIGINALS[plan.view]
    width, height, spacing = originals[int(film_rng(plan, 6).integers(len(originals)))]
    labels = "|".join(sorted(plan.findings)) or "No Finding"
    person = (plan.follow_up, plan.patient, plan.age, plan.sex, plan.view)
    return (plan.name, labels, *person, width, height, spacing, spacing)


def _box_rows(plan: FilmPlan, film: Film) -> list[tuple[str, str, float, float, float, float]]:
    """NIH's rows: x, y, width and height."""
    if not plan.boxed:
        return []
    return [
        (plan.name, BOX_NAMES.get(finding, finding), x1, y1, x2 - x1, y2 - y1)
        for finding, (x1, y1, x2, y2) in film.boxes.items()
    ]

"""The size in a film's header is the size that reading it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_mtl.data.read import read_image
from cxr_mtl.data.sources.tables.sizes import film_size
from cxr_mtl.errors import ImageError


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_as_read(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"film.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)).save(path, exif=exif)
    film = read_image(path)
    assert film_size(path) == (film.width, film.height) == ((40, 60) if orientation > 4 else (60, 40))


def test_real_films(real_films: Path) -> None:
    films = [*sorted((real_films / "dicom").glob("*.dcm")), *sorted((real_films / "kermany/images").glob("*"))[:5]]
    films += sorted((real_films / "nih/native_1024").glob("*.png"))[:2]
    compared = 0
    for path in films:
        try:
            film = read_image(path)
        except ImageError:
            continue
        assert film_size(path) == (film.width, film.height), path
        compared += 1
    assert compared >= 12


def test_what_has_no_size(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no film")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 8)
    (tmp_path / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00")
    (tmp_path / "empty.dcm").touch()
    for name in ("text.png", "cut.png", "cut.dcm", "empty.dcm", "missing.png"):
        assert film_size(tmp_path / name) is None
    assert film_size(tmp_path) is None

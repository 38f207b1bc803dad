"""Bytes that a fuzz run is unlikely to hit and a reader once fell over."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from cxr_mtl.data import read
from cxr_mtl.data.elements import Elements
from cxr_mtl.data.read import read_image
from cxr_mtl.data.voi import apply_window, is_window, read_table
from cxr_mtl.errors import ImageError


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xc0\x00\x02", b"\xff\xd8\xff\xc0\x00\x07" + b"\x08" * 5])
def test_a_jpeg_header_without_a_size(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data, name="odd.jpg")
    assert caught.value.code in ("corrupt", "truncated")


def test_a_table_of_an_odd_number_of_bytes_is_none() -> None:
    item = Elements.__new__(Elements)
    values = {0x00283002: struct.pack("<HHH", 5, 0, 16), 0x00283006: b"abc"}
    object.__setattr__(item, "values", values)
    object.__setattr__(item, "order", "<")
    assert read_table(item, signed=False) is None


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_a_window_is_refused_or_gives_numbers(function: str) -> None:
    for width in (1e-310, 1e-40, 1e-7, 1e-6, 1e-3, 1.0):
        if is_window(width, function):
            assert np.isfinite(apply_window(np.array([[0, 1e9]], np.float32), 0.0, width, function)).all()
    assert not is_window(1e-40, function)


def test_what_nobody_foresaw_is_one_film_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_over(data: bytes, kind: str) -> None:
        raise IndexError("index out of range")

    monkeypatch.setattr(read, "_read_raster", fall_over)
    with pytest.raises(ImageError, match=r"film\.png is a damaged file") as caught:
        read_image(b"\x89PNG\r\n\x1a\n", name="film.png")
    assert caught.value.code == "corrupt"

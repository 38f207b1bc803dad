"""A film as the network wants it, and its probabilities as a table: ``scripts/film.py`` of a MONAI bundle.

It is copied there as it stands, so it imports nothing of cxr_mtl: NumPy, Pillow, torch, and MONAI and Ignite when run.
What it does to a film is what cxr_mtl does to one, to the last grey level. H W pixels, S side of the input.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

SHALLOW = 16384  # a 16-bit file whose brightest pixel is below it holds 10- to 14-bit data that was never scaled up


def grey(picture: Image.Image) -> Image.Image:
    """A picture as it was opened, upright, in float32 greys from 0 to 1; what is transparent is black."""
    upright = ImageOps.exif_transpose(picture)
    full = 255
    if upright.mode.startswith("I"):
        levels = np.asarray(upright).astype(np.float32)
        top = int(levels.max())
        full = (1 << max(8, top.bit_length())) - 1 if 0 < top < SHALLOW else 65535
    else:
        if upright.mode in ("LA", "PA", "RGBA") or "transparency" in upright.info:
            black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
            upright = Image.alpha_composite(black, upright.convert("RGBA")).convert("RGB")
        levels = np.asarray(upright.convert("L")).astype(np.float32)
    return Image.fromarray(levels * np.float32(1 / full))


def letterbox(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(H, W) greys from 0 to 1 in the middle of an (S, S) square, as large as fits, in whole 255ths; the rest is 0."""
    height, width = pixels.shape
    scale = size / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    picture = Image.fromarray(np.ascontiguousarray(pixels, np.float32))
    small = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))
    square = np.zeros((size, size), np.float32)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = np.rint(np.clip(small, 0.0, 1.0) * 255.0) / 255.0
    return square


class Letterbox:
    """``letterbox`` as a dictionary transform of MONAI's: (1, H, W) to (1, S, S)."""

    def __init__(self, size: int, key: str = "image") -> None:
        self.size, self.key = size, key

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """The same entry with another picture."""
        from monai.data.meta_tensor import MetaTensor

        film = data[self.key]
        square = torch.from_numpy(letterbox(film[0].numpy(), self.size))
        return {**data, self.key: MetaTensor(square[None], meta=film.meta)}


class Table:
    """A handler of Ignite's: one row a film, its name and its probabilities, in a CSV with a header."""

    def __init__(self, path: str, columns: dict[str, str]) -> None:
        self.path, self.columns = Path(path), list(columns.values())

    def attach(self, engine: Any) -> None:
        """Called by MONAI's evaluator."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)

    def begin(self, engine: Any) -> None:
        """The header, in place of a table that was there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write([["film", *self.columns]], "w")

    def add(self, engine: Any) -> None:
        """The films of a batch."""
        rows = []
        for film in engine.state.output:
            name = Path(film["image"].meta["filename_or_obj"]).name
            rows.append([name, *(f"{probability:.6f}" for probability in film["pred"].tolist())])
        self._write(rows, "a")

    def _write(self, rows: list[list[str]], mode: str) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)

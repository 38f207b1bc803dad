"""A bundle as a MONAI bundle, for whoever has MONAI and nothing of ours.

    configs/metadata.json    what goes in and comes out, the thresholds, the versions
    configs/inference.json   a folder of films to a table of probabilities
    models/model.ts          the network, TorchScript
    scripts/film.py          a film to the network's input, as cxr_mtl does it
    docs/README.md           and model_card.md where the bundle has one
    LICENSE

TorchScript, because MONAI calls ``eval()`` on a network and moves it to its device: ``torch.export``'s files allow
neither, and their reader unpickles. A ``.pt`` would be a pickle, and would need this package to make sense of.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cxr_mtl.bundle import CARD, RESULTS, Bundle
from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ServeError
from cxr_mtl.package import monai_film, monai_rehearsal
from cxr_mtl.package.mar import license_text
from cxr_mtl.package.monai_config import inference, metadata, readme
from cxr_mtl.package.onnx_file import PROBABILITIES_APART, quiet
from cxr_mtl.package.whole import OneTable
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Radiograph

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # The earliest date a zip can hold, for every file.
_AGAIN = "Nothing was written. This is a fault of cxr-mtl or of the versions installed; `--debug` shows more."


def write_monai_bundle(bundle: Bundle, folder: Path, films: Sequence[Radiograph]) -> str:
    """Write the folder, have MONAI verify and run it, and compare; gives a line that says how far apart they were.

    Args:
        bundle: on the CPU.
        folder: that is not there yet.
        films: to compare on, at least one.

    Raises:
        ServeError: the network cannot be exported, or the bundle does not run or answers otherwise.
    """
    network = OneTable(bundle).eval()
    for part in ("configs", "models", "scripts", "docs"):
        (folder / part).mkdir(parents=True)
    try:
        (folder / "models" / "model.ts").write_bytes(torchscript(network, bundle.image_size))
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ServeError(f"TorchScript cannot take this network: {reason}", hint=_AGAIN) from error
    results = bundle.folder / RESULTS
    said = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    _write_json(folder / "configs" / "metadata.json", metadata(bundle, network, said))
    _write_json(folder / "configs" / "inference.json", inference(bundle.image_size))
    (folder / "scripts" / "__init__.py").touch()
    shutil.copyfile(monai_film.__file__, folder / "scripts" / "film.py")
    (folder / "docs" / "README.md").write_text(readme(bundle), encoding="utf-8")
    if (bundle.folder / CARD).is_file():
        shutil.copyfile(bundle.folder / CARD, folder / "docs" / CARD)
    (folder / "LICENSE").write_text(license_text(), encoding="utf-8")
    apart = _rehearse(bundle, network, folder, films)
    return f"MONAI verifies and runs the bundle on {len(films)} films: probabilities within {apart:.0e} of torch's."


def torchscript(network: OneTable, size: int) -> bytes:
    """TorchScript, without the stacks of calls that it was traced from, which name this machine's folders."""
    jit: Any = torch.jit  # which has no types
    traced, saved = io.BytesIO(), io.BytesIO()
    with torch.no_grad(), quiet():
        jit.save(jit.trace(network, torch.zeros(2, 1, size, size), check_trace=False), traced)
    with zipfile.ZipFile(traced) as before, zipfile.ZipFile(saved, "w") as after:
        for name in sorted(before.namelist()):
            if not name.endswith((".debug_pkl", "/serialization_id")):  # the latter is not the same twice
                after.writestr(zipfile.ZipInfo(name, _LONG_AGO), before.read(name))
    return saved.getvalue()


def _rehearse(bundle: Bundle, network: OneTable, folder: Path, films: Sequence[Radiograph]) -> float:
    """The largest difference of a probability from the bundle's own answers."""
    pictures = [_png(film) for film in films]
    with tempfile.TemporaryDirectory(prefix="cxr-mtl-monai-") as temp:
        sources, out = Path(temp, "films"), Path(temp, "out")
        sources.mkdir()
        for i, picture in enumerate(pictures):
            (sources / f"{i:03}.png").write_bytes(picture)
        command = [sys.executable, "-I", "-B", monai_rehearsal.__file__, str(folder), str(sources), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
            raise ServeError(f"MONAI does not run the bundle: {lines[-1].strip()[:300]}", hint=_AGAIN)
        with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
            (_, *columns), *rows = csv.reader(file)
    found = np.array([row[1:] for row in rows], np.float64)
    answers = LocalPredictor(bundle, device="cpu").answer([read_image(picture) for picture in pictures])
    findings, nodes = network.whole.finding_columns, network.whole.node_columns
    exact = np.stack([np.r_[a.finding_probability[findings], a.hierarchy_probability[nodes]] for a in answers])
    if columns != network.columns or found.shape != exact.shape:
        raise ServeError("The MONAI bundle names other findings or films than it was given.", hint=_AGAIN)
    apart = float(np.abs(found - exact).max())
    if not apart <= PROBABILITIES_APART:
        raise ServeError(f"The MONAI bundle's probabilities differ from the bundle's by {apart:.2g}.", hint=_AGAIN)
    return apart


def _png(film: Radiograph) -> bytes:
    """8-bit, whatever it was: MONAI's bundle reads no DICOM."""
    stream = io.BytesIO()
    Image.fromarray(np.rint(film.pixels * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _write_json(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps(body, indent=2, allow_nan=False) + "\n", encoding="utf-8")

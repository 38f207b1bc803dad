"""What the reject gate lets pass and what it stops, on films and pictures that it was not fitted on.

    python benchmarks/gate.py --films ../shared/data [--bundle BUNDLE] [--quick] [--json FILE] [--out NEW_BUNDLE]

Fitted on NIH's training films alone, its cut chosen on NIH's validation films. Judged on NIH's test films, on Kermany's
children and on DICOM samples, which must pass; and on photographs and scans out of installed packages and on drawings
of other parts of the body, none of which it has met. Then each kind of picture that it is fitted against, with a gate
fitted without that kind. With a bundle: how many films of which kind are warned of as unlike those learned from; --out
keeps the bundle with the gate, for one that was trained before there were gates.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from parts.gate_pictures import drawn, photographs, pixels_of, scans
from PIL import Image, ImageFilter

from cxr_mtl.bundle import CARD, SPLIT, WEIGHTS, Door, gate_bytes, gate_section, save_bundle
from cxr_mtl.data.gate.fit import MAX_TRAIN, choose, fit_gate
from cxr_mtl.data.gate.gate import Gate
from cxr_mtl.data.gate.negatives import make_negatives
from cxr_mtl.data.gate.thumbs import Glimpses, cut_out, glimpse
from cxr_mtl.data.gate.usual import fit_usual
from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.read import read_image
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.split import split_hash
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.admit import bits, check_greys
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Radiograph

Square = tuple[NDArray[np.uint8], Letterbox]
SIDE = 224  # of the input where no bundle says one
DEMANDED = 0.98  # of the films of each dataset, to pass
# Kinds to be left out of a fit, one at a time: what stands for pictures that people may send.
BLIND = ("turned films", "inverted films", "leaves", "body slices", "limbs", "pages")
ROWS: list[dict[str, Any]] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=Path("../shared/data"), help="folder with nih/, kermany/, dicom/")
    parser.add_argument("--bundle", type=Path, help="of NIH's films, for how unlike films are to those learned from")
    parser.add_argument("--quick", action="store_true", help="a fifth of the films, and no fits without a kind")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--out", type=Path, help="keep the bundle with the gate here")
    arguments = parser.parse_args()
    if not (arguments.films / "nih").is_dir():
        print(f"gate skipped: {arguments.films} holds no nih/. Give the folder of films with --films.")
        sys.exit(0)
    predictor = LocalPredictor(arguments.bundle, threads=1) if arguments.bundle else None
    side = predictor.bundle.image_size if predictor else SIDE
    step = 5 if arguments.quick else 1
    nih, _ = import_source("nih", arguments.films / "nih", ontology="nih14", seed=0)
    kermany, _ = import_source("kermany", arguments.films / "kermany", ontology="kermany", seed=0)
    rows = choose(np.flatnonzero(nih.splits == "train"), MAX_TRAIN // step, 0)
    films = {"NIH train": squares(nih, rows, side)}
    for split in ("val", "test"):
        films[f"NIH {split}"] = squares(nih, np.flatnonzero(nih.splits == split), side)
    films["Kermany, children"] = squares(kermany, np.arange(0, len(kermany), step), side)
    seen = {name: glimpse(group) for name, group in films.items()}
    started = time.process_time()
    fitted = fit_gate(seen["NIH train"].thumbs, seen["NIH val"].thumbs, 0)
    tell("fit", "time", time.process_time() - started, "CPU s")
    gate = fitted.gate
    names = {f"NIH {split}": nih.table["image_id"][nih.splits == split].to_numpy() for split in ("val", "test")}
    names["Kermany, children"] = kermany.table["image_id"].to_numpy()[::step]
    for name, ids in names.items():
        passes = gate.passes(seen[name].thumbs)
        tell(f"{name} ({len(ids)})", "passed", float(passes.mean()), missed=ids[~passes].tolist())
        tell(
            f"{name}, the film with the fewest greys", "bits", min(bits(cut_out(*film)) for film in films[name]), "bits"
        )
    for kind, share in fitted.stopped.items():
        tell(f"{kind}, drawn anew", "stopped", share)
    samples = [(file.name, sample(file)) for file in sorted((arguments.films / "dicom").glob("*.dcm"))]
    judge(gate, "DICOM samples, all chests", samples, side, wanted=True)
    judge(gate, "photographs and pictures", photographs(), side)
    judge(gate, "scans", scans(), side)
    for kind, pictures in by_kind(drawn(40, 0)).items():
        judge(gate, kind, pictures, side)
    for kind, change in TURNS.items():
        share = float(1 - gate.passes(glimpse(changed(films["NIH test"], change)).thumbs).mean())
        tell(f"NIH test, {kind}", "stopped", share)
    for kind in () if arguments.quick else BLIND:
        blind = fit_gate(seen["NIH train"].thumbs, seen["NIH val"].thumbs, 0, without=frozenset({kind})).gate
        pictures = make_negatives(kind, 150, seen["NIH test"].thumbs, 2)
        tell(f"{kind}, never met in the fit", "stopped", float(1 - blind.passes(pictures).mean()))
    started = time.process_time()
    for film in films["NIH test"]:
        gate.passes(glimpse([film]).thumbs)
    tell(
        "the gate at answering", "time", (time.process_time() - started) / len(films["NIH test"]) * 1e3, "CPU ms a film"
    )
    if predictor:
        usual = novelty(predictor, nih, films, seen)
        if arguments.out:
            keep(predictor, nih, Door(gate, usual), seen, fitted.to_dict(), arguments.out)
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        versions = {name: version(name) for name in ("cxr-mtl", "scikit-learn", "numpy", "pillow")}
        text = {"benchmark": "gate", "machine": machine, "versions": versions, "rows": ROWS, "ratios": {}}
        arguments.json.write_text(json.dumps(text, indent=2) + "\n")
    passed = [row["value"] for row in ROWS if row["metric"] == "passed"]
    if min(passed) < DEMANDED and not arguments.quick:
        sys.exit(f"Fewer than {DEMANDED:.0%} of the films of a dataset pass.")


def sample(file: Path) -> NDArray[np.float32]:
    """A DICOM as it is read; its pixels alone where its tags refuse it, for the gate is about pixels."""
    try:
        return read_image(file).pixels
    except ImageError:
        return pixels_of(file)


def tell(name: str, metric: str, value: float, unit: str = "", missed: Sequence[str] = ()) -> None:
    """Print a figure, and keep it."""
    shown = f"{value:10.2f} {unit}" if unit else f"{value:10.1%}"
    print(f"{name:<48}{metric:<10}{shown}" + (f"  but for: {', '.join(missed)}" if missed else ""), flush=True)
    ROWS.append({"name": name, "metric": metric, "value": value, "unit": unit} | ({"missed": missed} if missed else {}))


def squares(manifest: Manifest, rows: NDArray[np.intp], side: int) -> list[Square]:
    return [to_input(read_image(manifest.path(int(row))).pixels, side) for row in rows]


def by_kind(pictures: Iterable[tuple[str, NDArray[np.float32]]]) -> dict[str, list[tuple[str, NDArray[np.float32]]]]:
    kinds: dict[str, list[tuple[str, NDArray[np.float32]]]] = {}
    for name, picture in pictures:
        kinds.setdefault(name, []).append((name, picture))
    return kinds


def judge(
    gate: Gate, what: str, pictures: Iterable[tuple[str, NDArray[np.float32]]], side: int, *, wanted: bool = False
) -> None:
    """The share that is treated as it should be, by the fixed checks and the gate; and the names of the others."""
    right, wrong = 0, []
    for name, picture in pictures:
        square, box = to_input(picture, side)
        try:
            check_greys(cut_out(square, box))
            passes = bool(gate.passes(glimpse([(square, box)]).thumbs)[0])
        except ImageError:
            passes = False
        right += passes == wanted
        if passes != wanted:
            wrong.append(name)
    count = right + len(wrong)
    if count:
        tell(f"{what} ({count})", "passed" if wanted else "stopped", right / count, missed=sorted(set(wrong)))


def novelty(predictor: LocalPredictor, nih: Manifest, films: dict[str, list[Square]], seen: dict[str, Glimpses]) -> Any:
    """Fit what is usual to the bundle, and count who is warned of; gives the fit."""
    patients = np.unique(nih.patient_ids[nih.splits == "val"], return_inverse=True)[1]
    usual = fit_usual(seen["NIH train"].looks, seen["NIH val"].looks, features(predictor, films["NIH val"]), patients)

    def count(name: str, group: list[Square]) -> None:
        scores = usual.novelty(glimpse(group).looks, features(predictor, group))
        tell(name, "warned", float((scores > usual.limit).mean()))

    for name in ("NIH test", "Kermany, children"):
        count(name, films[name])
    for name, change in CHANGES.items():
        count(f"NIH test, {name}", changed(films["NIH test"], change))
    return usual


def features(predictor: LocalPredictor, films: list[Square]) -> NDArray[np.float64]:
    """(N, F); squares are films of their own size to the predictor, so it does not change them."""
    parts = []
    for start in range(0, len(films), 64):
        group = [
            Radiograph(square.astype(np.float32) / 255, "png", False, "") for square, _ in films[start : start + 64]
        ]
        parts.append(predictor.look(group).features)
    return np.concatenate(parts)


def keep(
    predictor: LocalPredictor, nih: Manifest, door: Door, seen: dict[str, Glimpses], reached: dict[str, Any], out: Path
) -> None:
    """The bundle with its gate, everything else as it was."""
    bundle = predictor.bundle
    file = gate_bytes(door)
    about = {"dataset": "nih", "split_sha256": split_hash(nih), "train_films": len(seen["NIH train"])}
    about |= {"val_films": len(seen["NIH val"])} | reached | {"novelty_limit": round(door.usual.limit, 4)}
    texts = {name: (bundle.folder / name).read_text() for name in (SPLIT, CARD) if (bundle.folder / name).is_file()}
    description = replace(bundle.description, gate=gate_section(file, about))
    save_bundle(out, description, bundle.folder / WEIGHTS, texts, file)
    print(f"Bundle with a gate: {out}")


def changed(films: list[Square], change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> list[Square]:
    return [(np.ascontiguousarray(change(square)), box) for square, box in films]


def _blurred(radius: float) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda square: np.asarray(
        Image.fromarray(square).filter(ImageFilter.GaussianBlur(radius * len(square) / 224))
    )


def _noisy(spread: float) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return lambda square: (square + rng.normal(0, spread, square.shape)).clip(0, 255).astype(np.uint8)


# All of NIH's films are square, so a film fills the input and may be turned with it.
TURNS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "on its side": lambda square: np.rot90(square),
    "upside down": lambda square: square[::-1, ::-1],
    "greys inverted": lambda square: 255 - square,
    "mirrored": lambda square: square[:, ::-1],
}
CHANGES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "blurred, 1 % of the side": _blurred(2),
    "blurred, 2 % of the side": _blurred(4),
    "noise of 4 % of the greys": _noisy(10),
    "noise of 10 % of the greys": _noisy(25),
    "much too dark": lambda square: ((square / 255) ** 2.5 * 255).astype(np.uint8),
    "lowest third black": lambda square: np.where(np.arange(len(square))[:, None] > len(square) * 2 // 3, 0, square),
    "greys inverted": lambda square: 255 - square,
    "mirrored": lambda square: square[:, ::-1],
}


if __name__ == "__main__":
    main()

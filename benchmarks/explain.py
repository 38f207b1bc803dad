"""Do heat maps lie where the finding is? On the films whose boxes a reader drew, by every method.

    python benchmarks/explain.py --films ../shared/data/nih --bundle RUN/best [RUN/best ...] [--json FILE]

Of every (film, finding) with an annotated box: is the map's highest point inside it (pointing game), which share of
the map's mass lies inside, and does the map peak at the film's margin, its outer tenth? Beside the maps stand a random
point and a map that has not seen the film: how many training boxes of the finding cover each place. Intervals are over
patients; a number is the mean of the findings' means. `--candidates` adds the methods that were not chosen, which is to
be looked at on `--split val`. Last, the rank correlation of maps with those of the same network with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.read import read_image
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.transforms import to_input
from cxr_mtl.metrics.counts import known_mean, ratio
from cxr_mtl.metrics.intervals import Estimate, estimate, patient_resamples
from cxr_mtl.model.multitask import judge, make_model
from cxr_mtl.predict.explain import explain
from cxr_mtl.predict.heatmap import to_film
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import EXPLANATIONS

RESAMPLES = 1000
GRID = 64  # places a side of the map of training boxes
MARGIN = 0.1
POINTING, INSIDE, EDGE, TIME = "pointing game", "share of the map inside", "peaks at the margin", "CPU ms a map"
RANDOM, USUAL, DRAWN = "a random point", "training boxes", "the boxes themselves"


@dataclass(frozen=True)
class Pair:
    """A finding with boxes on a film: (K, 4) xyxy as shares of the film's width and height."""

    row: int
    finding: str
    boxes: np.ndarray


def main() -> None:
    arguments = parse()
    report: dict[str, Any] = {
        "benchmark": "explain",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("cxr-mtl", "torch", "timm", "captum")},
        "split": arguments.split,
        "rows": [],
        "ratios": {},
    }
    for bundle in arguments.bundle:
        one_bundle(bundle, arguments, report)
        if arguments.json:  # after each: a stopped benchmark leaves what it has
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=Path("../shared/data/nih"), help="NIH ChestX-ray14 layout")
    parser.add_argument(
        "--bundle",
        type=Path,
        nargs="+",
        default=[Path("runs/nih_convnext/best")],
        help="trained on these films' training split",
    )
    parser.add_argument("--split", default="test", help="of the boxed films; candidates are chosen on val")
    parser.add_argument("--methods", nargs="+", choices=EXPLANATIONS, default=list(EXPLANATIONS))
    parser.add_argument("--candidates", action="store_true", help="also the methods that were not chosen")
    parser.add_argument("--limit", type=int, help="about so many of the boxed findings, evenly spaced")
    parser.add_argument("--quick", action="store_true", help="eight films: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if not arguments.films.is_dir():
        print(f"explain skipped: {arguments.films} holds no films. Give a folder in NIH's layout with --films.")
        sys.exit(0)
    if lacking := [str(bundle) for bundle in arguments.bundle if not bundle.is_dir()]:
        print(f"explain skipped: no bundle at {', '.join(lacking)}. Train one and name it with --bundle.")
        sys.exit(0)
    return arguments


def one_bundle(folder: Path, arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    predictor = LocalPredictor(folder, device="cpu")
    bundle = predictor.bundle
    manifest, _ = import_source("nih", arguments.films, ontology=bundle.ontology, seed=0)
    films, train = manifest.where(split=arguments.split), manifest.where(split="train")
    pairs = [pair for pair in boxed(films) if bundle.sees(pair.finding)]
    pairs = pairs[:: -(-len(pairs) // (8 if arguments.quick else arguments.limit or len(pairs)))]
    methods = make_methods(predictor, arguments, train)
    found, names = measure(predictor, films, pairs, methods, coverage(train))
    print(f"\n{bundle.name}: {len(pairs)} boxed findings, {len({p.row for p in pairs})} films, {arguments.split}")
    show(bundle.name, films, pairs, found, names, report)
    kept = {name: method for name, method in methods.items() if name in EXPLANATIONS and name != "occlusion"}
    randomise(predictor, films, pairs[: 4 if arguments.quick else 24], kept, report)


def boxed(films: Manifest) -> list[Pair]:
    pairs = []
    for row in range(len(films)):
        side = np.tile(films.frames[row], 2)
        drawn = films.boxes(row)
        for finding in sorted({box.finding for box in drawn}):
            xyxy = np.array([box.xyxy for box in drawn if box.finding == finding]) / side
            pairs.append(Pair(row, finding, xyxy.clip(0, 1)))
    return pairs


def coverage(train: Manifest) -> dict[str, torch.Tensor]:
    """Of each finding: how many training boxes cover each place of a film."""
    grids: dict[str, torch.Tensor] = {}
    for pair in boxed(train):
        grids.setdefault(pair.finding, torch.zeros(GRID, GRID))
        for box in pair.boxes:
            grids[pair.finding] += mask(box[None], (GRID, GRID))
    return grids


def mask(boxes: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
    """(h, w) 1 at the places whose centre is inside a box."""
    height, width = shape
    y, x = (torch.arange(height) + 0.5)[:, None] / height, (torch.arange(width) + 0.5)[None] / width
    inside = torch.zeros(shape)
    for x1, y1, x2, y2 in boxes.tolist():
        inside[((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2))] = 1
    return inside


def make_methods(predictor: LocalPredictor, arguments: argparse.Namespace, train: Manifest) -> dict[str, Any]:
    network = predictor.bundle.description.model
    own = [name for name in arguments.methods if name != "attention" or network.pooling == "attention"]

    def method(name: str) -> Any:
        return lambda model, image, maps, column: explain(name, model, image, maps, [column], network.views)[0]

    methods = {name: method(name) for name in own}
    if arguments.candidates:
        from parts.explain_candidates import make_candidates

        rows = np.linspace(0, len(train) - 1, 16).astype(int)
        squares = [to_input(read_image(train.path(int(row))).pixels, network.image_size)[0] for row in rows]
        methods |= make_candidates(torch.from_numpy(np.stack(squares))[:, None].float())
    return methods


def measure(
    predictor: LocalPredictor, films: Manifest, pairs: list[Pair], methods: dict[str, Any], usual: dict[str, Any]
) -> tuple[np.ndarray, list[str]]:
    """(methods, pairs, 4): pointed, share inside, at the margin, ms; the last is nan for what makes no map."""
    names = [*methods, USUAL, RANDOM, DRAWN]
    found = np.full((len(names), len(pairs), 4), np.nan)
    for i, pair in enumerate(tqdm(pairs, disable=None, unit="map")):
        image, maps, box = look(predictor, films, pair.row)
        column = predictor.bundle.ontology.index(pair.finding)
        for m, method in enumerate(methods.values()):
            started = time.process_time()
            heat = method(predictor.bundle.model, image, maps, column)
            spent = (time.process_time() - started) * 1000
            found[m, i] = (*judge_map(to_film(heat.detach(), box), pair.boxes), spent)
        size = (box.height, box.width)
        grid = torch.nn.functional.interpolate(usual[pair.finding][None, None], size, mode="bilinear")[0, 0]
        found[-3, i, :3] = judge_map(grid, pair.boxes)
        area = float(mask(pair.boxes, size).mean())
        found[-2, i, :3] = area, area, 1 - (1 - 2 * MARGIN) ** 2
        centre = (pair.boxes[:, :2] + pair.boxes[:, 2:]) / 2
        found[-1, i, :3] = 1, 1, float(at_margin(*centre[0]))
    return found, names


def look(predictor: LocalPredictor, films: Manifest, row: int) -> tuple[torch.Tensor, Any, Letterbox]:
    square, box = to_input(read_image(films.path(row)).pixels, predictor.bundle.image_size)
    image = torch.from_numpy(square)[None, None]
    with torch.no_grad():
        return image, judge(predictor.bundle.model, image, 1).features, box


def judge_map(film: torch.Tensor, boxes: np.ndarray) -> tuple[float, float, float]:
    """Pointed, share inside, at the margin; a map that is all 0 points nowhere."""
    total = float(film.sum())
    if total <= 0:
        return 0.0, 0.0, 0.0
    height, width = film.shape
    y, x = divmod(int(film.argmax()), width)
    inside = mask(boxes, (height, width))
    return (
        float(inside[y, x]),
        float((film * inside).sum()) / total,
        float(at_margin((x + 0.5) / width, (y + 0.5) / height)),
    )


def at_margin(x: float, y: float) -> bool:
    return min(x, y, 1 - x, 1 - y) < MARGIN


def show(
    name: str, films: Manifest, pairs: list[Pair], found: np.ndarray, names: list[str], report: dict[str, Any]
) -> None:
    """Print the table and the differences to what has not seen the film, and keep both."""
    findings = sorted({pair.finding for pair in pairs})
    of = np.array([[pair.finding == finding for finding in findings] for pair in pairs], float)  # (pairs, findings)
    draws = patient_resamples(films.patient_ids[[pair.row for pair in pairs]], RESAMPLES, 0)

    def drawn(values: np.ndarray) -> np.ndarray:
        return known_mean(ratio(draws.sums(of * values[:, None]), draws.sums(of)), axis=1)

    again = {m: [drawn(found[i, :, k]) for k in range(3)] for i, m in enumerate(names)}
    rows = report["rows"]
    print(f"{'':<36}{POINTING:>24}{INSIDE:>26}{EDGE:>24}{TIME:>14}")
    for i, method in enumerate(names):
        cells = ""
        for metric, numbers, width in zip((POINTING, INSIDE, EDGE), again[method], (24, 26, 24), strict=True):
            number = estimate(numbers)
            rows.append(row(f"{name}, {method}", metric, number))
            cells += f"{f'{number.value:.3f} ({number.low:.3f} to {number.high:.3f})':>{width}}"
        if not np.isnan(found[i, :, 3]).all():
            rows.append(one_number(f"{name}, {method}", TIME, float(np.median(found[i, :, 3])), "ms"))
            cells += f"{rows[-1]['value']:>14.0f}"
        print(f"{method:<36}{cells}")
        for finding, own in zip(findings, of.T == 1, strict=True):
            pointed = float(found[i, own, 0].mean())
            rows.append(one_number(f"{name}, {method}, {finding}", POINTING, pointed, f"of {own.sum()}"))
    for method in names[:-3]:
        for other in (USUAL, RANDOM):
            for k, metric in enumerate((POINTING, INSIDE)):
                number = estimate(again[method][k] - again[other][k])
                rows.append(row(f"{name}, {method} less {other}", metric, number))
                sure = "  *" if number.low > 0 or number.high < 0 else ""
                interval = f"({number.low:+.3f} to {number.high:+.3f}){sure}"
                print(f"  {method} less {other}, {metric}: {number.value:+.3f} {interval}")
                by = float(again[method][k][0] / again[other][k][0])
                report["ratios"][f"{name}, {method} / {other}, {metric}"] = by


def row(name: str, metric: str, number: Estimate) -> dict[str, Any]:
    return {"name": name, "metric": metric, "value": number.value, "unit": "", "low": number.low, "high": number.high}


def one_number(name: str, metric: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "metric": metric, "value": value, "unit": unit, "low": None, "high": None}


def randomise(
    predictor: LocalPredictor, films: Manifest, pairs: list[Pair], methods: dict[str, Any], report: dict[str, Any]
) -> None:
    """Rank correlation of the maps with those of random weights (Adebayo et al., 2018), and of another finding."""
    bundle = predictor.bundle
    columns = [bundle.ontology.index(finding) for finding in sorted({pair.finding for pair in pairs})]
    none, headless = random_network(bundle), random_network(bundle)
    last = {f"findings.linear.{key}": value for key, value in none.findings.linear.state_dict().items()}
    headless.load_state_dict(bundle.model.state_dict() | last)
    against = {"last layer random": headless, "all weights random": none, "another finding": bundle.model}
    for name, method in methods.items():
        seen: dict[str, list[float]] = {what: [] for what in against}
        for pair in pairs:
            image, maps, _ = look(predictor, films, pair.row)
            column = bundle.ontology.index(pair.finding)
            ours = method(bundle.model, image, maps, column).flatten().numpy()
            for what, network in against.items():
                with torch.no_grad():
                    maps = judge(network, image, 1).features
                other = columns[columns.index(column) - 1] if network is bundle.model else column
                theirs = method(network, image, maps, other).flatten().numpy()
                if ours.std() and theirs.std():
                    seen[what].append(float(spearmanr(ours, theirs).statistic))
        for what, found in seen.items():
            value = float(np.mean(found)) if found else float("nan")
            print(f"  {name}: rank correlation with {what}: {value:+.2f} over {len(found)} maps")
            report["rows"].append(
                one_number(f"{bundle.name}, {name}, {what}", "rank correlation", value, f"of {len(found)}")
            )


def random_network(bundle: Bundle) -> Any:
    """The bundle's network untrained, from a seed that is no run's: from its own it would be what the run grew from."""
    torch.manual_seed(1_000_003)
    config = bundle.description.model.model_copy(update={"weights": None, "pretrained": False})
    return make_model(config, len(bundle.ontology.names), len(bundle.box_findings)).eval()


if __name__ == "__main__":
    main()

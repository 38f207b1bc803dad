"""How well the box head's anchors fit the boxes of a dataset, by the side of the input.

    python benchmarks/anchors.py --films ../shared/data/nih [--json FILE]

Of every annotated box of the training films: the IoU of the anchor that fits it best, before anything is learned.
Beside those in use stand what was in use before they were fitted: three levels whatever the side, and sizes from three
strides on whatever the side.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from cxr_mtl.data.geometry import Letterbox
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.model import localize

SIDES = (96, 128, 224, 320, 384, 512, 640)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, default=Path("../shared/data/nih"), help="NIH ChestX-ray14 layout")
    parser.add_argument("--quick", action="store_true", help="two sides")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if not arguments.films.is_dir():
        print(f"anchors skipped: {arguments.films} holds no films. Give a folder in NIH's layout with --films.")
        sys.exit(0)
    manifest, _ = import_source("nih", arguments.films, ontology="nih14", seed=0)
    rows = []
    print(f"{'side':>5}  {'anchors':<24}{'number':>8}{'mean IoU':>10}{'IoU >= .5':>11}{'of nodules':>12}")
    for side in SIDES[:2] if arguments.quick else SIDES:
        boxes, nodule = annotated(manifest, side)
        for name, anchors in variants(side).items():
            best = box_iou(boxes, anchors).amax(1).numpy()
            reached = float((best >= 0.5).mean())
            of_nodules = best[nodule].mean()
            print(f"{side:>5}  {name:<24}{len(anchors):>8}{best.mean():>10.3f}{reached:>11.3f}{of_nodules:>12.3f}")
            for metric, value in (("mean IoU", float(best.mean())), ("share at IoU .5", reached)):
                rows.append({"name": f"{name}, {side} px", "metric": metric, "value": value, "unit": ""})
    if arguments.json:
        arguments.json.write_text(json.dumps({"benchmark": "anchors", "rows": rows}, indent=2) + "\n")


def variants(side: int) -> dict[str, Tensor]:
    def with_old(name: str, value: Callable[[int], tuple[float, ...]]) -> Tensor:
        with mock.patch.object(localize, name, value):
            return torch.cat(localize.make_anchors(side))

    return {
        "in use": torch.cat(localize.make_anchors(side)),
        "three levels": with_old("strides", lambda _: localize.STRIDES),
        "from three strides on": with_old("anchor_scales", lambda _: (3.0, 3.0 * math.sqrt(2.0))),
    }


def annotated(manifest: Manifest, side: int) -> tuple[Tensor, np.ndarray]:
    """(K, 4) boxes of the training films in the input frame, and (K,) which are nodules."""
    train = manifest.where(split="train")
    found, nodule = [], []
    for row in range(len(train)):
        if drawn := train.boxes(row):
            width, height = (int(x) for x in train.frames[row])
            xyxy = np.array([box.xyxy for box in drawn], dtype=np.float32)
            found.append(Letterbox(width, height, side).to_input(xyxy))
            nodule += [box.finding == "Nodule" for box in drawn]
    return torch.tensor(np.concatenate(found)).float(), np.array(nodule)


if __name__ == "__main__":
    main()

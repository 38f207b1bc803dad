"""Would int8 be quicker, all in all? A trained bundle's encoder in int8, by NNCF after training, against bfloat16.

    pip install nncf
    python benchmarks/int8.py --bundle runs/nih_convnext/best --manifest nih.parquet [--json FILE]

CPU milliseconds of one thread for one film, interleaved, and how far probabilities are from float32's on the validation
films. The nearer they are, the fewer films need a second look in float32 (docs/engines.md), which is reckoned in: a
margin of 2.5 mean differences from a threshold, as in cxr_mtl/package/prove.py, at the worst operating point.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxr_mtl.bundle import Bundle, load_bundle
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.data.read import read_frontal
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import ImageError
from cxr_mtl.model.multitask import normalise
from cxr_mtl.package.engine import convert_encoder
from cxr_mtl.package.prove import MARGIN, Floats, calls_alike
from cxr_mtl.predict.compiled import GRAPH, load_openvino

LEARNED_FROM, ROUNDS = 200, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("runs/nih_convnext/best"))
    parser.add_argument("--manifest", type=Path, default=Path("nih.parquet"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    missing = [name for name in ("nncf", "openvino") if importlib.util.find_spec(name) is None]
    missing += [str(path) for path in (arguments.bundle, arguments.manifest) if not path.exists()]
    if missing:
        print(f"int8 skipped, for want of {', '.join(missing)}.")
        return
    torch.set_num_threads(1)
    rows = run(load_bundle(arguments.bundle), load_manifest(arguments.manifest))
    if arguments.json:
        report = {"benchmark": "int8", "command": " ".join(["python", *sys.argv]), "machine": f"{os.cpu_count()} cores"}
        arguments.json.write_text(json.dumps(report | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


def run(bundle: Bundle, manifest: Manifest) -> list[dict[str, Any]]:
    import nncf

    side, openvino = bundle.image_size, load_openvino()
    films = read(manifest, "val", side)
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as temp:
        convert_encoder(bundle.model.encoder, side, Path(temp))
        exact = core.read_model(Path(temp) / GRAPH)
    exact.reshape([1, 1, side, side])
    learned_from = nncf.Dataset([film[None].numpy() for film in read(manifest, "train", side, LEARNED_FROM)])
    smooth = nncf.quantize(exact.clone(), learned_from, subset_size=LEARNED_FROM, model_type=nncf.ModelType.TRANSFORMER)
    plain = nncf.quantize(exact.clone(), learned_from, subset_size=LEARNED_FROM)
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    requests = {
        name: core.compile_model(net, "CPU", settings | {"INFERENCE_PRECISION_HINT": hint}).create_infer_request()
        for name, net, hint in (
            ("float32", exact, "f32"),
            ("bfloat16", exact, "bf16"),
            ("int8, rest bfloat16", plain, "bf16"),
            ("int8 with SmoothQuant, rest bfloat16", smooth, "bf16"),
        )
    }
    spent: dict[str, list[float]] = {name: [] for name in requests}
    for _ in range(ROUNDS):
        for name, request in requests.items():
            request.infer([films[:1].numpy()])
            begun = time.process_time()
            request.infer([films[:1].numpy()])
            spent[name].append((time.process_time() - begun) * 1e3)
    found = {name: np.stack([judge(bundle, request, film) for film in films]) for name, request in requests.items()}
    rows: list[dict[str, Any]] = []
    slow = median(spent["float32"])
    print(f"{bundle.name}, {len(films)} films\n{'':<38}{'CPU ms':>8}{'apart':>10}{'twice':>8}{'in all':>8}")
    for name, probability in found.items():
        apart = np.abs(probability - found["float32"])
        again = 0.0 if name == "float32" else second_looks(bundle, found["float32"], probability)
        once = median(spent[name])
        values = {"CPU ms a film": once, "mean difference of a probability": float(np.nanmean(apart))}
        values |= {"looked at twice": again, "CPU ms with second looks": once + again * slow}
        rows += [{"name": name, "metric": metric, "value": round(v, 6), "unit": ""} for metric, v in values.items()]
        print(f"{name:<38}{once:8.1f}{np.nanmean(apart):10.1e}{again:8.1%}{once + again * slow:8.1f}")
    return rows


def read(manifest: Manifest, split: str, side: int, most: int | None = None) -> Tensor:
    """(N, 1, S, S) films as the network sees them; those that cannot be read are left out."""
    some, films = manifest.where(split=split), []
    for row in range(len(some) if most is None else min(most, len(some))):
        try:
            films.append(to_input(read_frontal(some.path(row)).pixels, side)[0])
        except ImageError:
            continue
    return normalise(torch.from_numpy(np.stack(films))[:, None])


@torch.no_grad()
def judge(bundle: Bundle, request: Any, film: Tensor) -> Floats:
    """(C,) probabilities of one film, calibrated."""
    found = request.infer([film[None].numpy()])
    maps = [torch.from_numpy(np.array(found[i])) for i in range(len(found))]
    probability = bundle.findings_calibration.apply(bundle.model.findings(maps[-2:]).double().numpy())
    return np.asarray(probability[0], np.float64)


def second_looks(bundle: Bundle, exact: Floats, found: Floats) -> float:
    """The share of films with a probability within its margin of a threshold, at the worst operating point."""
    names = bundle.ontology.names
    margins = dict(zip(names, (MARGIN * np.abs(exact - found).mean(0)).tolist(), strict=True))
    return max(calls_alike(exact, found, exact, names, c, margins)[1] for c in bundle.operating_points.values())


if __name__ == "__main__":
    main()

"""What a MONAI bundle says of itself: configs/metadata.json, configs/inference.json, docs/README.md. Pure."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from cxr_mtl.bundle import Bundle
from cxr_mtl.model.multitask import MEAN, SPREAD
from cxr_mtl.package.whole import OneTable, cuts_of
from cxr_mtl.types import DISCLAIMER

# The newest that MONAI has published (October 2026); verify_metadata fetches it unless it is told of a copy.
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
NEEDS = ("fire", "pillow", "pytorch-ignite")
RUN = "python -m monai.bundle run --config_file configs/inference.json --dataset_dir FILMS --output_dir OUT"
LOWEST = -MEAN / SPREAD
"""Of the input; the highest is that of 1."""


def metadata(bundle: Bundle, network: OneTable, results: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata.json``.

    Args:
        bundle: that is exported.
        network: what answers in it.
        results: the bundle's results.json; empty where it was not evaluated.
    """
    size, description, columns = bundle.image_size, bundle.description, network.columns
    shape = {"num_channels": 1, "spatial_shape": [size, size], "dtype": "float32", "is_patch_data": False}
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "DX",
        **shape,
        "value_range": [LOWEST, (1 - MEAN) / SPREAD],
    }
    pred = {"type": "probabilities", "format": "classes", "num_channels": len(columns), "spatial_shape": []}
    pred |= {"dtype": "float32", "value_range": [0, 1], "is_patch_data": False}
    fitted = description.fitted_on
    return {
        "schema": SCHEMA,
        "version": bundle.version,
        "changelog": {bundle.version: f"exported by cxr-mtl from the bundle with sha256 {bundle.sha256}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch").partition("+")[0],
        "numpy_version": _version("numpy"),
        "required_packages_version": {name: _version(name) for name in NEEDS},
        "name": bundle.name,
        "task": "Findings in frontal chest X-rays, and their tree",
        "description": f"{description.model.encoder}, with calibrated probabilities of findings and of the nodes of a "
        f"tree of findings (ontology {bundle.ontology.name}). {DISCLAIMER}",
        "authors": "whoever trained the bundle with cxr-mtl",
        "copyright": "code: cxr-mtl, Apache-2.0; weights: see docs/model_card.md",
        "data_source": f"{fitted.get('dataset', 'unknown')}; see docs/model_card.md",
        "data_type": "png, jpeg",
        "image_classes": "one grey channel, bright is dense, letterboxed; (grey - mean) / spread",
        "label_classes": "1 present, 0 absent",
        "pred_classes": "probability of each finding, then of each node of the tree; see channel_def",
        "eval_metrics": _metrics(results),
        "intended_use": DISCLAIMER,
        "references": [],
        "operating_points": cuts_of(bundle, network.whole.findings),
        "network_data_format": {
            "inputs": {"image": image | {"channel_def": {"0": "film"}}},
            "outputs": {"pred": pred | {"channel_def": {str(i): name for i, name in enumerate(columns)}}},
        },
    }


def inference(size: int) -> dict[str, Any]:
    """``inference.json``: every PNG and JPEG of a folder, and a CSV of probabilities.

    Args:
        size: S.
    """
    reader = {
        "_target_": "PILReader",
        "converter": {"_target_": "scripts.film.grey", "_mode_": "callable"},
        "reverse_indexing": False,
    }
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/films'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location='cpu')",
        "network": "$@network_def.to(@device)",
        "films": "$[f for f in sorted(glob.glob(os.path.join(glob.escape(@dataset_dir), '*')))"
        " if f.lower().endswith(('.png', '.jpg', '.jpeg'))]",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "reader": reader, "ensure_channel_first": True},
                {"_target_": "scripts.film.Letterbox", "size": size},
                {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": MEAN, "divisor": SPREAD},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': film} for film in @films]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 4, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {
                "_target_": "scripts.film.Table",
                "path": "$os.path.join(@output_dir, 'predictions.csv')",
                "columns": "@_meta_#network_data_format#outputs#pred#channel_def",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def readme(bundle: Bundle) -> str:
    """``docs/README.md``."""
    needs = " ".join(f"{name}" for name in ("monai", "torch", *NEEDS))
    return f"""# {bundle.name} {bundle.version}

**{DISCLAIMER}**

A MONAI bundle that cxr-mtl made. It needs {needs}, and nothing of cxr-mtl. From this folder:

    {RUN}

writes `OUT/predictions.csv`: a row a film, calibrated probabilities of findings and of the nodes of their tree. The
thresholds of each operating point stand in `configs/metadata.json`. A finding that was never trained has no column.

    python -m monai.bundle verify_net_in_out --net_id network_def --meta_file configs/metadata.json \\
        --config_file configs/inference.json
    python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath meta_schema.json

The latter fetches MONAI's schema; a copy that lies there already is taken as it is, without a network.

## What it does not do
- It reads PNG and JPEG, bright is dense. MONAI's DICOM reader turns neither MONOCHROME1 round nor applies a VOI LUT.
- It answers whatever it is shown: nothing here asks whether the picture is a frontal chest film.
- It gives no boxes and no heat maps: MONAI's verifier wants one tensor. The ONNX file of the same bundle has boxes.

## What is in it
`models/model.ts` is TorchScript, since MONAI calls `eval()` and `to()` on a network and moves it, which a file of
`torch.export` does not allow; and since reading that file would unpickle. Like every MONAI bundle it holds code, in
`configs/inference.json`, `scripts/` and the model: run only one that you trust.
"""


def _metrics(results: Mapping[str, Any]) -> dict[str, Any]:
    macro = results.get("classification", {}).get("macro", {})
    found = {name: part["value"] for name, part in macro.items() if isinstance(part, Mapping) and "value" in part}
    return found | {key: results[key] for key in ("dataset", "split", "n_images") if key in results}


def _version(package: str) -> str:
    return importlib.metadata.version(package)

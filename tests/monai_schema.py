"""MONAI's schema of metadata.json, restated."""

from __future__ import annotations

from typing import Any

# What meta_schema_20240725.json of MONAI asks for, restated; the file itself is not ours to carry.
_TEXTS = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
_MORE_TEXTS = ("copyright", "data_source", "data_type", "image_classes", "label_classes", "pred_classes")
_TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    }
    | {name: {"type": "string"} for name in ("type", "format", "dtype")},
}
_TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": _TENSOR}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": [*_TEXTS, "copyright", "required_packages_version", "network_data_format"],
    "properties": {name: {"type": "string"} for name in (*_TEXTS, *_MORE_TEXTS, "intended_use")}
    | {name: {"type": "object"} for name in ("changelog", "required_packages_version", "eval_metrics")}
    | {"references": {"type": "array", "items": {"type": "string"}}}
    | {
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": _TENSORS, "outputs": _TENSORS},
        }
    },
}

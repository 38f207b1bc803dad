"""DeepSpeed's JSON, derived from the run file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cxr_mtl.config import TrainConfig
from cxr_mtl.errors import ConfigError

# Sections of DeepSpeed 0.19 that a run may add to. DeepSpeed itself accepts any unknown top-level key in silence.
KNOWN_SECTIONS = frozenset(
    {
        "activation_checkpointing", "aio", "checkpoint", "comms_logger", "communication_data_type", "csv_monitor",
        "data_types", "dump_state", "flops_profiler", "memory_breakdown", "prescale_gradients", "steps_per_print",
        "tensorboard", "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }
)  # fmt: skip
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def deepspeed_settings(config: TrainConfig, world: int) -> dict[str, Any]:
    """Settings for ``deepspeed.initialize``.

    Args:
        config: the ``train`` section.
        world: number of ranks.

    Raises:
        ConfigError: the batch cannot be shared out evenly, or the override file is wrong.
    """
    parts = world * config.accumulate
    if config.batch_size % parts:
        raise ConfigError(
            f"train.batch_size: {config.batch_size} films cannot be shared by {world} ranks x {config.accumulate} "
            "accumulation steps.",
            hint=f"Use a multiple of {parts}.",
        )
    settings: dict[str, Any] = {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // parts,
        "gradient_clipping": config.clip,  # DeepSpeed clips at 1.0 where this is left out
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "zero_optimization": {"stage": config.zero_stage},
        "checkpoint": {"tag_validation": "Fail"},
    }
    if config.precision != "fp32":
        settings["torch_autocast"] = {"enabled": True, "dtype": DTYPES[config.precision]}
    if config.deepspeed is not None:
        settings = _merge(settings, _read_override(config.deepspeed))
    return settings


def _read_override(path: Path) -> dict[str, Any]:
    try:
        override = json.loads(path.read_text())
    except OSError:
        raise ConfigError(f"train.deepspeed: {path} cannot be read.") from None
    except ValueError as error:
        raise ConfigError(f"train.deepspeed: {path} is not JSON: {error}.") from None
    if not isinstance(override, dict):
        raise ConfigError(f"train.deepspeed: {path} must hold a JSON object.")
    unknown = sorted(set(override) - KNOWN_SECTIONS)
    if unknown:
        raise ConfigError(
            f"train.deepspeed: {path}: '{unknown[0]}' is not taken from here.",
            hint="Batch size, clipping and precision stand in the run file; known sections: "
            + ", ".join(sorted(KNOWN_SECTIONS)),
        )
    if "stage" in override.get("zero_optimization", {}):
        raise ConfigError(
            f"train.deepspeed: {path}: 'zero_optimization.stage' is not taken from here.", hint="Set train.zero_stage."
        )
    return override


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = _merge(known, value) if isinstance(value, dict) and isinstance(known, dict) else value
    return merged

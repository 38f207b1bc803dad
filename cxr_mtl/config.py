"""A run is one YAML file: data, model, losses, augmentation, training. ``load_config`` checks it, says what is wrong.

DeepSpeed's own settings are derived from ``train`` (see engine/settings.py), so that the batch size has one home.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from cxr_mtl.config_data import DataConfig, Section
from cxr_mtl.errors import ConfigError
from cxr_mtl.paths import configs_dir

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class ModelConfig(Section):
    encoder: str = "convnext_atto"
    """Any timm model that gives a feature pyramid: convnext*, swin*, and most CNNs."""
    encoder_args: dict[str, Any] = Field(default_factory=dict)
    """Extra arguments of timm.create_model, such as depths and widths."""
    weights: Path | None = None
    """Local file of encoder weights (safetensors)."""
    pretrained: bool = False
    """Fetch timm's weights by name; the only setting that uses the network."""
    image_size: Annotated[int, Field(ge=64, le=4096)] = 224
    """Side of the square input, pixels."""
    dropout: Share = 0.0
    drop_path: Share = 0.1
    fpn_channels: Annotated[int, Field(ge=8)] = 64
    """Width of the box head; it sets most of the box head's cost."""
    box_convs: Annotated[int, Field(ge=1, le=8)] = 2
    """Convolutions in each tower of the box head."""

    @field_validator("image_size")
    @classmethod
    def _whole_strides(cls, value: int) -> int:
        if value % 32:
            raise ValueError(f"must be a multiple of 32 (got {value})")
        return value

    @field_validator("fpn_channels")
    @classmethod
    def _whole_groups(cls, value: int) -> int:
        if value % 8:
            raise ValueError(f"must be a multiple of 8 (got {value})")
        return value


class LossConfig(Section):
    findings: NotNegative = 1.0
    hierarchy: NotNegative = 1.0
    boxes: NotNegative = 1.0
    """Weights of the three heads' losses; 0 leaves a head untrained."""


class AugmentConfig(Section):
    rotate: Annotated[float, Field(ge=0, le=45)] = 10.0
    """Largest rotation either way, degrees."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Largest change of size, as a share."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Largest shift, as a share of the side."""
    contrast: NotNegative = 0.25
    brightness: NotNegative = 0.1
    gamma: NotNegative = 0.2
    """Largest change of contrast, brightness and gamma, either way: machines and their settings differ in all three."""
    noise: NotNegative = 0.02
    """Standard deviation of added noise, in units of the 0 to 1 range."""


class TrainConfig(Section):
    epochs: Annotated[int, Field(ge=1)] = 30
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Films per optimizer step, over all ranks and accumulation steps."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Forward passes per optimizer step."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NotNegative = 0.05
    warmup_epochs: NotNegative = 2.0
    clip: Positive = 1.0
    """Largest gradient norm."""
    ema: Share = 0.998
    """Decay of the running mean of the weights that is validated and kept; 0 keeps the weights themselves."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    zero_stage: Literal[0, 1, 2, 3] = 1
    deepspeed: Path | None = None
    """JSON file of further DeepSpeed settings, merged over the derived ones."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run folder and, later, the model."""
    seed: Annotated[int, Field(ge=0)] = 0
    output: Path = Path("runs")
    """Folder that gets a folder of the run's name."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(f"train.batch_size {self.train.batch_size} is not divisible by train.accumulate")
        if self.train.zero_stage == 3 and self.train.ema:
            raise ValueError("train.ema needs whole weights at each step; ZeRO stage 3 has none, so set it to 0")
        if not (self.loss.findings or self.loss.hierarchy or self.loss.boxes):
            raise ValueError("loss: all three weights are 0, so nothing would be learned")
        return self

    @property
    def folder(self) -> Path:
        return self.output / self.name


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file and apply ``key=value`` overrides.

    Args:
        path: the file; a bare name such as ``nih_convnext`` is looked up among the project's own configs.
        overrides: settings by dotted name, values in YAML, such as ``train.lr=3e-4``.

    Raises:
        ConfigError: one line that names the setting at fault.
    """
    file = _find(Path(path))
    tree = _read_yaml(file)
    for text in overrides:
        _override(tree, text)
    return parse_config(tree, origin=str(path))


def parse_config(tree: Mapping[str, Any], *, origin: str) -> RunConfig:
    """Check a configuration that is already a mapping, such as the one inside a bundle."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error)}") from None


def save_config(config: RunConfig, path: Path) -> None:
    """Write every setting in force, defaults included."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _find(path: Path) -> Path:
    for candidate in (path, configs_dir() / path, configs_dir() / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    own = sorted(p.stem for p in configs_dir().glob("*.yaml"))
    raise ConfigError(f"{path}: no such run file.", hint=f"The project's own are: {', '.join(own)}.")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: not valid YAML: {error.problem}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{file}: not a YAML text file.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: expected settings such as 'name: my_run', found none.")
    return tree


def _override(tree: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(f"-s {text}: expected key=value, such as train.lr=3e-4.")
    *parents, last = key.split(".")
    for name in parents:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"-s {text}: '{name}' is a value, not a section.")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"-s {text}: the value is not valid YAML.") from None


def _explain(error: ValidationError) -> str:
    """The first problem in the house style; the others are counted."""
    first, *others = error.errors()
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        text = f"{where}: no such setting.{_did_you_mean(first['loc'])}"
    elif first["type"] == "missing":
        text = f"{where}: this setting is required."
    else:
        message = first["msg"].removeprefix("Value error, ")
        given = (
            "" if "got" in message or not where or isinstance(first["input"], dict) else f" (got {first['input']!r})"
        )
        text = f"{where}: {message}{given}." if where else f"{message}."
    return text + (f" And {len(others)} more." if others else "")


def _did_you_mean(location: tuple[str | int, ...]) -> str:
    section: type[BaseModel] | None = RunConfig
    for part in location[:-1]:
        if section is not None and isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation) if part in section.model_fields else None
    if section is None:
        return ""
    close = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" Known here: {', '.join(section.model_fields)}."


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a setting holds, be it optional or one of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)

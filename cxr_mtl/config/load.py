"""Reading a run file: overrides by dotted name, and what is wrong said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cxr_mtl.config.run import RunConfig
from cxr_mtl.errors import ConfigError
from cxr_mtl.paths import configs_dir


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

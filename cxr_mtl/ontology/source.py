"""YAML with the place of every value, for messages that name the line at fault.

An ontology holds text, true and false only; what YAML would read as a number, a date or a Python object is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from cxr_mtl.errors import ConfigError

Key = tuple[str | int, ...]
"""The way to a value: ``("findings", 3, "parents", 0)``."""
Where = Callable[[Key], str]
"""From a key to the place to name in an error, such as ``my.yaml:12``."""

QUOTE = "Put it in quotes."
_TAG = "tag:yaml.org,2002:"
_DEPTH = 5  # findings, number, names, dataset, number


def read_yaml(path: Path) -> tuple[object, Where]:
    """Plain data of a YAML file, and a function from a key to ``path:line``.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or says something twice.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}.", hint="Give the path of an ontology file.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text.", hint="Save the file as UTF-8.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}:1: not YAML: {str(error).splitlines()[0]}.") from error
    if node is None:
        raise ConfigError(f"{path}:1: the file is empty.", hint="Start from a file in configs/ontologies.")
    lines: dict[Key, int] = {}

    def where(key: Key) -> str:
        while key not in lines:
            key = key[:-1]
        return f"{path}:{lines[key]}"

    return _plain(node, (), lines, path), where


def _plain(node: yaml.Node, key: Key, lines: dict[Key, int], path: Path) -> object:
    line = lines.setdefault(key, node.start_mark.line + 1)
    kind = node.tag.removeprefix(_TAG)
    # The bound also ends what YAML's aliases can make endless.
    if len(key) > _DEPTH:
        raise ConfigError(f"{path}:{line}: nested too deeply.")
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _plain_mapping(node, key, lines, path)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_plain(item, (*key, i), lines, path) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        plain = {"str": node.value, "bool": node.value.lower() in ("true", "yes", "on"), "null": None}
        if kind in plain:
            return plain[kind]
    # YAML reads an unquoted 1.0, 2020-01-01 or !!python/name as something else than text.
    shown = repr(node.value) if isinstance(node, yaml.ScalarNode) else "this value"
    raise ConfigError(f"{path}:{line}: {shown} must be text, YAML reads it as {kind!r}.", hint=QUOTE)


def _plain_mapping(node: yaml.MappingNode, key: Key, lines: dict[Key, int], path: Path) -> dict[str, object]:
    plain: dict[str, object] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if name.tag != f"{_TAG}str":
            raise ConfigError(f"{path}:{line}: a key must be text.", hint=QUOTE)
        if name.value in plain:
            first = lines[(*key, name.value)]
            raise ConfigError(f"{path}:{line}: {name.value!r} stands twice, first on line {first}.", hint="Keep one.")
        lines[(*key, name.value)] = line
        plain[name.value] = _plain(value, (*key, name.value), lines, path)
    return plain

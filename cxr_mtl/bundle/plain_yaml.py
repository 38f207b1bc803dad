"""YAML without references: a bundle may come from a stranger, and a few lines that refer to each other fill memory."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import ComposerError


class _Reader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "it refers to itself, which is not read", None)
        return super().compose_node(parent, index)


class _Writer(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """So that what is written can be read, though two of its parts be one object."""
        return True


def read_yaml(text: str) -> Any:
    """What the text says.

    Raises:
        yaml.YAMLError: it is no YAML, or it refers to another part of itself.
    """
    return yaml.load(text, Loader=_Reader)


def write_yaml(value: Any) -> str:
    """Text that ``read_yaml`` reads, in the order of ``value``."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, allow_unicode=True)

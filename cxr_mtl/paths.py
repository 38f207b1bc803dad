"""Where the project's own files lie: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def configs_dir() -> Path:
    """The folder of run files and ontologies."""
    return _own("configs")


def handlers_dir() -> Path:
    """The folder of TorchServe handlers."""
    return _own("handlers")


def _own(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name

"""The gate of a bundle on disk: its numbers in ``gate.safetensors``, their hash and meaning in ``bundle.yaml``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cxr_mtl.data.gate.gate import Gate
from cxr_mtl.data.gate.usual import Usual
from cxr_mtl.errors import CheckpointError

GATE_SCHEMA = "cxr-mtl.gate/1"  # of what the gate looks at: numbers fitted to other forms would mean nothing
_AGAIN = "Copy the bundle again, with all its files."


@dataclass(frozen=True)
class Door:
    """What looks at a film before an answer is given.

    Attributes:
        gate: tells a chest film from another picture.
        usual: tells how unlike a film is to those learned from.
    """

    gate: Gate
    usual: Usual


def gate_bytes(door: Door) -> bytes:
    """The file."""
    parts = {"gate": door.gate.to_arrays(), "usual": door.usual.to_arrays()}
    named = {f"{part}.{name}": value for part, arrays in parts.items() for name, value in arrays.items()}
    return bytes(save({name: np.ascontiguousarray(value, np.float32) for name, value in named.items()}))


def gate_section(file: bytes, about: Mapping[str, Any]) -> dict[str, Any]:
    """The ``gate`` section of bundle.yaml: what fitted the gate and what it reached, and which file is meant."""
    return {"schema": GATE_SCHEMA, "sha256": hashlib.sha256(file).hexdigest(), **about}


def load_gate(path: Path, section: Mapping[str, Any]) -> Door | None:
    """Read the gate that a bundle's description speaks of; None where it says that there is none.

    Raises:
        CheckpointError: the file is missing, or not the one described.
    """
    if "none" in section:
        return None
    if section.get("schema") != GATE_SCHEMA:
        what = f"{path.parent}: its gate is {section.get('schema')}, and this version of cxr-mtl knows {GATE_SCHEMA}."
        raise CheckpointError(what, hint="Use the version that trained it.")
    try:
        file = path.read_bytes()
        if hashlib.sha256(file).hexdigest() != section.get("sha256"):
            raise CheckpointError(f"{path} is not the gate that bundle.yaml describes.", hint=_AGAIN)
        arrays = load(file)
        gate, usual = (
            {name.removeprefix(part): value for name, value in arrays.items() if name.startswith(part)}
            for part in ("gate.", "usual.")
        )
        return Door(Gate.from_arrays(gate), Usual.from_arrays(usual))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read: {reason}", hint=_AGAIN) from None

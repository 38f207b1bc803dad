"""Films in, answers out. Evaluation, server, command line and demo all come through here.

The predictors are loaded when they are asked for: a client of a server needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_mtl.predict.aio import AsyncRemotePredictor
    from cxr_mtl.predict.predictor import LocalPredictor
    from cxr_mtl.predict.remote import RemotePredictor

__all__ = ["AsyncRemotePredictor", "LocalPredictor", "RemotePredictor"]

_HOMES = {"AsyncRemotePredictor": "aio", "LocalPredictor": "predictor", "RemotePredictor": "remote"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

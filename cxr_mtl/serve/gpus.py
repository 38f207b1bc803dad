"""The GPUs that a server's workers may use."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from cxr_mtl.errors import ServeError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ASK = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]


def gpu_memories(environ: Mapping[str, str] = os.environ) -> list[int]:
    """Free bytes of each GPU that ``nvidia-smi`` tells of and ``CUDA_VISIBLE_DEVICES`` leaves; 0 where it cannot say.

    Raises:
        ServeError: that variable names GPUs in a way that TorchServe cannot read.
    """
    try:
        said = subprocess.run(_ASK, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # there is none, or no driver
        return []
    found = [int(line) * 2**20 if line.strip().isdigit() else 0 for line in said.splitlines()]
    if _VISIBLE not in environ:
        return found
    chosen = environ[_VISIBLE].strip()
    if chosen in ("", "-1"):
        return []
    try:
        return [found[int(number)] for number in chosen.split(",") if 0 <= int(number) < len(found)]
    except ValueError:
        raise ServeError(
            f"{_VISIBLE} is '{chosen}', and TorchServe reads numbers only.",
            hint=f"Name GPUs as `nvidia-smi` counts them: {_VISIBLE}=0,1.",
        ) from None

"""Weights to start from: which file, and which of its tensors are the encoder's.

Three kinds of file are taken, all safetensors:

    timm's own                  conv1.weight ... fc.weight
    of `cxr-mtl pretrain`       the same names, without what the encoder drops
    a bundle's, or its folder   encoder.net.conv1.weight ... findings.linear.weight
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cxr_mtl.errors import CheckpointError

ENCODER = "encoder.net."  # before timm's names, in the whole network
_IN_A_BUNDLE = "weights.safetensors"


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the encoder by timm's names, with whatever else a file of timm's holds, and those of a bundle's heads.

    Raises:
        CheckpointError: the file is not there or not safetensors.
    """
    try:
        tensors = load_file(path / _IN_A_BUNDLE if path.is_dir() else path)
    except (OSError, SafetensorError):
        raise CheckpointError(
            f"model.weights: {path} is not there or not a safetensors file.",
            hint="Convert a .pth file with safetensors.torch.save_file; pickles are not opened.",
        ) from None
    encoder = {name.removeprefix(ENCODER): value for name, value in tensors.items() if name.startswith(ENCODER)}
    if not encoder:
        return tensors, {}
    return encoder, {name: value for name, value in tensors.items() if not name.startswith(ENCODER)}


def missing_weights(expected: Iterable[str], given: Collection[str]) -> list[str]:
    """What an encoder needs and a file lacks."""
    # Old files have no count of batches, and nothing but a cumulative mean would read it.
    return [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]


@contextmanager
def quiet_timm() -> Iterator[None]:
    """timm warns of each classifier that it drops; what was loaded and what was not is reported by the run."""
    logger = logging.getLogger("timm")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # How it indexes tensors while it resamples Swin's tables; a user can do nothing about it.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.layers\.interpolate")
            yield
    finally:
        logger.setLevel(before)

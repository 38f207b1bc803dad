"""Does the teacher still tell films apart?  B crops, K prototypes, M films, E features.

Entropy alone does not say: a teacher that gives every crop the same one prototype and a teacher that gives every crop
all prototypes alike have both collapsed, one with an entropy of 0, one with ln K. What an output says of its crop, the
mutual information H(mean p) - mean H(p), is 0 in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cxr_mtl.config import PretrainConfig
from cxr_mtl.errors import CollapseError

_HINT = (
    "Try a lower pretrain.teacher_temperature, a larger train.batch_size, a lower train.lr, or a pretrain.spread of 0.1"
    " or more; encoder.safetensors is of the last epoch before."
)


@dataclass(frozen=True)
class Watch:
    """How sure the teacher is of a step's crops, and how much that says.

    Attributes:
        entropy: mean over crops of the entropy of an output, nats; 0 to ln K.
        mean_entropy: entropy of the mean output, nats; 0 to ln K.
        most: nats; more information cannot be seen in so few crops.
    """

    entropy: float
    mean_entropy: float
    most: float

    @property
    def information(self) -> float:
        """What an output says of its crop, as a share of the most it could; 0 is collapse of either kind."""
        return (self.mean_entropy - self.entropy) / self.most

    def agreement(self, loss: float) -> float:
        """How much of it the student can tell from another crop of the same film, at least; what is learned is here.

        Args:
            loss: cross-entropy of the student's outputs to the teacher's, nats.
        """
        return (self.mean_entropy - loss) / self.most


def sureness(p: Tensor) -> Tensor:
    """(B, K) outputs to (K + 1,): their mean and, last, their mean entropy; the mean of ranks' is that of all."""
    return torch.cat([p.mean(0), entropy(p).mean()[None]])


def watch(sure: Tensor, num_crops: int) -> Watch:
    """What ``sureness`` tells.

    Args:
        sure: (K + 1,), averaged over ranks.
        num_crops: B over all ranks.
    """
    mean_p, mean_entropy = sure[:-1], sure[-1]
    return Watch(float(mean_entropy), float(entropy(mean_p)), math.log(max(2, min(len(mean_p), num_crops))))


def entropy(p: Tensor) -> Tensor:
    """(..., K) probabilities to (...) nats."""
    nats: Tensor = torch.special.entr(p).sum(-1)
    return nats


def effective_rank(features: Tensor) -> float:
    """In how many directions films differ: exp of the entropy of the singular values (Roy & Vetterli, 2007).

    Args:
        features: (M, E).

    Returns:
        1 to min(M, E); 0 where all films are alike.
    """
    centered = (features - features.mean(0)).double()
    values = torch.linalg.svdvals(centered)
    if values.sum() <= 1e-6 * features.double().norm():
        return 0.0
    return float(entropy(values / values.sum()).exp())


def check_collapse(config: PretrainConfig, epochs: int, information: float, rank: float) -> None:
    """Stop what has collapsed.

    Args:
        epochs: finished.
        information: as in ``Watch``, mean of the last epoch's steps.
        rank: effective rank of the teacher's features.

    Raises:
        CollapseError: which figure, its value, and what to try.
    """
    if epochs <= config.collapse_after:
        return
    for figure, value, least in (
        ("what the teacher says of a crop, as a share of the most it could say,", information, config.min_information),
        ("the effective rank of the teacher's features", rank, config.min_rank),
    ):
        if not value >= least:
            raise CollapseError(
                f"Collapse after epoch {epochs}: {figure} is {value:.3f}, less than {least:g}.", hint=_HINT
            ).on_all_ranks()

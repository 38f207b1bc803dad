"""Student and teacher: the encoder of a run under lightly's DINO head.  B crops, E features, K prototypes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr_mtl.config import ModelConfig, PretrainConfig
from cxr_mtl.model.classify import LEVELS
from cxr_mtl.model.encoder import Encoder, make_encoder


class Projector(nn.Module):
    """Encoder, pooling, projection head. It looks at the maps that the findings head looks at, too.

    Attributes:
        head_learns: whether the head's last layer gets a gradient.
    """

    def __init__(self, encoder: Encoder, pretrain: PretrainConfig) -> None:
        super().__init__()
        from lightly.models.modules.heads import DINOProjectionHead  # seconds to import, and only pretraining pays

        self.encoder = encoder
        with warnings.catch_warnings():  # lightly 1.6 calls what torch has renamed
            warnings.simplefilter("ignore", FutureWarning)
            self.head = DINOProjectionHead(
                sum(encoder.channels[-LEVELS:]), pretrain.hidden, pretrain.bottleneck, pretrain.prototypes
            )
        self.head_learns = True
        # lightly's own way is to drop the gradient between backward and step, where DeepSpeed lets nobody in.
        self.head.last_layer.weight_v.register_hook(lambda grad: grad if self.head_learns else torch.zeros_like(grad))

    def forward(self, crops: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Look at crops, one forward pass of the encoder a size.

        Args:
            crops: each (b, 1, s, s), normalised.

        Returns:
            (B, E) features and (B, K) logits of all crops in their order, float32.
        """
        features = torch.cat([self.features(crop) for crop in crops])
        return features, self.head(features).float()

    def features(self, crops: Tensor) -> Tensor:
        """(b, E) means of the last maps, each map's brought to one scale."""
        maps = self.encoder(crops)[-LEVELS:]
        return torch.cat([F.layer_norm(m.float().mean((2, 3)), m.shape[1:2]) for m in maps], 1)


def make_pair(model: ModelConfig, pretrain: PretrainConfig) -> tuple[Projector, Projector]:
    """Student and teacher with the same weights; only the student learns, and only it skips layers by chance.

    Raises:
        ConfigError: unknown encoder, or arguments that it does not take.
        CheckpointError: ``model.weights`` do not fit.
    """
    student, teacher = (
        Projector(
            make_encoder(
                own.encoder, own.encoder_args, drop_path=own.drop_path, weights=own.weights, pretrained=own.pretrained
            ),
            pretrain,
        )
        for own in (model, model.model_copy(update={"drop_path": 0.0, "weights": None, "pretrained": False}))
    )
    teacher.load_state_dict(student.state_dict())
    return student, teacher.requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher towards the student, so that it is the running mean of the students there were.

    Args:
        momentum: share of itself that it keeps.
    """
    from lightly.models.utils import update_momentum

    update_momentum(student, teacher, momentum)
    for mine, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
        mine.copy_(theirs)  # the statistics of a batch norm are means already

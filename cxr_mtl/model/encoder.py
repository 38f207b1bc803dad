"""The shared encoder: any timm network that gives a feature pyramid.  B batch, S input side."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cxr_mtl.errors import CheckpointError, ConfigError

# Strides 8, 16 and 32: what the box head's pyramid is built on. The last one also feeds the other two heads.
STRIDES = (8, 16, 32)


class Encoder(nn.Module):
    """Grey film in, maps at strides 8, 16 and 32 out.

    The maps are what timm calls intermediates: the network's last norm is not applied, so each head owns one.

    Attributes:
        channels: of the three maps.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        info = cast("Any", net).feature_info
        by_stride = {int(entry["reduction"]): index for index, entry in enumerate(info)}
        missing = [stride for stride in STRIDES if stride not in by_stride]
        if missing:
            raise ConfigError(f"model.encoder: this network has no feature map at stride {missing[0]}.")
        self.channels = tuple(int(info[by_stride[stride]]["num_chs"]) for stride in STRIDES)
        self.indices = _prune(net, [by_stride[stride] for stride in STRIDES])

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, S, S) normalised to three maps (B, channels[i], S/stride, S/stride), always NCHW."""
        maps = cast("Any", self.net).forward_intermediates(
            images, indices=self.indices, intermediates_only=True, output_fmt="NCHW"
        )
        return cast("list[Tensor]", maps)


def _prune(net: nn.Module, indices: list[int]) -> list[int]:
    """Drop what the maps do not need; a weight that never gets a gradient would only confuse whoever counts them."""
    kept = cast("Any", net).prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    if hasattr(net, "head"):
        net.head = nn.Identity()  # ConvNeXt's holds the last norm, which pruning leaves
    return list(kept)


def make_encoder(
    name: str,
    args: dict[str, Any] | None = None,
    *,
    drop_path: float = 0.0,
    weights: Path | None = None,
    pretrained: bool = False,
) -> Encoder:
    """Build an encoder by timm's name.

    Args:
        name: such as ``convnext_tiny`` or ``swin_tiny_patch4_window7_224``.
        args: further arguments of ``timm.create_model``.
        drop_path: largest stochastic depth rate.
        weights: local file of weights; RGB stems are summed to one channel by timm.
        pretrained: let timm fetch its own weights by name (network).

    Raises:
        ConfigError: unknown name or arguments.
        CheckpointError: the weights do not fit or cannot be had.
    """
    given: set[str] = set()
    options: dict[str, Any] = {"in_chans": 1, "num_classes": 0, "global_pool": "", "drop_path_rate": drop_path}
    # Swin checks the input side against the one it was built for unless told not to; others do not know the argument.
    if name.startswith("swin"):
        options["strict_img_size"] = False
    if weights is not None:
        given = _names_in(weights)
        # Not strict: a file of timm's holds a classifier and a last norm that are dropped here. What must not be
        # missing is checked below, by name, because a silent part-load looks like a run that learns badly.
        options |= {"pretrained_cfg_overlay": {"file": str(weights), "num_classes": 0}, "pretrained_strict": False}
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"{name.split('_')[0]}*")[:5])
        raise ConfigError(
            f"model.encoder: timm has no model '{name}'.", hint=f"Some that it has: {close}." if close else ""
        )
    try:
        net = timm.create_model(name, pretrained=pretrained or weights is not None, **options, **(args or {}))
    except TypeError as error:
        raise ConfigError(f"model.encoder_args: {name} does not take them: {error}.") from None
    except (OSError, RuntimeError) as error:
        source = str(weights) if weights else f"timm's weights of {name}"
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"model.weights: {source} could not be loaded: {first_line}") from None
    encoder = Encoder(net)
    if weights is not None:
        _check_covered(encoder, given, weights)
    return encoder


def _names_in(weights: Path) -> set[str]:
    try:
        with safe_open(weights, framework="pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError):
        raise CheckpointError(
            f"model.weights: {weights} is not there or not a safetensors file.",
            hint="Convert a .pth file with safetensors.torch.save_file; pickles are not opened.",
        ) from None


def _check_covered(encoder: Encoder, given: set[str], weights: Path) -> None:
    missing = [name for name in encoder.net.state_dict() if name not in given]
    if missing:
        raise CheckpointError(
            f"model.weights: {weights} lacks {len(missing)} of the encoder's weights (first: {missing[0]}).",
            hint="Is it of this encoder?",
        )

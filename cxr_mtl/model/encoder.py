"""The shared encoder: any timm network that gives a feature pyramid.  B batch, S input side."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import timm
from timm.layers.classifier import NormMlpClassifierHead
from torch import Tensor, nn

from cxr_mtl.errors import CheckpointError, ConfigError
from cxr_mtl.model.weights import missing_weights, quiet_timm, read_weights

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
    if isinstance(getattr(net, "head", None), NormMlpClassifierHead):
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
        weights: file or bundle to start from, as in model/weights.py; timm sums RGB stems to one channel, and resamples
            what depends on Swin's windows.
        pretrained: let timm fetch its own weights by name (network).

    Raises:
        ConfigError: unknown name or arguments.
        CheckpointError: the weights do not fit or cannot be had.
    """
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"{name.split('_')[0]}*")[:5])
        raise ConfigError(
            f"model.encoder: timm has no model '{name}'.", hint=f"Some that it has: {close}." if close else ""
        )
    options: dict[str, Any] = {"in_chans": 1, "num_classes": 0, "global_pool": "", "drop_path_rate": drop_path}
    # Swin checks the input side against the one it was built for unless told not to; others do not know the argument.
    if name.startswith("swin"):
        options["strict_img_size"] = False
    given: set[str] = set()
    if weights is not None:
        tensors, _ = read_weights(weights)
        given = set(tensors)
        # Not strict: a file of timm's holds a classifier and a last norm that are dropped here. What must not be
        # missing is checked below, by name, because a silent part-load looks like a run that learns badly.
        options |= {"pretrained_cfg_overlay": {"state_dict": tensors}, "pretrained_strict": False}
    try:
        with quiet_timm():
            net = _create(name, options | {"pretrained": pretrained or weights is not None} | (args or {}))
    except TypeError as error:
        raise ConfigError(f"model.encoder_args: {name} does not take them: {error}.") from None
    except (
        OSError,
        RuntimeError,
        LookupError,
        AttributeError,
    ) as error:  # the latter where timm looks for a file's names
        raise _unusable(name, weights, error) from None
    encoder = Encoder(net)
    if weights is not None:
        cast("Any", net).pretrained_cfg.pop("state_dict")  # timm would keep a second copy of all weights there
        _check_covered(encoder, given, weights)
    return encoder


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
    # DenseNet, VGG and others have no paths to drop, and not even the argument.
    if options["drop_path_rate"]:
        raise ConfigError(f"model.drop_path: {name} has no stochastic depth.", hint="Set model.drop_path=0.")
    return timm.create_model(name, **{key: value for key, value in options.items() if key != "drop_path_rate"})


def _unusable(name: str, weights: Path | None, error: Exception) -> CheckpointError:
    """What timm says of weights that it cannot fetch or that do not fit, in a line."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    reason = lines[1] if lines[0].startswith("Error(s) in loading") and len(lines) > 1 else lines[0]
    if weights is None:
        return CheckpointError(
            f"model.pretrained: timm's weights of {name} could not be fetched: {reason}",
            hint="Without a network bring a file: model.weights.",
        )
    return CheckpointError(
        f"model.weights: {weights} does not fit {name}: {reason}",
        hint="Is it of this encoder, with these model.encoder_args?",
    )


def _check_covered(encoder: Encoder, given: set[str], weights: Path) -> None:
    if missing := missing_weights(encoder.net.state_dict(), given):
        raise CheckpointError(
            f"model.weights: {weights} lacks {len(missing)} of the encoder's weights (first: {missing[0]}).",
            hint="Is it of this encoder, with timm's own names?",
        )

"""What a run starts from: which weights came from a file, and which of the file's were left."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from cxr_mtl.bundle import DESCRIPTION, Description, load_description
from cxr_mtl.config import ModelConfig
from cxr_mtl.model.localize import anchor_scales
from cxr_mtl.model.multitask import MultiTaskModel
from cxr_mtl.model.weights import read_weights
from cxr_mtl.train.study import Study

logger = logging.getLogger("cxr_mtl.train")

_SHOWN = 6  # names in a line of the log; weights.json has all


@dataclass(frozen=True)
class Start:
    """Attributes:
    source: name of the file, of the bundle's model, or of timm's weights.
    encoder: tensors of the encoder that came from it.
    of: tensors that the encoder has.
    heads: tensors of the heads that came from it.
    missing: tensors of the encoder that it lacks.
    unused: tensors of it that were left.
    """

    source: str
    encoder: int
    of: int
    heads: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.encoder} of {self.of} encoder tensors and {len(self.heads)} of the heads' from {self.source}"
        for what, names in (("not in it", self.missing), ("in it but not used", self.unused)):
            if names:
                more = ", ..." if len(names) > _SHOWN else ""
                text += f"; {what}: {', '.join(names[:_SHOWN])}{more} ({len(names)})"
        return text

    def save(self, file: Path) -> None:
        """Write all of it."""
        file.write_text(json.dumps(asdict(self), indent=2))


def start_from(model: MultiTaskModel, config: ModelConfig, study: Study) -> Start | None:
    """Take a bundle's heads where they fit, and say what the whole network starts from.

    Args:
        model: with the encoder's weights loaded and the priors set, which a bundle's heads replace.
        config: the ``model`` section.
        study: says what the heads' outputs mean.

    Returns:
        None where the run starts from random weights.
    """
    own = model.encoder.net.state_dict()
    if config.weights is None:
        if not config.pretrained:
            return None
        return Start(f"timm's {_timms_name(model)}", len(own), len(own))
    encoder, heads = read_weights(config.weights)
    source, same = config.weights.name, tuple[str, ...]()
    folder = config.weights if config.weights.is_dir() else config.weights.parent
    if heads and (folder / DESCRIPTION).is_file():
        then = load_description(folder)
        source = f"the bundle {then.name} {then.version}"
        same = _alike(then, config.image_size, study)
    taken = {name: value for name, value in heads.items() if name.startswith(same) and _fits(model, name, value)}
    model.load_state_dict(taken, strict=False)
    return Start(
        source,
        sum(name in encoder for name in own),
        len(own),
        tuple(taken),
        tuple(name for name in own if name not in encoder),
        tuple(name for name in encoder if name not in own) + tuple(name for name in heads if name not in taken),
    )


def _alike(then: Description, side: int, study: Study) -> tuple[str, ...]:
    """What the names of those head tensors begin with that mean here what they meant there.

    A shape says how many findings there are and not which: the logits of 15 others would fit as well. Nor does it say
    which anchors the deltas are of.
    """
    alike = ["boxes.fpn.", "boxes.logit_tower.", "boxes.delta_tower."]  # of no finding's own
    if then.ontology.names == study.manifest.ontology.names:
        alike += ["findings.", "hierarchy."]
    if anchor_scales(then.model.image_size) == anchor_scales(side):
        alike += ["boxes.deltas."]
        if then.box_findings == study.box_findings:
            alike += ["boxes.logits."]
    return tuple(alike)


def _fits(model: MultiTaskModel, name: str, value: Tensor) -> bool:
    own = model.state_dict().get(name)
    return own is not None and own.shape == value.shape


def _timms_name(model: MultiTaskModel) -> str:
    known = cast("dict[str, Any]", model.encoder.net.pretrained_cfg)
    return str(known.get("hf_hub_id") or ".".join(filter(None, (known.get("architecture"), known.get("tag")))))

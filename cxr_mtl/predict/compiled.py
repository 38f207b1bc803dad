"""The encoder compiled for a CPU by OpenVINO; the heads, which are light, stay torch's, in float32.

    encoder.xml, encoder.bin   made by ``cxr_mtl.package.engine``, beside the weights that they were made from
    encoder.yaml               which weights those are, the precision, and what was proved of it

bfloat16 moves a probability by some thousandths, so now and then one crosses its threshold. Films within reach of a
threshold are therefore looked at again in float32: ``doubtful`` says which. (With the box head in bfloat16, too, one
best box in a hundred was another one.)  B films, C findings, S input side.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_mtl.bundle import Bundle
from cxr_mtl.cores import num_cores
from cxr_mtl.errors import CheckpointError
from cxr_mtl.model.encoder import Encoder
from cxr_mtl.model.multitask import MultiTaskModel
from cxr_mtl.types import Outputs

GRAPH, NUMBERS, ABOUT = "encoder.xml", "encoder.bin", "encoder.yaml"
SCHEMA = "cxr-mtl.encoder/1"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
_HINTS = {FLOAT32: "f32", BFLOAT16: "bf16"}
_PACKAGE = "openvino"
_AGAIN = "Build the archive again with `cxr-mtl package`."
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class About:
    """What ``encoder.yaml`` says.

    Attributes:
        bundle_sha256: of the bundle that it was made from.
        precision: ``float32`` or ``bfloat16``; a CPU without bfloat16 computes in float32 whatever stands here.
        margins: by finding, how near its threshold a probability is not trusted.
        proof: the films that it was compared on with torch's float32, and how far apart the two were.
    """

    bundle_sha256: str
    precision: str
    margins: Mapping[str, float] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        tree = {"schema": SCHEMA} | {name: getattr(self, name) for name in self.__dataclass_fields__}
        (folder / ABOUT).write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> About:
        """Raises CheckpointError where the file is not what ``write`` makes."""
        try:
            tree = yaml.safe_load((folder / ABOUT).read_text(encoding="utf-8"))
            if tree.pop("schema") != SCHEMA or tree["precision"] not in (FLOAT32, BFLOAT16):
                raise ValueError
            return cls(**tree)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
            raise CheckpointError(f"{folder / ABOUT} is not of this version of cxr-mtl.", hint=_AGAIN) from None


class CompiledEncoder(Encoder):
    """In the place of the ``Encoder`` that it was made from."""

    def __init__(self, graph: Path, precision: str, channels: tuple[int, ...], threads: Sequence[int]) -> None:
        """Compile for this machine.

        Args:
            graph: ``encoder.xml``.
            precision: to compute in.
            channels: of the encoder that it was made from.
            threads: how many torch may have set when a film comes; it is compiled for each.
        """
        nn.Module.__init__(self)  # there is no timm network in it
        self.channels = channels
        core = load_openvino().Core()
        network = core.read_model(graph)
        network.reshape([1, *list(network.input(0).partial_shape)[1:]])  # a shape that is known is a tenth quicker
        self._requests = {
            count: core.compile_model(network, "CPU", _settings(precision, count)).create_infer_request()
            for count in threads
        }
        self._one_at_a_time = threading.Lock()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, S, S) from ``normalise`` to the encoder's maps, float32, without gradients."""
        films = []
        request = self._requests[torch.get_num_threads()]
        with self._one_at_a_time:
            for film in images.numpy():
                found = request.infer([film[None]])
                films.append([torch.from_numpy(np.array(found[i])) for i in range(len(found))])
        return [torch.cat(maps) for maps in zip(*films, strict=True)]


@dataclass(frozen=True)
class Compiled:
    """A bundle's model whose encoder is compiled.

    Attributes:
        model: the heads are the bundle's own.
        precision: in which the encoder computes on this machine.
        margins: see ``About``; none where that is float32.
        exact: the same in float32, for second looks; ``model`` itself where that is float32.
    """

    model: MultiTaskModel
    precision: str
    margins: Mapping[str, float]
    exact: MultiTaskModel


def load_compiled(bundle: Bundle, threads: Sequence[int]) -> Compiled | None:
    """The model with the compiled encoder of the bundle's folder; None where that has none.

    None, too, where OpenVINO is not installed, which is logged.

    Args:
        bundle: whose folder it is.
        threads: see ``CompiledEncoder``.

    Raises:
        CheckpointError: it was made from other weights, or a file is damaged.
    """
    folder, model = bundle.folder, bundle.model
    if not (folder / ABOUT).is_file():
        return None
    about = About.read(folder)
    if about.bundle_sha256 != bundle.sha256:
        raise CheckpointError(f"{folder / GRAPH} was made from other weights than lie beside it.", hint=_AGAIN)
    if not openvino_is_here():
        _logger.warning("OpenVINO is not installed, so torch answers in its place: slower. pip install openvino")
        return None

    def compiled(precision: str) -> MultiTaskModel:
        try:
            encoder = CompiledEncoder(folder / GRAPH, precision, model.encoder.channels, threads)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckpointError(f"{folder / GRAPH} cannot be compiled: {reason}", hint=_AGAIN) from None
        return MultiTaskModel(encoder, model.findings, model.hierarchy, model.boxes).eval()

    exact = compiled(FLOAT32)
    if about.precision == BFLOAT16 and can_bfloat16():
        return Compiled(compiled(BFLOAT16), BFLOAT16, about.margins, exact)
    return Compiled(exact, FLOAT32, {}, exact)


def doubtful(
    probability: NDArray[np.float64],
    names: Sequence[str],
    margins: Mapping[str, float],
    thresholds: Mapping[str, float],
) -> bool:
    """Whether a film's (C,) probabilities come nearer to one of their thresholds than the precision can be trusted."""
    return any(
        abs(value - thresholds[name]) < margins.get(name, 0.0)
        for name, value in zip(names, probability.tolist(), strict=True)
        if name in thresholds
    )


def replace_rows(outputs: Outputs, rows: Sequence[int], others: Outputs) -> None:
    """Put ``others``, of R films, in the place of ``rows`` (R,)."""
    for name, value in vars(outputs).items():
        other = getattr(others, name)
        pairs = zip(value, other, strict=True) if isinstance(value, list) else [(value, other)]
        for tensor, new in pairs:
            tensor[list(rows)] = new


def _settings(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Unpinned, the threads of one pass were seen to share a core; pinned, those of workers side by side would.
        "ENABLE_CPU_PINNING": 1 < threads == num_cores(),
    }


def openvino_is_here() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec(_PACKAGE) is not None


def can_bfloat16() -> bool:
    """Whether this machine's CPU computes in bfloat16 by itself."""
    return "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def load_openvino() -> Any:
    """The module, without the part of it that reports to its maker over the network as soon as it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it fails, and they do without
    return importlib.import_module(_PACKAGE)

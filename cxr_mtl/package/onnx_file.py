"""A bundle as an ONNX file, for whoever has onnxruntime and nothing of ours.

In:   images      (B, 1, S, S) float32, the film in its square, (grey - 0.5) / 0.25 with grey 0 to 1
Out:  findings    (B, F) calibrated probabilities
      hierarchy   (B, T) the same along the tree of findings
      boxes       (B, N, 4) xyxy in the input, before non-maximum suppression   } of bundles with a box head
      box_scores  (B, N, D)                                                     }
      places      (B, F, H, W) how sure each place is                             of bundles with attention pooling

What the columns mean, the thresholds and the preprocessing stand in the file's metadata, as JSON under ``cxr_mtl``.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import ServeError
from cxr_mtl.model.multitask import MEAN, SPREAD, normalise
from cxr_mtl.package.whole import WholeNetwork, cuts_of
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import DISCLAIMER, Radiograph

SCHEMA = "cxr-mtl.onnx/1"
METADATA = "cxr_mtl"
PROBABILITIES_APART = 1e-4
"""From torch's float32, of a probability or score; float32 in another order moves it by a millionth."""
PIXELS_APART = 0.05
"""Of the input, for the sides of boxes."""
PREPROCESSING = (
    "Grey, 0 to 1, bright is dense (invert MONOCHROME1). Resize as float32 with a triangle filter that averages "
    "(Pillow's BILINEAR) so that the longer side is `size`, the shorter round(side * size / longer). Put it in the "
    "middle of a square of zeros: (size - side) // 2 empty rows or columns before it. Round to whole 255ths. "
    "Then (grey - mean) / spread."
)
_INPUT = "images"
_AGAIN = "Nothing was written. This is a fault of cxr-mtl or of the versions installed; `--debug` shows more."
Arrays = list[NDArray[np.float32]]


def write_onnx(bundle: Bundle, path: Path, films: Sequence[Radiograph]) -> str:
    """Write the file and compare its answers with the bundle's; gives a line that says how far apart they were.

    Args:
        bundle: on the CPU.
        path: of a file that is not there yet.
        films: to compare on, at least one.

    Raises:
        ServeError: the network cannot be exported, or the file answers otherwise than the bundle.
    """
    network = WholeNetwork(bundle)
    try:
        _export(network, bundle, path)
        apart = compare(bundle, network, path, films)
    except ServeError:
        raise
    except Exception as error:  # torch's, onnx's, onnxruntime's and protobuf's, which have no name in common
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ServeError(f"ONNX cannot take this network: {reason}", hint=_AGAIN) from error
    kinds = f"{len(films)} films: probabilities within {apart['probability']:.0e} of torch's"
    boxes = f", boxes within {apart['box']:.0e} px" if network.num_boxed else ""
    return f"ONNX Runtime answers {kinds}{boxes}."


def _export(network: WholeNetwork, bundle: Bundle, path: Path) -> None:
    import onnx

    films = torch.export.Dim("films", min=1)
    example = torch.zeros(2, 1, network.size, network.size)
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: films},),
            input_names=[_INPUT],
            output_names=list(network.outputs),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    model = program.model_proto
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer, *model.functions):
        del part.metadata_props[:]  # where each came from, with this machine's paths
        part.doc_string = ""
    model.doc_string = f"{bundle.name} {bundle.version}. {DISCLAIMER}"
    about = json.dumps(describe(bundle, network))
    model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA, value=about))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def describe(bundle: Bundle, network: WholeNetwork) -> dict[str, Any]:
    """What the outputs mean, and how the input is made."""
    parents, names = network.parents, bundle.ontology.names
    nodes = {names[c]: [names[parent] for parent in parents[c]] for c in network.node_columns}
    unknown = [f.name for f in bundle.ontology.findings if not f.group and f.name not in network.findings]
    return {
        "schema": SCHEMA,
        "name": bundle.name,
        "version": bundle.version,
        "bundle_sha256": bundle.sha256,
        "ontology": bundle.ontology.name,
        "input": {"size": network.size, "mean": MEAN, "spread": SPREAD, "preprocessing": PREPROCESSING},
        "findings": network.findings,
        "not_trained": unknown,
        "hierarchy": network.nodes,
        "parents": nodes,
        "box_findings": list(bundle.box_findings),
        "box_min_score": bundle.box_min_score,
        "operating_points": cuts_of(bundle, network.findings),
        "calibration": "in the graph: findings and hierarchy are probabilities, box_scores and places are not",
        "fitted_on": {k: bundle.description.fitted_on.get(k) for k in ("dataset", "split", "films", "patients")},
        "not_checked": "Whether the picture is a frontal chest film: the gate of cxr-mtl is not part of this file.",
        "disclaimer": DISCLAIMER,
    }


def compare(bundle: Bundle, network: WholeNetwork, path: Path, films: Sequence[Radiograph]) -> dict[str, float]:
    """The largest difference from the bundle's own answers, film by film and all at once.

    Raises:
        ServeError: it is larger than it may be.
    """
    import onnxruntime

    images = normalise(torch.from_numpy(np.stack([to_input(f.pixels, network.size)[0] for f in films]))[:, None])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    batch: Arrays = session.run(None, {_INPUT: images.numpy()})
    single: list[Arrays] = [session.run(None, {_INPUT: film[None].numpy()}) for film in images]
    found = dict(zip(network.outputs, batch, strict=True))
    with torch.no_grad():
        exact = dict(zip(network.outputs, (part.numpy() for part in network(images)), strict=True))
    answers = LocalPredictor(bundle, device="cpu").answer(films)
    exact["findings"] = np.stack([a.finding_probability[network.finding_columns] for a in answers])
    exact["hierarchy"] = np.stack([a.hierarchy_probability[network.node_columns] for a in answers])
    apart = {name: float(np.abs(exact[name] - found[name]).max()) for name in network.outputs}
    for i, name in enumerate(network.outputs):
        alone = np.concatenate([film[i] for film in single])
        apart[name] = max(apart[name], float(np.abs(exact[name] - alone).max()))
    far = [n for n, most in apart.items() if not most <= (PIXELS_APART if n == "boxes" else PROBABILITIES_APART)]
    if far:
        raise ServeError(f"The ONNX file's {far[0]} differ from the bundle's by {apart[far[0]]:.2g}.", hint=_AGAIN)
    boxes = apart.pop("boxes", 0.0)
    return {"probability": max(apart.values()), "box": boxes}


@contextmanager
def quiet() -> Iterator[None]:
    """The exporters warn of what is to change in them, and log what they are doing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

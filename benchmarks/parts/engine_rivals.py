"""The engines of benchmarks/engines.py on a CPU: each a way to compute the encoder's maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cxr_mtl.model.multitask import MultiTaskModel
from cxr_mtl.package.engine import convert_encoder
from cxr_mtl.predict.compiled import BFLOAT16, FLOAT32, GRAPH, CompiledEncoder

SIDE, FINDINGS, BOXED = 224, 20, 8
Maps = Callable[[Tensor], list[Tensor]]


@dataclass
class Engine:
    """One way to compute the encoder's maps."""

    name: str
    make: Callable[[MultiTaskModel, int, Path], Maps]
    needs: str = "torch"
    start: list[float] = field(default_factory=list)
    apart: float = 0.0
    cpu: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    wall: dict[tuple[int, int], list[float]] = field(default_factory=dict)


def eager(model: MultiTaskModel, threads: int, folder: Path) -> Maps:
    return model.encoder


def autocast(model: MultiTaskModel, threads: int, folder: Path) -> Maps:
    def run(images: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return [maps.float() for maps in model.encoder(images)]

    return run


def inductor(precision: str) -> Callable[[MultiTaskModel, int, Path], Maps]:
    def make(model: MultiTaskModel, threads: int, folder: Path) -> Maps:
        torch.compiler.reset()
        compiled = torch.compile(model.encoder)

        def run(images: Tensor) -> list[Tensor]:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == BFLOAT16):
                return [maps.float() for maps in compiled(images)]

        return run

    return make


def aot_inductor(model: MultiTaskModel, threads: int, folder: Path) -> Maps:
    films = torch.export.Dim("films", min=1, max=64)
    with torch.no_grad():
        exported = torch.export.export(model.encoder, (torch.zeros(2, 1, SIDE, SIDE),), dynamic_shapes=({0: films},))
        package = torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "encoder.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    return lambda images: list(loaded(images))


def onnx_runtime(model: MultiTaskModel, threads: int, folder: Path) -> Maps:
    import onnxruntime

    file, options = folder / "encoder.onnx", onnxruntime.SessionOptions()
    if not file.exists():
        films = torch.export.Dim("films", min=1, max=64)
        example = torch.zeros(2, 1, SIDE, SIDE)
        torch.onnx.export(
            model.encoder, (example,), str(file), dynamo=True, dynamic_shapes=({0: films},), verbose=False
        )
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (taken,) = (entry.name for entry in session.get_inputs())
    return lambda images: [torch.from_numpy(maps) for maps in session.run(None, {taken: images.numpy()})]


def openvino(precision: str) -> Callable[[MultiTaskModel, int, Path], Maps]:
    def make(model: MultiTaskModel, threads: int, folder: Path) -> Maps:
        if not (folder / GRAPH).exists():
            convert_encoder(model.encoder, SIDE, folder)
        return CompiledEncoder(folder / GRAPH, precision, model.encoder.channels, [threads])

    return make


def engines() -> list[Engine]:
    return [
        Engine("torch float32", eager),
        Engine("torch bfloat16 autocast", autocast),
        Engine("inductor float32", inductor(FLOAT32)),
        Engine("inductor bfloat16 autocast", inductor(BFLOAT16)),
        Engine("AOTInductor float32", aot_inductor),
        Engine("ONNX Runtime float32", onnx_runtime, "onnxruntime"),
        Engine("OpenVINO float32 *", openvino(FLOAT32), "openvino"),
        Engine("OpenVINO bfloat16 *", openvino(BFLOAT16), "openvino"),
    ]

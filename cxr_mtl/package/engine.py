"""Which engine answers in an archive: the fastest that can be had and trusted."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.errors import ConfigError, CxrError, ServeError
from cxr_mtl.package.prove import ProofFilms, in_words, prove
from cxr_mtl.predict.compiled import (
    ABOUT,
    BFLOAT16,
    FLOAT32,
    GRAPH,
    NUMBERS,
    About,
    can_bfloat16,
    load_openvino,
    openvino_is_here,
)

AUTO, EAGER, OPENVINO, OPENVINO_BF16 = ENGINES = ("auto", "eager", "openvino", "openvino_bf16")
FILES = (GRAPH, NUMBERS, ABOUT)

_INSTALL = "Run `pip install 'cxr-mtl[serve]'`, or choose --engine eager."
_NAME_FILMS = "Name films with readers' labels: --films M.parquet --split val."


def proof_films(bundle: Bundle, manifest: Path | None, split: str) -> ProofFilms | None:
    """Films to prove an engine on: those named, else those that the bundle's own run had, where they are still there.

    Raises:
        DataError: the named manifest cannot be read.
    """
    if manifest is not None:
        return ProofFilms(load_manifest(manifest), split)
    own = bundle.description.config.get("data", {}).get("manifest")
    if own is None or not Path(own).is_file():
        return None
    try:
        found = ProofFilms(load_manifest(Path(own)), split)
    except CxrError:
        return None  # moved, or the films are gone; that bfloat16 is not proved is said
    return found if len(found.manifest.where(split=split)) else None


def equip(bundle: Bundle, folder: Path, engine: str, films: ProofFilms | None, tell: Callable[[str], None]) -> None:
    """Put the compiled encoder of an engine into a folder, and say what it is worth.

    Args:
        bundle: on the CPU.
        folder: gets the ``FILES``, or nothing.
        engine: one of ``ENGINES``; ``auto`` is bfloat16 where it is proved, else OpenVINO's float32, else torch.
        films: to prove it on; nothing but torch may be used without.
        tell: called with one line.

    Raises:
        ConfigError: there is no such engine, or another than torch's is asked for and no films are there to prove it.
        ServeError: the engine that was asked for cannot be had, or is too far from torch's float32.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is '{engine}'.", hint=f"Choose one of: {', '.join(ENGINES)}.")
    if engine == AUTO:
        tell(_best(bundle, folder, films))
    elif engine == EAGER:
        tell("Engine: torch, float32.")
    else:
        if not openvino_is_here():
            raise ServeError("OpenVINO is not installed.", hint=_INSTALL)
        if films is None:
            raise ConfigError(f"engine {engine} needs films to be proved on.", hint=_NAME_FILMS)
        tell(_compile(bundle, folder, BFLOAT16 if engine == OPENVINO_BF16 else FLOAT32, films))


def _best(bundle: Bundle, folder: Path, films: ProofFilms | None) -> str:
    if not openvino_is_here():
        return "Engine: torch, float32; OpenVINO, which is faster, is not installed."
    if films is None:
        return f"Engine: torch, float32; OpenVINO, which is faster, has no films to be proved on. {_NAME_FILMS}"
    why = "this CPU has none to prove"
    if can_bfloat16():
        try:
            return _compile(bundle, folder, BFLOAT16, films)
        except ServeError as error:
            why = error.message
    try:
        return f"{_compile(bundle, folder, FLOAT32, films)} Not bfloat16: {why}"
    except ServeError as error:
        return f"Engine: torch, float32. {error.message}"


def _compile(bundle: Bundle, folder: Path, precision: str, films: ProofFilms) -> str:
    """Compile, prove, and only then move into the folder; gives the line to say."""
    about = About(bundle.sha256, precision)
    with tempfile.TemporaryDirectory(dir=folder, prefix="encoder-") as temp:
        made = Path(temp)
        try:
            convert_encoder(bundle.model.encoder, bundle.image_size, made)
            about.write(made)
            about = _proved(bundle, made, about, films)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise ServeError(f"OpenVINO cannot take this network: {reason}", hint="Choose --engine eager.") from None
        about.write(made)
        for name in FILES:
            (made / name).replace(folder / name)
    return f"Engine: OpenVINO, {precision}; {in_words(about.proof)}."


def convert_encoder(encoder: nn.Module, size: int, folder: Path) -> None:
    """Write ``encoder.xml`` and ``encoder.bin`` for inputs of ``size`` pixels a side.

    Raises:
        RuntimeError: OpenVINO cannot take it.
    """
    openvino = load_openvino()
    films = torch.export.Dim("films", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export tells of its own changes to come
        exported = torch.export.export(_Maps(encoder), (torch.zeros(2, 1, size, size),), dynamic_shapes=({0: films},))
        graph = openvino.convert_model(exported)
    graph.reshape([-1, 1, size, size])
    openvino.save_model(graph, folder / GRAPH, compress_to_fp16=False)


class _Maps(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(images))


def _proved(bundle: Bundle, folder: Path, about: About, films: ProofFilms) -> About:
    proof = prove(bundle, folder, films)
    if proof.failures:
        what = f"OpenVINO's {about.precision} is too far from torch's float32: {'; '.join(proof.failures)}."
        raise ServeError(what, hint="Choose another --engine.")
    return replace(about, margins=proof.margins, proof=proof.numbers)

"""The whole line on drawn films: draw, import, train, evaluate, package, serve, ask."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from cxr_mtl.config import load_config
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.read import read_image
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import DataError, ImageError
from cxr_mtl.evaluate.run import evaluate, headline
from cxr_mtl.package.mar import build_archive
from cxr_mtl.predict.overlay import draw_overlay
from cxr_mtl.predict.remote import RemotePredictor, read_key
from cxr_mtl.serve import torchserve
from cxr_mtl.train.loop import train
from cxr_mtl.types import Options, Prediction

NUM_FILMS, FILM_SIZE, SEED = 800, 256, 0


def quickstart(out: Path, *, tell: Callable[[str], None]) -> None:
    """Make everything under one folder, and say where it lies.

    Args:
        out: new or empty folder.
        tell: called with a line for each step.

    Raises:
        DataError: the folder is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty.", hint="Choose another --out or remove it.")
    started = time.monotonic()

    def step(text: str) -> None:
        tell(f"[{time.monotonic() - started:4.0f} s] {text}")

    step(f"Drawing {NUM_FILMS} chest films in NIH's layout ...")
    write_study_set(out / "films", NUM_FILMS, SEED, FILM_SIZE)
    manifest, _ = import_source("nih", out / "films", ontology="nih14", seed=SEED)
    save_manifest(manifest, out / "films.parquet")
    step("Training on two cores' worth of CPU ...")
    overrides = [f"data.manifest={out / 'films.parquet'}", f"output={out / 'runs'}"]
    bundle = train(load_config("quickstart", overrides))
    step("Evaluating on the test films ...")
    results = evaluate(bundle, out / "films.parquet", "test", out / "report")
    for line in headline(results):
        tell(f"         {line}")
    step("Packaging for TorchServe ...")
    archive = build_archive(
        bundle, out / "model_store", engine="auto", films=out / "films.parquet", rehearsed=True, tell=step
    )
    step("Serving, and asking for one film ...")
    film = film_to_show(out / "films.parquet")
    prediction = ask_server(out / "model_store", film)
    draw_overlay(read_image(film), prediction, heatmap=prediction.heatmaps[0].finding).save(out / "overlay.png")
    tell(json.dumps(without_pictures(prediction), indent=2))
    step("Done. The films are drawings; nothing here says anything about patients.")
    for what, path in {
        "report": out / "report" / "report.html",
        "bundle": bundle,
        "archive": archive,
        "overlay": out / "overlay.png",
    }.items():
        tell(f"{what:>8}: {path}")
    tell(f"    next: cxr-mtl demo --bundle {bundle} --examples {out / 'films' / 'images'}")


def film_to_show(manifest_path: Path) -> Path:
    """The test film with the most annotated boxes; the first of them."""
    manifest = load_manifest(manifest_path).where(split="test")
    return manifest.path(max(range(len(manifest)), key=lambda row: len(manifest.boxes(row))))


def ask_server(model_store: Path, film: Path) -> Prediction:
    """Start TorchServe, ask it for one film with its most probable finding's heat map, and stop it."""
    server = torchserve.start(model_store, port=0)
    try:
        client = RemotePredictor(server.url, read_key(server.key_file))
        first = _answer(client, film, Options())
        known = [f for f in first.findings if f.probability is not None]
        likeliest = max(known, key=lambda f: f.probability or 0).name
        return _answer(client, film, Options(heatmaps=(likeliest,)))
    finally:
        torchserve.stop(torchserve.state_dir_of(model_store))


def without_pictures(prediction: Prediction) -> dict[str, object]:
    """The answer as JSON, heat maps left out: they are a page of base64 each."""
    body = prediction.to_dict()
    body.pop("heatmaps", None)
    return body


def _answer(client: RemotePredictor, film: Path, options: Options) -> Prediction:
    (result,) = client.predict([film], options)
    if isinstance(result, ImageError):
        raise result
    return result

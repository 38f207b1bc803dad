"""What benchmarks/serve.py asks with and of: films of 1024 px, a bundle, and the answers that are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from parts.serve_peer import Peer
from parts.tiny_bundle import make_untrained_bundle
from PIL import Image
from torchvision import transforms

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config import ModelConfig
from cxr_mtl.data.synthetic.cases import plan_films
from cxr_mtl.data.synthetic.film import draw_film
from cxr_mtl.errors import ImageError
from cxr_mtl.model.multitask import MEAN, SPREAD
from cxr_mtl.predict.predictor import LocalPredictor

SIDE = 1024
BOX_FINDINGS = (
    "Atelectasis", "Infiltration", "Pneumonia", "Nodule", "Mass", "Effusion", "Pneumothorax", "Cardiomegaly",
)  # fmt: skip
Answer, Calls = dict[str, float], dict[str, str]


def pick_films(folder: Path, scratch: Path, count: int) -> tuple[list[Path], str]:
    """Grey PNGs of 1024 px and what they are: the real ones of ``folder``, or as many drawn ones."""
    real = [file for file in sorted(folder.glob("*.png")) if _is_grey(file)][:count]
    if real:
        return real, f"{len(real)} real films"
    for number, plan in enumerate(plan_films(count, seed=0)):
        Image.fromarray(draw_film(plan, SIDE).pixels).save(scratch / f"{number}.png")
    return sorted(scratch.glob("*.png")), f"{count} drawn films"


def _is_grey(file: Path) -> bool:
    with Image.open(file) as picture:
        return picture.mode == "L" and picture.size == (SIDE, SIDE)


def make_bundle(folder: Path, encoder: str, side: int) -> Path:
    """A bundle of random weights: as quick as a trained one, and without meaning."""
    config = ModelConfig(encoder=encoder, image_size=side, drop_path=0.0)
    return make_untrained_bundle(folder, config, BOX_FINDINGS, box_min_score=0.5)


def right_answers(bundle: Path, films: Sequence[Path]) -> tuple[dict[str, list[Answer]], list[Calls]]:
    """Of every film, by fp32 eager in this process: of ours, of the rivals and of the stock handler; and ours' calls.

    Three, because each prepares a film in its own way and only ours is calibrated and calls.
    """
    local, peer = LocalPredictor(bundle, device="cpu"), Peer(str(bundle), torch.get_num_threads())
    contents = [film.read_bytes() for film in films]
    ours = [_ours(local.predict([content])[0]) for content in contents]
    calls = [read_calls(answer) for answer in ours]
    rivals = [peer.judge([peer.prepare(content)])[0]["findings"] for content in contents]
    right = {"ours": [read_answer(answer) for answer in ours], "rivals": rivals, "stock": _stock(bundle, films)}
    return right, calls


def _ours(answer: Any) -> dict[str, Any]:
    if isinstance(answer, ImageError):
        raise SystemExit(f"serve: the bundle refuses a film of the benchmark: {answer}")
    body: dict[str, Any] = answer.to_dict()
    return body


@torch.inference_mode()
def _stock(bundle: Path, films: Sequence[Path]) -> list[Answer]:
    loaded = load_bundle(bundle)
    prepare = transforms.Compose(
        [transforms.Resize(loaded.image_size), transforms.ToTensor(), transforms.Normalize([MEAN], [SPREAD])]
    )
    answers = []
    for film in films:
        with Image.open(film) as picture:
            shares = loaded.model(prepare(picture)[None]).findings.softmax(1)[0]
        answers.append({str(number): share for number, share in enumerate(shares.tolist())})
    return answers


def read_answer(body: Any) -> Answer:
    """Probabilities of an answer's JSON, whoever gave it; of nothing that is one, none."""
    if isinstance(body, list) and len(body) == 1:  # BentoML answers a list with a list
        body = body[0]
    found = body.get("findings", body) if isinstance(body, dict) else {}
    if isinstance(found, list):
        return {f["name"]: f["probability"] for f in found if f.get("probability") is not None}
    return {name: value for name, value in found.items() if isinstance(value, float)}


def read_calls(body: Any) -> Calls:
    """What an answer of ours calls each finding, at the operating point; of anything else, nothing."""
    found = body.get("findings") if isinstance(body, dict) else None
    return {f["name"]: f["call"] for f in found if "call" in f} if isinstance(found, list) else {}


def apart(answer: Answer, right: Answer, fewest: int) -> float:
    """The largest difference of a probability; infinite where one is missing or belongs to nothing."""
    if len(answer) < fewest or not answer.keys() <= right.keys():
        return float("inf")
    return max(abs(value - right[name]) for name, value in answer.items())

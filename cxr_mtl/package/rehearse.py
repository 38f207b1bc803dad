"""Before an archive is called done: unpacked into a clean folder, it answers films, and as its bundle does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.ops import box_iou

from cxr_mtl.bundle import Bundle
from cxr_mtl.data.synthetic import draw_film, plan_films
from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.package import rehearsal
from cxr_mtl.package.prove import ProofFilms
from cxr_mtl.predict.compiled import ABOUT, BFLOAT16, FLOAT32, About
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Prediction, ScoredBox

MOST = 6
"""Films."""
PROBABILITIES_APART = {FLOAT32: 1e-4, BFLOAT16: 0.02}
"""What an engine that was proved may move a single probability by; float32 moves it by a millionth."""
BOXES_ALIKE = 0.8
"""IoU of a box with the bundle's."""
_SIDE = 512
_HINT = "Nothing was written. This is a fault of cxr-mtl or of this environment; `--debug` shows more."


def rehearse(archive: Path, bundle: Bundle, films: ProofFilms | None) -> str:
    """Compare an archive's answers with those of its bundle; gives a line that says on what.

    Args:
        archive: a ``.mar``.
        bundle: that it was made of.
        films: real ones, the first few are sent; None sends drawn ones.

    Raises:
        ServeError: the archive does not load where nothing else lies, or answers otherwise than the bundle.
    """
    sent = sample_films(films)
    with tempfile.TemporaryDirectory(prefix="cxr-mtl-rehearsal-") as temp:
        unpacked, sources = Path(temp, "archive"), Path(temp, "films")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(unpacked)
        sources.mkdir()
        for i, film in enumerate(sent):
            (sources / f"{i}").write_bytes(film)
        may = PROBABILITIES_APART[About.read(unpacked).precision if (unpacked / ABOUT).is_file() else FLOAT32]
        answers = _run(unpacked, sources)
    expected = LocalPredictor(bundle, device="cpu").predict(sent)
    for i, (answer, truth) in enumerate(zip(answers, expected, strict=True)):
        if apart := differs(answer, truth, may, bundle.box_min_score + may):
            raise ServeError(
                f"The archive answers film {i + 1} of {len(sent)} otherwise than its bundle: {apart}.", hint=_HINT
            )
    judged = sum(isinstance(truth, Prediction) for truth in expected)
    kind = "films" if films is not None else "drawn films"
    refused = f", {len(sent) - judged} refused by both" if judged < len(sent) else ""
    return f"Rehearsed: unpacked alone, it answers {len(sent)} {kind} as the bundle does{refused}."


def differs(
    answer: Mapping[str, Any], truth: Prediction | ImageError, may: float = 0.0, sure_above: float = 0.0
) -> str:
    """What an answer of the archive has otherwise than the bundle's; empty where nothing.

    Args:
        answer: ``status`` and the JSON ``answer``.
        truth: the bundle's.
        may: a probability be apart.
        sure_above: boxes with a lower score may be missing, which a coarse engine can move below the cut.
    """
    status, body = answer["status"], answer["answer"]
    if isinstance(truth, ImageError):
        expected = (truth.status, truth.code)
        found = (status, body.get("error", {}).get("code"))
        return "" if found == expected else f"{found} instead of {expected}"
    if status != 200:
        return f"status {status}: {body.get('error', {}).get('message', '')}"
    wanted = truth.to_dict()
    for part in ("model", "operating_point"):
        if body[part] != wanted[part]:
            return f"{part} is {body[part]}"
    if [mine["name"] for mine in wanted["findings"]] != [theirs["name"] for theirs in body["findings"]]:
        return "it names other findings"
    for mine, theirs in zip(wanted["findings"], body["findings"], strict=True):
        probability, other = mine.get("probability", 0.0), theirs.get("probability", 0.0)
        near = abs(probability - mine.get("threshold", 1.0)) <= may
        if abs(probability - other) > may or (mine["call"] != theirs["call"] and not near):
            return f"{mine['name']} is {other} ({theirs['call']}) instead of {probability} ({mine['call']})"
    for mine, theirs in zip(wanted["hierarchy"], body["hierarchy"], strict=True):
        moved = abs((mine["probability"] or 0.0) - (theirs["probability"] or 0.0))
        if mine["name"] != theirs["name"] or moved > may:
            return f"in the tree {mine['name']} is {theirs['probability']} instead of {mine['probability']}"
    for box in truth.boxes:
        own = [other for other in body["boxes"] if other["finding"] == box.finding]
        if box.score > sure_above and not any(_overlap(box, other) > BOXES_ALIKE for other in own):
            return f"a box of {box.finding} with score {box.score:.2f} is missing"
    return ""


def _overlap(box: ScoredBox, other: Mapping[str, Any]) -> float:
    return float(box_iou(torch.tensor([box.xyxy]), torch.tensor([other["xyxy"]])))


def _run(archive: Path, films: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-I", str(Path(rehearsal.__file__)), str(archive), str(films)]
    with tempfile.TemporaryDirectory() as temp:  # what a worker leaves in its temporary folder goes with it
        environment = os.environ | {"TMPDIR": temp}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    _, mark, said = done.stdout.partition("\nANSWERS\n")
    if done.returncode != 0 or not mark:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise ServeError(f"The archive does not answer in a clean folder: {lines[-1].strip()[:300]}", hint=_HINT)
    first, *answers = (json.loads(line) for line in said.splitlines())
    if not Path(first["sources"]).is_relative_to(archive.resolve()):
        raise ServeError("The archive answered with other sources than its own.", hint=_HINT)
    return answers


def sample_films(films: ProofFilms | None) -> list[bytes]:
    """A few of the films, as files; drawn ones where there are none."""
    return list(_drawn() if films is None else _real(films))


def _real(films: ProofFilms) -> Iterator[bytes]:
    some = films.manifest.where(split=films.split)
    for row in range(min(MOST, len(some))):
        yield some.path(row).read_bytes()


def _drawn() -> Iterator[bytes]:
    for plan in plan_films(MOST, seed=0):
        stream = io.BytesIO()
        Image.fromarray(draw_film(plan, _SIDE).pixels).save(stream, "PNG")
        yield stream.getvalue()

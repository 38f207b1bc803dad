"""What the model should not judge gets a reason and no findings, through every door; its neighbours get answers."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from cxr_mtl.bundle import DESCRIPTION, GATE, WEIGHTS, Door, gate_bytes, gate_section, load_bundle, save_bundle
from cxr_mtl.data.gate import fit
from cxr_mtl.data.gate.fit import fit_gate
from cxr_mtl.data.gate.negatives import make_negatives
from cxr_mtl.data.gate.thumbs import glimpse
from cxr_mtl.data.gate.usual import fit_usual
from cxr_mtl.data.manifest import make_manifest
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.data.read import read_image
from cxr_mtl.data.synthetic import draw_film, plan_films
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import CheckpointError, ImageError
from cxr_mtl.evaluate import run
from cxr_mtl.ontology import load_ontology
from cxr_mtl.package.mar import build_archive
from cxr_mtl.predict import admit
from cxr_mtl.predict.command import predict_files
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import Ask, answer_requests
from cxr_mtl.types import Prediction, Record

SIDE = 128
Grey = NDArray[np.uint8]


def png(pixels: Grey) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def chests() -> list[Grey]:
    return [draw_film(plan, SIDE).pixels for plan in plan_films(64, seed=0)]


@pytest.fixture(scope="module")
def gated(tiny_bundle: Path, chests: list[Grey], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a gate fitted to drawn films."""
    predictor = LocalPredictor(tiny_bundle)
    films = [read_image(png(chest)) for chest in chests]
    seen = glimpse([to_input(film.pixels, predictor.bundle.image_size) for film in films])
    with mock.patch.object(fit, "_OF_A_KIND", 30):
        fitted = fit_gate(seen.thumbs[:44], seen.thumbs[44:], 0)
    features = predictor.look(films[44:]).features
    usual = fit_usual(seen.looks[:44], seen.looks[44:], features, np.arange(20))
    file = gate_bytes(Door(fitted.gate, usual))
    about = gate_section(file, {"train_films": 44, "val_films": 20} | fitted.to_dict())
    folder = tmp_path_factory.mktemp("gated") / "bundle"
    save_bundle(
        folder,
        replace(predictor.bundle.description, gate=about),
        tiny_bundle / WEIGHTS,
        {"model_card.md": "# t\n"},
        file,
    )
    return folder


@pytest.fixture(scope="module")
def predictor(gated: Path) -> LocalPredictor:
    return LocalPredictor(gated)


def refusals(chest: Grey) -> dict[str, bytes]:
    """One picture for each code."""
    page = make_negatives("limbs", 1, chest[None], 3)[0]
    return {
        "blank": png(np.full((90, 70), 128, np.uint8)),
        "not_chest": png(page),
        "turned": png(np.rot90(chest, 2)),
        "inverted": png(255 - chest),
    }


def test_each_picture_gets_its_reason_and_the_neighbours_their_answers(
    predictor: LocalPredictor, chests: list[Grey]
) -> None:
    bad = refusals(chests[0])
    answers = predictor.predict([png(chests[1]), *bad.values(), png(chests[2])])
    assert isinstance(answers[0], Prediction)
    assert isinstance(answers[-1], Prediction)
    for code, error in zip(bad, answers[1:-1], strict=True):
        assert isinstance(error, ImageError)
        assert (error.code, error.status) == (code, 422)
        assert "\n" not in str(error)
        assert error.message.startswith("the picture ")
        assert error.hint
    assert "upside down" in answers[3].message  # type: ignore[union-attr]


def test_the_side_a_film_lies_on_is_named(predictor: LocalPredictor, chests: list[Grey]) -> None:
    """A film whose head is at the left of the picture must be turned to the right."""
    for quarter, words in ((1, "head to the left"), (3, "head to the right")):
        (error,) = predictor.predict([png(np.rot90(chests[5], quarter))])
        assert isinstance(error, ImageError)
        assert error.code == "turned"
        assert words in error.message


@pytest.mark.parametrize(
    "picture",
    [
        lambda: np.zeros((64, 64), np.uint8),
        lambda: np.random.default_rng(0).integers(100, 104, (80, 80)).astype(np.uint8),
        lambda: np.where(np.add.outer(np.arange(90) // 9, np.arange(90) // 9) % 2, 255, 0).astype(np.uint8),
    ],
)
def test_fixed_checks_need_no_gate(tiny_bundle: Path, picture: Callable[[], Grey]) -> None:
    (error,) = LocalPredictor(tiny_bundle).predict([png(picture())])
    assert isinstance(error, ImageError)
    assert error.code in ("blank", "not_chest")


def test_a_bundle_without_a_gate_answers_whatever_has_greys(tiny_bundle: Path, chests: list[Grey]) -> None:
    answers = LocalPredictor(tiny_bundle).predict([png(255 - chests[0]), png(np.rot90(chests[0]))])
    assert all(isinstance(answer, Prediction) for answer in answers)
    assert "novelty" not in answers[0].image  # type: ignore[union-attr]


def test_an_unlike_film_is_answered_with_a_warning_and_a_score(predictor: LocalPredictor, chests: list[Grey]) -> None:
    rng = np.random.default_rng(0)
    noisy = (chests[3] * 0.8 + rng.normal(0, 18, chests[3].shape)).clip(0, 255).astype(np.uint8)
    usual, unlike = predictor.predict([png(chests[4]), png(noisy)])
    assert isinstance(usual, Prediction)
    assert isinstance(unlike, Prediction)
    for answer in (usual, unlike):
        assert set(answer.image["novelty"]) == {"score", "percentile", "limit"}
        assert Prediction.from_dict(json.loads(json.dumps(answer.to_dict()))).image == answer.image
    assert not [w for w in usual.warnings if "unlike" in w]
    (warning,) = [w for w in unlike.warnings if "unlike" in w]
    score, limit = unlike.image["novelty"]["score"], unlike.image["novelty"]["limit"]
    assert score > limit
    assert f"score {score:.1f}, 99 % of validation films are below {limit:.1f}" in warning
    assert unlike.image["novelty"]["percentile"] == 100


def test_evaluation_hears_of_the_same_novelty(
    gated: Path, predictor: LocalPredictor, chests: list[Grey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    noisy = (chests[3] * 0.8 + rng.normal(0, 18, chests[3].shape)).clip(0, 255).astype(np.uint8)
    films = {"a": chests[4], "b": noisy, "c": np.rot90(chests[5], 2), "d": chests[6]}
    for name, film in films.items():
        (tmp_path / f"{name}.png").write_bytes(png(film))
    records = [
        Record(f"{n}.png", n, n, n, "nih", split="test", width=SIDE, height=SIDE, labels={"Mass": 1.0, "Edema": -1.0})
        for n in films
    ]
    save_manifest(make_manifest(records, tmp_path, load_ontology("nih14"), {}), tmp_path / "m.parquet")
    monkeypatch.setattr(run, "_draw", lambda *_: {"roc": {}, "reliability": {}, "boxes": {}})
    shutil.copytree(gated, tmp_path / "bundle")
    resized = mock.Mock(side_effect=to_input)
    monkeypatch.setattr(admit, "to_input", resized)
    options: dict[str, Any] = {"resamples": 10, "progress": False, "films": False}
    results = run.evaluate(tmp_path / "bundle", tmp_path / "m.parquet", "test", tmp_path / "out", **options)
    assert resized.call_count == len(films), "each once"
    assert results["data"]["warned"] == 1
    assert results["data"]["refused_positives"] == {"Mass": 1}
    written = pd.read_parquet(tmp_path / "out" / "predictions.parquet").set_index("image_id")["novelty"]
    for name, answer in zip("abd", predictor.predict([tmp_path / f"{n}.png" for n in "abd"]), strict=True):
        assert written[name] == pytest.approx(answer.image["novelty"]["score"], abs=0.01)  # type: ignore[union-attr]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 are unlike the films that the model learned from" in page
    assert "Films refused: 1; of them 1 show Mass. Sensitivity" in page


def test_the_server_answers_with_422(predictor: LocalPredictor, chests: list[Grey]) -> None:
    films = [*refusals(chests[0]).values(), png(chests[1])]
    asks = [Ask({"body": {"image": base64.b64encode(film).decode()}}) for film in films]
    responses = answer_requests(predictor, asks)
    assert [r.status for r in responses] == [422, 422, 422, 422, 200]
    assert all("findings" not in json.loads(r.body) for r in responses[:-1])
    assert json.loads(responses[-1].body)["image"]["novelty"]


def test_the_command_line_names_the_file(gated: Path, chests: list[Grey], tmp_path: Path) -> None:
    film = tmp_path / "hand.png"
    film.write_bytes(refusals(chests[0])["not_chest"])
    told: list[str] = []
    assert predict_files(str(gated), [film], tell=told.append) == 1
    assert told[0].startswith(
        f"{film}: hand.png does not look like the frontal chest films that this model learned from."
    )
    assert "\n" not in told[0]


def test_the_archive_carries_the_gate(gated: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_archiver")
    archive = build_archive(gated, tmp_path)
    with zipfile.ZipFile(archive) as packed:
        assert packed.read(GATE) == (gated / GATE).read_bytes()
        assert f"  {GATE}\n" in packed.read("SHA256SUMS").decode()


def test_gate_and_description_belong_together(gated: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(gated, copy)
    assert load_bundle(copy).sha256 == load_bundle(gated).sha256 != load_bundle(tiny_bundle).sha256
    whole = (copy / GATE).read_bytes()
    (copy / GATE).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="is not the gate that"):
        load_bundle(copy)
    (copy / GATE).unlink()
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        load_bundle(copy)
    assert "\n" not in str(caught.value)


def test_a_gate_of_another_kind_is_refused(gated: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(gated, copy)
    tree = yaml.safe_load((copy / DESCRIPTION).read_text())
    tree["gate"]["schema"] = "cxr-mtl.gate/9"
    (copy / DESCRIPTION).write_text(yaml.safe_dump(tree))
    with pytest.raises(CheckpointError, match="gate/9"):
        load_bundle(copy)


def test_a_gate_that_would_answer_with_no_number_is_refused(gated: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = load_bundle(gated)
    assert bundle.gate
    file = gate_bytes(replace(bundle.gate, usual=replace(bundle.gate.usual, quantiles=np.full(101, np.nan))))
    description = replace(bundle.description, gate=gate_section(file, {}))
    save_bundle(tmp_path / "nan", description, tiny_bundle / WEIGHTS, {}, file)
    with pytest.raises(CheckpointError, match="quantiles holds what is no number") as caught:
        load_bundle(tmp_path / "nan")
    assert "\n" not in str(caught.value)


def test_a_description_from_before_gates_still_loads(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    tree = yaml.safe_load((copy / DESCRIPTION).read_text())
    del tree["gate"]
    (copy / DESCRIPTION).write_text(yaml.safe_dump(tree))
    bundle = load_bundle(copy)
    assert bundle.gate is None
    assert "before there were gates" in bundle.description.gate["none"]

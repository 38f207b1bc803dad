"""An engine answers as torch's float32 does, or it is off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.bundle import Bundle, load_bundle
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import CheckpointError, ConfigError, ServeError
from cxr_mtl.package import prove as proving
from cxr_mtl.package.engine import FILES, convert_encoder, equip, proof_films
from cxr_mtl.package.prove import Proof, ProofFilms, prove
from cxr_mtl.predict import compiled as of_predict
from cxr_mtl.predict import neighbours as of_neighbours
from cxr_mtl.predict.compiled import ABOUT, GRAPH, About, CompiledEncoder, doubtful, load_compiled, replace_rows
from cxr_mtl.predict.neighbours import Neighbours
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Options, Outputs, Prediction

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def converted(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    convert_encoder(bundle.model.encoder, bundle.image_size, folder)
    return folder


@pytest.fixture
def equipped(bundle: Bundle, converted: Path, tmp_path: Path) -> Bundle:
    """The bundle in a folder that has its compiled encoder, too."""
    folder = tmp_path / "equipped"
    shutil.copytree(bundle.folder, folder)
    for name in FILES[:2]:
        shutil.copyfile(converted / name, folder / name)
    About(bundle.sha256, "float32").write(folder)
    return replace(bundle, folder=folder)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> ProofFilms:
    root = tmp_path_factory.mktemp("films")
    write_study_set(root, 40, seed=3, size=96)
    save_manifest(import_source("nih", root)[0], root / "m.parquet")
    manifest = load_manifest(root / "m.parquet")
    table = manifest.table.assign(split="val")
    return ProofFilms(replace(manifest, table=table), "val")


def noise(seed: int, num: int = 3, side: int = 64) -> list[bytes]:
    import io

    from PIL import Image

    rng, found = np.random.default_rng(seed), []
    for _ in range(num):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side + 9), dtype=np.uint8)).save(stream, "PNG")
        found.append(stream.getvalue())
    return found


def probabilities(predictor: LocalPredictor, films: list[bytes]) -> np.ndarray[Any, Any]:
    rows = predictor.predict(films, Options())
    assert all(isinstance(row, Prediction) for row in rows)
    return np.array([[f.probability or 0.0 for f in row.findings] for row in rows if isinstance(row, Prediction)])


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 5])
def test_float32_is_torchs_whatever_the_batch(bundle: Bundle, equipped: Bundle, num: int) -> None:
    ours, theirs = LocalPredictor(equipped, device="cpu"), LocalPredictor(bundle, device="cpu")
    assert (str(ours.engine), str(theirs.engine)) == (
        "openvino float32 on cpu, 1 threads",
        "torch float32 on cpu, 1 threads",
    )
    sent = noise(num, num)
    assert np.abs(probabilities(ours, sent) - probabilities(theirs, sent)).max() < 1e-5
    boxes = [
        [box for row in p.predict(sent) if isinstance(row, Prediction) for box in row.boxes] for p in (ours, theirs)
    ]
    assert len(boxes[0]) == len(boxes[1]) > 0
    for mine, other in zip(*boxes, strict=True):
        assert mine.finding == other.finding
        assert np.abs(np.subtract(mine.xyxy, other.xyxy)).max() < 0.05


@pytest.mark.slow
def test_a_worker_that_has_all_cores_for_a_film_answers_the_same(
    bundle: Bundle, equipped: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_neighbours, "num_cores", lambda: 2)
    seen, passes = [], CompiledEncoder.forward

    def forward(self: CompiledEncoder, images: torch.Tensor) -> list[torch.Tensor]:
        seen.append(torch.get_num_threads())
        return passes(self, images)

    monkeypatch.setattr(CompiledEncoder, "forward", forward)
    ours, other = (Neighbours(tmp_path / "cores") for _ in range(2))
    worker, sent = LocalPredictor(equipped, "cpu", 1, ours), noise(4)
    truth = probabilities(LocalPredictor(bundle, device="cpu"), sent)
    assert np.abs(probabilities(worker, sent) - truth).max() < 1e-5
    with other.busy():
        assert np.abs(probabilities(worker, sent) - truth).max() < 1e-5
    assert seen == [2, 1]


@pytest.mark.slow
def test_a_doubtful_film_is_looked_at_again_in_float32(bundle: Bundle, equipped: Bundle) -> None:
    """With another network's first look all numbers are wrong, unless every film is doubtful."""
    truth = probabilities(LocalPredictor(bundle, device="cpu"), noise(2))
    other = replace(bundle, folder=_of_other_weights(bundle, equipped.folder / "other"))
    wrong, first_look = LocalPredictor(equipped, device="cpu"), load_compiled(other, [1])
    assert first_look
    wrong._model = first_look.model
    assert np.abs(probabilities(wrong, noise(2)) - truth).max() > 0.01
    wrong._margins = dict.fromkeys(bundle.trained, 1.0)
    assert np.abs(probabilities(wrong, noise(2)) - truth).max() < 1e-5
    wrong._margins = {"Mass": 1.0}  # one is enough
    assert np.abs(probabilities(wrong, noise(2)) - truth).max() < 1e-5


@pytest.mark.slow
def test_second_looks_of_bfloat16_are_float32s(bundle: Bundle, equipped: Bundle) -> None:
    if not of_predict.can_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    truth = probabilities(LocalPredictor(bundle, device="cpu"), noise(2))
    About(bundle.sha256, "bfloat16", dict.fromkeys(bundle.trained, 1.0)).write(equipped.folder)
    ours = LocalPredictor(equipped, device="cpu")
    assert ours.engine.precision == "bfloat16"
    assert np.abs(probabilities(ours, noise(2)) - truth).max() < 1e-5
    ours._margins = {}
    assert np.abs(probabilities(ours, noise(2)) - truth).max() > 1e-5


def test_a_second_look_that_is_wrong_is_seen_by_the_proof() -> None:
    exact, near, cuts, margins = np.array([[0.6]]), np.array([[0.51]]), {"Mass": 0.5}, {"Mass": 0.1}
    assert proving.calls_alike(exact, near, exact, ("Mass",), cuts, margins) == (1.0, 1.0)
    assert proving.calls_alike(exact, near, 1 - exact, ("Mass",), cuts, margins) == (0.0, 1.0)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.1))
def test_doubtful_is_nearer_than_the_margin(probability: float, cut: float, margin: float) -> None:
    row = np.array([np.nan, probability])
    assert doubtful(row, ("Mass", "Edema"), {"Edema": margin}, {"Edema": cut}) == (abs(probability - cut) < margin)
    assert not doubtful(row, ("Mass", "Edema"), {"Edema": margin}, {"Mass": cut})


def test_rows_are_replaced_in_every_part() -> None:
    def outputs(num: int, value: float) -> Outputs:
        part = torch.full((num, 2), value)
        return Outputs(part.clone(), part.clone(), [part.clone()], [part.clone()], [part.clone(), part.clone()])

    ours = outputs(3, 0.0)
    replace_rows(ours, [0, 2], outputs(2, 1.0))
    for part in (ours.findings, ours.hierarchy, *ours.box_logits, *ours.box_deltas, *ours.features):
        assert part[:, 0].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.slow
def test_what_lies_beside_other_weights_is_refused(bundle: Bundle, equipped: Bundle) -> None:
    About("0" * 64, "float32").write(equipped.folder)
    with pytest.raises(CheckpointError, match="made from other weights"):
        load_compiled(equipped, [1])
    (equipped.folder / ABOUT).write_text("- no\n")
    with pytest.raises(CheckpointError, match=r"encoder\.yaml is not of this version"):
        load_compiled(equipped, [1])
    About(bundle.sha256, "float32").write(equipped.folder)
    (equipped.folder / GRAPH).write_text("<net/>")
    with pytest.raises(CheckpointError, match=r"encoder\.xml cannot be compiled"):
        load_compiled(equipped, [1])


@pytest.mark.slow
def test_without_openvino_torch_answers_and_the_log_says_so(
    equipped: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(of_predict, "openvino_is_here", lambda: False)
    assert LocalPredictor(equipped, device="cpu").engine.name == "torch"
    assert "pip install openvino" in caplog.text


@pytest.mark.slow
def test_importing_openvino_tells_nobody(tmp_path: Path) -> None:
    """Its own telemetry would look for the network at import and leave an id in the home folder."""
    code = """
import socket, sys
def refuse(*_): raise SystemExit("it went to the network")
socket.socket.connect = socket.getaddrinfo = refuse
from cxr_mtl.predict.compiled import load_openvino
assert load_openvino().Core().available_devices
print(sorted(m for m in sys.modules if m.startswith("openvino_telemetry") and sys.modules[m]))
"""
    home = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_without_films_torch_answers(bundle: Bundle, tmp_path: Path) -> None:
    said: list[str] = []
    equip(bundle, tmp_path, "auto", None, said.append)
    assert said[0].startswith("Engine: torch, float32; OpenVINO, which is faster, has no films to be proved on.")
    for engine in ("openvino", "openvino_bf16"):
        with pytest.raises(ConfigError, match=f"engine {engine} needs films"):
            equip(bundle, tmp_path, engine, None, said.append)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_few_films_prove_float32_alone(bundle: Bundle, films: ProofFilms, tmp_path: Path) -> None:
    said: list[str] = []
    equip(bundle, tmp_path, "auto", films, said.append)
    assert said[0].startswith("Engine: OpenVINO, float32; on 40 films of nih val")
    assert "Not bfloat16" in said[0]
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    assert (About.read(tmp_path).precision, About.read(tmp_path).margins) == ("float32", {})


def test_eager_leaves_nothing_and_nonsense_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    said: list[str] = []
    equip(bundle, tmp_path, "eager", None, said.append)
    assert said == ["Engine: torch, float32."]
    with pytest.raises(ConfigError, match="engine is 'tensorrt'"):
        equip(bundle, tmp_path, "tensorrt", None, said.append)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_encoder_that_answers_otherwise_is_not_packed(
    bundle: Bundle, films: ProofFilms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = replace(bundle, model=load_bundle(bundle.folder).model)
    torch.nn.init.normal_(bundle.model.findings.linear.weight)  # untrained, a call would hang on nothing that it sees
    found = prove(bundle, _of_other_weights(bundle, tmp_path / "wrong"), films)
    assert any("films have the same calls" in failure for failure in found.failures)
    About(bundle.sha256, "bfloat16").write(tmp_path / "wrong")
    coarse = prove(bundle, tmp_path / "wrong", films)
    assert coarse.failures == ["40 films are too few, 200 are needed"]
    known = {"films": 200, "macro_auroc": 0.0, "box_accuracy": 0.0}
    assert any("looked at twice" in failure for failure in Proof(coarse.margins, coarse.numbers | known).failures)
    monkeypatch.setattr("cxr_mtl.package.engine.prove", lambda *_: found)
    (tmp_path / "out").mkdir()
    with pytest.raises(ServeError, match="too far from torch's float32"):
        equip(bundle, tmp_path / "out", "openvino", films, lambda _: None)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_proof_of_float32_holds(bundle: Bundle, converted: Path, films: ProofFilms, tmp_path: Path) -> None:
    shutil.copytree(converted, tmp_path / "same")
    About(bundle.sha256, "float32").write(tmp_path / "same")
    proof = prove(bundle, tmp_path / "same", films)
    assert proof.failures == []
    assert proof.numbers["films"] == 40
    assert proof.numbers["probability"]["most"] < 1e-5
    assert set(proof.numbers["same_calls"].values()) == {1.0}


def test_what_is_too_far_is_named() -> None:
    numbers = {
        "macro_auroc": 0.003,
        "box_accuracy": 0.001,
        "same_calls": {"f1": 0.99, "balanced": 1.0},
        "second_looks": {"f1": 0.05, "balanced": 0.4},
        "films": 300,
        "precision": "bfloat16",
        "boxes_of": ["box_accuracy"],
    }
    assert Proof({}, numbers).failures == [
        "macro_auroc differs by 0.0030, 0.002 may be",
        "at f1 99.0% of films have the same calls, 99.5% must",
        "at balanced 40.0% of films must be looked at twice, 33% may",
    ]


def test_what_is_not_known_proves_no_bfloat16() -> None:
    numbers = {"macro_auroc": None, "box_accuracy": None, "films": 300, "boxes_of": ["box_accuracy"]}
    calls: dict[str, dict[str, float]] = {"same_calls": {"f1": 1.0}, "second_looks": {"f1": 0.0}}
    unknown = ["the films give no macro_auroc", "the films give no box_accuracy"]
    assert Proof({}, numbers | calls | {"precision": "bfloat16"}).failures == unknown
    assert Proof({}, numbers | calls | {"precision": "float32"}).failures == []


def test_second_looks_mend_calls() -> None:
    """Two findings, four films: one call differs within the margin, one beyond it."""
    exact = np.array([[0.51, 0.1], [0.30, 0.6], [0.9, 0.9], [0.1, 0.1]])
    other = np.array([[0.49, 0.1], [0.60, 0.6], [0.9, 0.9], [0.1, 0.1]])
    names, cuts = ("Mass", "Edema"), {"Mass": 0.5, "Edema": 0.5}
    assert proving.calls_alike(exact, other, exact, names, cuts, {"Mass": 0.0, "Edema": 0.0}) == (0.5, 0.0)
    assert proving.calls_alike(exact, other, exact, names, cuts, {"Mass": 0.02, "Edema": 0.0}) == (0.75, 0.25)


@pytest.mark.slow
def test_films_are_those_of_the_run_where_they_still_are(bundle: Bundle, films: ProofFilms, tmp_path: Path) -> None:
    assert proof_films(bundle, None, "val") is None
    save_manifest(films.manifest, tmp_path / "own.parquet")
    config = {"data": {"manifest": str(tmp_path / "own.parquet")}}
    ran = replace(bundle, description=replace(bundle.description, config=config))
    found = proof_films(ran, None, "val")
    assert found is not None
    assert len(found.manifest) == 40
    assert proof_films(ran, None, "test") is None
    gone = {"data": {"manifest": str(tmp_path / "gone.parquet")}}
    assert proof_films(replace(bundle, description=replace(bundle.description, config=gone)), None, "val") is None


def _of_other_weights(bundle: Bundle, folder: Path) -> Path:
    """A compiled encoder whose numbers are another network's."""
    folder.mkdir()
    other = load_bundle(bundle.folder)
    torch.manual_seed(9)
    for weight in other.model.encoder.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    convert_encoder(other.model.encoder, bundle.image_size, folder)
    About(bundle.sha256, "float32").write(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""The whole line, in the README's own words, on drawn films: import to demo, and one film through every door."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from cxr_mtl.bundle import load_bundle
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.evaluate.paired import comparisons
from cxr_mtl.predict.remote import read_key
from cxr_mtl.serve import torchserve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPO = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "2", "PATH": f"{BIN}:{os.environ['PATH']}"}
QUICK = "-s train.epochs=2 -s model.image_size=64 -s model.encoder=test_convnext -s data.min_positives=2"


def readme_commands(beginning: str) -> list[str]:
    """The README's lines that begin so, without the environment's folder."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / "README.md").read_text(), flags=re.DOTALL)
    lines = (line.removeprefix(".venv/bin/") for block in blocks for line in block.splitlines())
    return [line for line in lines if line.startswith(beginning)]


def run(command: str, cwd: Path, *, code: int = 0) -> str:
    done = subprocess.run(shlex.split(command), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's four commands have run, on drawn films for /data/nih."""
    place = tmp_path_factory.mktemp("line")
    write_study_set(place / "nih", 150, 0, 128)
    (place / "configs").symlink_to(REPO / "configs")
    (place / "quickstart" / "runs").mkdir(parents=True)  # what it leaves, in which the README's first page looks
    (place / "quickstart" / "films").symlink_to(place / "nih")
    (place / "quickstart" / "runs" / "quickstart").symlink_to(place / "runs" / "nih_convnext")
    (command,) = readme_commands("cxr-mtl data import nih")
    assert "kept 150 films" in run(command.replace("/data/nih", "nih"), place)
    (command,) = readme_commands("cxr-mtl data doctor")
    run(command, place)
    command, *_ = readme_commands("cxr-mtl train")  # the others are of datasets that nobody can draw
    run(f"{command} {QUICK}", place)
    (command,) = readme_commands("cxr-mtl evaluate")
    assert "macro AUROC" in run(f"{command} --resamples 50", place)
    (command,) = readme_commands("cxr-mtl package")
    run(command, place)
    return place


@pytest.fixture(scope="module")
def film(place: Path) -> Path:
    """As the README calls it, but drawn; a PNG under a DICOM's name is read by what it is."""
    manifest = load_manifest(place / "nih.parquet").where(split="test")
    path = place / "film.png"
    path.write_bytes(manifest.path(0).read_bytes())
    (place / "film.dcm").write_bytes(path.read_bytes())
    return path


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """Started by the README's command, on free ports in place of 8080."""
    start, look, stop = readme_commands("cxr-mtl serve")
    said = run(f"{start} --port 0", place)
    found = torchserve.status(torchserve.state_dir_of(place / "model_store"))
    assert found is not None
    assert found.info.url in said
    assert "key_file.json" in said
    assert found.info.url in run(look, place)
    yield found.info.url
    assert "stopped" in run(stop, place)
    assert torchserve.status(torchserve.state_dir_of(place / "model_store")) is None


def numbers(answer: dict[str, object]) -> np.ndarray:
    """All numbers of an answer, in order."""
    text = json.dumps({k: answer[k] for k in ("findings", "hierarchy", "boxes")})
    return np.array([float(n) for n in re.findall(r"(?<![\w.\"])-?\d+(?:\.\d+)?(?:e-?\d+)?", text)])


ASK = """
import json, sys
from gradio_client import Client, handle_file
shown = Client(sys.argv[1], verbose=False).predict(handle_file(sys.argv[2]), "balanced", None, api_name="/predict")
print(json.dumps(next(part for part in shown if isinstance(part, dict))))
"""


def ask_demo(place: Path, command: str, film: Path) -> dict[str, Any]:
    """A demo command on any free port, asked by gradio_client in a process of its own."""
    arguments = [*shlex.split(command), "--port", "0"]
    with subprocess.Popen(arguments, cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        url = next(word for line in demo.stdout for word in line.split() if word.startswith("http://127.0.0.1"))
        asked = subprocess.run(
            [sys.executable, "-c", ASK, url, film], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        demo.terminate()
    assert asked.returncode == 0, asked.stderr
    answer: dict[str, Any] = json.loads(asked.stdout)
    return answer


def test_evaluation_keeps_its_contract(place: Path) -> None:
    results = json.loads((place / "report" / "results.json").read_text())
    assert results["schema"] == "cxr-mtl.results/1"
    assert results["bundle_sha256"] == load_bundle(place / "runs/nih_convnext/best").sha256
    assert results["hierarchy"]["violation_rate"]["value"] == 0
    assert set(results["localization"]["accuracy_at_tiou"]) == {"0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"}
    found = results["classification"]
    assert not found["findings"], "so few films have ten of no finding, and the macro is not defined"
    assert found["macro"]["auroc"]["value"] is None
    for row in found["few"].values():
        low, high = row["auroc"]["ci95"]
        assert low <= row["auroc"]["value"] <= high
    assert len(found["few"]) > 3
    assert (place / "report" / "report.html").stat().st_size > 10_000
    assert (place / "report" / "predictions.parquet").is_file()


def test_one_film_one_answer_through_every_door(place: Path, film: Path, server: str) -> None:
    bundle, key_file = "runs/nih_convnext/best", "model_store/.serve/key_file.json"
    local = json.loads(run(f"cxr-mtl predict {bundle} film.png --json", place))
    (command,) = readme_commands("cxr-mtl predict cxr_mtl")
    remote = json.loads(run(command.replace("http://127.0.0.1:8080", server) + " --json", place))
    raw = httpx.put(
        f"{server}/predictions/cxr_mtl",
        content=film.read_bytes(),
        headers={"Authorization": f"Bearer {read_key(place / key_file)}"},
        timeout=60,
    ).json()
    demos = readme_commands("cxr-mtl demo")
    assert len(demos) == 3
    in_demo = [ask_demo(place, c.replace("http://127.0.0.1:8080", server), film) for c in demos]
    reference = numbers(local)
    assert len(reference) > 40
    for answer in (remote, raw, *in_demo):
        assert answer["image"]["sha256"] == local["image"]["sha256"]
        assert answer["model"] == local["model"]
        assert np.abs(numbers(answer) - reference).max() < 1e-4


def test_two_bundles_compared(place: Path) -> None:
    """A bundle and its copy: no difference anywhere, and none claimed."""
    shutil.copytree(place / "runs/nih_convnext/best", place / "runs/nih_swin/best")
    (command,) = readme_commands("cxr-mtl compare")
    run(f"{command} --resamples 50", place)
    result = json.loads((place / "comparison" / "comparison.json").read_text())
    made = list(comparisons(result))
    assert made
    assert all(row["difference"]["value"] == 0 and not row["excludes_zero"] for row in made)


def test_calibrated_for_another_hospital(place: Path) -> None:
    write_study_set(place / "ours", 120, 7, 128)
    run("cxr-mtl data import nih ours --out ours.parquet", place)
    manifest = load_manifest(place / "ours.parquet")
    names = {name: "ours-" + manifest.table[name].astype(str) for name in ("patient_id", "study_id", "image_id")}
    table = manifest.table.assign(split="val", dataset="ours", **names)
    save_manifest(replace(manifest, table=table), place / "ours.parquet")
    (command,) = readme_commands("cxr-mtl calibrate")
    run(command, place)
    old, new = load_bundle(place / "runs/nih_convnext/best"), load_bundle(place / "ours_bundle")
    assert new.description.fitted_on["dataset"] == "ours"
    assert (new.folder / "weights.safetensors").read_bytes() == (old.folder / "weights.safetensors").read_bytes()
    assert new.operating_points != old.operating_points


def test_two_ranks_in_the_readmes_words(place: Path) -> None:
    (command,) = readme_commands("deepspeed")
    run(f"{command} {QUICK}", place)
    assert load_bundle(place / "runs" / "nih_two_ranks" / "best").trained


def test_pictures_and_reports_of_the_readme(place: Path, film: Path) -> None:
    for command in readme_commands("cxr-mtl predict runs"):
        run(command, place)
    with Image.open(place / "pictures" / "film.png") as picture:
        assert picture.size[0] > 100
    assert json.loads((place / "reports" / "film.fhir.json").read_text())["resourceType"] == "DiagnosticReport"


def test_server_needs_the_key_and_survives_nonsense(place: Path, server: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server}/predictions/cxr_mtl", data=b"x", timeout=30)
    assert refused.value.code == 400
    refused.value.close()
    key = read_key(place / "model_store/.serve/key_file.json")
    for nonsense in (b"", b"text", b"\x89PNG\r\n\x1a\n"):
        answer = httpx.put(
            f"{server}/predictions/cxr_mtl", content=nonsense, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )
        assert 400 <= answer.status_code < 500
        assert set(answer.json()["error"]) == {"code", "message", "hint"}

"""The archive: what is in it, what is not, and that it needs nothing of this checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import cxr_mtl
from cxr_mtl.errors import CheckpointError, ConfigError
from cxr_mtl.package.checksums import verify_sums
from cxr_mtl.package.mar import build_archive

pytest.importorskip("model_archiver")
PATIENT = "Doe-1234567"


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a list of films, as training leaves one."""
    folder = tmp_path_factory.mktemp("trained") / "a,b [c]"  # The archiver alone would take this name apart.
    shutil.copytree(tiny_bundle, folder)
    (folder / "split.csv").write_text(f"image_id,patient_id,split\nfilm.png,{PATIENT},train\n")
    (folder / "results.json").write_text(json.dumps({"patient": PATIENT}))
    return folder


@pytest.fixture(scope="module")
def archive(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive(bundle, tmp_path_factory.mktemp("store") / "model store")


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As TorchServe unpacks it."""
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(archive).extractall(folder)
    return folder


WORKER = """
import json, os, sys
import cxr_handler, cxr_mtl
from cxr_mtl.errors import CheckpointError
import ts
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.utils.util import list_classes_from_module

metrics = MetricsCacheYamlImpl(os.path.join(os.path.dirname(ts.__file__), "configs", "metrics.yaml"))
manifest = json.load(open("MAR-INF/MANIFEST.json"))
settings = {"cxr_mtl": {"threads": 1}}
context = Context("cxr_mtl", os.getcwd(), manifest, 4, None, "0.12.0", True, metrics, settings)
context.request_ids = dict.fromkeys(range(3), "id")
metrics.set_request_ids("id")
handler = cxr_handler.CxrHandler()
handler.initialize(context)
film = open("../film.png", "rb").read()
rows = [{"body": bytearray(film)}, {"body": bytearray(film[:-30])}, {"data": film, "operating_point": b"sensitive"}]
context.request_processor = [RequestProcessor({}) for _ in rows]
answers = [json.loads(body) for body in handler.handle(rows, context)]
with open("bundle.yaml", "a") as file:
    file.write("# changed after it was archived")
try:
    cxr_handler.CxrHandler().initialize(context)
    refusal = None
except CheckpointError as error:
    refusal = str(error)
print(json.dumps({
    "package": cxr_mtl.__file__,
    "classes": [found.__name__ for found in list_classes_from_module(cxr_handler)],
    "heavy": sorted({"monai", "deepspeed", "gradio", "matplotlib"} & set(sys.modules)),
    "answers": answers,
    "statuses": [context.get_response_status(i)[0] for i in range(3)],
    "types": [context.get_response_content_type(i) for i in range(3)],
    "refusal": refusal,
}))
"""


@pytest.fixture(scope="module")
def worker(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a worker says that runs as TorchServe runs one: in the unpacked folder, which PYTHONPATH names first."""
    folder = tmp_path_factory.mktemp("worker") / "model"
    zipfile.ZipFile(archive).extractall(folder)
    Image.linear_gradient("L").resize((60, 50)).save(folder.parent / "film.png")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    result = subprocess.run(
        [sys.executable, "-c", WORKER], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1])) | {"folder": folder}


def test_it_holds_what_serving_needs(archive: Path, bundle: Path, unpacked: Path) -> None:
    names = set(zipfile.ZipFile(archive).namelist())
    top = {"cxr_handler.py", "weights.safetensors", "bundle.yaml", "model_card.md", "model-config.yaml", "LICENSE"}
    assert {name for name in names if "/" not in name} == top | {"SHA256SUMS"}
    package = Path(cxr_mtl.__file__).parent
    sources = {f"cxr_mtl/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    assert {name for name in names if "/" in name} == sources | {"MAR-INF/MANIFEST.json"}
    for name in ("weights.safetensors", "bundle.yaml"):
        assert (unpacked / name).read_bytes() == (bundle / name).read_bytes()
    assert "Apache License" in (unpacked / "LICENSE").read_text()


def test_it_names_no_patient(unpacked: Path) -> None:
    files = [path for path in unpacked.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not any(PATIENT.encode() in path.read_bytes() for path in files)


def test_its_manifest_names_model_version_and_handler(archive: Path, unpacked: Path) -> None:
    manifest = json.loads((unpacked / "MAR-INF/MANIFEST.json").read_text())
    assert manifest["model"] == {
        "modelName": "cxr_mtl",
        "modelVersion": "0.1",
        "handler": "cxr_handler.py",
        "serializedFile": "weights.safetensors",
        "configFile": "model-config.yaml",
    }
    assert archive.name == "cxr_mtl.mar"
    config = yaml.safe_load((unpacked / "model-config.yaml").read_text())
    assert config == {"batchSize": 4, "maxBatchDelay": 1, "responseTimeout": 120, "startupTimeout": 300}


def test_every_setting_reaches_the_archive(bundle: Path, tmp_path: Path) -> None:
    settings = {"batch_size": 8, "max_batch_delay_ms": 5, "workers": 2, "threads": 3, "device": "cpu"}
    path = build_archive(bundle, tmp_path, name="other", version="7.0", **settings)
    with zipfile.ZipFile(path) as archive:
        config = yaml.safe_load(archive.read("model-config.yaml"))
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
    assert config | {"responseTimeout": 120, "startupTimeout": 300} == config
    assert (config["batchSize"], config["maxBatchDelay"], config["deviceType"]) == (8, 5, "cpu")
    assert (config["minWorkers"], config["maxWorkers"], config["cxr_mtl"]) == (2, 2, {"threads": 3})
    assert (path.name, manifest["model"]["modelName"], manifest["model"]["modelVersion"]) == (
        "other-7.0.mar",
        "other",
        "7.0",
    )


def test_its_sums_hold_and_cover_all_but_the_manifest(unpacked: Path) -> None:
    verify_sums(unpacked)
    listed = {line.partition("  ")[2] for line in (unpacked / "SHA256SUMS").read_text().splitlines()}
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {name for name in files - listed if not name.endswith(".pyc")} == {"SHA256SUMS", "MAR-INF/MANIFEST.json"}


def test_the_same_bundle_gives_the_same_bytes(archive: Path, bundle: Path, tmp_path: Path) -> None:
    assert build_archive(bundle, tmp_path).read_bytes() == archive.read_bytes()


def test_the_package_inside_is_the_one_that_runs(worker: dict[str, Any]) -> None:
    assert Path(worker["package"]).is_relative_to(worker["folder"])
    assert worker["classes"] == ["CxrHandler"], "TorchServe wants exactly one"
    assert worker["heavy"] == []


def test_the_handler_answers_a_batch_with_one_corrupt_film(worker: dict[str, Any]) -> None:
    first, second, third = worker["answers"]
    assert worker["statuses"] == [200, 400, 200]
    assert worker["types"] == ["application/json"] * 3
    assert (first["image"]["width"], first["image"]["height"]) == (60, 50)
    assert second["error"]["code"] == "truncated"
    assert (first["operating_point"], third["operating_point"]) == ("balanced", "sensitive")


def test_the_handler_does_not_load_what_was_not_archived(worker: dict[str, Any]) -> None:
    assert "bundle.yaml is not the file that was archived" in worker["refusal"]


def test_what_cannot_be_served_is_not_packed(bundle: Path, tmp_path: Path) -> None:
    broken, store = tmp_path / "broken", tmp_path / "store"
    shutil.copytree(bundle, broken)
    (broken / "weights.safetensors").write_bytes(b"no weights")
    store.mkdir()
    (store / "cxr_mtl.mar").write_bytes(b"the last good one")
    with pytest.raises(CheckpointError, match="cannot be read"):
        build_archive(broken, store)
    assert [path.name for path in store.iterdir()] == ["cxr_mtl.mar"]
    assert (store / "cxr_mtl.mar").read_bytes() == b"the last good one"


def test_building_leaves_nothing_but_the_archive(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "temp/cxr_mtl"
    precious.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    build_archive(bundle, tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["cxr_mtl.mar"]
    assert precious.is_dir(), "the archiver alone deletes it"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"name": "a b"}, "'a b' cannot name a model"),
        ({"name": "../up"}, "cannot name a model"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, setting: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_archive(tmp_path, tmp_path, **setting)

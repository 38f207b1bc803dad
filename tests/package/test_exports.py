"""Exports are whole or not there, run where cxr_mtl does not, and answer as the bundle does."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai_schema import SCHEMA
from other_networks import SWIN, stored, varied
from PIL import Image
from typer.testing import CliRunner

from cxr_mtl.bundle import load_bundle, save_bundle
from cxr_mtl.cli import app
from cxr_mtl.data.synthetic import draw_film, plan_films
from cxr_mtl.errors import ConfigError, ServeError
from cxr_mtl.model.multitask import normalise
from cxr_mtl.package import exports, onnx_file
from cxr_mtl.package.exports import check_exports, export
from cxr_mtl.package.monai_bundle import torchscript
from cxr_mtl.package.whole import OneTable
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Prediction

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "exports.md").read_text()


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(tiny_bundle, tmp_path_factory.mktemp("stored") / "bundle")


@pytest.fixture(scope="module")
def onnx_path(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = export(bundle, tmp_path_factory.mktemp("store"), ["onnx"])
    return path


@pytest.fixture(scope="module")
def monai_folder(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = export(bundle, tmp_path_factory.mktemp("store"), ["monai"], name="other", version="7")
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn ones, wide, tall and turned, PNG and JPEG."""
    folder = tmp_path_factory.mktemp("films") / "films [a]"
    folder.mkdir()
    for i, plan in enumerate(plan_films(5, seed=5)):
        picture = Image.fromarray(draw_film(plan, 200).pixels).resize((200 - 13 * i, 150 + 11 * i))
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 4 else 1
        picture.save(folder / f"film{i}.{'jpg' if i % 2 else 'png'}", exif=exif)
    return folder


def probabilities(bundle: Path, film: Path) -> dict[str, float]:
    """What the predictor says, six digits."""
    (answer,) = LocalPredictor(bundle, device="cpu").predict([film])
    assert isinstance(answer, Prediction)
    return {f.name: f.probability for f in answer.findings if f.probability is not None}


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.slow
def test_the_script_of_the_docs_answers_as_the_predictor_does(
    bundle: Path, onnx_path: Path, films: Path, tmp_path: Path
) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", DOCS, flags=re.DOTALL)
    (tmp_path / "ask.py").write_text(script)
    shown = sorted(films.iterdir())
    # -S would hide the libraries, too; that cxr_mtl is not among the imports can be read.
    assert "cxr_mtl" not in "".join(line for line in script.splitlines() if "import" in line)
    rows = list(csv.reader(io.StringIO(run("ask.py", str(onnx_path), *map(str, shown), cwd=tmp_path).stdout)))
    assert len({row[2] for row in rows if row[1] == "Effusion"}) == len(shown), "films that are told apart"
    for film in shown:
        found = {name: float(p) for path, name, p, _ in rows if path == str(film)}
        assert found == pytest.approx(probabilities(bundle, film), abs=1e-5)
    (answer,) = LocalPredictor(bundle, device="cpu").predict([shown[0]])
    assert isinstance(answer, Prediction)
    called = {name: call for path, name, _, call in rows if path == str(shown[0])}
    assert called == {f.name: f.call for f in answer.findings if f.call != "not_trained"}


@pytest.mark.slow
def test_the_onnx_file_says_what_is_in_it(bundle: Path, onnx_path: Path) -> None:
    import onnx

    assert onnx_path.name == "cxr_mtl-0.1.onnx"
    assert [path.name for path in onnx_path.parent.iterdir()] == [onnx_path.name], "one file, and nothing left over"
    model = onnx.load(onnx_path)
    onnx.checker.check_model(model, full_check=True)
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}["cxr_mtl"])
    assert about["not_trained"] == ["Hernia"]
    assert about["bundle_sha256"] == load_bundle(bundle).sha256
    assert set(about["operating_points"]["balanced"]) == set(about["findings"])
    assert about["parents"].keys() == set(about["hierarchy"])
    assert [output.name for output in model.graph.output] == ["findings", "hierarchy", "boxes", "box_scores"]
    assert b".py" not in onnx_path.read_bytes(), "no trace of the machine that made it"


KINDS: dict[str, dict[str, Any]] = {
    "ConvNeXt": {"pooling": "attention", "views": 2, "tree": "max"},
    "Swin": {"encoder": "swin_tiny_patch4_window7_224", "encoder_args": SWIN, "pooling": "attention"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_can_be_an_onnx_file(tiny_bundle: Path, tmp_path: Path, kind: str) -> None:
    said: list[str] = []
    bundle = stored(tiny_bundle, tmp_path / "bundle", **KINDS[kind])
    (made,) = export(bundle, tmp_path / "store", ["onnx"], tell=said.append)
    assert made.name == "cxr_mtl-0.1.onnx"
    assert "ONNX Runtime answers 6 films" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_every_kind_of_network_can_be_torchscript(tiny_bundle: Path, kind: str) -> None:
    network = OneTable(varied(tiny_bundle, **KINDS[kind])).eval()
    script = torchscript(network, 64)
    with zipfile.ZipFile(io.BytesIO(script)) as archive:
        code = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".py"))
    assert b'device("cpu")' not in code, "it can be moved to a GPU"
    loaded: Any = torch.jit.load(io.BytesIO(script)).eval()
    for films in (1, 3):  # it was traced with two
        images = normalise(torch.randint(0, 256, (films, 1, 64, 64), dtype=torch.uint8))
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), network(images), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_file_that_answers_otherwise_is_not_kept(
    bundle: Path, onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / onnx_path.name).write_bytes(b"the last good one")
    other = stored(bundle, tmp_path / "other")
    description = load_bundle(bundle).description
    moved = replace(description.findings_calibration, bias=description.findings_calibration.bias + 0.001)
    save_bundle(other, replace(description, findings_calibration=moved), load_bundle(bundle).model.state_dict())
    monkeypatch.setattr(onnx_file, "_export", lambda network, bundle, path: path.write_bytes(onnx_path.read_bytes()))
    with pytest.raises(ServeError, match=r"findings differ from the bundle's by 0\.0002"):
        export(other, tmp_path, ["onnx"])
    assert (tmp_path / onnx_path.name).read_bytes() == b"the last good one"
    assert {path.name for path in tmp_path.iterdir()} == {onnx_path.name, "other"}


@pytest.mark.slow
def test_monai_runs_its_bundle_and_answers_as_the_predictor_does(
    bundle: Path, monai_folder: Path, films: Path, tmp_path: Path
) -> None:
    commands = [line for line in DOCS.splitlines() if line.startswith("python -m monai.bundle run")]
    assert len(commands) == 1
    places = {"FILMS": str(films), "OUT": str(tmp_path)}
    run(*(places.get(word, word) for word in commands[0].split()[1:]), cwd=monai_folder)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["film"] for row in rows] == sorted(film.name for film in films.iterdir())
    for row in rows:
        found = {name.removeprefix("finding "): float(p) for name, p in row.items() if name.startswith("finding ")}
        assert found == pytest.approx(probabilities(bundle, films / row["film"]), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("verifier", ["verify_net_in_out", "verify_metadata"])
def test_monai_verifies_its_bundle(monai_folder: Path, tmp_path: Path, verifier: str) -> None:
    (command,) = [line for line in DOCS.splitlines() if line.startswith(f"python -m monai.bundle {verifier}")]
    (tmp_path / "meta_schema.json").write_text(json.dumps(SCHEMA))
    words = [str(tmp_path / word) if word == "meta_schema.json" else word for word in command.split()[1:]]
    done = run(*words, cwd=monai_folder)
    assert "verified" in done.stdout + done.stderr


def test_the_docs_say_that_the_monai_bundle_lacks_what_its_specification_requires() -> None:
    """Which files it has is held by test_the_monai_bundle_is_whole_and_holds_no_pickle_of_python."""
    assert "requires `models/model.pt`, and here is" in DOCS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning")
def test_what_loads_the_monai_network_and_what_does_not(monai_folder: Path) -> None:
    """If MONAI's ``load`` takes it one day, the page should say so."""
    from monai.bundle import load

    assert "nor does `load(..., load_ts_module=True)`" in DOCS
    with pytest.raises(json.JSONDecodeError):
        load(monai_folder.name, bundle_dir=monai_folder.parent, load_ts_module=True, device="cpu")
    network: Any = torch.jit.load(monai_folder / "models" / "model.ts")
    assert network(torch.zeros(1, 1, 64, 64)).ndim == 2


@pytest.mark.slow
def test_the_monai_bundle_is_whole_and_holds_no_pickle_of_python(bundle: Path, monai_folder: Path) -> None:
    files = {path.relative_to(monai_folder).as_posix() for path in monai_folder.rglob("*") if path.is_file()}
    configs = {"configs/metadata.json", "configs/inference.json"}
    docs = {"docs/README.md", "docs/model_card.md", "LICENSE"}
    assert files == configs | docs | {"models/model.ts", "scripts/__init__.py", "scripts/film.py"}
    assert monai_folder.name == "other-7_monai"
    assert [path.name for path in monai_folder.parent.iterdir()] == [monai_folder.name]
    with zipfile.ZipFile(monai_folder / "models" / "model.ts") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".debug_pkl")]
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(exports.__file__).parent).encode() not in content
    needs = json.loads((monai_folder / "configs" / "metadata.json").read_text())["required_packages_version"]
    assert set(needs) == {"fire", "pillow", "pytorch-ignite"}


@pytest.mark.parametrize(("format", "gone"), [("onnx", "onnxscript"), ("monai", "ignite")])
def test_what_is_not_installed_is_named(format: str, gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_exports([format])
    here = exports.importlib.util.find_spec
    monkeypatch.setattr(exports.importlib.util, "find_spec", lambda name: None if name == gone else here(name))
    with pytest.raises(ConfigError, match=rf"needs {gone}\. Run `pip install 'cxr-mtl\[{format}\]'`"):
        check_exports([format])


def test_what_onnx_cannot_take_is_one_line_and_leaves_nothing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise onnx.checker.ValidationError("no such operator\nand much more")

    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr("torch.onnx.export", refuse)
    with pytest.raises(ServeError, match=r"^ONNX cannot take this network: no such operator Nothing was written"):
        export(tiny_bundle, tmp_path, ["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_cannot_name_a_file_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'\.\./up' cannot stand in a file's name"):
        export(tiny_bundle, tmp_path, ["onnx"], version="../up")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_place_of_the_one_before(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(bundle: object, folder: Path, films: object) -> str:
        folder.mkdir()
        (folder / "new").touch()
        return "made"

    target = tmp_path / "cxr_mtl-0.1_monai"
    target.mkdir()
    (target / "old").touch()
    monkeypatch.setitem(exports._WRITE, "monai", ("_monai", write))
    assert export(tiny_bundle, tmp_path, ["monai"]) == [target]
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_of_the_docs_makes_all_three(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "nih_convnext").mkdir(parents=True)
    (tmp_path / "runs" / "nih_convnext" / "best").symlink_to(bundle)
    (command,) = [line for line in DOCS.splitlines() if line.startswith("cxr-mtl package")]
    done = CliRunner().invoke(app, [*command.split()[1:], "--engine", "eager"])
    assert done.exit_code == 0, done.output
    made = {path.name for path in (tmp_path / "model_store").iterdir()}
    assert {"cxr_mtl.mar", "cxr_mtl-0.1.onnx", "cxr_mtl-0.1_monai"} <= made


def test_the_command_asks_for_what_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("cxr_mtl.package.mar.build_archive", lambda *args, **options: Path("store/x.mar"))
    monkeypatch.setattr(exports, "export", lambda *args, **options: asked.append((args, options)))
    (command,) = [line for line in DOCS.splitlines() if line.startswith("cxr-mtl package")]
    assert CliRunner().invoke(app, command.split()[1:]).exit_code == 0
    assert CliRunner().invoke(app, ["package", "some/bundle", "--name", "n", "--version", "2"]).exit_code == 0
    (first, _), (second, options) = asked
    assert first[2] == ["onnx", "monai"]
    assert second[2] == []
    assert (options["name"], options["version"]) == ("n", "2")

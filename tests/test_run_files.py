"""Every run file of the project: its network builds, learns a step, and each family of encoders goes the whole way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from cxr_mtl.bundle import load_bundle
from cxr_mtl.cli import app
from cxr_mtl.config import RunConfig, load_config
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.engine.distributed import ranks
from cxr_mtl.model.multitask import make_model
from cxr_mtl.ontology import load_ontology
from cxr_mtl.paths import configs_dir
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.pretrain import loop as pretrain
from cxr_mtl.train import loop as train
from cxr_mtl.types import Prediction

RUNS = sorted(path.stem for path in configs_dir().glob("*.yaml"))
PRETRAINING = [name for name in RUNS if load_config(name).pretrain]
# One run file for each family that the earlier projects name.
FAMILIES = ["nih14_convnext", "six_swin", "lung10_nih", "six_resnet18", "six_mobilenetv2", "six_chexpert"]
FILMS = 72
# At its own rate and warm-up a first step of the deepest layers is less than float32 can add to 1 (layer decay).
QUICK = ["train.lr=1e-3", "train.warmup_epochs=0"]


def ontology_of(config: RunConfig) -> str:
    return config.data.curate.ontology if config.data.curate else "nih14"


@pytest.mark.parametrize("name", RUNS)
def test_its_network_can_be_built(name: str) -> None:
    config = load_config(name)
    with torch.device("meta"):
        model = make_model(config.model, len(load_ontology(ontology_of(config)).names), 3 * bool(config.loss.boxes))
    assert (model.boxes is not None) == bool(config.loss.boxes)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn films under every ontology that a run file names; class folders hold them in turn."""
    folder = tmp_path_factory.mktemp("films")
    write_study_set(folder / "nih", FILMS, 0, 64)
    for number, film in enumerate(sorted((folder / "nih" / "images").iterdir())):
        classes = load_ontology("six_classes").names
        place = folder / "folders" / classes[number % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        (place / film.name).symlink_to(film)
    for ontology in {ontology_of(load_config(name)) for name in RUNS}:
        source, options = ("folders", {"exclusive": True}) if ontology == "six_classes" else ("nih", {})
        manifest, _ = import_source(source, folder / source, ontology=ontology, seed=0, **options)
        save_manifest(manifest, folder / f"{ontology}.parquet")
    return folder


def settings(name: str, films: Path, out: Path) -> list[str]:
    """The run as it is, but for small films and few of them."""
    return [
        f"output={out}",
        f"data.manifest={films / ontology_of(load_config(name))}.parquet",
        "data.min_positives=1",
        "model.image_size=64",
        "train.batch_size=8",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name not in PRETRAINING])
def test_it_learns_a_step(name: str, films: Path, tmp_path: Path) -> None:
    config = load_config(name, settings(name, films, tmp_path) + QUICK)
    with ranks() as (rank, world):
        run = train.Run(config, rank, world)
        moved = learn(run, run.engine.module)
    check_learned(config, moved)
    for head, weight in (("findings", config.loss.findings), ("hierarchy", config.loss.hierarchy)):
        assert moved[f"{head}.linear.bias"] == bool(weight)
    assert moved.get("boxes.logits.bias", False) == bool(config.loss.boxes)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAINING)
def test_its_student_learns_a_step_and_its_teacher_follows(name: str, films: Path, tmp_path: Path) -> None:
    config = load_config(name, [*settings(name, films, tmp_path), *QUICK, "pretrain.crops.small_size=32"])
    with ranks() as (rank, world):
        run = pretrain.Run(config, rank, world)
        taught = snapshot(run.teacher)
        moved = learn(run, run.engine.module)
        followed = changes(taught, run.teacher)
    check_learned(config, moved)
    assert sum(followed.values()) > 0.9 * sum(moved.values())
    assert moved["head.layers.0.bias"]


def learn(run: train.Run | pretrain.Run, network: nn.Module) -> dict[str, bool]:
    """Begin a run and take two steps; gives which weights of the network they moved."""
    run.batches = 2  # in a first step the branches of a ResNet, which begin at 0, get no gradient
    run.begin()
    before = snapshot(network)
    run.learn(0, 0)
    return changes(before, network)


def check_learned(config: RunConfig, moved: dict[str, bool]) -> None:
    assert '"loss"' in (config.folder / "log.jsonl").read_text()  # a loss that is no number stops the run
    still = [key for key in moved if key.startswith("encoder.") and not moved[key]]
    assert len(still) < 0.05 * len(moved), still


def changes(before: dict[str, Tensor], network: nn.Module) -> dict[str, bool]:
    return {name: not torch.equal(before[name], value) for name, value in snapshot(network).items()}


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """What weight decay leaves alone: it moves by its gradient or not at all."""
    return {name: p.detach().clone() for name, p in network.named_parameters() if p.ndim <= 1}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rooms")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FAMILIES)
def test_train_evaluate_package(name: str, films: Path, rooms: Path) -> None:
    """An epoch of small films teaches nothing; that every file comes about and the answer is a number is the point."""
    manifest = films / f"{ontology_of(load_config(name))}.parquet"
    given = [part for setting in settings(name, films, rooms) for part in ("-s", setting)]
    best = rooms / name / "best"
    for command in (
        ["train", "-c", name, *given, "-s", "train.epochs=1"],
        ["evaluate", best, manifest, "--split", "test", "--out", rooms / f"{name}_report"],
        ["package", best, "--out", rooms / f"{name}_store"],
    ):
        done = CliRunner().invoke(app, [str(part) for part in command])
        assert done.exit_code == 0, done.output
    assert (rooms / f"{name}_report" / "results.json").is_file()
    assert list((rooms / f"{name}_store").glob("*.mar"))
    bundle = load_bundle(best)
    assert f"Encoder: `{load_config(name).model.encoder}`" in (best / "model_card.md").read_text()
    film = next((films / "nih" / "images").iterdir())
    (prediction,) = LocalPredictor(bundle).predict([film])
    assert isinstance(prediction, Prediction)
    calls = {call.name: call.probability for call in prediction.findings}
    given_numbers = [calls[name] for name in bundle.trained if name in calls]
    assert given_numbers
    assert all(number is not None and 0 <= number <= 1 for number in given_numbers)


def test_six_classes_understands_folders() -> None:
    ontology = load_ontology("six_classes")
    words = {"COVID": "COVID-19", "covid-19": "COVID-19", "Lung_Opacity": "Lung Opacity", "TB": "Tuberculosis"}
    words |= {"Viral Pneumonia": "Pneumonia", "lung cancer": "Lung Cancer", "NORMAL": "No Finding"}
    assert {word: ontology.understand(word.replace("_", " ")) for word in words} == words

"""Whole pretraining runs in processes of their own: one rank, two, killed and resumed, collapsed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from runs import (
    ALONE,
    ENVIRONMENT,
    TORCHRUN,
    disturbed,
    finish,
    kill_before,
    latest,
    log,
    start,
    train,
    wait_for_step,
)
from safetensors.numpy import load_file

from cxr_mtl.bundle import load_bundle
from cxr_mtl.config import load_config
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.split import split_by_patient
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.engine.distributed import ranks
from cxr_mtl.pretrain.loop import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Two ranks of one step after another; each tells what its teacher and its centre are.
TEACHERS = """
import hashlib, sys
from cxr_mtl.config import load_config
from cxr_mtl.engine.distributed import gather, ranks
from cxr_mtl.pretrain.loop import Run
with ranks() as (rank, world):
    run = Run(load_config(sys.argv[1]), rank, world)
    run.begin()
    run.learn(0, 0)
    state = [*run.teacher.state_dict().values(), run.loss.center]
    found = gather(hashlib.sha256(b"".join(t.numpy().tobytes() for t in state)).hexdigest())
    if rank == 0:
        print(world, *found, flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    write_study_set(folder / "films", 90, 0, 64)
    manifest, _ = import_source("nih", folder / "films", ontology="nih14", seed=0)
    save_manifest(manifest, folder / "films.parquet")
    return folder


def run_file(folder: Path, name: str, train: dict[str, object] | None = None, **pretrain: object) -> Path:
    tree = {
        "name": name,
        "output": str(folder / "runs"),
        "data": {"manifest": str(folder / "films.parquet"), "min_positives": 2},
        "model": {"encoder": "test_convnext", "image_size": 64, "drop_path": 0.1},
        "loss": {"boxes": 0},
        "train": {"epochs": 3, "batch_size": 8, "warmup_epochs": 1, **(train or {})},
        "pretrain": {
            "crops": {"small": 2, "small_size": 32},
            "prototypes": 32,
            "hidden": 32,
            "bottleneck": 16,
            "probe_every": 1,
            "min_information": 0,
            "min_rank": 0,
            **pretrain,
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def command(verb: str, *args: str) -> subprocess.CompletedProcess[str]:
    full = [sys.executable, "-m", "cxr_mtl", verb, *args]
    return subprocess.run(full, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> str:
    train("-c", str(run_file(folder, "undisturbed", {"accumulate": 2})), verb="pretrain")
    return "undisturbed"


def test_a_run_leaves_what_one_can_read(folder: Path, undisturbed: str) -> None:
    run = folder / "runs" / undisturbed
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "split.csv", "log.jsonl", "checkpoints", "encoder.safetensors"
    }  # fmt: skip
    epochs = [entry for entry in log(folder, undisturbed) if entry["event"] == "epoch"]
    assert [entry["epoch"] for entry in epochs] == [0, 1, 2, 3]
    assert all(0 <= entry["auroc"] <= 1 for entry in epochs)
    assert 0 <= epochs[0]["pixels_auroc"] <= 1


def test_train_starts_from_the_encoder(folder: Path, undisturbed: str) -> None:
    encoder = folder / "runs" / undisturbed / "encoder.safetensors"
    settings = (f"model.weights={encoder}", "train.epochs=1", "train.lr=1e-12", "train.ema=0", "name=after")
    done = command("train", "-c", str(folder / f"{undisturbed}.yaml"), *(x for s in settings for x in ("-s", s)))
    assert done.returncode == 0, done.stderr
    trained = load_bundle(folder / "runs" / "after" / "best").model.state_dict()
    for name, given in load_file(encoder).items():
        assert trained[f"encoder.net.{name}"].numpy() == pytest.approx(given, abs=1e-6)


@pytest.mark.parametrize(
    ("launcher", "how"),
    [(ALONE, {"zero_stage": 1}), (TORCHRUN, {"zero_stage": 2, "spread": 0.2})],
    ids=["alone", "two-ranks-zero2"],
)
def test_killed_at_a_step_and_resumed_ends_where_the_undisturbed_run_ended(
    folder: Path, launcher: tuple[str, ...], how: dict[str, float]
) -> None:
    """Before a step of the second epoch; the newest checkpoint is two steps older than the log."""
    stage, more = {"accumulate": 2, "zero_stage": how["zero_stage"]}, {"spread": how.get("spread", 0.0)}
    quiet, killed = (f"{name}{how['zero_stage']}" for name in ("quiet", "killed"))
    train("-c", str(run_file(folder, quiet, {**stage}, **more)), verb="pretrain", launcher=launcher)
    file = str(run_file(folder, killed, {**stage, "checkpoint_steps": 3}, **more))
    kill_before(12, folder, "-c", file, verb="pretrain", launcher=launcher)
    assert latest(folder, killed) == "epoch0002step000009"
    assert log(folder, killed)[-1]["step"] == 11
    train("-c", file, "--resume", verb="pretrain", launcher=launcher)
    assert log(folder, killed) == log(folder, quiet)
    mine, theirs = (load_file(folder / "runs" / name / "encoder.safetensors") for name in (killed, quiet))
    assert all((mine[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize(
    ("launcher", "step", "every"),
    [(TORCHRUN, 3, 1), (ALONE, 16, None)],
    ids=["two-ranks-within-an-epoch", "alone-last-step-of-an-epoch"],
)
def test_a_gradient_that_is_no_number_gets_into_no_checkpoint(
    folder: Path, launcher: tuple[str, ...], step: int, every: int | None
) -> None:
    """The loss of that step is a number, and no other is computed before the checkpoint; eight steps an epoch.

    At ZeRO stage 0: at the others DeepSpeed passes over such a step.
    """
    name, epochs = f"spoilt{step}", 1 + step // 16
    file = str(run_file(folder, name, {"checkpoint_steps": every, "epochs": epochs, "zero_stage": 0}))
    environment = ENVIRONMENT | {"NAN_AT": str(step)}
    code, told = finish(start("-c", file, verb="pretrain", launcher=disturbed(launcher), environment=environment))
    assert code == (1 if launcher is TORCHRUN else 2)
    (line,) = told
    assert line.startswith(f"EngineError: A weight is no longer a number (step {step}). A checkpoint,")
    assert log(folder, name)[-1]["loss"] is not None
    assert latest(folder, name) == ("epoch0001step000002" if every else "epoch0001")
    teacher = load_file(folder / "runs" / name / "checkpoints" / latest(folder, name) / "teacher.safetensors")
    assert all(np.isfinite(value).all() for value in teacher.values())
    train("-c", file, "--resume", verb="pretrain", launcher=launcher)
    assert log(folder, name)[-1]["epoch"] == epochs


def test_channels_last_reaches_student_and_teacher(folder: Path) -> None:
    """Also through the one channel of a film, of which torch cannot tell in which order it lies."""
    found: dict[str, list[bool]] = {"student": [], "teacher": []}
    with ranks() as (rank, world):
        run = Run(load_config(run_file(folder, "last", {"channels_last": True})), rank, world)
        for name, network in (("student", run.student), ("teacher", run.teacher)):
            network.encoder.register_forward_pre_hook(
                lambda _, films, name=name: found[name].append(films[0].stride(1) == 1)
            )
        run.batches = 1
        run.begin()
        looks = len(found["teacher"])
        run.learn(0, 0)
    assert found["student"] == [True, True]  # the large and the small crops
    assert found["teacher"] == [True] * (looks + 1)
    assert looks


def test_sigterm_ends_it_in_a_line_and_with_a_checkpoint_to_go_on_from(folder: Path) -> None:
    file = str(run_file(folder, "term", {"epochs": 400}))
    process = start("-c", file, verb="pretrain")
    wait_for_step(process, folder, "term", 10)
    process.terminate()
    code, (line,) = finish(process)
    assert code == 128 + signal.SIGTERM
    stopped_at = log(folder, "term")[-1]["step"]
    assert line == f"Stopped: Stopped by SIGTERM after step {stopped_at}, which is saved. Go on with --resume."
    saved = latest(folder, "term")
    assert saved.endswith(f"step{stopped_at:06d}")
    train("-c", file, "--resume", "-s", f"train.epochs={int(saved[5:9])}", verb="pretrain")
    steps = [entry["step"] for entry in log(folder, "term") if entry["event"] == "step"]
    assert steps == list(range(1, steps[-1] + 1))
    assert steps[-1] > stopped_at


def test_two_ranks_have_one_teacher(folder: Path) -> None:
    script = folder / "teachers.py"
    script.write_text(TEACHERS)
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    full = [*launch, str(script), str(run_file(folder, "two"))]
    done = subprocess.run(full, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    world, one, two = done.stdout.split()
    assert (world, one) == ("2", two)


def test_collapse_stops_the_run_with_one_line(folder: Path) -> None:
    """A teacher so unsure that it says the same of every crop."""
    file = run_file(
        folder, "collapsed", teacher_temperature=100, student_temperature=101, collapse_after=1, min_information=0.05
    )
    done = command("pretrain", "-c", str(file))
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1].startswith("CollapseError: Collapse after epoch 2: what the teacher says")
    )
    assert "Traceback" not in done.stderr
    assert (folder / "runs" / "collapsed" / "checkpoints" / "latest").read_text() == "epoch0001"


def test_what_will_not_do_is_one_line(folder: Path, undisturbed: str) -> None:
    file = str(folder / f"{undisturbed}.yaml")
    assert "holds a run already" in command("pretrain", "-c", file).stderr
    whole = command("pretrain", "-c", file, "-s", "name=z", "-s", "train.zero_stage=3", "-s", "train.ema=0")
    assert whole.returncode == 2
    assert "ZeRO stage 3 has none" in whole.stderr
    other = command("pretrain", "-c", file, "--resume", "-s", "pretrain.prototypes=16")
    assert other.returncode == 2
    assert "was pretrained with pretrain.prototypes=32, this run has 16" in other.stderr
    assert "was written by `cxr-mtl pretrain`" in command("train", "-c", file, "--resume").stderr
    assert "no checkpoint to resume" in command("pretrain", "-c", file, "-s", "name=none", "--resume").stderr


def test_a_probe_may_not_judge_by_films_learned_from(folder: Path, undisturbed: str) -> None:
    other = folder / "other.parquet"
    shares = {"train": 0.4, "val": 0.4, "test": 0.2}
    save_manifest(split_by_patient(load_manifest(folder / "films.parquet"), shares, 5), other)
    done = command(
        "pretrain", "-c", str(folder / f"{undisturbed}.yaml"), "-s", "name=p", "-s", f"pretrain.probe={other}"
    )
    assert done.returncode == 2
    assert "validation films of patients learned from" in done.stderr

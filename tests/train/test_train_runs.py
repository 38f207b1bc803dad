"""Whole runs in processes of their own: one rank, and two nodes. Disturbed ones are in test_resume and test_faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import draw_films, finish, free_port, latest, log, losses, run_file, start, train

from cxr_mtl.bundle import load_bundle
from cxr_mtl.paths import configs_dir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_films(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> str:
    train("-c", str(run_file(folder, "undisturbed")))
    return "undisturbed"


def test_one_process_leaves_a_run_one_can_read(folder: Path, undisturbed: str) -> None:
    run = folder / "runs" / undisturbed
    left = {"config.yaml", "split.csv", "log.jsonl", "tensorboard", "best", "checkpoints"}
    assert {p.name for p in run.iterdir()} == left
    entries = log(folder, undisturbed)
    epochs = [e for e in entries if e["event"] == "epoch"]
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    steps = [e for e in entries if e["event"] == "step"]
    assert [e["step"] for e in steps] == list(range(1, 16))
    assert set(steps[0]["loss"]) == {"findings", "hierarchy", "boxes", "total"}
    assert all(0 <= e["wait"] <= 1 and e["images_per_s"] > 0 for e in steps)
    bundle = load_bundle(run / "best")
    assert "Effusion" in bundle.trained
    assert set(bundle.operating_points) == {"balanced", "f1", "sensitive", "specific"}
    assert latest(folder, undisturbed) == "epoch0003"


def test_a_run_is_not_overwritten(folder: Path, undisturbed: str) -> None:
    code, (line,) = finish(start("-c", str(folder / f"{undisturbed}.yaml")))
    assert code == 2
    assert line.startswith("ConfigError: ")
    assert "holds a run already" in line


def test_ways_to_compute_have_the_same_losses(folder: Path) -> None:
    """Without chance in the network: compiled code draws its own numbers."""
    for way in ("plain", "checkpoint_activations", "compile"):
        file = run_file(folder, way, precision="fp32", epochs=1, **({} if way == "plain" else {way: True}))
        train("-c", str(file), "-s", "model.drop_path=0")
    assert losses(folder, "checkpoint_activations") == losses(folder, "plain")
    for compiled, plain in zip(losses(folder, "compile"), losses(folder, "plain"), strict=True):
        assert compiled[1] == pytest.approx(plain[1], rel=1e-5)


def test_two_nodes_learn_what_one_process_learns(folder: Path, undisturbed: str) -> None:
    """As in docs/cluster.md, but both nodes are this machine; bf16, ZeRO 2 and the project's own settings of it."""
    file = str(run_file(folder, "nodes", zero_stage=2, epochs=1, deepspeed=str(configs_dir() / "deepspeed/zero2.json")))
    master = ("--master_addr", "127.0.0.1", "--master_port", str(free_port()))
    nodes = []
    for rank in ("0", "1"):
        node = ("torchrun", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank", rank, *master)
        nodes.append(start("-c", file, launcher=(*node, "--module", "cxr_mtl")))
    assert [finish(node)[0] for node in nodes] == [0, 0]
    (epoch,) = [e for e in log(folder, "nodes") if e["event"] == "epoch"]
    one = next(e for e in log(folder, undisturbed) if e["event"] == "epoch")
    assert epoch["loss"] == pytest.approx(one["loss"], rel=0.05)
    assert len(losses(folder, "nodes")) == 5

"""A checkpoint is whole or it is not taken; the log goes back with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cxr_mtl.engine.checkpoint import PART, find_damage, find_whole, latest_tag, publish
from cxr_mtl.errors import CheckpointError, EngineError
from cxr_mtl.train.ema import WeightMean
from cxr_mtl.train.log import RunLog, Step
from cxr_mtl.train.meter import duration


def write(folder: Path, tag: str, steps: int, keep: int = 9) -> Path:
    part = folder / (tag + PART)
    part.mkdir(parents=True)
    (part / "weights").write_bytes(tag.encode() * 100)
    publish(part, steps, keep)
    return folder / tag


def test_latest_names_the_newest_and_old_ones_go(tmp_path: Path) -> None:
    for steps, tag in enumerate(["epoch0001", "epoch0002step000002", "epoch0002"], 1):
        write(tmp_path, tag, steps, keep=2)
    assert latest_tag(tmp_path) == "epoch0002"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch0002", "epoch0002step000002", "latest"]
    assert find_whole(tmp_path) == (tmp_path / "epoch0002", [])


def test_an_epochs_end_is_newer_than_its_last_step(tmp_path: Path) -> None:
    write(tmp_path, "epoch0001step000005", 5)
    whole = write(tmp_path, "epoch0001", 5)
    later = write(tmp_path, "epoch0002", 10)
    (later / "weights").unlink()
    assert find_whole(tmp_path)[0] == whole


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda c: (c / "weights").write_bytes(b"short"), "has 5 bytes instead of 900"),
        (lambda c: (c / "weights").write_bytes(b"\0" * 900), "has changed since it was written"),
        (lambda c: (c / "weights").unlink(), "is missing"),
        (lambda c: (c / "files.json").write_text("{"), "files.json is damaged"),
        (lambda c: (c / "files.json").unlink(), "cannot be read"),
    ],
)
def test_damage_is_seen_and_the_one_before_taken(tmp_path: Path, harm: object, says: str) -> None:
    before, newest = write(tmp_path, "epoch0001", 1), write(tmp_path, "epoch0002", 2)
    assert find_damage(newest) == ""
    harm(newest)  # type: ignore[operator]
    checkpoint, (damage,) = find_whole(tmp_path)
    assert checkpoint == before
    assert says in damage
    (before / "weights").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        find_whole(tmp_path)


def test_going_back_writes_over_what_was_ahead(tmp_path: Path) -> None:
    for steps in (1, 2, 3):
        write(tmp_path, f"epoch000{steps}", steps)
    (tmp_path / "latest").write_text("epoch0001")
    assert find_whole(tmp_path) == (tmp_path / "epoch0001", [])
    again = write(tmp_path, "epoch0002", 2)
    assert find_damage(again) == ""
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["epoch0001", "epoch0002"]


def step(number: int) -> Step:
    return Step(number // 3, number + 1, 0.1, {"total": float(number)}, 10.0, 0.25)


def test_log_goes_back_to_the_checkpoint_and_keeps_the_epochs_mean(tmp_path: Path) -> None:
    """Three steps an epoch; killed in the second, after a checkpoint at step 4."""
    log = RunLog(tmp_path)
    log.start()
    log.steps([step(0), step(1), step(2)])
    log.epoch(0, 3, {"auroc": 0.5, "box_accuracy": float("nan")}, best=True)
    log.steps([step(3)])
    kept = (tmp_path / "log.jsonl").read_text()
    log.steps([step(4), step(5)])
    log.epoch(1, 6, {"auroc": 0.6}, best=True)
    log.close()
    whole = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(whole + '{"event": "st')
    again = RunLog(tmp_path)
    again.resume(1, 4)
    assert (tmp_path / "log.jsonl").read_text() == kept
    again.steps([step(4), step(5)])
    assert again.epoch(1, 6, {"auroc": 0.6}, best=True) == 4.0
    again.close()
    assert (tmp_path / "log.jsonl").read_text() == whole
    assert json.loads(kept.splitlines()[0])["wait"] == 0.25
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss/total")] == [(n + 1, n) for n in range(6)]
    assert [e.step for e in board.Scalars("validation/auroc")] == [3, 6]


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.start()
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(EngineError, match=r"log\.jsonl cannot be written: Is a directory"):
        log.steps([step(0)])
    log.close()


def test_counts_are_copied_and_weights_averaged() -> None:
    live = {"w": torch.zeros(3), "n": torch.tensor(0)}
    mean = WeightMean(live, decay=0.9)
    live["w"] += 1
    live["n"] += 7
    mean.update(live, step=1000)
    assert torch.allclose(mean.mean["w"], torch.full((3,), 0.1))
    assert mean.mean["n"] == 7
    assert mean.mean["n"].dtype == torch.int64


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.2, "3 s"), (99, "99 s"), (720, "12 min"), (5999, "100 min"), (12240, "3.4 h")]
)
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said

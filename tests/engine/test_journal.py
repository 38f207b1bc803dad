"""A journal that a continuation finds gone, cut short or out of reach."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cxr_mtl.engine.journal import Journal
from cxr_mtl.errors import EngineError

STEPS = [{"event": "step", "epoch": 1, "step": step} for step in (1, 2, 3)]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "log.jsonl")
    journal.start()
    for entry in STEPS:
        journal.write(entry)
    return journal


def test_what_came_after_the_checkpoint_is_forgotten(journal: Journal) -> None:
    with journal.path.open("a") as file:
        file.write('{"event": "st')  # a kill cut it short
    assert journal.resume(0, 2) == STEPS[:2]
    assert len(journal.path.read_text().splitlines()) == 2
    assert [path.name for path in journal.path.parent.iterdir()] == ["log.jsonl"]


def test_a_missing_one_is_begun_anew_and_said(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.path.unlink()
    with caplog.at_level(logging.WARNING):
        assert journal.resume(0, 2) == []
    assert caplog.messages == [f"{journal.path} is gone; a new one begins with the next step."]
    journal.write(STEPS[2])
    assert journal.resume(1, 3) == STEPS[2:]


def test_one_that_cannot_be_read_is_one_line(journal: Journal) -> None:
    journal.path.write_bytes(b"\xff\xfe")
    with pytest.raises(EngineError, match=r"log\.jsonl cannot be read: .*Mend or remove it"):
        journal.resume(0, 2)
    journal.path.unlink()
    journal.path.mkdir()
    with pytest.raises(EngineError, match=r"log\.jsonl cannot be read: Is a directory"):
        journal.resume(0, 2)

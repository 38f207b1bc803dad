"""What the logs say of a failure, in one line."""

from __future__ import annotations

from pathlib import Path

from cxr_mtl.serve.logs import cause, failed_to_load, fresh_logs, mark

LINE = "2026-01-01T00:00:00,000 [INFO ] W-9000-m_1.0-stdout MODEL_LOG - "


def test_the_workers_last_error_says_why(tmp_path: Path) -> None:
    logs = fresh_logs(tmp_path)
    assert cause(logs) == ""
    assert not failed_to_load(logs)
    (logs / "console.log").write_text("java: not found\n")
    assert cause(logs) == "java: not found"
    (logs / "ts_log.log").write_text("2026-01-01T00:00:00,000 [ERROR] main org.pytorch.serve.X - no port\n")
    assert cause(logs) == "no port"
    (logs / "model_log.log").write_text(
        f"{LINE}Backend worker process died.\n{LINE}ValueError: first\n{LINE}cxr_mtl.errors.CheckpointError: second\n"
    )
    assert cause(logs) == "second"
    assert failed_to_load(logs)


def test_only_what_was_written_since_counts(tmp_path: Path) -> None:
    logs = fresh_logs(tmp_path)
    workers = logs / "model_log.log"
    workers.write_text(f"{LINE}ValueError: long ago\n")
    before = mark(logs)
    assert cause(logs, before) == ""
    with workers.open("a") as file:
        file.write(f"{LINE}SyntaxError: now\n")
    assert cause(logs, before) == "now"
    workers.write_text(f"{LINE}OSError: in a log that was rolled\n"[-30:])
    assert "rolled" not in cause(logs, mark(logs))


def test_the_last_servers_logs_stay(tmp_path: Path) -> None:
    for server in ("one", "two", "three"):
        (fresh_logs(tmp_path) / "console.log").write_text(server)
    assert (tmp_path / "logs.previous" / "console.log").read_text() == "two"

"""What the logs say of a failure, in one line."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cxr_mtl.paths import configs_dir
from cxr_mtl.serve.logs import cause, failed_to_load, fresh_logs, mark
from cxr_mtl.serve.torchserve import _did_not_start

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


@pytest.mark.parametrize(
    ("says", "fewer"), [("torch.OutOfMemoryError: CUDA out of memory.", True), ("KeyError: x", False)]
)
def test_workers_that_found_no_memory_at_the_start_should_be_fewer(tmp_path: Path, says: str, fewer: bool) -> None:
    logs = fresh_logs(tmp_path)
    (logs / "model_log.log").write_text(f"{LINE}{says}\n")
    assert ("--workers 1" in str(_did_not_start(logs))) is fewer


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


@pytest.mark.parametrize(
    ("asked", "status", "written"),
    [
        ("/predictions/cxr_mtl", 200, "/predictions/cxr_mtl"),
        ("/predictions/cxr_mtl/1.0", 200, "/predictions/cxr_mtl"),
        ("/explanations/cxr_mtl/1.0/DOE_JANE.dcm", 200, "/explanations/cxr_mtl"),
        ("/v2/models/cxr_mtl/infer", 200, "/v2/models/cxr_mtl"),
        ("/predictions/cxr_mtl/DOE_JANE.dcm", 404, "/predictions"),
        ("/predictions/DOE_JANE", 404, "/predictions"),
        ("/predictions/DOE_JANE", 400, "/predictions"),
        ("/predictions//DOE_JANE", 404, "/predictions"),
        ("/ping/DOE_JANE", 200, "/ping"),
        ("/pingDOE_JANE", 404, "/"),
        ("/DOE_JANE.dcm", 404, "/"),
        ("/", 404, "/"),
    ],
)
def test_an_address_is_logged_up_to_the_model_that_answered(asked: str, status: int, written: str) -> None:
    """In both files. That their programs read the expressions as Python does, the tests of live servers say."""
    layouts = ElementTree.parse(configs_dir() / "serve/log4j2.xml").iter("PatternLayout")
    (layout,) = (one.attrib["pattern"] for one in layouts if "%replace" in one.attrib["pattern"])
    (expression,) = re.findall(r"%replace\{%m\}\{(.*)\}\{\$1\$2\}%n$", layout)
    for query in ("", "?name=DOE_JANE"):
        line = f'/127.0.0.1:40000 "PUT {asked}{query} HTTP/1.1" {status} 21'
        assert re.sub(expression, r"\1\2", line) == line.replace(asked + query, written)
    text = (configs_dir() / "serve/container/nginx.conf").read_text(encoding="utf-8")
    entries = re.findall(r'^ +"~(.*)" \$(?:model|door);$', text, re.MULTILINE)
    assert len(entries) == 2
    found = [match[1] for one in entries if (match := re.search(one.replace("(?<", "(?P<"), f"{status} {asked}"))]
    assert [*found, "/"][0] == written

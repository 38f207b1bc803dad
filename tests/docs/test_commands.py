"""Every command of README, CONTRIBUTING and docs/ is one that exists, and is run: here, or where ``listed`` says."""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from listed import ANOTHER_TEST, CANNOT, COPIES, MORE, RUN_PAGES, SMALL_ENCODER
from pages import PAGES, REPO, Command, blocks, commands, mentioned
from run_here import run_here
from typer.main import get_command

from cxr_mtl.cli import app
from cxr_mtl.config import load_config

ALL = [command for page in PAGES for command in commands(page)]
PROGRAM = get_command(app)
HERE = {command.plain for page in RUN_PAGES for command in commands(REPO / page)}
OTHER_PROGRAMS = {"curl", "printf", "docker", "kubectl", "mkdir", "tail", "tensorboard", "export", "key()", "pytest"}
OTHER_MODULES = {"monai.bundle"}
MAKE = re.findall(r"^(\w+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE)


def row_of(command: Command) -> tuple[str, str] | None:
    """The first row of the lists that it falls under."""
    for page, beginning in ANOTHER_TEST | CANNOT:
        if command.page == page and command.plain.startswith(beginning):
            return page, beginning
    return None


def listed(command: Command) -> str | None:
    """Why it is not run here."""
    row = row_of(command)
    return (ANOTHER_TEST | CANNOT)[row] if row else None


def told_of(command: Command) -> list[str]:
    """What a test that runs it must name: of ours launcher, verbs and options, of others the program.

    ``--out`` only says where to write.
    """
    words = command.words
    program = words[1] if words[0] == "python" else words[0]
    programs = [] if program == "cxr-mtl" or "=" in program else [program]
    if command.ours is None:
        return [*programs, *(words[1:2] if program == "make" else [])]
    options = [w.removeprefix("--").partition("=")[0] for w in command.ours if w.startswith("--") and w != "--out"]
    return [*programs, *leaf_names(command.ours), *options]


def leaf_names(words: list[str]) -> list[str]:
    """The names of command and subcommand."""
    return words[: len(words) - len(leaf(words)[1])]


@cache
def text_of(test: str) -> str:
    """A test, what of tests/ it imports from, and the pages whose commands it takes as they stand there."""
    file = REPO / test
    text = file.read_text(encoding="utf-8")
    names = re.findall(r"^from (\w+) import", text, flags=re.MULTILINE)
    helpers = [folder / f"{name}.py" for name in names for folder in (file.parent, REPO / "tests")]
    pages = [page for page in PAGES if f'"{page.name}"' in text or f'/{page.name}"' in text]
    return "\n".join([text, *(more.read_text(encoding="utf-8") for more in (*helpers, *pages) if more.exists())])


def not_named(command: Command, text: str) -> list[str]:
    """The words of ``told_of`` that a test's text lacks, whether it writes them as options or as keywords."""
    spelt = {word: re.escape(word).replace(r"\-", "[-_]") for word in told_of(command)}
    return [word for word, form in spelt.items() if not re.search(rf"(?<![a-z]){form}(?![a-z])", text)]


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The subcommand that words lead to, and the rest of them."""
    command: Any = PROGRAM
    while words and hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"no such command: {name}"
        command = command.commands[name]
    return command, words


def check_ours(words: list[str]) -> None:
    """Parses it as the program does, and reads its run file with its settings."""
    command, rest = leaf(words)
    params = command.make_context(command.name, rest).params
    if "config" in params and "settings" in params:
        load_config(REPO / params["config"] if params["config"].suffix else params["config"], params["settings"] or [])


def check_benchmark(words: list[str]) -> None:
    """Its options are among those that it or what it imports adds."""
    known = _source(words[0]) + _source("benchmarks/parts")
    for word in words[1:]:
        assert not word.startswith("--") or f'"{word}"' in known, f"{words[0]} has no {word}"


@cache
def _source(path: str) -> str:
    file = REPO / path
    return "".join(f.read_text(encoding="utf-8") for f in (file.glob("*.py") if file.is_dir() else [file]))


def check(command: Command) -> None:
    """Raises where it names what does not exist."""
    words = command.words
    if (ours := command.ours) is not None:
        check_ours(ours)
    elif words[:2][1:] and words[1].startswith("benchmarks/"):
        check_benchmark([word.strip("[]") for word in words[1:]])
    elif words[0] == "make":
        assert words[1] in MAKE
    elif words[:2] == ["python", "-m"]:
        assert words[2] in OTHER_MODULES
    else:
        assert words[0] in OTHER_PROGRAMS or re.fullmatch(r"[A-Z]+=.*", words[0], flags=re.DOTALL), words[0]
    for word in words:
        assert not word.startswith("configs/") or (REPO / word).exists() or (REPO / word).parent.is_dir(), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_options_run_files_and_settings_exist(page: Path) -> None:
    for command in commands(page):
        try:
            check(command)
        except Exception as error:
            pytest.fail(f"{command.page}: {command.text}\n{type(error).__name__}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_exist(page: Path) -> None:
    """Of these only beginnings are given: the command and its options must be there."""
    for command in mentioned(page):
        words = [word for word in command.words if word != "..."]
        if words[0] == "make":
            assert words[1] in MAKE
        elif words[1].startswith("benchmarks/"):
            check_benchmark([word.strip("[]") for word in words[1:]])
        elif (ours := command.ours) is not None:
            found, rest = leaf(ours)
            known = {option for param in found.params for option in param.opts + param.secondary_opts}
            wrong = [word for word in rest if word.startswith("-") and word not in known]
            assert wrong == [], f"{command.page}: {command.text}"


def test_every_command_is_run_or_is_listed_with_a_reason() -> None:
    assert len(ALL) > 80
    lost = [f"{c.page}: {c.text}" for c in ALL if c.plain not in HERE and listed(c) is None]
    assert lost == [], "neither run nor listed (tests/docs/listed.py)"
    stale = (ANOTHER_TEST | CANNOT).keys() - {row_of(c) for c in ALL}
    assert stale == set(), "listed, but no command of the page falls under it"
    assert [test for test in ANOTHER_TEST.values() if not (REPO / test).is_file()] == [], "no such test"
    assert "\nmake test\n" in (REPO / ".ci/run").read_text()


def test_the_test_that_is_listed_names_what_the_command_does() -> None:
    for command in ALL:
        if (row := row_of(command)) in ANOTHER_TEST and (test := ANOTHER_TEST[row]) != ".ci/run":
            lost = not_named(command, text_of(test))
            assert lost == [], f"{command.page}: {command.text}\n{test} does not run it: it never names {lost}"


def test_a_test_that_names_other_things_is_found_out() -> None:
    command = Command("docs/demo.md", ".venv/bin/cxr-mtl demo --bundle runs/nih_convnext/best --examples films")
    assert not_named(command, "demo(bundle=bundle, examples=films)") == []
    assert not_named(command, "cxr-mtl demo --bundle a") == ["examples"]
    assert not_named(command, "demonstrate(bundles)") == ["demo", "bundle", "examples"]


def test_what_pages_link_to_is_there() -> None:
    for page in (*PAGES, REPO / "model_store/README.md"):
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`(configs/[\w/.]+\w|CONTRIBUTING\.md)`", text):
            assert page.name == "exports.md" or (REPO / name).exists(), f"{page.name}: {name}"  # its are of the bundle
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, heading = link.partition("#")
            if "://" not in file:
                target = page.parent / file if file else page
                assert target.exists(), f"{page.name}: {link}"
                assert not heading or heading in headings(target), f"{page.name}: {link}"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_index_names_every_page() -> None:
    index = (REPO / "docs/README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\((\w+\.md)", index))
    assert named == {page.name for page in (REPO / "docs").glob("*.md")} - {"README.md"}


def test_run_files_say_why() -> None:
    for file in (REPO / "configs").glob("*.yaml"):
        assert file.read_text().startswith("#"), file
        assert yaml.safe_load(file.read_text())["name"] == file.stem


def test_python_of_the_pages_compiles_and_is_run() -> None:
    """By test_predicting_docs, which has the pages' server and films, and by test_exports, which has a file."""
    found = {page.name: blocks(page, "python") for page in PAGES}
    for page, texts in found.items():
        for text in texts:
            compile(text, page, "exec")
    assert {page for page, texts in found.items() if texts} == {"predicting.md", "exports.md"}


@pytest.mark.slow
def test_launchers_know_what_they_are_told() -> None:
    from deepspeed.launcher.runner import parse_args
    from torch.distributed.run import get_args_parser

    parsers = {"torchrun": get_args_parser().parse_args, "deepspeed": parse_args}
    launched = [command for command in ALL if command.words[0] in parsers]
    assert len(launched) >= 5
    for command in launched:
        launcher, *words = command.words
        read = parsers[launcher](["0" if word == "K" else word for word in words])
        assert read.module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A reader's folder: configs, drawn sets under data/, films of his own in a table and in folders."""
    from cxr_mtl.data.synthetic import write_study_set

    place = tmp_path_factory.mktemp("reader")
    (place / "configs").symlink_to(REPO / "configs")
    write_study_set(place / "data/nih", 150, 0, 128)
    write_study_set(place / "own", 150, 7, 128)
    _own_table(place)
    for index, film in enumerate(sorted((place / "own/images").glob("*.png"))[:40]):
        kind = "NORMAL" if index % 2 else "PNEUMONIA"
        folder = place / "data/kermany" / ("train" if index < 30 else "test") / kind
        _copy(film, folder / f"{'IM' if index % 2 else 'person'}{index}_virus_{index}.png")
        _copy(film, place / "sorted" / ("healthy" if index % 2 else "Effusion") / f"case{index}_1.png")
    yield place
    from cxr_mtl.serve import torchserve

    torchserve.stop(torchserve.state_dir_of(place / "model_store"))


def _own_table(place: Path) -> None:
    """films.csv and ours.csv, the same films as a table of one's own."""
    from cxr_mtl.data.sources import import_source

    manifest, _ = import_source("nih", place / "own", ontology="nih14")
    table = manifest.table
    labels = {name: table[name] for name in table if name.startswith("label:")}
    rows = pd.DataFrame(
        {"image_path": "own/" + table["image_path"], "patient_id": "p" + table["patient_id"].astype(str)}
    )
    for name, values in labels.items():
        rows[name.removeprefix("label:")] = values
    for name in ("films.csv", "ours.csv"):
        rows.to_csv(place / name, index=False)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def adapted(command: Command) -> list[str]:
    """The command as it is run here: on drawn films, and in seconds."""
    words = [word.replace("/data/", "data/") if word.startswith("/data/") else word for word in command.words[1:]]
    words += shlex.split(MORE.get(words[0], ""))
    if words[0] == "train" and "encoder_args" not in command.text:
        words += shlex.split(SMALL_ENCODER)
    if words[0] == "serve" and not {"--stop", "--status"} & set(words):
        words += ["--port", "0", "--workers", "1"]
    return words


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_how_to_pages_run_from_first_to_last(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    processes: Any = multiprocessing.get_context("forkserver")
    # Imported once, not by each of some forty commands.
    processes.set_forkserver_preload(
        ["run_here", "cxr_mtl.train.loop", "cxr_mtl.pretrain.loop", "cxr_mtl.evaluate.run"]
    )
    done: set[str] = set()
    for command in (command for page in RUN_PAGES for command in commands(REPO / page)):
        if command.plain in done or listed(command):
            continue
        done.add(command.plain)
        for name, source in COPIES.items():
            if not (place / name).exists() and (place / source).exists():
                _copy(place / source, place / name)
        log = place / "said.txt"
        process = processes.Process(target=run_here, args=(adapted(command), place, log))
        process.start()
        process.join()
        said = log.read_text(errors="replace")
        assert process.exitcode == 0, f"{command.page}: {command.text}\n{said[-3000:]}"
        assert "Traceback" not in said, said
    assert len(done) > 25
    for made in (
        "ours_report/report.html",
        "report/report.html",
        "ours_bundle/bundle.yaml",
        "pictures",
        "both.parquet",
    ):
        assert (place / made).exists(), made

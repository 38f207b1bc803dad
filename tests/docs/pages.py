"""The commands of README, CONTRIBUTING and docs/, and what a reader's own names stand for in a test."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGES = (REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md")))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`((?:cxr-mtl|python benchmarks/|deepspeed|torchrun|make) [^`]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Command:
    """A line of a page that a reader would type; ``page`` is its path in the repository."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """Its words, without comment and without the environment's folder."""
        first, *rest = shlex.split(self.text, comments=True)
        return [first.removeprefix(".venv/bin/"), *rest]

    @property
    def plain(self) -> str:
        """Its words again, so that two pages' spellings of one command are equal."""
        return " ".join(self.words)

    @property
    def ours(self) -> list[str] | None:
        """What ``cxr-mtl`` itself is told, whoever launches it; None where it is not our command."""
        words = self.words[: self.words.index(">")] if ">" in self.words else self.words
        for program, name in (
            ("cxr-mtl", "cxr-mtl"),
            ("srun", "cxr-mtl"),
            ("deepspeed", "cxr_mtl"),
            ("torchrun", "cxr_mtl"),
        ):
            if words[0] == program and name in words:
                return words[words.index(name) + 1 :]
        if words[0] == "sbatch":  # the script's first word is the run's name
            script = next(i for i, word in enumerate(words) if word.endswith(".sh"))
            return ["train", *words[script + 2 :]]
        return None


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages."""
    return [text for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> list[Command]:
    """Every line of a page's shell blocks; a line that goes on after a backslash or an open quote is one."""
    found = [line for block in blocks(page, "sh", "bash") for line in _lines(block)]
    return [Command(str(page.relative_to(REPO)), line) for line in found]


def mentioned(page: Path) -> list[Command]:
    """Commands within a page's sentences."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    found = (" ".join(inline.split()) for inline in _INLINE.findall(text))
    return [Command(str(page.relative_to(REPO)), line) for line in found]


def _lines(block: str) -> Iterator[str]:
    held = glue = ""
    for line in block.splitlines():
        held, glue = held + glue + (line.lstrip() if glue == " " else line), "\n"
        if held.endswith("\\"):
            held, glue = held[:-1].rstrip(), " "
            continue
        try:
            words = shlex.split(held, comments=True)
        except ValueError:  # a quote that is still open
            continue
        if words and words[-1] == "|":
            continue
        if words:
            yield held
        held = glue = ""

"""One command in a process of its own that is forked from one with the imports done; all else is as in a shell."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def run_here(words: list[str], folder: Path, log: Path) -> None:
    """``cxr-mtl WORDS > log 2>&1`` in a folder; ends the process with the command's exit code.

    ``> FILE`` among the words is the shell's.
    """
    target = log
    if ">" in words:
        place = words.index(">")
        words, target = words[:place], folder / words[place + 1]
    log.write_bytes(b"")
    for number, file in ((1, target), (2, log)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
    os.chdir(folder)
    sys.argv = ["cxr-mtl", *words]
    from cxr_mtl.cli import main

    main()

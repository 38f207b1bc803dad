"""The body of ``cxr-mtl predict ... --out``: more films than one would read answers of, by any number of ranks.

Ranks need not know of each other: the films' places say whose they are, and the parts on disk say what is left.
Threads read and admit the next films, or ask the server for them, while the model judges these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cxr_mtl.errors import ConfigError, ImageError, ServeError
from cxr_mtl.predict.ahead import in_order
from cxr_mtl.predict.askers import Asker, Results
from cxr_mtl.predict.films import FilmList
from cxr_mtl.predict.parts import GO_ON, Parts
from cxr_mtl.predict.shards import Rank, cut
from cxr_mtl.types import Options

LOG_EVERY = 60.0  # seconds between lines of progress, where no terminal shows a bar


def answer_many(
    asker: Asker,
    films: FilmList,
    out: Path,
    options: Options,
    *,
    rank: Rank,
    batch: int,
    tell: Callable[[str], None],
) -> int:
    """Answer this rank's share of the films, and join all shares if it is the last.

    Args:
        asker: who answers.
        films: all of them.
        out: file of all answers.
        options: what is wanted of each.
        rank: whose share.
        batch: films judged together.
        tell: called with what came out.

    Returns:
        How many of all films have no answer, if this rank joined them; else 0, for a launcher takes a rank that ends
        otherwise for lost and ends its neighbours.

    Raises:
        ConfigError: ``out`` holds answers to something else, or an option is none of the model's.
        DataError: the disk is full, or a part of an earlier run is damaged.
        ServeError: the server is gone, or its model was exchanged meanwhile.
    """
    blocks = cut(len(films), batch)
    asked = {"sha256": films.sha256, "manifest": films.source, "split": films.split, "count": len(films)}
    run = {"model": asker.model, "options": asdict(options), "films": asked, "batch size": [batch, blocks.size]}
    parts = Parts(out, run, blocks)
    if summary := parts.open():
        tell(f"{summary}: {out} was finished before.")
        return summary.failed
    own = blocks.of(rank)
    if todo := [block for block in own if not parts.has(block)]:
        total = sum(len(blocks.rows(block)) for block in own)
        done = total - sum(len(blocks.rows(block)) for block in todo)
        parts.know_model()
        with progress(total, done, rank) as bar:
            _answer(asker, films, parts, todo, batch, bar.update)
    return _end(parts, rank, tell)


def _answer(
    asker: Asker, films: FilmList, parts: Parts, todo: Sequence[int], batch: int, step: Callable[[int], object]
) -> None:
    """Ask for blocks of films, and put each on disk."""
    rows = (row for block in todo for row in parts.blocks.rows(block))
    prepared = in_order(
        lambda row: asker.prepare(films.path(row)),
        rows,
        threads=asker.threads,
        ahead=asker.threads + 2 * batch,
        give_up=asker.give_up,
    )
    try:
        for block in todo:
            span = parts.blocks.rows(block)
            answers = Results()
            while len(answers) < len(span):
                films_now = list(islice(prepared, min(batch, len(span) - len(answers))))
                answers += _good(asker.judge(films_now))
                step(len(films_now))
            parts.write(block, films.who.slice(span.start, len(span)), answers)
    except ServeError as error:
        raise ServeError(error.message, hint=f"{error.hint} {GO_ON}") from error
    finally:
        prepared.close()


def _good(answers: Results) -> Results:
    """As they are; but what is wrong with the options is wrong for all films."""
    for answer in answers:
        if isinstance(answer, ImageError) and answer.code == "bad_request":
            raise ConfigError(answer.message, hint=answer.hint).on_all_ranks()
    return answers


def _end(parts: Parts, rank: Rank, tell: Callable[[str], None]) -> int:
    """Join, if nothing is missing."""
    missing = parts.missing()
    if missing and not parts.out.exists():  # in this order: who joins removes the parts last
        left = sum(len(parts.blocks.rows(block)) for block in missing)
        tell(
            f"Rank {rank.number} of {rank.world} is done. {left} films of other ranks are not; the last one joins all."
        )
        return 0
    if summary := parts.join():
        tell(f"{summary}: {parts.out}")
    return summary.failed if summary else 0


def progress(total: int, done: int, rank: Rank) -> tqdm[Any]:
    """The first rank's bar, with the time left; a line a minute where there is no terminal."""
    look: dict[str, Any] = {"total": total, "initial": done, "unit": "film", "disable": rank.number > 0}
    if sys.stderr.isatty():
        return tqdm(**look, desc="predict")
    words = "{n_fmt} of {total_fmt} films of this rank, {rate_fmt}, {remaining} left"
    return tqdm(**look, file=_Lines(), bar_format=words, mininterval=LOG_EVERY, miniters=1)


class _Lines:
    """What a bar writes over its last state, one below the other."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()

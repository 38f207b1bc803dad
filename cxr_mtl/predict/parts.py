"""Answers on disk while there are more to come: a folder of parts beside the file that they become.

``predictions.parquet.parts/`` holds run.json, which says what was asked, and one Parquet file for each block of films
that is answered. Each is whole or not there: it is written under another name, and renamed. So whoever is killed loses
the block at hand; the next run, with any number of ranks, goes on with the blocks that are not there. The rank that
finds all of them joins them, in the films' order and in bounded memory, and removes the folder.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mtl.data.pack_draft import alone
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.predict.rows import Answers, Model, model_of, one_model, to_table
from cxr_mtl.predict.shards import Blocks
from cxr_mtl.types import DISCLAIMER, Prediction

PREDICTIONS_SCHEMA = "cxr-mtl.predictions/1"
METADATA = b"cxr_mtl"
GROUP = 16_384  # rows of the joined file that are in memory at once

_RUN, _DRAFT = "run.json", "joined.tmp"
GO_ON = "What was answered is kept: give the same command again to go on."


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the films.

    Attributes:
        answered: how many have an answer.
        refused: how many have an error, by its code.
    """

    answered: int
    refused: dict[str, int]

    @property
    def failed(self) -> int:
        return sum(self.refused.values())

    def __str__(self) -> str:
        codes = ", ".join(f"{code} {count}" for code, count in self.refused.items())
        return f"{self.answered + self.failed} films: {self.answered} answered, {self.failed} not" + (
            f" ({codes})" if codes else ""
        )


class Parts:
    """The parts of one file.

    Attributes:
        out: the file.
        folder: of the parts.
        run: what is asked of which films by which model, JSON values only: nobody may go on with something else.
    """

    def __init__(self, out: Path, run: dict[str, Any], blocks: Blocks) -> None:
        self.out, self.folder = out, out.with_name(out.name + ".parts")
        self.run = json.loads(json.dumps(run))
        self.blocks = blocks
        self._model: Model | None = None

    def open(self) -> Summary | None:
        """Begin, or go on; gives the counts where the file is finished.

        Raises:
            ConfigError: file or folder hold answers to something else.
            DataError: the folder cannot be written.
        """
        if done := self.finished():
            return done
        with _one_line(self.folder, GO_ON):
            self.folder.mkdir(parents=True, exist_ok=True)
            begun = self.folder / _RUN
            if not begun.exists():
                _write_whole(begun, json.dumps(self.run, indent=2).encode())
            held = _json(begun.read_bytes())
        if held != self.run:
            what = " and ".join(key for key in self.run if held.get(key) != self.run[key]) or "version"
            hint = "Give the same again to go on; else choose another --out or remove the folder."
            raise ConfigError(f"{self.folder} was begun with another {what}.", hint=hint).on_all_ranks()
        return None

    def finished(self) -> Summary | None:
        """The counts of the joined file, if there is one."""
        if not self.out.exists():
            return None
        try:
            said = _json((pq.read_metadata(self.out).metadata or {}).get(METADATA, b"{}"))
        except (pa.ArrowException, OSError):
            said = {}
        if said.get("run") != self.run:
            hint = "Choose another --out, or remove it."
            raise ConfigError(f"{self.out} is there already and holds something else.", hint=hint).on_all_ranks()
        shutil.rmtree(self.folder, ignore_errors=True)  # left by one that was killed after its last rename
        return Summary(said["answered"], said["refused"])

    def has(self, block: int) -> bool:
        """Whether a block is answered."""
        return self._part(block).exists()

    def missing(self) -> list[int]:
        """The blocks that are not answered yet, by any rank."""
        return [block for block in self.blocks.all if not self.has(block)]

    def write(self, block: int, who: pa.Table, answers: Answers) -> None:
        """Put a block's answers on disk, whole.

        Raises:
            DataError: the disk is full.
            ServeError: two models answered.
        """
        said: dict[str, Any] = {
            "model": one_model([self._model, model_of(answers)]),
            "answered": sum(isinstance(answer, Prediction) for answer in answers),
            "refused": Counter(answer.code for answer in answers if not isinstance(answer, Prediction)),
        }
        self._model = said["model"]
        table = to_table(who, answers).replace_schema_metadata({METADATA: json.dumps(said).encode()})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        with _one_line(self.folder, f"Free some disk. {GO_ON}"):
            _write_whole(self._part(block), buffer.getvalue())

    def know_model(self) -> None:
        """See which model answered the parts that are there, so that no other adds to them.

        Raises:
            DataError: a part is damaged.
            ServeError: two models did.
        """
        self._model = one_model(self._said(block)["model"] for block in self.blocks.all if self.has(block))

    def join(self) -> Summary | None:
        """Make one file of all parts and remove them; None where another rank has done so.

        Raises:
            DataError: a part is damaged, or the disk is full.
            ServeError: two models answered.
        """
        try:
            with alone(self.folder):
                if not self.out.exists():
                    return self._join()
        except FileNotFoundError:
            if not self.out.exists():
                raise
        shutil.rmtree(self.folder, ignore_errors=True)  # a rank that came late may have made it anew
        return None

    def _join(self) -> Summary:
        said = [self._said(block) for block in self.blocks.all]
        model = one_model(part["model"] for part in said)
        refused: Counter[str] = sum((Counter(part["refused"]) for part in said), Counter())
        summary = Summary(sum(part["answered"] for part in said), dict(refused.most_common()))
        known = next((block for block, part in enumerate(said) if part["answered"]), 0)
        about = {
            "schema": PREDICTIONS_SCHEMA,
            "run": self.run,
            "model": model,
            "answered": summary.answered,
            "refused": summary.refused,
            "disclaimer": DISCLAIMER,
        }
        schema = self._read(known).schema.with_metadata({METADATA: json.dumps(about).encode()})
        draft = self.folder / _DRAFT
        with _one_line(self.out, f"Free some disk. {GO_ON}"):
            with pq.ParquetWriter(draft, schema, compression="zstd") as writer:
                for group in self._groups(schema.empty_table()):
                    writer.write_table(group)
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            draft.replace(self.out)
        shutil.rmtree(self.folder, ignore_errors=True)
        return summary

    def _groups(self, empty: pa.Table) -> Iterator[pa.Table]:
        """The parts in order, some thousand rows at a time; one of nothing but refusals lacks the model's columns."""
        held = [empty]
        for block in self.blocks.all:
            held.append(self._read(block))
            if sum(len(table) for table in held) >= GROUP or block == self.blocks.all[-1]:
                joined = pa.concat_tables(held, promote_options="default")
                yield joined.replace_schema_metadata(empty.schema.metadata).combine_chunks()
                held = [empty]

    def _part(self, block: int) -> Path:
        return self.folder / f"{block:06d}.parquet"

    def _said(self, block: int) -> dict[str, Any]:
        with _whole(self._part(block)):
            return _json(pq.read_metadata(self._part(block)).metadata[METADATA])

    def _read(self, block: int) -> pa.Table:
        with _whole(self._part(block)):
            table = pq.read_table(self._part(block))
            if len(table) != len(self.blocks.rows(block)):
                raise ValueError("rows")
            return table


def _write_whole(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _json(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


@contextmanager
def _one_line(path: Path, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.", hint=hint) from error


@contextmanager
def _whole(part: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        hint = "Remove that file and give the same command again: its films alone are asked anew."
        raise DataError(f"{part} is damaged.", hint=hint) from error

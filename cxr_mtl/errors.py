"""What can go wrong, and what to do about it.

CxrError
├── ConfigError       a run file, an ontology or a command line option
├── DataError         a manifest, a dataset or a split
│   └── ImageError    one film; carries the code and HTTP status the server answers with
├── CheckpointError   a training state or a bundle
├── EngineError       a run cannot go on: a rank, the disk, the loss; goes on with --resume
│   └── Stopped       it was told to stop, and saved what it had
├── CollapseError     pretraining that no longer tells films apart
└── ServeError        the server: start, stop, talk

Every message says what happened and where; ``hint`` says what to do. The command line prints both on one line.
"""

from __future__ import annotations

from typing import Self


class CxrError(Exception):
    """A problem that a user can mend.

    Attributes:
        exit_code: of the command that it ends.
        shared: every rank of a run ends with this very problem, so it is enough that the first says it.
    """

    exit_code = 2
    shared = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def on_all_ranks(self) -> Self:
        """The same, as one that every rank raises."""
        self.shared = True
        return self

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class ConfigError(CxrError):
    """A setting is wrong."""


class DataError(CxrError):
    """A dataset, manifest or split is wrong."""


class ImageError(DataError):
    """One film cannot be judged; its neighbours can.

    Attributes:
        code: stable word for programs, such as ``truncated`` or ``too_large``.
        status: the HTTP status a server answers with: 400 to 422, or 500 and 507 where the server is to blame.
    """

    def __init__(self, message: str, *, code: str, hint: str = "", status: int = 422) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.status = status

    def to_dict(self) -> dict[str, dict[str, str]]:
        """The error half of the prediction contract."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


class CheckpointError(CxrError):
    """Weights, a bundle or a training state do not fit."""


class EngineError(CxrError):
    """A run cannot go on as it is; its last checkpoint can."""


class Stopped(EngineError):
    """A run was told to stop by a signal, and has saved what it had; the exit code is a shell's for that signal."""

    shared = True

    def __init__(self, message: str, *, signal: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signal


class CollapseError(CxrError):
    """Pretraining gives all films the same answer, and would learn no more."""


class ServeError(CxrError):
    """The server did not start, stop or answer."""

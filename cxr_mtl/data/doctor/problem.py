"""One line of the doctor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cxr_mtl.data.manifest import Manifest

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, where, and what to do.

    Attributes:
        level: ``error`` makes results wrong or a run fail; ``warning`` is for the user to judge.
        check: stable word for programs, such as ``patient-overlap``.
        path: the first film it is about; empty where it is about none in particular.
        count: how many films, patients or findings.
    """

    level: Level
    check: str
    path: str
    count: int
    message: str
    fix: str

    def __str__(self) -> str:
        """Level, check, what, where and what to do, on one line."""
        first = f", first: {self.path}" if self.path else ""
        return f"{self.level}: {self.check}: {self.message}{first}. {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return asdict(self)


def of_films(
    manifest: Manifest, rows: Iterable[Any], level: Level, check: str, what: str, fix: str
) -> Iterator[Problem]:
    """A problem of these rows of the manifest; none where there are no rows."""
    rows = [int(row) for row in rows]
    if rows:
        path = str(manifest.table["image_path"].iat[rows[0]])
        yield Problem(level, check, path, len(rows), f"{len(rows):,} of {len(manifest):,} films {what}", fix)

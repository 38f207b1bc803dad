"""What is wrong with a manifest, before it costs a night of training: each problem with place, count and cure."""

from __future__ import annotations

from collections.abc import Callable

from cxr_mtl.data.doctor.films import examine_films
from cxr_mtl.data.doctor.problem import Problem
from cxr_mtl.data.doctor.tables import examine_table
from cxr_mtl.data.manifest import Manifest

__all__ = ["Problem", "examine"]


def examine(
    manifest: Manifest,
    *,
    decode: bool = True,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Problem]:
    """Every problem, errors first.

    Args:
        decode: read every film too; False looks only whether the files are there.
        threads: to read films with; None takes one a core.
        progress: called from the calling thread with the number of films done since its last call.
    """
    problems = [*examine_table(manifest), *examine_films(manifest, decode=decode, threads=threads, progress=progress)]
    return sorted(problems, key=lambda problem: problem.level != "error")

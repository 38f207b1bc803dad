"""Films that are there twice: the same file, or the same picture at another size or in another format.

F films, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cxr_mtl.data.doctor.problem import Level, Problem, of_films
from cxr_mtl.data.manifest import Manifest
from cxr_mtl.types import ABSENT, PRESENT

ALIKE = 0.997
"""Correlation of two thumbnails from which on they show one picture. Of the project's 3,109 real films no two different
ones have more than .981 (two films of one patient); copies at 128 px and JPEG quality 50 have .999 at least."""

_COARSE, _DIRECTIONS = 6, 8
_BLOCK = 4096
_FLAT = 1e-3  # a film of one grey is like every other


def examine_copies(
    manifest: Manifest, rows: Sequence[int], sha256: Sequence[str], thumbs: NDArray[np.uint8]
) -> Iterator[Problem]:
    """Problems of films that are copies of one another.

    Args:
        rows: of the manifest, F of them.
        sha256: of each file.
        thumbs: (F, S, S) of each film.
    """
    row = np.asarray(rows, dtype=np.intp)
    _, files = np.unique(np.asarray(sha256, dtype=np.str_), return_inverse=True)
    yield from _told(
        manifest, row, files, np.ones(len(row), dtype=bool), "copy", "are the same file, byte for byte, as"
    )
    first = np.unique(files, return_index=True)[1]
    pictures = np.empty(len(first), dtype=np.intp)
    pictures[files[first]] = same_pictures(thumbs[first])
    group = pictures[files]
    # Copies byte for byte were told of above: here only pictures that lie in several files.
    several = np.array([len(set(files[group == g])) > 1 for g in range(group.max() + 1)] if len(group) else [], bool)
    what = "are, but for size or compression, the same picture as"
    yield from _told(manifest, row, group, several[group], "near-copy", what)


def same_pictures(thumbs: NDArray[np.uint8]) -> NDArray[np.intp]:
    """(F,) a number for each picture; films that show the same one have the same.

    Candidates are near one another first in the few directions in which films differ most, then in all low
    frequencies. Both are orthonormal parts of the picture, so that no distance grows and no copy is missed.

    Args:
        thumbs: (F, S, S).
    """
    coarse, contrast = _low_frequencies(thumbs)
    seen = np.flatnonzero(contrast)
    # Unit vectors that correlate by ALIKE are this far apart; a hair is added for rounding.
    reach = float(np.sqrt(2 * (1 - ALIKE))) * 1.001
    pairs = seen[cKDTree(_turned(coarse[seen])).query_pairs(reach, output_type="ndarray")]
    pairs = _kept(pairs, lambda one, two: np.linalg.norm(coarse[one] - coarse[two], axis=1) <= reach)
    pairs = _kept(pairs, lambda one, two: (_unit(thumbs[one])[0] * _unit(thumbs[two])[0]).sum(axis=1) >= ALIKE)
    graph = coo_array((np.ones(len(pairs), dtype=bool), tuple(pairs.T)), shape=(len(thumbs), len(thumbs)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)


def _low_frequencies(thumbs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(F, 35) of each film's unit vector, and (F,) whether it has any contrast. Block by block: F x 1024 floats are
    gigabytes."""
    waves = dct(np.eye(thumbs.shape[1], dtype=np.float32), axis=0, norm="ortho")[:_COARSE]
    # The first is the mean, which unit vectors do not have.
    basis = np.einsum("iy,jx->yxij", waves, waves).reshape(-1, _COARSE**2)[:, 1:]
    coarse = np.empty((len(thumbs), basis.shape[1]), dtype=np.float32)
    contrast = np.empty(len(thumbs), dtype=bool)
    for start in range(0, len(thumbs), _BLOCK):
        here = slice(start, start + _BLOCK)
        unit, contrast[here] = _unit(thumbs[here])
        coarse[here] = unit @ basis
    return coarse, contrast


def _unit(thumbs: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(F, S * S) of mean 0 and length 1, and (F,) False where a film is of one grey and has no such vector."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    contrast = length > _FLAT * flat.shape[1]
    np.divide(flat, length, out=flat, where=contrast)
    return flat, contrast[:, 0]


def _turned(coarse: NDArray[np.float32]) -> NDArray[np.float64]:
    """(F, 8) along the directions in which the films differ most; a tree of more is slower and spares little."""
    centred = coarse - coarse.sum(axis=0) / np.float32(max(len(coarse), 1))
    _, directions = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    turned: NDArray[np.float64] = centred @ directions[:, -_DIRECTIONS:]
    return turned


def _kept(
    pairs: NDArray[np.intp], near: Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.bool_]]
) -> NDArray[np.intp]:
    """The (P, 2) pairs that are near, looked at block by block."""
    blocks = [pairs[start : start + _BLOCK] for start in range(0, len(pairs), _BLOCK)]
    return np.concatenate([block[near(*block.T)] for block in blocks]) if blocks else pairs


def _told(
    manifest: Manifest, rows: NDArray[np.intp], group: NDArray[np.intp], asked: NDArray[np.bool_], check: str, what: str
) -> Iterator[Problem]:
    """One problem for copies in several splits, one for copies with other labels, one for the rest."""
    split, labels = manifest.splits, manifest.labels()
    found: dict[str, list[int]] = {"-across-splits": [], "-contradicts": [], "": []}
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(members) > 1 and asked[members[0]]:
            films = rows[members]
            present, absent = ((labels[films] == value).any(axis=0) for value in (PRESENT, ABSENT))
            contradicts = "-contradicts" if (present & absent).any() else ""
            found["-across-splits" if len(set(split[films]) - {None}) > 1 else contradicts].extend(films.tolist())
    for kind, (level, whose, fix) in _KINDS.items():
        yield from of_films(manifest, sorted(found[kind]), level, check + kind, f"{what} {whose}", fix)


_KINDS: dict[str, tuple[Level, str, str]] = {
    "-across-splits": ("error", "a film of another split", "Keep each film in one split."),
    "-contradicts": (
        "warning",
        "another film, with other labels",
        "Keep one, and decide; class folders hold a film once a class: there, name them so that its labels are joined.",
    ),
    "": ("warning", "another film", "Keep one of each, with all of its labels."),
}

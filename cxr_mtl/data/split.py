"""Splits that never share a patient, alike in what they show, and the same whatever order the rows come in.

P patients, S splits, L strata: the findings, the findings that have a box, and last the number of films.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.types import PRESENT

SPLITS = ("train", "val", "test")

# The first deal is short-sighted; a few rounds of dealing each patient once more halve what it is off by.
_ROUNDS = 4


def split_by_patient(manifest: Manifest, fractions: Mapping[str, float], seed: int) -> Manifest:
    """Deal the patients out anew.

    Args:
        fractions: share of the films for each of train, val and test that is wanted; they sum to 1.

    Raises:
        ConfigError: the fractions are no fractions.
        DataError: fewer patients than splits.
    """
    names, shares = _shares(fractions)
    patients = manifest.patient_ids
    ids, owner = np.unique(patients, return_inverse=True)
    if len(ids) < len(names):
        raise DataError(
            f"{len(ids)} patients cannot make {len(names)} splits.", hint="Add patients, or ask for fewer splits."
        )
    dealt = _deal(_strata(manifest, owner, len(ids)), shares, np.random.default_rng(seed))
    how = {"how": "by patient", "fractions": dict(zip(names, shares.tolist(), strict=True)), "seed": seed}
    return with_split(manifest, np.asarray(names, dtype=object)[dealt[owner]], how)


def carve_validation(manifest: Manifest, fraction: float, seed: int) -> Manifest:
    """Move a share of the patients of ``train`` to ``val``; every other split stays as it is.

    Raises:
        ConfigError: the fraction is not between 0 and 1.
        DataError: there is a validation split already, or train has fewer than two patients.
    """
    split = manifest.splits
    if num := int((split == "val").sum()):
        raise DataError(
            f"There is a validation split already ({num} films).", hint="Split again with: cxr-mtl data split."
        )
    train = split == "train"
    dealt = split_by_patient(manifest.where(split="train"), {"train": 1 - fraction, "val": fraction}, seed)
    split[train] = dealt.splits
    how = manifest.info.get("split", {}) | {"validation": fraction, "seed": seed}
    return with_split(manifest, split, how)


def with_split(manifest: Manifest, split: NDArray[np.object_], how: Mapping[str, Any]) -> Manifest:
    """The same films in other splits.

    Args:
        split: (N,) a name or None for each film.
        how: by what they were chosen, for ``info["split"]``; JSON values only.
    """
    table = manifest.table.assign(split=pd.Series(list(split), dtype="str"))
    return replace(manifest, table=table, info=manifest.info | {"split": dict(how)})


def split_hash(manifest: Manifest) -> str:
    """sha256 over the sorted (dataset, image_id, split); equal exactly when every film is in the same split."""
    return hash_of(manifest.table)


def hash_of(table: pd.DataFrame) -> str:
    """``split_hash`` of a table with these three columns."""
    films = table[["dataset", "image_id"]].assign(split=table["split"].fillna(""))
    lines = sorted("\t".join(film) for film in films.itertuples(index=False))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def shared_patients(manifest: Manifest) -> NDArray[np.intp]:
    """Rows of the patients that are in more than one split."""
    split = manifest.table["split"]
    several = split.groupby(manifest.patient_ids).transform("nunique") > 1
    return np.flatnonzero(several & split.notna())


def check_patients(manifest: Manifest) -> None:
    """Refuse a manifest in which two splits share a patient.

    Raises:
        DataError: how many patients, and the first film of one.
    """
    rows = shared_patients(manifest)
    if len(rows):
        num, first = len(set(manifest.patient_ids[rows])), manifest.table["image_path"].iat[rows[0]]
        what = f"{num} {'patient is' if num == 1 else 'patients are'} in more than one split, first: {first}."
        raise DataError(what, hint="Split again with: cxr-mtl data split.")


def _shares(fractions: Mapping[str, float]) -> tuple[list[str], NDArray[np.float64]]:
    names = [name for name in SPLITS if fractions.get(name, 0) != 0]
    shares = np.asarray([fractions[name] for name in names], dtype=np.float64)
    if unknown := set(fractions) - set(SPLITS):
        raise ConfigError(f"There is no split {', '.join(sorted(unknown))}.", hint="Splits are train, val and test.")
    if not len(shares) or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        given = ", ".join(f"{name} {share:g}" for name, share in fractions.items())
        raise ConfigError(f"Split fractions must be above 0 and sum to 1 (got {given}).", hint="Such as .7, .1 and .2.")
    return names, shares


def _strata(manifest: Manifest, owner: NDArray[np.intp], num: int) -> NDArray[np.float64]:
    """(P, L) in how many films a patient shows what; strata that nobody shows are left out."""
    place = {name: c for c, name in enumerate(manifest.ontology.names)}
    boxed = np.zeros((len(manifest), len(place)), dtype=bool)
    for row, boxes in enumerate(manifest.table["boxes"]):
        boxed[row, [place[box.finding] for box in boxes if box.finding in place]] = True
    shown = np.hstack([manifest.labels() == PRESENT, boxed, np.ones((len(manifest), 1), dtype=bool)])
    shown = shown[:, shown.any(axis=0)]
    return np.stack([np.bincount(owner, weights=column, minlength=num) for column in shown.T], axis=1)


def _deal(counts: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.intp]:
    """(P,) the split of each patient: rarest stratum first, each to the split that it brings nearest to its share."""
    wanted = shares[:, None] * counts.sum(axis=0)
    # Below one film a share cannot be met: without the floor a finding of a single patient would outweigh all others.
    weight = 1 / np.maximum(wanted, 1)
    rarity = np.where(counts > 0, (counts > 0).sum(axis=0), np.inf).min(axis=1)
    order = rng.permutation(len(counts))
    order = order[np.argsort(rarity[order], kind="stable")]
    have, dealt = np.zeros_like(wanted), np.full(len(counts), -1, dtype=np.intp)
    for _ in range(_ROUNDS):
        before = dealt.copy()
        for p in order:
            if dealt[p] >= 0:
                have[dealt[p]] -= counts[p]
            # What the weighted squared distance to the wanted counts grows by.
            growth = (weight * counts[p] * (2 * (have - wanted) + counts[p])).sum(axis=1)
            dealt[p] = growth.argmin()
            have[dealt[p]] += counts[p]
        if (dealt == before).all():
            break
    return _cover(counts > 0, dealt, shares)


def _cover(shows: NDArray[np.bool_], dealt: NDArray[np.intp], shares: NDArray[np.float64]) -> NDArray[np.intp]:
    """Give each split that lacks a stratum a patient who shows it, if that takes no split's last of another stratum.

    Only strata of so many patients that the smallest share comes to one of them; and the last, lest a split be empty.
    """
    enough = shows.sum(axis=0) * shares.min() >= 1
    enough[-1] = True
    have = np.stack([shows[dealt == s].sum(axis=0) for s in range(len(shares))])
    for stratum in np.flatnonzero(enough):
        for s in np.flatnonzero(have[:, stratum] == 0):
            holders = np.flatnonzero(shows[:, stratum])
            spare = [p for p in holders if (have[dealt[p]][shows[p] & enough] > 1).all()]
            if spare:
                # Who shows least beside it disturbs the shares least.
                p = min(spare, key=lambda p: int(shows[p].sum()))
                have[dealt[p]] -= shows[p]
                have[s] += shows[p]
                dealt[p] = s
    return dealt

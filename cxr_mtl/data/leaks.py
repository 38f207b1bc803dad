"""Films that are another dataset's, and films a model has seen: what must not stand on both sides of a split.

N films of a manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mtl.data.manifest import Manifest
from cxr_mtl.errors import DataError

SAME_FILMS = {
    "nih": ("rsna", "siim", "siim-acr", "google-nih", "nih-google", "chestx-det", "chestx-det10", "chestmnist"),
    "vindr": ("vinbigdata",),
}
"""Dataset -> the datasets whose films are taken from it, under names of their own."""

LEARNED_FROM = ("train", "val")
"""Splits that a model is trained, calibrated or chosen on."""

_WHOLE_NIH = 100_000
"""Films; a manifest of NIH that holds so many cannot have boxed films in train under the official lists."""

_OTHERS = (
    "Import it with its mapping to {owner}'s films, keep all of them in one split, or leave one of the datasets out."
)
_RELIST = "Import NIH again with its own train_val_list.txt and test_list.txt."
_SEEN = (
    "Evaluate on other patients; import films that only happen to have the same numbers under another --name; or pass "
    "--allow-seen, and the report says how many films the model knew."
)


@dataclass(frozen=True)
class Leak:
    """Films that are, or may be, on both sides of a split.

    Attributes:
        check: stable word for programs, such as ``leak-same-films``.
        rows: of the manifest, that ought to be elsewhere.
        what: "films ..." as the rest of a sentence whose subject are these rows.
        fix: what to do.
    """

    check: str
    rows: NDArray[np.intp]
    what: str
    fix: str


def find_leaks(manifest: Manifest) -> list[Leak]:
    """The known leaks between public datasets, by the names of the datasets; which film is which is not looked at."""
    return [*_same_films(manifest), *_boxed_on_both_sides(manifest)]


def check_leaks(manifest: Manifest) -> None:
    """Refuse a manifest with a known leak.

    Raises:
        DataError: the first leak, how many films, and the first of them.
    """
    for leak in find_leaks(manifest):
        first = manifest.table["image_path"].iat[leak.rows[0]]
        raise DataError(f"{len(leak.rows):,} films {leak.what}, first: {first}.", hint=leak.fix)


def boxed_in_train(manifest: Manifest) -> NDArray[np.intp]:
    """Rows of NIH films with boxes that a model would learn from. All that NIH has are in its official test list."""
    nih = (manifest.table["dataset"] == "nih").to_numpy(bool)
    boxed = np.asarray([bool(boxes) for boxes in manifest.table["boxes"]], dtype=bool)
    return np.flatnonzero(nih & boxed & _in_splits(manifest.table, LEARNED_FROM))


def seen_films(trained: pd.DataFrame, manifest: Manifest, split: str) -> NDArray[np.intp]:
    """Rows of a split that show a patient, or are a film, that a model learned from.

    Films of a dataset that is made of another's count as seen where nothing says which film is which.

    Args:
        trained: dataset, image_id, patient_id and split of each film, as ``split_file.read_split`` gives them.
        split: only its rows are looked at.
    """
    learned = trained[_in_splits(trained, LEARNED_FROM)]
    films = manifest.table
    patients = set(_qualified(learned["dataset"], learned["patient_id"]))
    images = set(zip(learned["dataset"], learned["image_id"], strict=True))
    known = np.asarray([film in images for film in zip(films["dataset"], films["image_id"], strict=True)], bool)
    known |= np.isin(manifest.patient_ids, sorted(patients)) | _may_be_seen(learned, films)
    return np.flatnonzero(known & (films["split"] == split).to_numpy(bool))


def _may_be_seen(learned: pd.DataFrame, films: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,) films of one dataset that may be films of another, which was learned from, for all that anyone can say."""
    may = np.zeros(len(films), dtype=bool)
    for owner, borrowers in SAME_FILMS.items():
        family = {owner, *borrowers}
        for name in family & set(learned["dataset"]):
            its_are_named = name == owner or not _nameless(learned[learned["dataset"] == name], owner).any()
            others = films["dataset"].isin(family - {name}).to_numpy(bool)
            may |= others & (_nameless(films, owner) if its_are_named else True)
    return may


def check_seen(trained: pd.DataFrame, manifest: Manifest, split: str) -> None:
    """Refuse to test a model on patients that it was trained, calibrated or chosen on.

    Asking for ``train`` or ``val`` is asking for just these, so only other splits are refused.

    Args:
        trained: as for ``seen_films``.
        split: the films that are to be evaluated.

    Raises:
        DataError: how many films of the split, and the first of them.
    """
    rows = seen_films(trained, manifest, split)
    if split not in LEARNED_FROM and len(rows):
        first, num = manifest.table["image_path"].iat[rows[0]], len(set(manifest.patient_ids[rows]))
        what = f"{len(rows):,} films ({num:,} patients) of split {split!r} are, or may be, ones the model learned from"
        raise DataError(f"{what}, first: {first}.", hint=_SEEN)


def _same_films(manifest: Manifest) -> Iterator[Leak]:
    dataset, split = manifest.table["dataset"], manifest.table["split"]
    for owner, borrowers in SAME_FILMS.items():
        family = dataset.isin([owner, *borrowers])
        nameless = pd.Series(_nameless(manifest.table, owner))
        present = sorted(set(dataset[family]))
        if nameless.any() and len(present) > 1 and split[family].dropna().nunique() > 1:
            names = " and ".join(sorted(set(dataset[nameless])))
            others = " and ".join(name for name in present if name not in set(dataset[nameless])) or owner
            what = f"of {names} are {owner}'s films, and nothing says which: they may be of patients that {others} has"
            yield Leak(
                "leak-same-films",
                np.flatnonzero(nameless),
                f"{what} in another split",
                _OTHERS.format(owner=owner),
            )


def _boxed_on_both_sides(manifest: Manifest) -> Iterator[Leak]:
    """NIH's boxed films are all in its test list; lists that put one into training are not NIH's."""
    nih = int((manifest.table["dataset"] == "nih").sum())
    if nih >= _WHOLE_NIH and _official(manifest.info.get("split", {})):
        rows = boxed_in_train(manifest)
        if len(rows):
            what = (
                "with boxes are in training although NIH's official lists, which the split is said to be, test on them"
            )
            yield Leak("leak-nih-boxes", rows, what, _RELIST)


def _official(how: dict[str, Any]) -> bool:
    """Whether NIH's films are said to lie in its official lists, in this manifest or before it was merged."""
    parts = [part for part in how.get("parts", ()) if "nih" in part.get("datasets", ())]
    return how.get("how") == "official lists" or any(part.get("how") == "official lists" for part in parts)


def _nameless(films: pd.DataFrame, owner: str) -> NDArray[np.bool_]:
    """Films that are the owner's under another name, and do not say of which patient of the owner's."""
    borrowed = films["dataset"].isin(SAME_FILMS[owner])
    return (borrowed & ~films["patient_id"].str.startswith(f"{owner}:")).to_numpy(bool)


def _qualified(dataset: pd.Series[str], patient: pd.Series[str]) -> pd.Series[str]:
    """As ``Manifest.patient_ids``."""
    return patient.where(patient.str.contains(":", regex=False), dataset + ":" + patient)


def _in_splits(table: pd.DataFrame, splits: tuple[str, ...]) -> NDArray[np.bool_]:
    return table["split"].isin(splits).to_numpy(bool)

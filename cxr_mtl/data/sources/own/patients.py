"""Whose film it is, by its path: for films that come without a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import ConfigError

_Match = re.Match[str]

# How public sets write a patient into a path, and the patient's name there. A film that carries one is that patient's
# film wherever it lies, so that it cannot meet itself when the set is imported as well.
_KNOWN: tuple[tuple[str, re.Pattern[str], Callable[[_Match], str]], ...] = (
    ("NIH", re.compile(r"(?:^|/)(\d{8})_\d{3}\.[^/]+$"), lambda m: f"nih:{int(m[1])}"),
    ("CheXpert", re.compile(r"(?:^|[/_])(patient\d{5})(?=[/_.])"), lambda m: f"chexpert:{m[1]}"),
    ("MIMIC-CXR", re.compile(r"(?:^|/)p\d{2}/p(\d{8})/"), lambda m: f"mimic:{m[1]}"),
    ("MIMIC-CXR", re.compile(r"(?:^|/)p(\d{8})(?=/)"), lambda m: f"mimic:{m[1]}"),
    (
        "Kermany et al.",
        re.compile(r"(?:^|/)person(\d+)_(bacteria|virus)_\d+\.[^/]+$"),
        lambda m: f"kermany:person{m[1]}_{m[2]}",
    ),
    (
        "Kermany et al.",
        re.compile(r"(?:^|/)(?:NORMAL(\d+)-)?IM-(\d+)-\d+[^/]*$"),
        lambda m: f"kermany:N{m[1] or ''}-{m[2]}",
    ),
)
_STUDY = re.compile(r"/(study\d+|s\d{8})/")


def read_patients(
    paths: Sequence[str], image_ids: Sequence[str], pattern: str | None, tally: Tally
) -> tuple[list[str], list[str]]:
    """The patient and the study of each film; a film that names no patient counts as a patient of its own.

    Args:
        paths: N, with slashes.
        image_ids: N, without repetition.
        pattern: regular expression; its first group, or all that it matches, is the patient. None tries the ways of
            public sets.

    Returns:
        N patients and N studies.

    Raises:
        ConfigError: the pattern is no regular expression, or no path matches it.
    """
    patients = _by_pattern(paths, pattern) if pattern is not None else _by_custom(paths, tally)
    alone = [image for image, patient in zip(image_ids, patients, strict=True) if patient is None]
    if pattern is not None and len(alone) == len(paths):
        first = f"No path matches --patient-pattern {pattern!r}, first path: {paths[0]}."
        raise ConfigError(first, hint="The pattern is searched in the path below the folder that is imported.")
    if alone:
        tally.note(
            f"{len(alone):,} films name no patient (first: {alone[0]}): EACH COUNTS AS A PATIENT OF ITS OWN, so films "
            "of one patient may be in train and in test; --patient-pattern says how names carry the patient"
        )
    pairs = zip(patients, image_ids, strict=True)
    found = [image.replace(":", "_") if patient is None else patient for patient, image in pairs]
    return found, [_study(*film) for film in zip(paths, found, image_ids, strict=True)]


def _by_pattern(paths: Sequence[str], pattern: str) -> list[str | None]:
    try:
        compiled = re.compile(pattern)
    except re.error as err:
        raise ConfigError(f"--patient-pattern {pattern!r} is no regular expression: {err}.", hint=_EXAMPLE) from err
    found = (compiled.search(path) for path in paths)
    # A colon would make it another dataset's patient.
    return [((m[1] if compiled.groups else m[0]) or "").replace(":", "_") or None if m else None for m in found]


_EXAMPLE = "Such as '(case[0-9]+)_', whose group is the patient."


def _by_custom(paths: Sequence[str], tally: Tally) -> list[str | None]:
    patients: list[str | None] = []
    counts: dict[str, int] = {}
    for whose, patient in map(_custom, paths):
        patients.append(patient)
        counts[whose] = counts.get(whose, 0) + 1
    for whose, num in counts.items():
        if whose:
            tally.note(f"{num:,} films are named as {whose} names them: taken for films of {whose}'s patients")
    return patients


def _custom(path: str) -> tuple[str, str | None]:
    """The public set that writes a path so, and the patient; "" and None where none does."""
    found = ((whose, name(m)) for whose, way, name in _KNOWN if (m := way.search(path)))
    return next(found, ("", None))


def note_disputed(groups: Sequence[Sequence[str]], pattern: str | None, tally: Tally) -> None:
    """Tell of files that are one film but carry the names of several patients: the first name is taken.

    Args:
        groups: of each film, its own path and those of its copies.
        pattern: as for ``read_patients``.
    """
    disputed = []
    for group in (group for group in groups if len(group) > 1):
        whose = _by_pattern(group, pattern) if pattern is not None else [_custom(path)[1] for path in group]
        if len({patient for patient in whose if patient is not None}) > 1:
            disputed.append(group)
    if disputed:
        first = f"{disputed[0][0]} and {disputed[0][1]}"
        tally.note(
            f"{len(disputed):,} films carry the names of several patients (first: {first}): the first name counts"
        )


def _study(path: str, patient: str, image_id: str) -> str:
    found = _STUDY.search(path)
    return f"{patient}_{found[1]}".rpartition(":")[2] if found else image_id

"""What the folders that a film lies in say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cxr_mtl.data.sources.own.films import SPLIT_WORDS, near_word, plain
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import Ontology
from cxr_mtl.types import ABSENT, PRESENT

_NORMAL = frozenset({"healthy", "normal", "no finding", "no findings", "nofinding", "control", "controls"})
_PRESENT = frozenset({"disease", "diseased", "positive", "present"})
_ABSENT = _NORMAL | {"negative", "absent", "no disease"}
_SHOWN = 10


@dataclass(frozen=True)
class Said:
    """What the folders above a film say.

    Attributes:
        split: train, val, test or None.
        marks: finding -> 1 present or 0 absent.
        normal: whether it lies in a folder of normal films.
        strange: the folder that means nothing, where none means anything.
    """

    split: str | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    normal: bool = False
    strange: str = ""


def read_folders_of(dirs: Sequence[str], ontology: Ontology) -> Said:
    """Read the folders from the top.

    Every folder with the name of a finding counts, so ``Pneumonia/Viral`` says both. Right below one, ``disease`` says
    that it is present and ``no_finding`` that it is absent: no such finding, not a normal film. Of a normal folder and
    a finding's elsewhere on the way, the deeper counts. What means nothing is passed over: ``images``, ``study1``.
    """
    split, normal, last = None, False, ""
    marks: dict[str, float] = {}
    strange = ""
    for name in dirs:
        word = plain(name)
        finding = ontology.understand(name) or ontology.understand(word)
        if last and word in _ABSENT:
            marks[last], last = ABSENT, ""
        elif last and word in _PRESENT:
            last = ""
        elif split is None and word in SPLIT_WORDS:
            split = SPLIT_WORDS[word]
        elif word in _NORMAL or (finding is not None and finding == ontology.normal):
            normal, marks, last = True, {}, ""
        elif finding is not None:
            normal, last = False, finding
            marks[finding] = PRESENT
        else:
            strange, last = strange or name, ""
    return Said(split, marks, normal, "" if marks or normal else strange)


def drop_strange(said: Mapping[str, Said], ontology: Ontology, tally: Tally) -> dict[str, Said]:
    """The films whose folders say something; the others are counted, folder by folder.

    Args:
        said: path -> what its folders say.

    Raises:
        DataError: no folder says anything.
    """
    kept = {path: one for path, one in said.items() if one.marks or one.normal}
    lost: dict[str, list[str]] = {}
    for path, one in said.items():
        if path not in kept:
            lost.setdefault(one.strange, []).append(path)
    if not kept:
        raise _no_class(lost, ontology)
    common = sorted((name for name in lost if name), key=lambda name: -len(lost[name]))
    for place, name in enumerate(common):
        near = near_word(name, ontology.names) if place < _SHOWN else None
        hint = f" (did you mean {near!r}?)" if near else ""
        called = f"folder {name}" if place < _SHOWN else "folder"
        tally.drop(f"{called} is no finding of ontology {ontology.name}{hint}", lost[name])
    tally.drop("film is in no folder with the name of a finding", lost.get("", ()))
    return kept


def _no_class(lost: Mapping[str, Sequence[str]], ontology: Ontology) -> DataError:
    names = sorted((name for name in lost if name), key=lambda name: -len(lost[name]))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    told = f": {', '.join(names[:_SHOWN])}{more}" if names else ""
    guess = next((near for name in names[:_SHOWN] if (near := near_word(name, ontology.names))), None)
    near = f"Did you mean {guess!r}?" if guess else ""
    findings = f"Findings: {', '.join(ontology.names)}, and healthy, normal or no_finding."
    what = f"No folder has the name of a finding of ontology {ontology.name}{told}."
    return DataError(what, hint=f"{near} {findings}".strip())

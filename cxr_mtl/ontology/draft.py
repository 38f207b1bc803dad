"""What is written of an ontology, checked: each part for its type, then the parts with each other.

Files and the dictionaries in bundles both pass here, so the two cannot differ in what they accept. They differ in
``where`` alone, which turns the key of a value into the place that an error names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology.source import QUOTE, Key, Where

_TOP = ("name", "version", "normal", "normal_allows", "findings")
_FINDING = ("name", "parents", "group", "names", "complete_in")


@dataclass(frozen=True)
class Finding:
    """A label, or a group of labels.

    Attributes:
        name: as it stands in manifests, bundles and answers.
        parents: what the finding implies, each by name.
        group: no dataset need label it; it follows from what lies below it.
        names: dataset to that dataset's own names for it, the preferred one first.
        complete_in: the datasets whose labels cover the group, so that none of them present means the group is absent.
    """

    name: str
    parents: tuple[str, ...] = ()
    group: bool = False
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    complete_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """The parts of an ontology, as ``Ontology`` takes them."""

    name: str
    version: str
    findings: tuple[Finding, ...]
    normal: str | None
    normal_allows: tuple[str, ...]


def read_draft(plain: object, where: Where) -> Draft:
    """A checked draft; its findings sorted so that parents come before children, and otherwise as written.

    Raises:
        ConfigError: the first mistake found, and where it stands.
    """
    draft = _Reader(where).draft(plain)
    check = _Checker(draft, where)
    check.names()
    check.parents()
    check.synonyms()
    findings = check.order()
    check.groups()
    check.normal()
    return replace(draft, findings=findings)


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """A hint that names the nearest of ``among``, or nothing when none is near."""
    folded = {known.casefold(): known for known in among}
    near = difflib.get_close_matches(word.casefold(), folded, n=1)
    return f"Did you mean {folded[near[0]]!r}?" if near else ""


class _Placed:
    def __init__(self, where: Where) -> None:
        self.where = where

    def fail(self, key: Key, what: str, hint: str = "") -> NoReturn:
        raise ConfigError(f"{self.where(key)}: {what}", hint=hint)


class _Reader(_Placed):
    """Each part for its type."""

    def draft(self, plain: object) -> Draft:
        top = self.mapping(plain, (), _TOP, required=("name", "version", "findings"))
        findings = self.sequence(top["findings"], ("findings",))
        if not findings:
            self.fail(("findings",), "there are no findings.", "An ontology has at least one.")
        return Draft(
            name=self.text(top["name"], ("name",)),
            version=self.text(top["version"], ("version",)),
            findings=tuple(self.finding(item, ("findings", i)) for i, item in enumerate(findings)),
            normal=None if top.get("normal") is None else self.text(top["normal"], ("normal",)),
            normal_allows=self.texts(top.get("normal_allows", []), ("normal_allows",)),
        )

    def finding(self, plain: object, key: Key) -> Finding:
        entry = self.mapping(plain, key, _FINDING, required=("name",))
        group = entry.get("group", False)
        if not isinstance(group, bool):
            self.fail((*key, "group"), f"'group' must be true or false, not {_kind(group)}.")
        names = self.mapping(entry.get("names", {}), (*key, "names"))
        return Finding(
            name=self.text(entry["name"], (*key, "name")),
            parents=self.texts(entry.get("parents", []), (*key, "parents")),
            group=group,
            names={
                self.text(dataset, (*key, "names", dataset)): self.own_names(own, (*key, "names", dataset))
                for dataset, own in names.items()
            },
            complete_in=self.texts(entry.get("complete_in", []), (*key, "complete_in")),
        )

    def own_names(self, plain: object, key: Key) -> tuple[str, ...]:
        if isinstance(plain, str):
            return (self.text(plain, key),)
        found = self.texts(plain, key)
        if not found:
            self.fail(
                key, f"{_last(key)} has no name for it.", "Leave the dataset out: it does not label this finding."
            )
        return found

    def mapping(
        self, plain: object, key: Key, known: Sequence[str] = (), required: Sequence[str] = ()
    ) -> Mapping[str, object]:
        if not isinstance(plain, Mapping):
            self.fail(key, f"{_last(key)} must be a mapping, not {_kind(plain)}.")
        for name in plain:
            if not isinstance(name, str):
                self.fail(key, f"{_last(key)} has the key {name!r}, which is not text.", QUOTE)
            if known and name not in known:
                hint = did_you_mean(name, known) or f"Known here: {', '.join(known)}."
                self.fail((*key, name), f"unknown key {name!r}.", hint)
        for name in required:
            if name not in plain:
                self.fail(key, f"{_last(key)} has no {name!r}.")
        return plain

    def sequence(self, plain: object, key: Key) -> Sequence[object]:
        if not isinstance(plain, (list, tuple)):
            hint = f"Write [{plain}]." if isinstance(plain, str) else ""
            self.fail(key, f"{_last(key)} must be a list, not {_kind(plain)}.", hint)
        return plain

    def texts(self, plain: object, key: Key) -> tuple[str, ...]:
        found = tuple(self.text(item, (*key, i)) for i, item in enumerate(self.sequence(plain, key)))
        for i, item in enumerate(found):
            if item in found[:i]:
                self.fail((*key, i), f"{item!r} stands twice in {_last(key)}.", "Keep one.")
        return found

    def text(self, plain: object, key: Key) -> str:
        if not isinstance(plain, str):
            self.fail(key, f"{_last(key)} must be text, not {_kind(plain)}.", QUOTE if isinstance(plain, bool) else "")
        if not plain or plain != plain.strip() or not plain.isprintable():
            self.fail(key, f"{_last(key)} is {plain!r}.", "Write one line of text with no space at either end.")
        return plain


class _Checker(_Placed):
    """The parts with each other; the order of the calls matters, each relies on those before it."""

    def __init__(self, draft: Draft, where: Where) -> None:
        super().__init__(where)
        self.draft = draft
        self.by_name = {finding.name: finding for finding in draft.findings}
        self.above: dict[str, set[str]] = {}

    def names(self) -> None:
        seen: dict[str, Key] = {}
        for i, finding in enumerate(self.draft.findings):
            key = ("findings", i, "name")
            first = seen.setdefault(finding.name.casefold(), key)
            if first != key:
                self.fail(key, f"the finding {finding.name!r} stands twice, first at {self.where(first)}.", "Keep one.")

    def parents(self) -> None:
        for i, finding in enumerate(self.draft.findings):
            for j, parent in enumerate(finding.parents):
                if parent not in self.by_name:
                    hint = did_you_mean(parent, self.by_name) or "Add it to the findings, or leave it out."
                    self.fail(
                        ("findings", i, "parents", j), f"{finding.name!r} has the unknown parent {parent!r}.", hint
                    )

    def synonyms(self) -> None:
        seen: dict[tuple[str, str], tuple[str, Key]] = {}
        for i, finding in enumerate(self.draft.findings):
            for dataset, own in finding.names.items():
                for j, word in enumerate(own):
                    key = ("findings", i, "names", dataset, j)
                    owner, first = seen.setdefault((dataset, word.casefold()), (finding.name, key))
                    if first != key:
                        what = f"{word!r} of {dataset} already means {owner!r}, at {self.where(first)}."
                        self.fail(key, what, "A word has one meaning in a dataset.")

    def order(self) -> tuple[Finding, ...]:
        ordered: dict[str, Finding] = {}
        waiting = list(self.draft.findings)
        while waiting:
            ready = next((f for f in waiting if all(parent in ordered for parent in f.parents)), None)
            if ready is None:
                self.fail_cycle(waiting)
            waiting.remove(ready)
            ordered[ready.name] = ready
            self.above[ready.name] = set(ready.parents).union(*(self.above[parent] for parent in ready.parents))
        return tuple(ordered.values())

    def fail_cycle(self, waiting: Sequence[Finding]) -> NoReturn:
        left = {finding.name for finding in waiting}
        walk = [waiting[0].name]
        # Every finding that is left has a parent that is left, so the walk up comes round.
        while walk[-1] not in walk[:-1]:
            walk.append(next(parent for parent in self.by_name[walk[-1]].parents if parent in left))
        loop = walk[walk.index(walk[-1]) + 1 :]
        number, first = next((i, f.name) for i, f in enumerate(self.draft.findings) if f.name in loop)
        turn = loop.index(first)
        told = " > ".join(map(repr, [*loop[turn:], *loop[:turn], first]))
        self.fail(("findings", number, "parents"), f"cycle: {told}.", "A finding cannot imply itself: remove a parent.")

    def groups(self) -> None:
        for i, finding in enumerate(self.draft.findings):
            below = [other for other in self.draft.findings if finding.name in self.above[other.name]]
            if finding.group and not below:
                hint = "Name it as a parent of something, or remove 'group'."
                self.fail(("findings", i), f"the group {finding.name!r} has nothing below it.", hint)
            if finding.complete_in and not finding.group:
                hint = "Add 'group: true', or remove it."
                self.fail(("findings", i, "complete_in"), f"'complete_in', but {finding.name!r} is no group.", hint)
            for j, dataset in enumerate(finding.complete_in):
                for other in below:
                    if not other.group and not self.covers(dataset, other, within=below):
                        what = f"{dataset} has no name for {other.name!r}, which is below {finding.name!r}."
                        hint = f"{finding.name!r} cannot be complete there: what a dataset does not label is unknown."
                        self.fail(("findings", i, "complete_in", j), what, hint)

    def covers(self, dataset: str, finding: Finding, within: Sequence[Finding]) -> bool:
        """Whether the dataset has a name for the finding or for something within the group that the finding implies."""
        implied = {finding.name, *self.above[finding.name]}
        return any(dataset in other.names for other in within if other.name in implied)

    def normal(self) -> None:
        normal, allows = self.draft.normal, self.draft.normal_allows
        if normal is None:
            if allows:
                self.fail(
                    ("normal_allows",), "'normal_allows' without 'normal'.", "Say which finding is the normal one."
                )
            return
        self.known(normal, ("normal",))
        for i, finding in enumerate(self.draft.findings):
            if (finding.name == normal and (finding.parents or finding.group)) or normal in finding.parents:
                hint = "The normal film stands alone: it is no group, has no parent and is no parent."
                self.fail(("findings", i), f"{finding.name!r} ties {normal!r} to other findings.", hint)
        for i, name in enumerate(allows):
            key = ("normal_allows", i)
            self.known(name, key)
            wrong = {name, *self.above[name]} - set(allows)
            if name == normal or wrong:
                what = f"{name!r} implies {', '.join(map(repr, sorted(wrong)))}." if wrong else f"{name!r} is itself."
                self.fail(key, f"a normal film cannot allow this: {what}", "Allow these too, or remove it.")

    def known(self, name: str, key: Key) -> None:
        if name not in self.by_name:
            hint = did_you_mean(name, self.by_name) or "Add it to the findings."
            self.fail(key, f"{name!r} is not a finding.", hint)


def _last(key: Key) -> str:
    """The value that a key leads to, in words."""
    if not key:
        return "the ontology"
    return repr(key[-1]) if isinstance(key[-1], str) else f"item {key[-1] + 1} of {key[-2]!r}"


def _kind(plain: object) -> str:
    words = {str: "text", bool: "true or false", type(None): "nothing", list: "a list", dict: "a mapping"}
    return words.get(type(plain), type(plain).__name__)

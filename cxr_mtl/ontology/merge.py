"""Two ontologies made one, so that datasets imported on either can train one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology.tree import Finding, Ontology


def merge_ontologies(ontologies: Sequence[Ontology]) -> tuple[Ontology, tuple[dict[str, str], ...]]:
    """Findings of the same name become one, with the parents and the words of all.

    A normal film is a normal film: each further ontology's normal finding becomes the first one's. A finding that is a
    group in one and labelled in another stays a group; it is called complete only where every ontology that has it lets
    it be, for the merged group may have more below it than either.

    Returns:
        the merged ontology; for each given one, its findings whose name changed: old name -> new.

    Raises:
        ConfigError: they contradict one another, such as two that turn a parent and its child round.
    """
    first = ontologies[0]
    if all(tree == first for tree in ontologies):
        return first, tuple({} for _ in ontologies)
    normal = next((tree.normal for tree in ontologies if tree.normal), None)
    renamed = tuple(
        {tree.normal: normal} if normal and tree.normal and normal != tree.normal else {} for tree in ontologies
    )
    merged: dict[str, Finding] = {}
    for tree, new in zip(ontologies, renamed, strict=True):
        for finding in tree.findings:
            named = replace(finding, name=new.get(finding.name, finding.name))
            merged[named.name] = _joined(merged[named.name], named) if named.name in merged else named
    plain = {
        "name": "+".join(dict.fromkeys(tree.name for tree in ontologies)),
        "version": "+".join(dict.fromkeys(tree.version for tree in ontologies)),
        "normal": normal,
        "normal_allows": list(dict.fromkeys(name for tree in ontologies for name in tree.normal_allows)),
        "findings": [_plain(finding) for finding in _settled(merged)],
    }
    try:
        return Ontology.from_dict(plain), renamed
    except ConfigError as error:
        names = " and ".join(tree.name for tree in ontologies)
        raise ConfigError(
            f"Ontologies {names} cannot be merged: {error.message}",
            hint="Import all datasets with one --ontology, such as thorax.",
        ) from error


def _joined(one: Finding, other: Finding) -> Finding:
    names = dict(one.names)
    for dataset, words in other.names.items():
        names[dataset] = tuple(dict.fromkeys([*names.get(dataset, ()), *words]))
    parents = tuple(dict.fromkeys([*one.parents, *other.parents]))
    complete = tuple(dict.fromkeys([*one.complete_in, *other.complete_in]))
    return replace(one, parents=parents, group=one.group or other.group, names=names, complete_in=complete)


def _settled(findings: dict[str, Finding]) -> list[Finding]:
    """What only the whole shows: which datasets have a word for all below a group, and which words mean two things.

    A word that means a finding here and one that implies it there means the latter: it says more.
    """
    above = {name: _ancestors(name, findings, ()) for name in findings}
    owners: dict[tuple[str, str], list[str]] = {}
    for finding in findings.values():
        for dataset, words in finding.names.items():
            for word in words:
                owners.setdefault((dataset, word.casefold()), []).append(finding.name)
    settled = []
    for finding in findings.values():
        names = {
            dataset: tuple(
                word
                for word in words
                if not any(finding.name in above[other] for other in owners[dataset, word.casefold()])
            )
            for dataset, words in finding.names.items()
        }
        below = [other for other in findings.values() if finding.name in above[other.name]]
        complete = [dataset for dataset in finding.complete_in if _covers(dataset, below, above)]
        names = {dataset: words for dataset, words in names.items() if words}
        settled.append(replace(finding, names=names, complete_in=tuple(complete)))
    return settled


def _covers(dataset: str, below: Sequence[Finding], above: dict[str, frozenset[str]]) -> bool:
    spoken = {other.name for other in below if dataset in other.names}
    return all(other.group or spoken & {other.name, *above[other.name]} for other in below)


def _ancestors(name: str, findings: dict[str, Finding], path: tuple[str, ...]) -> frozenset[str]:
    if name in path or name not in findings:
        return frozenset()  # a cycle, or a parent that is not there: reading the merged ontology says so
    parents = findings[name].parents
    return frozenset(parents).union(*(_ancestors(parent, findings, (*path, name)) for parent in parents))


def _plain(finding: Finding) -> dict[str, object]:
    return {
        "name": finding.name,
        "parents": list(finding.parents),
        "group": finding.group,
        "names": {dataset: list(words) for dataset, words in finding.names.items()},
        "complete_in": list(finding.complete_in),
    }

"""What follows from what a dataset states of one film; the rules are told at ``Ontology.complete``."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from cxr_mtl.ontology.draft import Finding
from cxr_mtl.types import ABSENT, PRESENT


class Completion:
    """The rules of one ontology, with what they look up again and again."""

    def __init__(
        self,
        findings: Sequence[Finding],
        normal: str | None,
        normal_allows: Collection[str],
        ancestors: Mapping[str, frozenset[str]],
    ) -> None:
        self.findings = findings
        self.normal = normal
        self.normal_allows = normal_allows
        self.ancestors = ancestors

    def of(self, labels: Mapping[str, float], dataset: str) -> dict[str, float]:
        """All that is stated and all that follows from it, by finding; see ``Ontology.complete``."""
        known = {name: float(value) for name, value in labels.items() if not math.isnan(value)}
        self._normal(known, dataset)
        for group, below, labelled in self._groups.get(dataset, self._groups[""]):
            if group in known:
                continue
            if any(known.get(name) == PRESENT for name in below):
                known[group] = PRESENT
            elif labelled and all(known.get(name) == ABSENT for name in labelled):
                known[group] = ABSENT
        return known

    def _normal(self, known: dict[str, float], dataset: str) -> None:
        if self.normal is None:
            return
        if self.normal not in known:
            if any(value == PRESENT and name not in self._allowed for name, value in known.items()):
                known[self.normal] = ABSENT
        elif known[self.normal] == PRESENT:
            possible = (name for name, value in known.items() if value != ABSENT)
            implied = {above for name in possible for above in self.ancestors[name]}
            for name in self._labelled_by(dataset):
                if name not in known and name not in self._allowed and name not in implied:
                    known[name] = ABSENT

    def _labelled_by(self, dataset: str) -> list[str]:
        return [finding.name for finding in self.findings if dataset in finding.names]

    @cached_property
    def _allowed(self) -> frozenset[str]:
        """What ``normal_allows`` names, and what implies nothing else."""
        allowed = set(self.normal_allows)
        for finding in self.findings:
            if finding.parents and allowed.issuperset(finding.parents):
                allowed.add(finding.name)
        return frozenset(allowed)

    @cached_property
    def _groups(self) -> dict[str, tuple[tuple[str, frozenset[str], tuple[str, ...]], ...]]:
        """By dataset, children first: a group, all below it, and what must be absent for it to be; "" for any other."""
        rules: dict[str, list[tuple[str, frozenset[str], tuple[str, ...]]]] = {}
        for dataset in ("", *(dataset for finding in self.findings for dataset in finding.complete_in)):
            rules[dataset] = []
            for group in (finding for finding in reversed(self.findings) if finding.group):
                below = frozenset(name for name, above in self.ancestors.items() if group.name in above)
                labelled = [name for name in self._labelled_by(dataset) if name in below]
                rules[dataset].append((group.name, below, tuple(labelled if dataset in group.complete_in else ())))
        return {dataset: tuple(of_groups) for dataset, of_groups in rules.items()}

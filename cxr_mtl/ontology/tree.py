"""Findings, what each implies, and every dataset's own names for them.

A finding's parents are what it implies: an effusion is a pleural finding. They form a DAG, so a finding may have two.
Three rules keep "nobody looked" apart from "not there":

* a dataset speaks only of the findings that it has a name for; every other finding is unknown on its films;
* a group is called absent only in the datasets of its ``complete_in``, which have a name for all that lies below it;
* what is stated stays, but for one thing: what a present finding implies is present, whatever was stated of it.

N images, C findings in the ontology's order. Labels: 1 present, 0 absent, -1 uncertain, nan unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology.complete import Completion
from cxr_mtl.ontology.draft import Finding, did_you_mean, read_draft
from cxr_mtl.ontology.source import Where, read_yaml
from cxr_mtl.paths import configs_dir
from cxr_mtl.types import ABSENT, PRESENT

__all__ = ["Finding", "Ontology", "list_ontologies", "load_ontology"]

Float = TypeVar("Float", np.float32, np.float64)


@dataclass(frozen=True)
class Ontology:
    """A set of findings; make one with ``load_ontology`` or ``from_dict``, which check it.

    Attributes:
        name: as it stands in bundles and answers.
        version: of the file, so that two bundles can be told apart.
        findings: parents before children; the order of columns everywhere.
        normal: the finding that says that a film shows nothing, if there is one.
        normal_allows: findings that a normal film may show all the same.
    """

    name: str
    version: str
    findings: tuple[Finding, ...]
    normal: str | None = None
    normal_allows: tuple[str, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All findings by name, C of them."""
        return tuple(finding.name for finding in self.findings)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The findings that no dataset need label."""
        return tuple(finding.name for finding in self.findings if finding.group)

    @cached_property
    def parents(self) -> tuple[tuple[int, ...], ...]:
        """For each finding, the columns of its parents; each is smaller than the finding's own."""
        return tuple(tuple(self._columns[parent] for parent in finding.parents) for finding in self.findings)

    def parents_among(self, known: Collection[str]) -> tuple[tuple[int, ...], ...]:
        """As ``parents``, with each finding that is not in ``known`` replaced by its own parents, and so on upwards.

        What nobody labelled cannot condition what somebody did.
        """
        nearest: list[frozenset[int]] = []
        for parents in self.parents:
            stand_ins = [frozenset({p}) if self.findings[p].name in known else nearest[p] for p in parents]
            nearest.append(frozenset().union(*stand_ins))
        return tuple(tuple(sorted(columns)) for columns in nearest)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every (child, parent), by column; children in order."""
        return tuple((child, parent) for child, parents in enumerate(self.parents) for parent in parents)

    @cached_property
    def depth(self) -> tuple[int, ...]:
        """For each finding, the longest way up to a root; 0 for a root."""
        depth: list[int] = []
        for parents in self.parents:
            depth.append(1 + max((depth[parent] for parent in parents), default=-1))
        return tuple(depth)

    def index(self, name: str) -> int:
        """The column of a finding.

        Raises:
            ConfigError: there is no such finding.
        """
        if name not in self._columns:
            hint = did_you_mean(name, self.names) or f"Findings: {', '.join(self.names)}."
            raise ConfigError(f"{name!r} is no finding of the ontology {self.name!r}.", hint=hint)
        return self._columns[name]

    def __getitem__(self, name: str) -> Finding:
        return self.findings[self.index(name)]

    def ancestors(self, name: str) -> frozenset[str]:
        """Everything that a finding implies, itself left out."""
        return self._ancestors[self.index(name)]

    def descendants(self, name: str) -> frozenset[str]:
        """Everything that implies a finding, itself left out."""
        return self._descendants[self.index(name)]

    def find(self, dataset: str, raw: str) -> str | None:
        """The finding that a dataset means by a word: the whole word, in any case, spaces at its ends aside."""
        return self._meanings.get((dataset, raw.strip().casefold()))

    def understand(self, raw: str) -> str | None:
        """The finding that a word of no dataset in particular means: its own name, or what every dataset means by it.

        Any case; an underscore is a space. None where no dataset has the word, or where they differ.
        """
        word = " ".join(raw.replace("_", " ").split()).casefold()
        return self._common_words.get(word)

    def labelled_by(self, dataset: str) -> tuple[str, ...]:
        """The findings that a dataset has a name for, in order; of all others it says nothing."""
        return tuple(finding.name for finding in self.findings if dataset in finding.names)

    def complete(self, labels: Mapping[str, float], dataset: str) -> dict[str, float]:
        """What follows from what a dataset states of one film. Nothing stated is changed; what is unknown stays out.

        1. A present finding that a normal film cannot show makes an unstated ``normal`` absent.
        2. A present ``normal`` makes absent what the dataset has a name for, but for what ``normal_allows`` (and what
           implies nothing else) and for what a present or uncertain finding implies. Other findings stay unknown: NIH's
           "No Finding" says nothing of fractures, which NIH does not label.
        3. An unstated group is present when anything below it is, and absent when the dataset is in its
           ``complete_in`` and all that the dataset labels below it is absent.

        A stated 0 above a stated 1 stays here; ``propagate`` settles it.

        Raises:
            ConfigError: a label is no finding of this ontology.
        """
        for name in labels:
            self.index(name)
        return self._completion.of(labels, dataset)

    def propagate(self, labels: NDArray[Float]) -> NDArray[Float]:
        """Labels that agree with the DAG, for training: presence goes up, then absence goes down.

        Every ancestor of a present finding becomes present, even where it was stated absent or uncertain: a label is
        missed more easily than invented, and reports name the particular and leave out the general. Then every unknown
        finding with an absent ancestor becomes absent. A present finding is never changed; an uncertain one only when
        something below it is present; an unknown one stays unknown unless one of the two rules reaches it.

        Args:
            labels: (N, C) 1, 0, -1 or nan; other values, such as smoothed labels, are left alone and say nothing.

        Returns:
            (N, C) a new array; propagating it again changes nothing.
        """
        if labels.ndim != 2 or labels.shape[1] != len(self.findings):
            raise ValueError(f"labels are {labels.shape}, expected (N, {len(self.findings)})")
        # One contiguous row a finding: an edge is then one pass over N bytes instead of N strided ones.
        present = np.ascontiguousarray((labels == PRESENT).T)
        for child, parent in reversed(self.edges):
            present[parent] |= present[child]
        absent = np.ascontiguousarray((labels == ABSENT).T) & ~present
        for child, parent in self.edges:
            absent[child] |= absent[parent]
        out = labels.copy()
        np.copyto(out, ABSENT, where=absent.T & np.isnan(labels))
        np.copyto(out, PRESENT, where=present.T)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the shape of the YAML files."""
        return {
            "name": self.name,
            "version": self.version,
            "normal": self.normal,
            "normal_allows": list(self.normal_allows),
            "findings": [
                {
                    "name": finding.name,
                    "parents": list(finding.parents),
                    "group": finding.group,
                    "names": {dataset: list(names) for dataset, names in finding.names.items()},
                    "complete_in": list(finding.complete_in),
                }
                for finding in self.findings
            ],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Ontology:
        """The inverse of ``to_dict``.

        Raises:
            ConfigError: the same mistakes as in a file; the message says which value instead of which line.
        """
        return cls._make(plain, lambda key: ".".join(["ontology", *map(str, key)]))

    @classmethod
    def _make(cls, plain: object, where: Where) -> Ontology:
        draft = read_draft(plain, where)
        return cls(draft.name, draft.version, draft.findings, draft.normal, draft.normal_allows)

    @cached_property
    def _completion(self) -> Completion:
        above = dict(zip(self.names, self._ancestors, strict=True))
        return Completion(self.findings, self.normal, self.normal_allows, above)

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {finding.name: column for column, finding in enumerate(self.findings)}

    @cached_property
    def _ancestors(self) -> tuple[frozenset[str], ...]:
        found: list[frozenset[str]] = []
        for finding, parents in zip(self.findings, self.parents, strict=True):
            found.append(frozenset(finding.parents).union(*(found[parent] for parent in parents)))
        return tuple(found)

    @cached_property
    def _descendants(self) -> tuple[frozenset[str], ...]:
        pairs = list(zip(self.names, self._ancestors, strict=True))
        return tuple(frozenset(below for below, above in pairs if name in above) for name in self.names)

    @cached_property
    def _meanings(self) -> dict[tuple[str, str], str]:
        return {
            (dataset, raw.casefold()): finding.name
            for finding in self.findings
            for dataset, names in finding.names.items()
            for raw in names
        }

    @cached_property
    def _common_words(self) -> dict[str, str]:
        words: dict[str, set[str]] = {}
        for (_, raw), finding in self._meanings.items():
            words.setdefault(" ".join(raw.replace("_", " ").split()), set()).add(finding)
        common = {word: next(iter(found)) for word, found in words.items() if len(found) == 1}
        return common | {name.casefold(): name for name in self.names}


def list_ontologies() -> list[str]:
    """The names that ``load_ontology`` knows."""
    return sorted(path.stem for path in (configs_dir() / "ontologies").glob("*.yaml"))


def load_ontology(name_or_path: str | Path) -> Ontology:
    """Read and check an ontology.

    Args:
        name_or_path: one of ``list_ontologies()``, or the path of a YAML file.

    Raises:
        ConfigError: there is no such ontology, or its file is wrong; the message starts with ``path:line``.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and path.suffix == "" and len(path.parts) <= 1:
        known = list_ontologies()
        if name_or_path not in known:
            hint = did_you_mean(name_or_path, known) or f"Known: {', '.join(known)}; or give the path of a YAML file."
            raise ConfigError(f"there is no ontology {name_or_path!r}.", hint=hint)
        path = configs_dir() / "ontologies" / f"{name_or_path}.yaml"
    return Ontology._make(*read_yaml(path))

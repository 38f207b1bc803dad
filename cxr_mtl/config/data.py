"""The part of a run file that says which films a run learns from, and from which of their findings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from cxr_mtl.config.section import Range, Section


class CurationRule(Section):
    """One rule, by its one setting. A rule takes films away; it changes no label.

    A film *shows* a finding where the finding's label is present. Groups are not counted: they follow from what is
    below them. Of a finding and what it implies only the finding counts.
    """

    views: Annotated[tuple[Literal["PA", "AP", "LATERAL", "UNKNOWN"], ...], Field(min_length=1)] | None = None
    """Only films of these views."""
    min_age: Annotated[float, Field(gt=0, lt=120)] | None = None
    """Only films of patients of at least this age, years. A film of unknown age is left out."""
    unlisted: Literal["drop"] | None = None
    """Leave out films with a label that the ontology, or ``data.findings``, does not list."""
    min_shown: Annotated[int, Field(ge=1)] | None = None
    """Only films that show at least so many of the findings listed; the normal one counts."""
    max_shown: Annotated[int, Field(ge=1)] | None = None
    """Only films that show at most so many; with ``min_shown: 1`` a film then has one class, as a softmax needs."""
    normal_patients: Literal["healthy"] | None = None
    """Normal films only of patients of whom no film, up to this rule, shows or may show anything else."""
    max_normal: Annotated[int, Field(ge=1)] | None = None
    """At most so many normal films, drawn with the curation's seed."""

    @property
    def setting(self) -> tuple[str, Any]:
        """Its name and value."""
        return next((name, value) for name, value in self if value is not None)

    @model_validator(mode="after")
    def _one_setting(self) -> CurationRule:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"a rule is one setting, such as 'min_age: 16' (got {', '.join(given) or 'none'})")
        return self

    @model_serializer(mode="wrap")
    def _set_only(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if value is not None}


class CurateConfig(Section):
    source: str
    """Dataset, as in `cxr-mtl data import SOURCE`."""
    ontology: str = "thorax"
    """Name or YAML file of the tree of findings."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The source's own options, such as ``readers`` of VinDr."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the films that a rule draws and of the patients who are dealt into splits; not the run's, lest another
    run of the same file learn from other films."""
    rules: tuple[CurationRule, ...] = ()
    """Applied in this order: to draw 10,000 films and then leave out children is not the same as the other way."""


Uncertain = Literal["ignore", "ones", "zeros", "smooth_ones", "smooth_zeros"]
Blank = Literal["unknown", "absent"]


class LabelsConfig(Section):
    uncertain: Uncertain | dict[str, Uncertain] = "ignore"
    """What to learn from a label that is uncertain (-1): nothing, presence, absence, or a random target near either.
    One word for all findings, or finding: word with a `default`. Learning nothing invents nothing, so it stands here;
    CheXpert's own study found ones better for Edema and Atelectasis (Irvin et al., 2019)."""
    blank: Blank | dict[str, Blank] = "unknown"
    """What a finding is that a dataset has a word for and did not mention (CheXpert, MIMIC, own tables). Most papers
    take it for absent; unknown is what it is, and the films that do state absence teach it."""
    smooth_ones: Range = (0.55, 0.85)
    smooth_zeros: Range = (0.0, 0.3)
    """Ranges that smoothed targets are drawn from (Pham et al., 2019)."""

    @field_validator("uncertain", "blank")
    @classmethod
    def _has_default(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(value, dict) and "default" not in value:
            raise ValueError("needs a 'default' beside the findings it names")
        return value

    @field_validator("smooth_ones", "smooth_zeros")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"must be low, high (got {value[0]:g}, {value[1]:g})")
        return value


class DataConfig(Section):
    manifest: Path
    """Parquet file written by `cxr-mtl data import` or `data curate`; relative paths start at the working directory."""
    curate: CurateConfig | None = None
    """How `cxr-mtl data curate` makes the manifest; training does not read it."""
    findings: tuple[str, ...] = ()
    """Train only these, by the ontology's names; empty trains all that have films enough."""
    pack: Path | None = None
    """Folder of decoded films; None makes one beside the manifest."""
    labels: LabelsConfig = LabelsConfig()
    min_positives: Annotated[int, Field(ge=1)] = 5
    """A finding with fewer present (or absent) films in the training split is not trained and answers `not_trained`."""

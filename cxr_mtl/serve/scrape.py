"""What a server's metrics port says, as numbers. Read is the text that TorchServe writes, not all of Prometheus'."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx

from cxr_mtl.errors import ServeError

_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: -?\d+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: a value, what it is called, and its labels."""

    name: str
    labels: Mapping[str, str]
    value: float

    def has(self, labels: Mapping[str, str]) -> bool:
        return labels.items() <= self.labels.items()


@dataclass(frozen=True, slots=True)
class Quantile:
    """An estimate of what a share of the values stays below, and the bounds between which the truth lies.

    Attributes:
        value: at an even spread of the values over their bucket; inf beyond the last bound.
        low: bound below.
        high: bound above; inf beyond the last one.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values up to each bound.

    Attributes:
        bounds: rising, the last is inf.
        counts: of values up to and with each bound, so rising too.
        total: the sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total: float

    @property
    def count(self) -> float:
        return self.counts[-1] if self.counts else 0.0

    def quantile(self, share: float) -> Quantile | None:
        """As Prometheus' ``histogram_quantile``, but that what lies beyond the last bound stays unknown.

        Args:
            share: above 0 and at most 1.

        Returns:
            None where nothing was counted.
        """
        if not self.count:
            return None
        rank = share * self.count
        place = next(i for i, count in enumerate(self.counts) if count >= rank)
        low, before = (self.bounds[place - 1], self.counts[place - 1]) if place else (0.0, 0.0)
        high = self.bounds[place]
        if math.isinf(high):
            return Quantile(math.inf, low, math.inf)
        return Quantile(low + (high - low) * (rank - before) / (self.counts[place] - before), low, high)


class Metrics:
    """A scrape of the metrics port."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)

    def total(self, name: str, **labels: str) -> float:
        """The sum of all values of this name that have these labels; 0 where there are none."""
        return sum(sample.value for sample in self._of(name, labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Those values, by another of their labels, the largest first."""
        found: dict[str, float] = {}
        for sample in self._of(name, labels):
            found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def histogram(self, name: str, **labels: str) -> Histogram:
        """All histograms of this name that have these labels, added up."""
        counts = {float(bound): count for bound, count in self.by(f"{name}_bucket", "le", **labels).items()}
        bounds = tuple(sorted(counts))
        return Histogram(bounds, tuple(counts[bound] for bound in bounds), self.total(f"{name}_sum", **labels))

    def _of(self, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
        return (sample for sample in self.samples if sample.name == name and sample.has(labels))


def scrape(url: str) -> Metrics:
    """Asks the metrics port.

    Raises:
        ServeError: it does not answer.
    """
    try:
        answer = httpx.get(url, timeout=5.0, trust_env=False)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise ServeError(f"The metrics port {url} did not answer ({type(error).__name__}).") from None
    return read_metrics(answer.text)


def read_metrics(text: str) -> Metrics:
    """Reads Prometheus' text; comments and lines of another form are left out."""
    found = (_SAMPLE.fullmatch(line.strip()) for line in text.splitlines() if not line.startswith("#"))
    read = []
    for match in filter(None, found):
        with suppress(ValueError):
            read.append(Sample(match["name"], dict(_LABEL.findall(match["labels"] or "")), float(match["value"])))
    return Metrics(read)

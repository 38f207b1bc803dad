"""What a server counts, for its operators. Names and labels are Prometheus'; nothing tells of one film or caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cxr_mtl.predict.envelopes import Served
from cxr_mtl.predict.request import Response
from cxr_mtl.predict.watch import Stopwatch


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric.

    Attributes:
        name: of Prometheus.
        kind: ``counter`` or ``histogram``.
        unit: of its values, in the metric's help text.
        own_labels: beyond those that all have.
    """

    name: str
    kind: str
    unit: str
    own_labels: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return ("model_name", "model_version", *self.own_labels)


# TorchServe gives every histogram the same buckets, 0.005 to 10: right for seconds, useless for milliseconds.
REQUESTS = Meter("cxr_requests_total", "counter", "count", ("status",))
FILMS = Meter("cxr_films_total", "counter", "count", ("code",))
CALLED = Meter("cxr_findings_called_total", "counter", "count", ("finding",))
ANSWER = Meter("cxr_answer_seconds", "histogram", "seconds")
PREPROCESS = Meter("cxr_preprocess_seconds", "histogram", "seconds")
MODEL = Meter("cxr_model_seconds", "histogram", "seconds")
AGAIN = Meter("cxr_second_looks_total", "counter", "count")
FILL = Meter("cxr_batch_fill_ratio", "histogram", "ratio")
METERS = (REQUESTS, FILMS, CALLED, ANSWER, PREPROCESS, MODEL, AGAIN, FILL)


@dataclass(frozen=True, slots=True)
class Reading:
    """A step of a counter, or one value for a histogram; ``labels`` has the values of all its meter's labels."""

    meter: Meter
    value: float
    labels: tuple[str, ...]


def readings(responses: Sequence[Response], watch: Stopwatch, batch_size: int, served: Served) -> list[Reading]:
    """What a batch adds.

    Args:
        responses: its answers.
        watch: that was told of its steps.
        batch_size: requests that it could have had.
        served: what the model is called here.
    """
    return [
        Reading(meter, round(value, 6), tuple(_label(text) for text in (served.name, served.version, *labels)))
        for meter, value, labels in _all(responses, watch, batch_size)
    ]


def _all(
    responses: Sequence[Response], watch: Stopwatch, batch_size: int
) -> Iterator[tuple[Meter, float, tuple[str, ...]]]:
    counted = (
        (REQUESTS, [str(response.status) for response in responses]),
        (FILMS, [code for response in responses for code in response.codes]),
        (CALLED, [name for response in responses for name in response.called]),
    )
    for meter, labels in counted:
        for label, count in Counter(labels).items():
            yield meter, count, (label,)
    for seconds in watch.answer:
        yield from ((ANSWER, seconds, ()) for _ in responses)
    for meter, laps in ((PREPROCESS, watch.preprocess), (MODEL, watch.model)):
        for seconds in laps:
            yield meter, seconds, ()
    if watch.again:
        yield AGAIN, sum(watch.again), ()
    yield FILL, len(responses) / batch_size, ()


def _label(text: str) -> str:
    """TorchServe passes metrics on as lines of text, in which these signs part one thing from the next."""
    return "".join("_" if letter in ",:|#" or not letter.isprintable() else letter for letter in text)

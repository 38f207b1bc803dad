"""Where a server's requests are taken in and its answers given out, counted and logged; the handler only translates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_mtl.predict.envelopes import Row, Served
from cxr_mtl.predict.meters import Reading, readings
from cxr_mtl.predict.request import AnswersEach, Ask, Response, answer_requests
from cxr_mtl.predict.tell import ID_HEADER, caller_id, tell_request
from cxr_mtl.predict.watch import Stopwatch, lap


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request as TorchServe delivers it.

    Attributes:
        row: of the request.
        headers: its own and TorchServe's, which among them says ``explain`` and ``describe``.
        id: that TorchServe gave it.
    """

    row: Row
    headers: Mapping[str, Any]
    id: str

    def asks(self, header: str) -> bool:
        return self.headers.get(header) == "True"


class Desk:
    """A predictor behind a server's counter.

    Args:
        predictor: who answers.
        description: of it, for those who run the server; see ``describe``.
        served: what the model is called here.
        batch_size: the most requests of a batch.
    """

    def __init__(self, predictor: AnswersEach, description: Mapping[str, Any], served: Served, batch_size: int) -> None:
        self._predictor = predictor
        self._description = json.dumps(description, allow_nan=False).encode()
        self._served = served
        self._batch_size = batch_size

    def answer(self, batch: Sequence[Delivery]) -> tuple[list[Response], list[Reading]]:
        """As many answers as requests, each with its own status, and what the batch adds to the meters."""
        watch = Stopwatch()
        described = {i: Response(200, self._description, d.id) for i, d in enumerate(batch) if d.asks("describe")}
        with lap(watch.answer):
            asked = [_ask(delivery) for i, delivery in enumerate(batch) if i not in described]
            answers = answer_requests(self._predictor, asked, self._served, watch)
        for answer in answers:
            tell_request(answer.id, answer.status, answer.codes, watch.answer[0])
        counted = readings(answers, watch, self._batch_size, self._served) if answers else []
        waiting = iter(answers)
        return [described[i] if i in described else next(waiting) for i in range(len(batch))], counted


def headers(response: Response) -> dict[str, str]:
    """Those of an answer."""
    return {"content-type": "application/json", ID_HEADER: response.id}


def _ask(delivery: Delivery) -> Ask:
    own = caller_id(delivery.headers)
    return Ask(delivery.row, delivery.asks("explain"), own or delivery.id, bool(own))

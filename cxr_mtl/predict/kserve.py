"""KServe's form of asking, version 2, which is also called the Open Inference Protocol.  N films, C findings.

    {"id": "...", "parameters": {OPTION: VALUE, ...},
     "inputs": [{"name": "image", "datatype": "BYTES", "shape": [N], "data": [BASE64, ...]}]}

is answered with ``model_name``, ``model_version``, ``id`` and five tensors:

``finding``: [C] BYTES, the names of the columns of the next two.
``probability``: [N, C] FP32, calibrated; -1 where there is none, because the finding was never trained, the film was
refused, or ``top_k`` left the finding out: JSON has no nan.
``call``: [N, C] BYTES, ``positive``, ``negative``, ``not_trained`` or ``not_answered``.
``status``: [N] INT32, the HTTP status of each film.
``prediction``: [N] BYTES, of each film the JSON text that the plain forms answer with, boxes, heat maps and errors too.

The request's own status is 200 as soon as one film was answered; else it is the highest of its films', and the body the
protocol's error, which is one text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.envelopes import Asked, Served, decode_film, error_body, refused
from cxr_mtl.predict.options import bad_request, parse_options, quoted
from cxr_mtl.predict.tell import ID, ID_HINT
from cxr_mtl.types import Prediction

MOST_FILMS = 16
"""Of one request: while it is answered, others wait."""
OUTPUTS = ("finding", "probability", "call", "status", "prediction")
NO_PROBABILITY, NOT_ANSWERED = -1.0, "not_answered"

_BINARY = ("binary_data", "binary_data_size", "binary_data_output")
_INPUT = '{"name": "image", "datatype": "BYTES", "shape": [1], "data": [BASE64]}'


@dataclass(frozen=True, slots=True)
class Infer:
    """The form of the answer: what the sender called the request, and the tensors that he wants."""

    id: str = ""
    outputs: tuple[str, ...] = OUTPUTS

    def body(
        self, answers: Sequence[Prediction | ImageError], request_id: str, served: Served
    ) -> tuple[int, dict[str, Any]]:
        name_it = {"id": self.id or request_id} if self.id or request_id else {}
        errors = [answer for answer in answers if isinstance(answer, ImageError)]
        if len(errors) == len(answers):
            said = [f"{error.code}: {error}" for error in errors]
            said = [f"film {i}: {text}" for i, text in enumerate(said)] if len(set(said)) > 1 else said[:1]
            return max(error.status for error in errors), {"error": " ".join(said)} | name_it
        tensors = _tensors(answers, request_id)
        return 200, {
            "model_name": served.name,
            "model_version": served.version,
            **name_it,
            "outputs": [tensors[name] for name in self.outputs],
        }


def is_infer(fields: Mapping[str, Any]) -> bool:
    """Whether a request is of this form."""
    return "inputs" in fields


def read_infer(fields: Mapping[str, Any]) -> Asked:
    """A request of this form; one that cannot be read is refused in this form, too."""
    form = Infer()
    try:
        _only(fields, ("id", "parameters", "inputs", "outputs"), "The request")
        form = Infer(_id(fields.get("id")), _outputs(fields.get("outputs")))
        return Asked(_films(fields["inputs"]), parse_options(_parameters(fields.get("parameters"))), form)
    except ImageError as error:
        return refused(error, form)


def _id(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise bad_request(f"'id' is {quoted(value)}.", ID_HINT)
    return value


def _outputs(wanted: Any) -> tuple[str, ...]:
    if wanted is None or wanted == []:
        return OUTPUTS
    if not isinstance(wanted, list) or not all(isinstance(output, Mapping) for output in wanted):
        raise bad_request("'outputs' is not a list of objects.", 'Such as [{"name": "probability"}].')
    for output in wanted:
        _only(output, ("name", "parameters"), "An output")
        _only(_parameters(output.get("parameters")), (), "An output's parameters")
        if output.get("name") not in OUTPUTS:
            what = f"There is no output {quoted(output.get('name'))}."
            raise bad_request(what, f"Choose among: {', '.join(OUTPUTS)}.")
    return tuple(dict.fromkeys(output["name"] for output in wanted))


def _parameters(given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise bad_request("'parameters' is not a JSON object.", 'Such as {"operating_point": "sensitive"}.')
    for name, value in given.items():
        if name in _BINARY and value is not False:
            what = f"Parameter {quoted(name)} is of the protocol's binary extension, which is not understood."
            raise bad_request(what, "Send JSON and ask for JSON; clients call it binary_data=False.")
        if isinstance(value, list | Mapping):
            what = f"Parameter {quoted(name)} is neither text, number nor boolean, as the protocol has it."
            raise bad_request(what, "Several names go into one text, with commas between.")
    return {name: value for name, value in given.items() if name not in _BINARY}


def _films(inputs: Any) -> tuple[bytes | ImageError, ...]:
    if isinstance(inputs, ImageError):
        raise inputs
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], Mapping):
        count = len(inputs) if isinstance(inputs, list) else "no list of"
        raise bad_request(f"The request has {count} inputs, and one is wanted, an object.", f"Such as {_INPUT}.")
    (tensor,) = inputs
    _only(tensor, ("name", "datatype", "shape", "data", "parameters"), "The input")
    for field, wanted in (("name", "image"), ("datatype", "BYTES")):
        if tensor.get(field) != wanted:
            raise bad_request(f"The input's {field} is {quoted(tensor.get(field))}, not '{wanted}'.", f"Send {_INPUT}.")
    said = _parameters(tensor.get("parameters"))
    _only(said, ("content_type",), "The input's parameters")
    if said.get("content_type", "base64") != "base64":
        raise bad_request(f"The input's content_type is {quoted(said['content_type'])}.", "Films travel as base64.")
    data, shape = tensor.get("data"), tensor.get("shape")
    if not isinstance(data, list):
        raise bad_request("The input's data is not a list.", "A film in base64 for each element.")
    if not isinstance(shape, list) or [type(side) for side in shape] != [int] or shape[0] != len(data):
        raise bad_request(f"The input's shape is {quoted(shape)}.", f"It has {len(data)} films: [{len(data)}].")
    if not 1 <= len(data) <= MOST_FILMS:
        raise bad_request(f"The request holds {len(data)} films.", f"From 1 to {MOST_FILMS}; send more requests.")
    return tuple(_film(content) for content in data)


def _film(content: Any) -> bytes | ImageError:
    try:
        return decode_film(content)
    except ImageError as error:
        return error  # in its place; its neighbours are answered


def _only(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise bad_request(f"{what} has a field {quoted(name)}.", f"Known: {', '.join(known) or 'none'}.")


def _tensors(answers: Sequence[Prediction | ImageError], request_id: str) -> dict[str, dict[str, Any]]:
    predictions = [answer for answer in answers if isinstance(answer, Prediction)]
    names = list(dict.fromkeys(finding.name for prediction in predictions for finding in prediction.findings))
    number, calls, columns = len(answers), [], []
    for answer in answers:
        found = {} if isinstance(answer, ImageError) else {finding.name: finding for finding in answer.findings}
        columns += [found[name].probability if name in found else None for name in names]
        calls += [found[name].call if name in found else NOT_ANSWERED for name in names]
    status = [answer.status if isinstance(answer, ImageError) else 200 for answer in answers]
    bodies = [error_body(a, request_id) if isinstance(a, ImageError) else a.to_dict() for a in answers]
    return {
        tensor["name"]: tensor
        for tensor in (
            _tensor("finding", "BYTES", [len(names)], names),
            _tensor("probability", "FP32", [number, len(names)], [NO_PROBABILITY if p is None else p for p in columns]),
            _tensor("call", "BYTES", [number, len(names)], calls),
            _tensor("status", "INT32", [number], status),
            _tensor("prediction", "BYTES", [number], [json.dumps(body, allow_nan=False) for body in bodies]),
        )
    }


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}

"""KServe's form of asking, held to the protocol's own schema."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.envelopes import Served
from cxr_mtl.predict.kserve import MOST_FILMS, NO_PROBABILITY, OUTPUTS
from cxr_mtl.predict.options import MOST_MAPS
from cxr_mtl.predict.request import TOGETHER, Ask, Response, answer_requests
from cxr_mtl.predict.watch import Stopwatch
from cxr_mtl.types import FLAGGED, FindingCall, Options, Prediction

SERVED = Served("chest", "2.0")
FILM = b"\x89PNG film"


class Tensor(BaseModel):
    """``$response_output`` of the Open Inference Protocol, "Inference Response JSON Object", with JSON data."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    shape: list[int]
    datatype: (
        Literal["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
        | Literal["FP16", "FP32", "FP64", "BYTES"]
    )
    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict)
    data: list[Any]

    @model_validator(mode="after")
    def fits(self) -> Tensor:
        kinds = {"BYTES": str, "FP32": float, "INT32": int}
        assert math.prod(self.shape) == len(self.data)
        assert all(type(value) is kinds[self.datatype] for value in self.data)
        return self


class InferResponse(BaseModel):
    """``$inference_response``."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict)
    outputs: list[Tensor]

    def tensor(self, name: str) -> list[Any]:
        return next(output.data for output in self.outputs if output.name == name)


class Fake:
    """Finds Edema by a film's length; refuses films that begin with ``bad``; trips over ``trip``."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[bytes, Options]]] = []

    def predict_each(
        self, requests: Sequence[tuple[bytes, Options]], watch: Stopwatch | None = None
    ) -> list[Prediction | ImageError]:
        self.asked.append(list(requests))
        return [self._answer(film, options) for film, options in requests]

    def _answer(self, film: bytes, options: Options) -> Prediction | ImageError:
        if film.startswith(b"trip"):
            raise ZeroDivisionError
        if film.startswith(b"bad"):
            return ImageError("The film is truncated.", code="truncated", hint="Send it again.")
        edema = FindingCall("Edema", "positive", len(film) / 100, 0.05)
        calls = (FindingCall("Mass", "negative", 0.25, 0.5), edema, FindingCall("Hernia", "not_trained"))
        wanted = calls[: options.top_k] if len(film) % 2 else calls[::-1][: options.top_k]
        return Prediction({"name": "fake"}, {"bytes": len(film)}, options.operating_point, wanted, (), ())


def text(film: bytes) -> str:
    return base64.b64encode(film).decode()


def tensor(*data: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": list(data)} | changes


def infer(*films: Any, **fields: Any) -> dict[str, Any]:
    return {"inputs": [tensor(*films)]} | fields


def answer(*documents: Any, id: str = "") -> tuple[list[Response], Fake]:
    fake = Fake()
    asks = [Ask({"body": json.dumps(document).encode()}, id=id) for document in documents]
    return answer_requests(fake, asks, SERVED), fake


def test_every_film_is_answered_in_its_place_and_its_error_in_its_place() -> None:
    films = [text(b"x" * 30), text(b"bad"), "no base64", text(b"x" * 41), 7, text(b"trip")]
    (response,), fake = answer(infer(*films, id="run-7", parameters={"operating_point": "f1", "boxes": False}))
    assert response.status == 200
    answered = InferResponse.model_validate_json(response.body)
    assert (answered.model_name, answered.model_version, answered.id) == ("chest", "2.0", "run-7")
    assert [output.name for output in answered.outputs] == list(OUTPUTS)
    assert answered.tensor("status") == [200, 422, 400, 200, 400, 500]
    names = answered.tensor("finding")
    assert sorted(names) == ["Edema", "Hernia", "Mass"]
    rows = [dict(zip(names, answered.tensor("probability")[i * 3 : i * 3 + 3], strict=True)) for i in range(6)]
    nothing = dict.fromkeys(names, NO_PROBABILITY)
    assert rows[0] == {"Edema": 0.3, "Mass": 0.25, "Hernia": NO_PROBABILITY}
    assert rows[3] == rows[0] | {"Edema": 0.41}
    assert [rows[i] for i in (1, 2, 4, 5)] == [nothing] * 4
    calls = [dict(zip(names, answered.tensor("call")[i * 3 : i * 3 + 3], strict=True)) for i in range(6)]
    assert calls[0] == {"Edema": "positive", "Mass": "negative", "Hernia": "not_trained"}
    assert calls[1] == dict.fromkeys(names, "not_answered")
    bodies = [json.loads(body) for body in answered.tensor("prediction")]
    assert [body.get("error", {}).get("code") for body in bodies] == [
        None,
        "truncated",
        "bad_request",
        None,
        "bad_request",
        "internal",
    ]
    assert Prediction.from_dict(bodies[3]).image == {"bytes": 41}
    assert bodies[1]["request_id"] == "run-7"
    assert response.codes == ("ok", "truncated", "bad_request", "ok", "bad_request", "internal")
    assert [len(asked) for asked in fake.asked] == [4, 1, 1, 1, 1], "together, then each alone"
    assert {options for _, options in fake.asked[0]} == {Options("f1", boxes=False)}


def test_what_top_k_leaves_out_of_a_film_has_no_number_in_its_row() -> None:
    (response,), _ = answer(infer(text(b"x" * 30), text(b"x" * 41), parameters={"top_k": 2}))
    answered = InferResponse.model_validate_json(response.body)
    assert answered.tensor("finding") == ["Hernia", "Edema", "Mass"]
    assert answered.tensor("probability") == [NO_PROBABILITY, 0.3, NO_PROBABILITY, NO_PROBABILITY, 0.41, 0.25]
    assert answered.tensor("call")[::2] == ["not_trained", "not_answered", "positive"]


def test_only_the_tensors_that_are_asked_for_are_sent() -> None:
    wanted = [{"name": "status"}, {"name": "probability"}]
    (response,), _ = answer(infer(text(FILM), outputs=wanted))
    assert [o.name for o in InferResponse.model_validate_json(response.body).outputs] == ["status", "probability"]


def test_a_client_may_say_that_it_wants_no_binary_data() -> None:
    said = {"parameters": {"binary_data": False}}
    document = infer(text(FILM), outputs=[{"name": "call"} | said], parameters={"binary_data_output": False})
    document["inputs"][0]["parameters"] = {"content_type": "base64", "binary_data": False}
    (response,), _ = answer(document)
    assert InferResponse.model_validate_json(response.body).tensor("call")[1] == "positive"


@pytest.mark.parametrize("after", [b"\x04\0\0\0AAAA", b"\xff\xfe\x80", b"}"])
def test_binary_data_after_the_json_is_refused_in_the_protocols_form(after: bytes) -> None:
    head = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}]}
    (response,) = answer_requests(Fake(), [Ask({"body": json.dumps(head).encode() + after})], SERVED)
    assert response.status == 400
    assert json.loads(response.body) == {
        "error": "bad_request: The request's body is broken JSON, or has the protocol's binary data after it. "
        "Send JSON alone; clients call it binary_data=False."
    }


def test_both_forms_share_a_batch_and_a_request_without_an_id_gets_the_servers() -> None:
    (first, second, third), fake = answer(infer(text(FILM)), {"image": text(FILM)}, infer(text(b"bad")), id="server")
    assert [len(asked) for asked in fake.asked] == [3]
    assert InferResponse.model_validate_json(first.body).id == first.id == "server"
    assert json.loads(second.body)["image"] == {"bytes": len(FILM)}
    error = {"error": "truncated: The film is truncated. Send it again.", "id": "server"}
    assert (third.status, json.loads(third.body)) == (422, error)


def test_a_request_of_which_no_film_is_answered_has_the_worst_of_their_statuses() -> None:
    (response,), _ = answer(infer(text(b"bad"), text(b"trip"), "no base64"))
    assert response.status == 500
    said = json.loads(response.body)
    assert set(said) == {"error"}
    assert said["error"].startswith("film 0: truncated: The film is truncated. Send it again. film 1: internal: ")
    assert "\n" not in said["error"]
    (response,), _ = answer(infer(text(b"bad"), text(b"bad")))
    assert json.loads(response.body) == {"error": "truncated: The film is truncated. Send it again."}


def test_the_header_of_the_caller_names_the_request_and_its_body_gets_its_own_id_back() -> None:
    asks = [Ask({"body": json.dumps(infer(text(FILM), id="body")).encode()}, id="header", own_id=True)]
    (response,) = answer_requests(Fake(), asks, SERVED)
    assert response.id == "header"
    assert json.loads(response.body)["id"] == "body"


def test_the_films_of_several_requests_go_through_the_model_in_parts() -> None:
    full = infer(*[text(FILM)] * MOST_FILMS)
    responses, fake = answer(full, full, infer(text(FILM)))
    assert [r.status for r in responses] == [200] * 3
    assert [len(asked) for asked in fake.asked] == [TOGETHER] * (2 * MOST_FILMS // TOGETHER) + [1]
    _, fake = answer(*[infer(text(FILM))] * 9)
    assert [len(asked) for asked in fake.asked] == [9], "the server chose the size of its batches"


def test_its_explanations_map_what_is_flagged_and_slow_maps_are_counted_over_its_films() -> None:
    fake = Fake()
    answer_requests(fake, [Ask({"body": infer(text(FILM))}, explain=True)], SERVED)
    assert fake.asked[0][0][1].heatmaps == (FLAGGED,)
    slow = {"explain": "integrated_gradients", "heatmaps": "Mass,Edema"}
    (one, two), _ = answer(infer(text(FILM), parameters=slow), infer(text(FILM), text(FILM), parameters=slow))
    assert (one.status, two.status) == (200, 400)
    assert json.loads(two.body)["error"].startswith("bad_request: explain 'integrated_gradients' is slow")


@pytest.mark.parametrize(("views", "most"), [(1, 3), (2, 1), (3, 1), (5, 1)])
def test_a_slow_map_counts_for_each_look_of_the_model(views: int, most: int) -> None:
    def status(films: int, names: str) -> int:
        slow = {"explain": "integrated_gradients", "heatmaps": names}
        ask = Ask({"body": json.dumps(infer(*[text(FILM)] * films, parameters=slow)).encode()})
        (response,) = answer_requests(Fake(), [ask], Served("chest", "2.0", views))
        if response.status == 400:
            assert f"a server makes at most {most} a request, by name" in json.loads(response.body)["error"]
        return response.status

    assert [status(films, "Mass") for films in (1, 2, 3, 4)] == [200, *[200 if most == 3 else 400] * 2, 400]
    assert [status(1, names) for names in ("Mass,Edema", "Mass,Mass")] == [200 if most == 3 else 400, 200]


@pytest.mark.parametrize(
    ("films", "options", "each"),
    [
        (8, {"heatmaps": "flagged"}, 0),
        (9, {"heatmaps": "flagged"}, 16),
        (9, {"explain": "grad_cam"}, 16),
        (16, {"heatmaps": "flagged", "top_k": 8}, 0),
        (16, {"heatmaps": "flagged,Mass", "top_k": 8}, 9),
        (16, {"heatmaps": "flagged", "findings": "Mass,Edema"}, 0),
        (16, {"heatmaps": ",".join(f"finding {i}" for i in range(8))}, 0),
        (16, {"heatmaps": ",".join(f"finding {i}" for i in range(9))}, 9),
        (1, {"heatmaps": ",".join(f"finding {i}" for i in range(128))}, 0),
    ],
)
def test_heat_maps_are_counted_over_all_films(films: int, options: dict[str, Any], each: int) -> None:
    (said,), fake = answer(infer(*[text(FILM)] * films, parameters=options))
    assert said.status == (400 if each else 200)
    assert bool(fake.asked) is not bool(each)
    if each:
        assert json.loads(said.body)["error"] == (
            f"bad_request: {films} films with up to {each} heat maps each: a server makes at most {MOST_MAPS} a"
            " request. Send fewer films a request, or name fewer findings under 'heatmaps'."
        )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"inputs": []}, "The request has 0 inputs"),
        ({"inputs": {}}, "The request has no list of inputs"),
        ({"inputs": ["AAAA"]}, "The request has 1 inputs, and one is wanted, an object"),
        ({"inputs": [tensor("AAAA")] * 2}, "The request has 2 inputs"),
        ({"inputs": [tensor("AAAA", name="input-0")]}, "name is 'input-0', not 'image'"),
        ({"inputs": [tensor(1, 2, datatype="UINT8")]}, "datatype is 'UINT8', not 'BYTES'"),
        ({"inputs": [tensor("AAAA", shape=[2])]}, "shape is '[2]'. It has 1 films: [1]"),
        ({"inputs": [tensor("AAAA", shape=[1, 1])]}, "shape is '[1, 1]'"),
        ({"inputs": [tensor("AAAA", shape=[True])]}, "shape is '[True]'"),
        ({"inputs": [tensor("AAAA", shape=1)]}, "shape is '1'"),
        ({"inputs": [tensor("AAAA", data="AAAA")]}, "data is not a list"),
        ({"inputs": [tensor()]}, "holds 0 films"),
        (infer(*["AAAA"] * (MOST_FILMS + 1)), f"holds {MOST_FILMS + 1} films. From 1 to {MOST_FILMS}"),
        (
            {"inputs": [tensor("AAAA", parameters={"binary_data_size": 3})]},
            "'binary_data_size' is of the protocol's binary",
        ),
        ({"inputs": [tensor("AAAA", parameters={"content_type": "np"})]}, "content_type is 'np'"),
        ({"inputs": [tensor("AAAA", parameters={"size": 3})]}, "The input's parameters has a field 'size'"),
        (infer("AAAA", parameters={"binary_data_output": True}), "clients call it binary_data=False"),
        ({"inputs": [tensor("AAAA", date="now")]}, "The input has a field 'date'"),
        (infer("AAAA", image="AAAA"), "The request has a field 'image'"),
        (infer("AAAA", id=7), "'id' is '7'"),
        (infer("AAAA", id=""), "'id' is ''"),
        (infer("AAAA", id="a\n[METRICS]x"), "'id' is 'a?[METRICS]x'"),
        (infer("AAAA", id="Doe^Jane"), "let it not name a patient"),
        (infer("AAAA", parameters=[1]), "'parameters' is not a JSON object"),
        (infer("AAAA", parameters={"findings": ["Mass"]}), "Parameter 'findings' is neither text, number"),
        (infer("AAAA", parameters={"operating_pont": "f1"}), "Unknown option 'operating_pont'. Did you mean"),
        (infer("AAAA", parameters={"image": "AAAA"}), "Unknown option 'image'"),
        (infer("AAAA", parameters={"top_k": "many"}), "'top_k' is not a whole number: 'many'"),
        (infer("AAAA", outputs={"name": "call"}), "'outputs' is not a list"),
        (infer("AAAA", outputs=[{"name": "logits"}]), "no output 'logits'. Choose among: finding, probability"),
        (
            infer("AAAA", outputs=[{"name": "call", "parameters": {"classification": 3}}]),
            "has a field 'classification'",
        ),
        (
            infer("AAAA", outputs=[{"name": "call", "class": 3}]),
            "An output has a field 'class'. Known: name, parameters",
        ),
    ],
)
def test_what_the_protocol_or_the_model_does_not_know_is_one_line(document: Any, message: str) -> None:
    (response,), fake = answer(document)
    assert response.status == 400
    said = json.loads(response.body)
    assert set(said) == {"error"}, "the protocol's error object is one text"
    assert said["error"].startswith("bad_request: ")
    assert message in said["error"]
    assert "\n" not in said["error"]
    assert fake.asked == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("image") | json_values,
        "datatype": st.just("BYTES") | json_values,
        "shape": st.just([1]) | json_values,
        "data": st.just([text(FILM)]) | json_values,
        "parameters": json_values,
    },
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2) | json_values},
    optional={"id": json_values, "parameters": json_values, "outputs": json_values},
)


@given(documents)
def test_whatever_is_sent_the_answer_is_the_protocols(document: dict[str, Any]) -> None:
    (response,), _ = answer(document)
    if response.status == 200:
        assert InferResponse.model_validate_json(response.body).tensor("status") == [200]
    else:
        assert response.status == 400
        assert isinstance(json.loads(response.body)["error"], str)

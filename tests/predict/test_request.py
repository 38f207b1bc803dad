"""Requests as TorchServe hands them over, and answers as it takes them."""

from __future__ import annotations

import base64
import json
import logging
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.options import options_to_dict
from cxr_mtl.predict.request import Ask, Response, answer_requests, parse_request
from cxr_mtl.predict.watch import Stopwatch
from cxr_mtl.types import FLAGGED, FindingCall, Heatmap, Options, Prediction

FILM = b"\x89PNG film"
WANTED = Options("sensitive", findings=("Effusion", "Edema"), boxes=False, heatmaps=("Effusion",), explain="occlusion")
names = st.lists(st.text(), max_size=3).map(tuple)
any_options = st.builds(
    Options,
    st.text(),
    st.none() | names,
    st.booleans(),
    names,
    st.none() | st.text(),
    st.text(),
    st.none() | st.integers(),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
field_names = st.sampled_from(
    ["data", "body", "image", "operating_point", "findings", "boxes", "heatmaps", "explain", "top_k", "inputs", "boxs"]
)


class FakePredictor:
    """Says how long each film is; trips over films that begin with ``trip``."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def predict_each(
        self, requests: Sequence[tuple[bytes, Options]], watch: Stopwatch | None = None
    ) -> list[Prediction | ImageError]:
        self.calls.append(len(requests))
        return [self._answer(source, options) for source, options in requests]

    def _answer(self, source: bytes, options: Options) -> Prediction | ImageError:
        if source.startswith(b"trip"):
            raise ZeroDivisionError("PatientName=Doe^Jane")
        if source.startswith(b"large"):
            raise MemoryError
        if source.startswith(b"bad"):
            return ImageError("The film is truncated.", code="truncated", hint="Send it again.")
        probability = float("nan") if source.startswith(b"nan") else 0.25
        call = FindingCall("Edema", "negative", probability, 0.5)
        return Prediction({"name": "fake"}, {"bytes": len(source)}, options.operating_point, (call,), (), ())


def answer(*rows: Any) -> tuple[list[Response], FakePredictor]:
    predictor = FakePredictor()
    return answer_requests(predictor, [Ask(row) for row in rows]), predictor


def as_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "row",
    [
        FILM,
        bytearray(FILM),
        {"body": bytearray(FILM)},
        {"data": bytearray(FILM)},
        {"image": bytearray(FILM)},
        {"body": {"image": base64.b64encode(FILM).decode()}},
        {"body": bytearray(as_json(image=base64.b64encode(FILM).decode()))},
        {"body": b" \n" + as_json(image=base64.b64encode(FILM).decode(), findings=None)},
    ],
    ids=["bytes", "bytearray", "body", "form data", "form image", "decoded JSON", "JSON", "JSON with white space"],
)
def test_a_film_arrives_however_it_is_sent(row: Any) -> None:
    assert parse_request(row) == (FILM, Options())


def test_options_of_a_form_are_text() -> None:
    form = {"operating_point": b"sensitive", "findings": b"Effusion, Edema", "boxes": b"false", "heatmaps": b"Effusion"}
    form |= {"explain": b"occlusion", "heatmap_format": b"array", "top_k": b"3"}
    assert parse_request({"data": FILM} | form) == (FILM, replace(WANTED, heatmap_format="array", top_k=3))


@given(st.binary(), any_options)
def test_json_brings_back_what_the_client_wants(film: bytes, options: Options) -> None:
    body = as_json(image=base64.b64encode(film).decode(), **options_to_dict(options))
    assert parse_request({"body": body}) == (film, options)


def test_old_servers_and_old_answers_are_understood() -> None:
    assert set(options_to_dict(Options())) == {"operating_point", "findings", "boxes", "heatmaps"}, "what is not set"
    later = {"explain": "attention", "top_k": 3, "heatmap_format": "array"}
    assert options_to_dict(Options(**later)).items() >= later.items()
    call = FindingCall("Edema", "negative", 0.25, 0.5)
    heats = (Heatmap("Edema", "AAAA", "attention"),)
    body = Prediction({"name": "fake"}, {}, "balanced", (call,), (), (), heatmaps=heats).to_dict()
    assert Prediction.from_dict(body).heatmaps == heats
    del body["heatmaps"][0]["method"]
    assert Prediction.from_dict(body).heatmaps == (replace(heats[0], method="grad_cam"),)


@pytest.mark.parametrize(
    ("row", "message", "hint"),
    [
        ({}, "holds no films", "curl -T"),
        ({"operating_point": b"f1"}, "holds no films", "curl -T"),
        ({"data": FILM, "image": FILM}, "holds 2 films", "one"),
        ({"body": b""}, "holds no films", "curl -T"),
        ({"body": as_json(boxes=True)}, "holds no films", "base64"),
        ({"body": b'{"image": "AAA'}, "broken JSON", "base64"),
        ({"body": b'{"image": ' + b"[" * 5_000}, "broken JSON", "base64"),
        ({"body": b'{"image": ' + b"[" * 100_000}, "over 10000 values", "base64"),
        ({"body": ["AAAA"]}, "neither a film nor", "base64"),
        ({"body": as_json(image=["AAAA"])}, "not text", "base64"),
        ({"body": as_json(image="data:image/png;base64,AAAA")}, "not base64", "prefix"),
        ({"body": as_json(image="AAA")}, "not base64", "prefix"),
        ({"body": as_json(image="é")}, "not base64", "prefix"),
        ({"data": FILM, "operating_pont": b"f1"}, "Unknown option 'operating_pont'", "Did you mean 'operating_point'?"),
        ({"data": FILM, "zzz": b"f1"}, "Unknown option 'zzz'", "Known: operating_point, findings"),
        ({"data": FILM, "boxes": b"maybe"}, "'boxes' is neither", ""),
        ({"data": FILM, "findings": b"\xff"}, "not UTF-8", ""),
        ({"body": {"image": "AAAA", "operating_point": 3}}, "'operating_point' is not text", "balanced"),
        ({"body": {"image": "AAAA", "explain": ["occlusion"]}}, "'explain' is not text", "grad_cam"),
        ({"body": {"image": "AAAA", "findings": "Edema", "heatmaps": [3]}}, "'heatmaps' is not a list", "commas"),
        ({"body": {"image": "AAAA", "findings": {"Edema": 1}}}, "'findings' is not a list", "commas"),
        ({"body": {"image": "AAAA", "boxes": 2}}, "'boxes' is neither true nor false: '2'", ""),
        ({"body": {"image": "AAAA", "heatmap_format": 3}}, "'heatmap_format' is not text: '3'", "png"),
        ({"data": FILM, "top_k": b"many"}, "'top_k' is not a whole number: 'many'", "Such as 3"),
        ({"body": {"image": "AAAA", "top_k": 2.5}}, "'top_k' is not a whole number: '2.5'", "Such as 3"),
        ({"body": {"image": "AAAA", "top_k": True}}, "'top_k' is not a whole number: 'True'", "Such as 3"),
        ({"data": FILM, "top_k": b"9" * 5000}, "'top_k' is not a whole number: '9999", "Such as 3"),
        ({"data": FILM, "a\nb" + "c" * 80: b""}, f"Unknown option 'a?b{'c' * 34}...'", "Known"),
    ],
)
def test_a_bad_request_says_what_and_what_to_do(row: Any, message: str, hint: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse_request(row)
    assert (caught.value.code, caught.value.status) == ("bad_request", 400)
    assert message in caught.value.message
    assert hint in caught.value.hint or hint in caught.value.message


@given(st.dictionaries(field_names, st.binary(max_size=20) | json_values, max_size=4))
def test_no_row_does_worse_than_a_bad_request(row: dict[str, Any]) -> None:
    error = None
    try:
        parse_request(row)
    except ImageError as caught:
        error = caught
    assert error is None or error.status == 400


def test_each_row_gets_its_own_answer_in_order() -> None:
    responses, predictor = answer({"data": FILM, "operating_point": b"f1"}, {"data": b"bad"}, {}, {"data": FILM * 2})
    assert [r.status for r in responses] == [200, 422, 400, 200]
    assert responses[1].phrase.startswith("Unprocessable")
    bodies = [json.loads(r.body) for r in responses]
    assert [b.get("image", {}).get("bytes") for b in bodies] == [len(FILM), None, None, 2 * len(FILM)]
    assert bodies[0]["operating_point"] == "f1"
    assert bodies[1] == {"error": {"code": "truncated", "message": "The film is truncated.", "hint": "Send it again."}}
    assert predictor.calls == [3], "good requests share one forward pass"


def test_a_film_that_trips_the_model_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        responses, predictor = answer(FILM, b"trip", FILM)
    assert [r.status for r in responses] == [200, 500, 200]
    assert predictor.calls == [3, 1, 1, 1]
    error = json.loads(responses[1].body)["error"]
    assert error["code"] == "internal"
    assert "ZeroDivisionError" in caplog.text
    assert "test_request.py" in caplog.text
    assert "_answer" in caplog.text
    assert "Doe" not in caplog.text + json.dumps(error), "the message of an exception can hold patient data"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_a_film_too_large_for_the_memory_is_told_so_and_its_neighbours_are_answered(error: Exception) -> None:
    class Small(FakePredictor):
        def _answer(self, source: bytes, options: Options) -> Prediction | ImageError:
            if source.startswith(b"large"):
                raise error
            return super()._answer(source, options)

    responses = answer_requests(Small(), [Ask(FILM), Ask(b"large"), Ask(FILM)])
    assert [r.status for r in responses] == [200, 507, 200]
    assert [r.codes for r in responses] == [("ok",), ("out_of_memory",), ("ok",)]
    assert responses[1].phrase == "Insufficient Storage"
    assert "smaller copy" in json.loads(responses[1].body)["error"]["hint"]


def test_torchs_own_words_for_a_memory_that_is_full() -> None:
    class Real(FakePredictor):
        def _answer(self, source: bytes, options: Options) -> Prediction | ImageError:
            torch.empty(1 << 60, dtype=torch.uint8)
            raise AssertionError

    assert [r.status for r in answer_requests(Real(), [Ask(FILM)])] == [507]


def test_the_memory_of_a_batch_that_failed_is_free_when_its_films_are_tried_again() -> None:
    class Batch:
        """What a forward pass holds."""

    held: list[weakref.ref[Batch]] = []

    class Fills(FakePredictor):
        def predict_each(
            self, requests: Sequence[tuple[bytes, Options]], watch: Stopwatch | None = None
        ) -> list[Prediction | ImageError]:
            assert not any(batch() for batch in held)
            tensors = Batch()
            held.append(weakref.ref(tensors))
            if len(requests) > 1:
                raise MemoryError
            return super().predict_each(requests, watch)

    assert [r.status for r in answer_requests(Fills(), [Ask(FILM), Ask(FILM)])] == [200, 200]


def test_a_request_that_says_what_it_is_called_gets_that_back_with_its_error(caplog: pytest.LogCaptureFixture) -> None:
    asks = [Ask(b"bad", id="ours"), Ask(b"trip", id="theirs", own_id=True), Ask(FILM, id="fine")]
    responses = answer_requests(FakePredictor(), asks)
    assert [r.id for r in responses] == ["ours", "theirs", "fine"]
    assert [json.loads(r.body).get("request_id") for r in responses] == ["ours", "theirs", None]
    assert "(id=theirs)" in caplog.text


def test_what_was_answered_is_told_without_opening_the_answer() -> None:
    called = FindingCall("Edema", "positive", 0.75, 0.5)

    class Calls(FakePredictor):
        def _answer(self, source: bytes, options: Options) -> Prediction | ImageError:
            answer = super()._answer(source, options)
            return replace(answer, findings=(called,)) if isinstance(answer, Prediction) else answer

    responses = answer_requests(Calls(), [Ask(FILM), Ask(b"bad"), Ask({})])
    assert [r.codes for r in responses] == [("ok",), ("truncated",), ("bad_request",)]
    assert [r.called for r in responses] == [("Edema",), (), ()]


def test_an_answer_that_is_no_json_is_a_fault_of_ours() -> None:
    responses, _ = answer(b"nan")
    assert responses[0].status == 500


def test_a_row_to_be_explained_gets_maps_of_what_is_flagged_unless_it_names_findings() -> None:
    asked: list[Options] = []

    class Listens(FakePredictor):
        def _answer(self, source: bytes, options: Options) -> Prediction | ImageError:
            asked.append(options)
            return super()._answer(source, options)

    asks = [Ask(FILM), Ask(FILM, True), Ask({}, True), Ask({"data": FILM, "heatmaps": b"Mass"}, True)]
    assert [r.status for r in answer_requests(Listens(), asks)] == [200, 200, 400, 200]
    assert [options.heatmaps for options in asked] == [(), (FLAGGED,), ("Mass",)]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"explain": "occlusion", "heatmaps": ["Mass"]}, 400),
        ({"explain": "integrated_gradients", "heatmaps": ["Mass", "Edema", "Hernia", "Mass"]}, 200),
        ({"explain": "integrated_gradients", "heatmaps": ["Mass", "Edema", "Hernia", "Nodule"]}, 400),
        ({"explain": "integrated_gradients", "heatmaps": ["flagged"]}, 400),
        ({"explain": "integrated_gradients"}, 400),
        ({"explain": "grad_cam", "heatmaps": ["flagged"]}, 200),
        ({"explain": "grad_cam"}, 200),
    ],
)
def test_what_would_keep_a_worker_too_long_is_refused_before_it_is_asked(options: dict[str, Any], status: int) -> None:
    rows = [{"body": {"image": base64.b64encode(FILM).decode()} | options}, FILM]
    for explain in (False, True):  # of /explanations, too
        predictor = FakePredictor()
        responses = answer_requests(predictor, [Ask(row, explain) for row in rows])
        assert [r.status for r in responses] == [status, 200]
        assert predictor.calls == ([1] if status == 400 else [1, 1] if "integrated" in options["explain"] else [2])
        if status == 400:
            error = json.loads(responses[0].body)["error"]
            assert error["message"].startswith(f"explain '{options['explain']}' ")
            assert "cxr-mtl predict" in error["hint"] or "'heatmaps'" in error["hint"]


def test_who_would_wait_too_long_is_told_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films with slow maps go alone and last, so that they cost none of the others its turn."""
    clock = [0.0]

    class Slow(FakePredictor):
        def _answer(self, source: bytes, options: Options) -> Prediction | ImageError:
            clock[0] += 40.0 if options.explain else 1.0
            return super()._answer(source, options)

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    mapped = {"data": FILM, "explain": "integrated_gradients", "heatmaps": "Mass"}
    predictor, ids = Slow(), "abcde"
    rows = [mapped, FILM, mapped, b"bad", mapped]
    responses = answer_requests(predictor, [Ask(row, id=id) for row, id in zip(rows, ids, strict=True)])
    assert predictor.calls == [2, 1, 1]
    assert [r.status for r in responses] == [200, 200, 200, 422, 503]
    assert [r.id for r in responses] == list(ids)
    assert json.loads(responses[-1].body)["error"] == {
        "code": "busy",
        "message": "There was no time left for this film.",
        "hint": "Ask again, with fewer films or heat maps a request.",
    }
    clock[0] = 0.0
    assert [r.status for r in answer_requests(predictor, [Ask(mapped)])] == [200], "alone it has its turn"


def test_a_batch_that_fails_late_is_not_tried_again_film_by_film_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    class Trips(FakePredictor):
        def _answer(self, source: bytes, options: Options) -> Prediction | ImageError:
            clock[0] += 31.0
            return super()._answer(source, options)

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    predictor = Trips()
    responses = answer_requests(predictor, [Ask(film) for film in (FILM, b"trip", FILM, FILM)])
    assert predictor.calls == [4, 1]
    assert [r.status for r in responses] == [200, 503, 503, 503]


def test_an_empty_batch_asks_nothing() -> None:
    responses, predictor = answer()
    assert responses == []
    assert predictor.calls == []

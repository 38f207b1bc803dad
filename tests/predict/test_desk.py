"""What a server counts and logs, and what it must not."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cxr_mtl.errors import ImageError
from cxr_mtl.predict.describe import describe
from cxr_mtl.predict.desk import Delivery, Desk, headers
from cxr_mtl.predict.envelopes import Served
from cxr_mtl.predict.meters import METERS, Reading, readings
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import Response
from cxr_mtl.predict.tell import ID, ID_HEADER, caller_id
from cxr_mtl.predict.watch import Stopwatch, lap
from cxr_mtl.types import FindingCall, Options, Prediction

FILM = b"\x89PNG film"
SERVED = Served("chest", "2.0")
HOSTILE = ["Doe^Jane", "a\n[METRICS]x", "a b", "é", "", "a" * 65, "a\u2028b", "1\n"]


class Fake:
    """Finds two things on every film but those that begin with ``bad``."""

    def predict_each(
        self, requests: Sequence[tuple[bytes, Options]], watch: Stopwatch | None = None
    ) -> list[Prediction | ImageError]:
        assert watch is not None
        watch.preprocess.extend(0.01 for _ in requests)
        watch.model.append(0.25)
        watch.again.append(1)
        return [self._answer(film) for film, _ in requests]

    def _answer(self, film: bytes) -> Prediction | ImageError:
        if film.startswith(b"trip"):
            raise ValueError("PatientName=Doe^Jane")
        if film.startswith(b"bad"):
            return ImageError("Doe^Jane.png is truncated.", code="truncated", hint="Send it again.")
        calls = (FindingCall("Edema", "positive", 0.75, 0.5), FindingCall("Mass", "positive", 0.75, 0.5))
        return Prediction({"name": "fake"}, {}, "balanced", calls, (), ())


def desk(batch_size: int = 4) -> Desk:
    return Desk(Fake(), {"about": "a fake"}, SERVED, batch_size)


def delivery(row: Any, id: str = "ts", **sent: Any) -> Delivery:
    return Delivery(row, {name.replace("_", "-"): value for name, value in sent.items()}, id)


def counts(read: list[Reading]) -> dict[tuple[str, ...], float]:
    """Value by name and own labels, histograms added up."""
    found: dict[tuple[str, ...], float] = {}
    for reading in read:
        assert reading.labels[:2] == ("chest", "2.0")
        assert len(reading.labels) == len(reading.meter.labels)
        key = (reading.meter.name, *reading.labels[2:])
        found[key] = found.get(key, 0) + reading.value
    return found


def test_a_batch_is_counted() -> None:
    infer = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": ["AAAA", "AAA"]}]}
    batch = [delivery(FILM), delivery(b"bad"), delivery({}), delivery({"body": json.dumps(infer).encode()})]
    responses, read = desk(batch_size=8).answer(batch)
    assert [r.status for r in responses] == [200, 422, 400, 200]
    found = counts(read)
    assert found.pop(("cxr_answer_seconds",)) > 0
    assert [reading.meter.name for reading in read].count("cxr_answer_seconds") == 4
    assert found == {
        ("cxr_requests_total", "200"): 2,
        ("cxr_requests_total", "422"): 1,
        ("cxr_requests_total", "400"): 1,
        ("cxr_films_total", "ok"): 2,
        ("cxr_films_total", "truncated"): 1,
        ("cxr_films_total", "bad_request"): 2,
        ("cxr_findings_called_total", "Edema"): 2,
        ("cxr_findings_called_total", "Mass"): 2,
        ("cxr_preprocess_seconds",): 0.03,
        ("cxr_model_seconds",): 0.25,
        ("cxr_second_looks_total",): 1,
        ("cxr_batch_fill_ratio",): 0.5,
    }
    assert {reading.meter for reading in read} == set(METERS)


def test_no_label_breaks_the_line_that_carries_it() -> None:
    served = Served("a:b,c", "1|#2\n[METRICS]")
    (called,) = [
        reading
        for reading in readings([Response(200, b"", called=("Mass, left",))], Stopwatch(), 1, served)
        if reading.meter.name == "cxr_findings_called_total"
    ]
    assert called.labels == ("a_b_c", "1__2_[METRICS]", "Mass_ left")


def test_a_watch_counts_what_fails_too() -> None:
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), lap(watch.model):
        raise ZeroDivisionError
    assert len(watch.model) == 1
    assert 0 <= watch.model[0] < 1


def test_a_request_is_one_line_with_its_id_status_code_and_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        responses, _ = desk().answer([delivery(FILM, "ts-1"), delivery(b"bad", "ts-2", X_Request_Id="mine.1")])
    assert [headers(r)[ID_HEADER] for r in responses] == ["ts-1", "mine.1"]
    assert json.loads(responses[1].body)["request_id"] == "mine.1"
    lines = [message.rpartition(" ms=") for message in caplog.messages]
    assert [line[0] for line in lines] == [
        "request id=ts-1 status=200 code=ok films=1",
        "request id=mine.1 status=422 code=truncated films=1",
    ]
    assert all(line[2].isdigit() for line in lines)


def test_a_header_of_any_case_is_found_and_a_forms_field_is_none() -> None:
    for name in ("x-request-id", "X-Request-ID", "X-REQUEST-ID"):
        assert caller_id({"accept": "*/*", name: "a-1"}) == "a-1"
    assert caller_id({"x-request-id": {"content-type": "image/png"}}) == ""
    assert caller_id({}) == ""


@pytest.mark.parametrize("sent", HOSTILE)
def test_nothing_of_a_film_or_its_sender_is_logged(sent: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not ID.fullmatch(sent)
    infer = {"id": sent, "inputs": [{"name": "Doe^Jane", "datatype": "BYTES", "shape": [1], "data": ["AAAA"]}]}
    rows: list[Any] = [
        b"bad Doe^Jane",
        b"trip Doe^Jane",
        {"data": FILM, "Doe^Jane": b""},
        {"data": FILM, "operating_point": b"Doe^Jane"},
        {"body": json.dumps(infer).encode()},
        {"body": b"{Doe^Jane"},
    ]
    with caplog.at_level(logging.DEBUG):
        responses, read = desk().answer([delivery(row, X_Request_Id=sent) for row in rows])
    assert [r.id for r in responses] == ["ts"] * len(rows), "the server's own"
    said = caplog.text + str(read)
    assert not any(word in said for word in ("Doe", "Jane", "PatientName", "[METRICS]"))
    assert sent in ("", "1\n") or sent not in said
    assert len(caplog.messages) == len(rows) + 2, "the film that trips says so, in the batch and alone"


def test_a_description_may_share_a_batch_and_is_not_counted() -> None:
    responses, read = desk().answer([delivery({}, describe="True"), delivery(b"bad"), delivery({}, describe="No")])
    assert [r.status for r in responses] == [200, 422, 400]
    assert json.loads(responses[0].body) == {"about": "a fake"}
    assert counts(read)["cxr_batch_fill_ratio",] == 0.5
    assert desk().answer([delivery({}, describe="True")])[1] == []


def test_the_description_says_what_the_model_is(tiny_bundle: Path) -> None:
    predictor = LocalPredictor(tiny_bundle, device="cpu", threads=1)
    said = json.loads(json.dumps(describe(predictor), allow_nan=False))
    bundle = predictor.bundle
    assert said["model"] == {"name": "tiny", "version": "0.1", "sha256": bundle.sha256}
    assert said["input"] == {"size": 64, "channels": 1}
    assert {f["name"] for f in said["findings"] if not f["trained"]} == {"Hernia"}
    assert {f["name"] for f in said["findings"] if f["boxes"]} == {"Cardiomegaly", "Effusion", "Nodule"}
    assert [f["name"] for f in said["findings"]] == list(bundle.ontology.names)
    assert said["operating_points"]["sensitive"]["rule"] == {"rule": "of a test"}
    assert said["operating_points"]["sensitive"]["thresholds"]["Mass"] == 0.2
    assert said["calibration"]["fitted_on"]["films"] == 60
    assert said["gate"] == {"none": "trained before there were gates"}
    assert said["engine"] == {"name": "torch", "precision": "float32", "device": "cpu", "threads": 1}
    assert said["card"] == "# tiny\n"
    assert "Research use only" in said["disclaimer"]


def test_a_bundle_without_a_card_and_with_a_number_that_is_none_is_described(tiny_bundle: Path) -> None:
    predictor = LocalPredictor(tiny_bundle)
    object.__setattr__(predictor.bundle, "folder", tiny_bundle / "elsewhere")
    predictor.bundle.description.rules["f1"]["reached"] = float("nan")  # type: ignore[index]
    said = describe(predictor)
    assert said["card"] is None
    assert said["operating_points"]["f1"]["rule"]["reached"] is None


def test_the_steps_of_a_real_answer_are_timed(tiny_bundle: Path, real_films: Path) -> None:
    film = next(real_films.rglob("*.png")).read_bytes()
    watch = Stopwatch()
    LocalPredictor(tiny_bundle).predict_each([(film, Options()), (b"no film", Options())], watch)
    assert len(watch.preprocess) == 2
    assert len(watch.model) == 1
    assert watch.preprocess[0] > watch.preprocess[1]
    text = base64.b64encode(film).decode()
    (response,), read = Desk(LocalPredictor(tiny_bundle), {}, SERVED, 1).answer([delivery({"body": {"image": text}})])
    assert response.status == 200
    assert 0 < counts(read)["cxr_preprocess_seconds",] < 60

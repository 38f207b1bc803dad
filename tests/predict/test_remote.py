"""The remote predictor against a pretended server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pretended import URL, fields_of, prediction

from cxr_mtl.errors import ConfigError, ImageError, ServeError
from cxr_mtl.predict.aio import AsyncRemotePredictor
from cxr_mtl.predict.remote import RemotePredictor, read_key
from cxr_mtl.predict.request import parse_request
from cxr_mtl.types import Options


def predictor(answer: Callable[[httpx.Request], httpx.Response], key: str | None = "secret") -> RemotePredictor:
    return RemotePredictor(URL + "/", key, retries=0, transport=httpx.MockTransport(answer))


def refuses(status: int, message: str = "") -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, json={"code": status, "type": "X", "message": message})


def raises(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    return answer


def test_films_and_options_arrive_and_answers_come_back_in_order(tmp_path: Path) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(b"abc")
    options = Options("f1", findings=("Edema",), boxes=False, heatmaps=("Edema",))

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url == f"{URL}/predictions/cxr_mtl"
        assert request.headers["authorization"] == "Bearer secret"
        source, asked = parse_request(fields_of(request))
        assert asked == options
        return httpx.Response(200, json=prediction(len(source)).to_dict())

    answers = predictor(answer).predict([b"x" * n for n in range(1, 9)] + [film], options)
    assert answers == [prediction(n) for n in [*range(1, 9), 3]]


@pytest.mark.parametrize("kind", [RemotePredictor, AsyncRemotePredictor])
def test_no_key_travels_in_the_open(kind: type[RemotePredictor | AsyncRemotePredictor]) -> None:
    for url in (
        "http://chest.example:8080",
        "HTTP://10.0.0.7",
        "http://127.0.0.1.chest.example",
        "http://[2001:db8::1]",
    ):
        with pytest.raises(ConfigError, match=r"would travel to \S+ in the open\. Ask by https"):
            kind(url, "secret")
    for url in ("https://chest.example:8080", "http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"):
        kind(url, "secret", transport=httpx.MockTransport(lambda request: httpx.Response(200)))


def test_a_bad_film_costs_only_itself(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        source, _ = parse_request(fields_of(request))
        if source == b"bad":
            return httpx.Response(422, json=ImageError("Cut off.", code="truncated", hint="Again.").to_dict())
        return httpx.Response(413) if source == b"large" else httpx.Response(200, json=prediction(1).to_dict())

    missing = tmp_path / "missing.png"
    good, bad, large, gone = predictor(answer).predict([b"x", b"bad", b"large", missing])
    assert good == prediction(1)
    assert isinstance(bad, ImageError)
    assert (bad.code, bad.status, bad.message, bad.hint) == ("truncated", 422, "Cut off.", "Again.")
    assert isinstance(large, ImageError)
    assert large.code == "too_large"
    assert isinstance(gone, ImageError)
    assert (gone.code, gone.message) == ("missing", "missing.png does not exist.")


def test_messages_name_the_file_as_local_ones_do(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert b"film\n1.png" not in request.content
        error = ImageError("the picture is empty.", code="empty", hint="Again.", status=400)
        return httpx.Response(400, json=error.to_dict())

    film = tmp_path / "film\n1.png"
    film.touch()
    named, nameless = predictor(answer).predict([film, b""])
    assert str(named) == "film?1.png is empty. Again."
    assert str(nameless) == "the picture is empty. Again."


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            raises(httpx.ConnectError("refused")),
            "No server answers at http://127.0.0.1:9. Start one with `cxr-mtl serve`",
        ),
        (raises(httpx.ReadTimeout("late")), "did not answer in time"),
        (
            raises(httpx.RemoteProtocolError("broke")),
            "The connection to http://127.0.0.1:9 broke (RemoteProtocolError)",
        ),
        (
            refuses(400, "Token Authorization failed. Token either incorrect, expired"),
            "refused the key. `cxr-mtl serve",
        ),
        (refuses(401), "key_file.json"),
        (refuses(404, "Model not found: cxr_mtl"), "has no model 'cxr_mtl'"),
        (refuses(503, "Model cxr_mtl has no worker to serve inference request"), "overloaded or its worker is down"),
        (refuses(500, "x"), "answered 500 and not in the form cxr-mtl.prediction/1"),
        (lambda request: httpx.Response(200, text="<html>"), "answered 200 and not in the form"),
        (lambda request: httpx.Response(200, json=[1]), "answered 200 and not in the form"),
    ],
)
def test_a_server_that_does_not_answer_is_one_line(
    answer: Callable[[httpx.Request], httpx.Response], message: str
) -> None:
    with pytest.raises(ServeError) as caught:
        predictor(answer).predict([b"x"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value) + repr(predictor(answer))


def test_a_port_where_nobody_listens() -> None:
    with pytest.raises(ServeError, match="No server answers"):
        RemotePredictor(URL, retries=0).predict([b"x"])
    assert not RemotePredictor(URL).healthy()


def test_health_is_what_ping_says() -> None:
    assert predictor(lambda request: httpx.Response(200, json={"status": "Healthy"})).healthy()
    assert not predictor(lambda request: httpx.Response(200, json={"status": "Partial Healthy"})).healthy()
    assert not predictor(refuses(400, "Token Authorization failed")).healthy()


def test_the_key_is_read_from_the_file_torchserve_writes(tmp_path: Path) -> None:
    keys = tmp_path / "key_file.json"
    keys.write_text(json.dumps({"inference": {"key": "abc"}, "management": {"key": "def"}, "API": {"key": "ghi"}}))
    assert (read_key(keys), read_key(keys, "management")) == ("abc", "def")
    for bare in ("c" * 64, "1234", "12e45", "a.b_c~+/-=="):  # of a proxy's client, as openssl rand writes it
        keys.write_text(f"{bare}\n")
        assert read_key(keys) == bare
        with pytest.raises(ServeError, match="holds no management key"):
            read_key(keys, "management")
    for content in ("", "{", "{}", "[]", '{"inference": 3}', "Bearer abc", "abc\ndef", '"abc"', "\xff"):
        keys.write_text(content)
        with pytest.raises(ServeError, match="holds no inference key"):
            read_key(keys)
    with pytest.raises(ServeError, match="cannot be read"):
        read_key(tmp_path / "none.json")


def test_asking_a_server_needs_no_torch() -> None:
    code = "import sys, cxr_mtl.predict.remote; print({'torch', 'timm', 'pandas', 'sklearn'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"

"""Both clients: what is asked again and what is not, connections kept, certificates."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretended import URL, fields_of, listener, prediction

from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.predict import AsyncRemotePredictor, RemotePredictor, wire
from cxr_mtl.predict.request import parse_request
from cxr_mtl.types import Options, Prediction

Answers = list[Prediction | ImageError]
Ask = Callable[..., Answers]


def ask_sync(url: str, films: Sequence[bytes | Path], options: Options, **settings: Any) -> Answers:
    with RemotePredictor(url, **settings) as remote:
        return remote.predict(films, options)


def ask_async(url: str, films: Sequence[bytes | Path], options: Options, **settings: Any) -> Answers:
    async def ask() -> Answers:
        async with AsyncRemotePredictor(url, **settings) as remote:
            return await remote.predict(films, options)

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """One of the clients; its pauses are short."""
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(wire, "KEY_PAUSE", 0.002)
    kind = request.param

    def asked(films: Sequence[bytes | Path], url: str = URL, **settings: Any) -> Answers:
        return list(kind(url, films, Options(), **settings))

    return asked


class Script:
    """A transport that answers by a list, then well for ever; for both clients."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, bytes]] = []
        self.transport = httpx.MockTransport(self)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        film, _ = parse_request(fields_of(request))
        self.asked.append((time.monotonic(), film))
        answer = self.answers.pop(0) if self.answers else httpx.Response(200, json=prediction(len(film)).to_dict())
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def refusal(status: int, message: str = "", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": status, "message": message}, headers=headers)


@pytest.mark.parametrize(
    "first",
    [
        refusal(503),
        refusal(429),
        refusal(500, "Worker died."),
        refusal(507, "Worker died."),
        httpx.Response(503, json=ImageError("No model can answer now.", code="unavailable").to_dict()),
        httpx.Response(429, json=ImageError("Too many requests.", code="too_many").to_dict()),
        httpx.Response(507, json=ImageError("No memory.", code="memory", status=507).to_dict()),
        httpx.Response(503, json=ImageError("Busy.", code="busy", status=503).to_dict()),
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("no route"),
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
        httpx.ReadError("reset"),
        httpx.WriteError("broken pipe"),
    ],
    ids=lambda first: type(first).__name__ if isinstance(first, Exception) else str(first.status_code),
)
def test_what_may_be_better_next_time_is_asked_again(ask: Ask, first: httpx.Response | Exception) -> None:
    script = Script(first, first)
    assert ask([b"film"], transport=script.transport) == [prediction(4)]
    assert [film for _, film in script.asked] == [b"film"] * 3


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (refusal(403), "refused the key"),
        *(
            (httpx.Response(status, json=ImageError("Said by a proxy.", code=code).to_dict()), says)
            for status, code, says in (
                (401, "unauthorized", "refused the key"),
                (404, "not_found", "has no model"),
                (405, "method", "answered 405"),
                (415, "no_forms", "answered 415"),
            )
        ),
        (refusal(404), "has no model"),
        (refusal(500, "x"), "answered 500"),
        (httpx.ReadTimeout("late"), "did not answer in time"),
        (httpx.UnsupportedProtocol("ftp"), "broke"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), "--ca FILE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_will_be_the_same_is_asked_once(ask: Ask, first: httpx.Response | Exception, says: str) -> None:
    script = Script(first)
    with pytest.raises(ServeError, match=says):
        ask([b"film"], transport=script.transport)
    assert len(script.asked) == 1


def test_a_key_that_torchserve_refuses_is_shown_twice(ask: Ask) -> None:
    """Once, and it is the right one: the server is being stopped, or the proxy in front learns a new one."""
    wrong = refusal(400, "Token Authorization failed")
    script = Script(wrong)
    assert ask([b"film"], transport=script.transport) == [prediction(4)]
    assert len(script.asked) == 2
    script = Script(wrong, wrong, wrong)
    with pytest.raises(ServeError, match="refused the key"):
        ask([b"film"], transport=script.transport)
    assert len(script.asked) == 2


def test_a_film_that_is_refused_is_asked_once(ask: Ask) -> None:
    cut = ImageError("Cut off.", code="truncated", hint="Again.", status=400)
    script = Script(httpx.Response(400, json=cut.to_dict()), httpx.Response(413))
    first, large, good = ask([b"cut", b"large", b"x"], transport=script.transport, concurrency=1)
    assert isinstance(first, ImageError)
    assert isinstance(large, ImageError)
    assert (first.to_dict(), first.status, large.code) == (cut.to_dict(), 400, "too_large")
    assert good == prediction(1)
    assert len(script.asked) == 3


def test_tries_are_counted_and_the_last_refusal_is_told(ask: Ask) -> None:
    script = Script(*[refusal(503)] * 9)
    with pytest.raises(ServeError, match="overloaded"):
        ask([b"film"], transport=script.transport, retries=2)
    assert len(script.asked) == 3


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [(500, "Worker died.", "internal"), (507, "Worker died.", "internal"), (507, "Java heap space", "out_of_memory")],
)
def test_a_film_that_ends_the_worker_gets_an_error_and_its_neighbours_answers(
    ask: Ask, status: int, message: str, code: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        film, _ = parse_request(fields_of(request))
        return refusal(status, message) if film == b"bad" else httpx.Response(200, json=prediction(1).to_dict())

    bad, good = ask([b"bad", b"x"], transport=httpx.MockTransport(answer), retries=2)
    assert isinstance(bad, ImageError)
    assert bad.code == code
    assert "3 times" in bad.message
    assert good == prediction(1)


def test_a_server_is_left_alone_as_long_as_it_asks(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "retry_after", lambda headers: float(headers["retry-after"]) / 10)
    script = Script(refusal(503, **{"Retry-After": "3"}))
    assert ask([b"film"], transport=script.transport) == [prediction(4)]
    (first, _), (second, _) = script.asked
    assert 0.3 <= second - first < 3


@pytest.mark.parametrize("status", [429, 503])
def test_the_pause_is_no_shorter_than_asked(status: int) -> None:
    wait = format_datetime(datetime.now(UTC) + timedelta(seconds=32), usegmt=True)
    turn = wire.Turn(wire.Server(URL, None, "m", 60.0, 3), b"film", Options())
    for stated in ("30", wait):
        pause = turn.hear(refusal(status, **{"Retry-After": stated}))
        assert isinstance(pause, wire.Pause)
        assert 30 <= pause.seconds <= 33


def test_a_busy_server_is_asked_for_as_long_as_patience_lasts_and_only_others_count(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LONGEST_PAUSE", 0.002)
    busy = [refusal(503), refusal(429)] * 5
    script = Script(*busy, httpx.ReadError("cut"), *busy)
    assert ask([b"film"], transport=script.transport, retries=1, patience=5) == [prediction(4)]
    script = Script(httpx.ReadError("cut"), *busy, httpx.ReadError("cut"))
    with pytest.raises(ServeError, match="broke"):
        ask([b"film"], transport=script.transport, retries=1, patience=5)
    script = Script(*busy * 100)
    with pytest.raises(ServeError, match="overloaded"):
        ask([b"film"], transport=script.transport, retries=1, patience=0.05)
    assert 2 <= len(script.asked) < 1000


def test_what_a_busy_server_costs_is_not_of_the_films_time(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "retry_after", lambda headers: 0.1)
    script = Script(*[refusal(503)] * 3)
    assert ask([b"film"], transport=script.transport, timeout=0.25, retries=0, patience=60) == [prediction(4)]
    (first, _), *_, (last, _) = script.asked
    assert last - first > 0.25


def test_nobody_waits_longer_than_the_film_has(ask: Ask) -> None:
    script = Script(*[refusal(503, **{"Retry-After": "60"})] * 2)
    begun = time.monotonic()
    with pytest.raises(ServeError, match="overloaded"):
        ask([b"film"], transport=script.transport, timeout=5)
    assert time.monotonic() - begun < 2
    assert len(script.asked) == 1


@given(st.integers(1, 30))
def test_pauses_grow_to_a_bound_and_differ(retry: int) -> None:
    random.seed(retry)
    pauses = [wire.pause_before(retry) for _ in range(8)]
    longest = min(0.25 * 2 ** (retry - 1), 8)
    assert all(longest / 2 <= pause <= longest for pause in pauses)
    assert len(set(pauses)) > 1


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [("", 0), ("7", 7), (" 7 ", 7), ("-1", 0), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("1.5", 0)],
)
def test_retry_after_is_a_number_or_a_date(stated: str, seconds: float) -> None:
    assert wire.retry_after(httpx.Headers({"Retry-After": stated})) == seconds


names = st.lists(st.sampled_from(["Edema", "Pleural Thickening", "No Finding"]), max_size=3).map(tuple)


@settings(max_examples=50)
@given(
    film=st.binary(max_size=300) | st.sampled_from([b"{}", b' {"image": 3}', b"\xef\xbb\xbf{}"]),
    options=st.just(Options())
    | st.builds(
        Options,
        operating_point=st.sampled_from(["balanced", "f1"]),
        findings=st.none() | names,
        boxes=st.booleans(),
        heatmaps=names,
        explain=st.none() | st.just("grad_cam"),
    ),
)
def test_film_and_options_survive_the_way(film: bytes, options: Options) -> None:
    """Also where the film is empty or looks like JSON."""
    turn = wire.Turn(wire.Server(URL, None, "m", 1.0, 0), film, options)
    request = httpx.Request("POST", turn.url, **turn.post)
    assert parse_request(fields_of(request)) == (film, options)
    if options == Options() and film.isascii() and film.isalnum():
        assert request.content == film  # as it is: no base64


def test_connections_are_kept(ask: Ask) -> None:
    with listener() as server:
        address = f"http://127.0.0.1:{server.server_port}"
        assert ask([b"x"] * 12, address, concurrency=3) == [prediction(1)] * 12
        assert server.connections <= 3


@pytest.mark.parametrize("fault", ["cut", "hang up", "answer and close"])
def test_a_connection_that_breaks_is_made_anew(ask: Ask, fault: str) -> None:
    with listener() as server:
        server.todo = ["answer", fault, "answer", fault]
        assert ask([b"x"] * 6, f"http://127.0.0.1:{server.server_port}", concurrency=1) == [prediction(1)] * 6


def test_a_server_that_hangs_costs_no_more_than_the_timeout(ask: Ask) -> None:
    with listener() as server:
        server.todo = ["sleep"] * 3
        begun = time.monotonic()
        with pytest.raises(ServeError, match="did not answer in time"):
            ask([b"x"], f"http://127.0.0.1:{server.server_port}", timeout=0.3)
        assert time.monotonic() - begun < 0.9


def test_a_certificate_of_ones_own(ask: Ask, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    wanted = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    where = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", *wanted, *where, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with listener(context) as server:
        address = f"https://127.0.0.1:{server.server_port}"
        assert ask([b"x"], address, ca=certificate) == [prediction(1)]
        with pytest.raises(ServeError, match=r"signed by nobody this machine trusts.*--ca FILE"):
            ask([b"x"], address)
    for wrong in (tmp_path / "none.pem", key):
        with pytest.raises(ServeError, match="holds no certificate"):
            ask([b"x"], address, ca=wrong)


def test_films_are_taken_as_answers_are_and_an_error_ends_all() -> None:
    taken: list[int] = []

    def films() -> Iterator[bytes]:
        for n in range(1000):
            taken.append(n)
            yield b"x" * (n + 1)

    script = Script()
    with RemotePredictor(URL, concurrency=2, transport=script.transport) as remote:
        answers = remote.predict_iter(films())
        assert [next(answers) for _ in range(5)] == [prediction(n) for n in range(1, 6)]
        assert len(taken) <= 9

    async def asked() -> None:
        taken.clear()
        async with AsyncRemotePredictor(URL, concurrency=2, transport=script.transport) as remote:
            answers = remote.predict_iter(films())
            assert [await anext(answers) for _ in range(5)] == [prediction(n) for n in range(1, 6)]
            await answers.aclose()
        assert len(taken) <= 7

    asyncio.run(asked())


def test_health(ask: Ask) -> None:
    async def both(remote: AsyncRemotePredictor) -> bool:
        async with remote:
            return await remote.healthy()

    def answers(status: int, said: str) -> httpx.MockTransport:
        return httpx.MockTransport(lambda request: httpx.Response(status, json={"status": said}))

    for status, said, good in ((200, "Healthy", True), (200, "Partial Healthy", False), (400, "", False)):
        assert asyncio.run(both(AsyncRemotePredictor(URL, transport=answers(status, said)))) is good
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert asyncio.run(both(AsyncRemotePredictor(address))) is False


def test_no_client_shows_its_key() -> None:
    remote = AsyncRemotePredictor(URL, "secret")
    assert repr(remote) == f"AsyncRemotePredictor('{URL}', model='cxr_mtl')"
    assert "secret" not in repr(remote._server) + repr(RemotePredictor(URL, "secret")._server)
    asyncio.run(remote.close())

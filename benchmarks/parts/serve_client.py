"""The callers of benchmarks/serve.py, in a process of their own: each posts a film, reads the answer, posts the next.

Reads a job as JSON on stdin. Says ``begin`` and ``end`` when what is measured begins and ends, so that the CPU time of
the server can be read at those moments, then writes what it saw as one line of JSON. Only the standard library: callers
share the cores with the server.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "film-boundary"


@dataclass
class Reply:
    film: int
    status: int
    body: bytes
    asked: float
    answered: float


def main() -> None:
    job = json.load(sys.stdin)
    bodies = [make_body(Path(file).read_bytes(), job["form"]) for file in job["films"]]
    turns, stop = itertools.count(), threading.Event()
    replies: list[Reply] = []
    callers = [
        threading.Thread(target=call, args=(job, bodies, turns, stop, replies), daemon=True)
        for _ in range(job["callers"])
    ]
    for caller in callers:
        caller.start()
    time.sleep(job["ramp"])
    say("begin")
    begin, spent = time.perf_counter(), time.process_time()
    time.sleep(job["seconds"])
    end, spent = time.perf_counter(), time.process_time() - spent
    say("end")
    stop.set()
    for caller in callers:
        caller.join()
    say(json.dumps(summary(replies, begin, end, spent)))


def call(
    job: dict[str, Any], bodies: list[bytes], turns: itertools.count[int], stop: threading.Event, replies: list[Reply]
) -> None:
    """One caller over one connection, which is made anew where the server closed it."""
    where = urlsplit(job["url"])
    kind = f"multipart/form-data; boundary={BOUNDARY}" if job["form"] else "image/png"
    headers = {"Content-Type": kind, **job["headers"]}
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=120)
    while not stop.is_set():
        film = next(turns) % len(bodies)
        asked = time.perf_counter()
        try:
            connection.request("POST", where.path, bodies[film], headers)
            response = connection.getresponse()
            status, body = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            status, body = 0, repr(error).encode()
            time.sleep(0.1)
        replies.append(Reply(film, status, body, asked, time.perf_counter()))


def summary(replies: list[Reply], begin: float, end: float, spent: float) -> dict[str, Any]:
    """Who was answered while it was measured: how long they waited, s, and every different answer to a film."""
    measured = [reply for reply in replies if begin <= reply.answered < end]
    answers = {(reply.film, reply.body.decode(errors="replace")) for reply in measured if reply.status == 200}
    refused = [f"{r.status}: {r.body[:200].decode(errors='replace')}" for r in measured if r.status != 200]
    return {
        "seconds": end - begin,
        "waits": [reply.answered - reply.asked for reply in measured if reply.status == 200],
        "answers": sorted(answers),
        "refused": refused,
        "cpu": spent,
    }


def make_body(film: bytes, form: str) -> bytes:
    """The film itself, or a form with the film in the field ``form``."""
    if not form:
        return film
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{form}"; filename="film.png"\r\n'
    return f"{head}Content-Type: image/png\r\n\r\n".encode() + film + f"\r\n--{BOUNDARY}--\r\n".encode()


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()

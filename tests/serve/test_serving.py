"""docs/serving.md against a real server: every command, what it says of errors and metrics, and what is logged."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom
import pytest

from cxr_mtl.data.refuse import STATUS
from cxr_mtl.package.mar import build_archive
from cxr_mtl.predict.meters import METERS
from cxr_mtl.predict.options import OPTION_FIELDS
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.remote import RemotePredictor, read_key
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.state import ServerInfo
from cxr_mtl.types import Options, Prediction

PAGE = (Path(__file__).resolve().parents[2] / "docs/serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
PATIENT = "Doe^Jane"


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its own head."""
    (after,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
    rows = [line for line in after.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_page_names_every_option_metric_and_error() -> None:
    assert {quoted(row[0])[0] for row in table("Options")} == set(OPTION_FIELDS)
    assert {(quoted(row[0])[0], row[1].split()[0]) for row in table("Metrics")} == {(m.name, m.kind) for m in METERS}
    said = {code: int(row[1]) for row in table("Errors") for code in quoted(row[0])}
    of_paths = {"missing", "unreadable"}  # a server is sent films, not told where they are
    ours = {"bad_request": 400, "busy": 503, "internal": 500, "out_of_memory": 507}
    assert said == {code: status for code, status in STATUS.items() if code not in of_paths} | ours


@dataclass
class Server:
    info: ServerInfo
    place: Path
    client: httpx.Client

    @property
    def url(self) -> str:
        return f"{self.info.url}/predictions/cxr_mtl"

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.info.log_dir.iterdir())

    def metrics(self, name: str, **labels: str) -> float:
        """The sum of a metric's values with these labels."""
        text = httpx.get(self.info.metrics_url, trust_env=False).text
        found = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(line.rpartition(" ")[2]) for line in found if all(part in line for part in wanted))


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, real_films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started once, in a folder where the page's names are right: its store and the two films."""
    pytest.importorskip("ts")
    place = tmp_path_factory.mktemp("serving")
    build_archive(tiny_bundle, place / "model_store")
    shutil.copyfile(next(real_films.glob("nih/**/*.png")), place / "film.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom names what it does not like, which is the point.
        film = pydicom.dcmread(next(real_films.glob("dicom/nih_udacity_test1.dcm")))
        film.PatientName, film.PatientID = PATIENT, f"{PATIENT}\n[METRICS]"
        film.add_new(0x00080020, "LO", PATIENT)  # a name where a date belongs
        film.save_as(place / "film.dcm")
    info = torchserve.start(place / "model_store", port=0, wait=200)
    headers = {"Authorization": f"Bearer {read_key(info.key_file)}"}
    with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
        yield Server(info, place, client)
    torchserve.stop(torchserve.state_dir_of(place / "model_store"))


def run(server: Server, command: str) -> tuple[str, int]:
    """What a command of the page says, run after the page's first, and the HTTP status."""
    script = f"set -euo pipefail\n{COMMANDS[0]}\n{command}"
    info = server.info
    for port, url in ((8080, info.url), (8081, info.management_url), (8082, info.metrics_url.removesuffix("/metrics"))):
        script = script.replace(f"http://127.0.0.1:{port}", url)
    (server.place / ".curlrc").write_text('silent\nshow-error\nnoproxy = "*"\nwrite-out = "\\n%{http_code}"\n')
    environment = {"PATH": _path(), "CURL_HOME": str(server.place)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=server.place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said, _, status = done.stdout.rpartition("\n")
    return said, int(status)


def _path() -> str:
    """With this Python first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_every_command_of_the_page_works(server: Server, tiny_bundle: Path) -> None:
    said = {command: run(server, command) for command in COMMANDS[1:]}
    assert len(said) == 8
    assert {status for _, status in said.values()} == {200}
    dcm, form, as_json, explained, named, infer, described, metrics = (text for text, _ in said.values())
    local = LocalPredictor(tiny_bundle)
    png = server.place / "film.png"
    assert json.loads(dcm)["image"]["format"] == "dicom"
    assert _findings(form) == _local(local, png, Options("sensitive", ("Effusion", "Edema")))
    assert _findings(as_json) == _local(local, png, Options(top_k=3))
    assert json.loads(explained)["heatmaps"]
    assert re.search(r"^x-caller-request-id: ward-3\.17\r?$", named, flags=re.MULTILINE | re.IGNORECASE)
    answer = json.loads(infer)
    assert (answer["model_name"], answer["id"]) == ("cxr_mtl", "run-7")
    assert {output["name"] for output in answer["outputs"]} == {quoted(row[0])[0] for row in table("KServe")}
    assert json.loads(described)[0]["customizedMetadata"]["card"] == "# tiny\n"
    assert "# TYPE Requests2XX counter" in metrics


def _findings(text: str) -> list[tuple[str, str]]:
    return [(finding["name"], finding["call"]) for finding in json.loads(text)["findings"]]


def _local(local: LocalPredictor, film: Path, options: Options) -> list[tuple[str, str]]:
    (answer,) = local.predict([film], options)
    assert isinstance(answer, Prediction)
    return [(finding.name, finding.call) for finding in answer.findings]


@pytest.mark.slow
def test_films_of_a_kserve_request_are_answered_each_in_its_place(server: Server) -> None:
    films = [server.place / "film.png", server.place / "film.dcm"]
    data = [base64.b64encode(film.read_bytes()).decode() for film in films]
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3], "data": [data[0], "AAAA", data[1]]}]}
    url = f"{server.info.url}/v2/models/cxr_mtl/infer"
    answer = server.client.post(url, json=body)
    assert answer.status_code == 200
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs["status"] == [200, 415, 200]
    for film, text in ((films[0], outputs["prediction"][0]), (films[1], outputs["prediction"][2])):
        assert json.loads(text) == server.client.put(server.url, content=film.read_bytes()).json()
    assert answer.json()["id"] == answer.headers["x-request-id"] == answer.headers["x-caller-request-id"]
    refused = server.client.post(url, json={"inputs": []})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("bad_request: ")
    assert httpx.post(url, json=body, trust_env=False).status_code in (400, 401), "no key, no answer"


@pytest.mark.slow
def test_the_remote_predictor_and_the_local_one_agree_on_the_new_options(server: Server, tiny_bundle: Path) -> None:
    film = server.place / "film.png"
    options = Options("sensitive", heatmaps=("Mass",), heatmap_format="array", top_k=2)
    (remote,) = RemotePredictor(server.info.url, read_key(server.info.key_file)).predict([film], options)
    (local,) = LocalPredictor(tiny_bundle).predict([film], options)
    assert isinstance(remote, Prediction)
    assert isinstance(local, Prediction)
    assert [f.name for f in remote.findings] == [f.name for f in local.findings]
    (far,), (near,) = remote.heatmaps, local.heatmaps
    assert far.array is not None
    assert near.array is not None
    assert (far.array.shape, far.array.dtype) == (near.array.shape, "<f4")


@pytest.mark.slow
def test_what_was_asked_stands_in_the_metrics(server: Server) -> None:
    film = (server.place / "film.png").read_bytes()
    names = ("cxr_requests_total", "cxr_films_total", "cxr_findings_called_total")
    names += ("cxr_preprocess_seconds_count", "cxr_model_seconds_count", "cxr_batch_fill_ratio_count")
    server.client.put(server.url, content=film)
    server.client.put(server.url, content=b"no film")
    time.sleep(0.5)  # They pass through the front end's reader of logs.
    before = {name: server.metrics(name) for name in names}
    refused = server.metrics("cxr_films_total", code="unsupported", model_name="cxr_mtl", model_version="0.1")
    answer = server.client.put(server.url, content=film).json()
    for _ in range(2):
        server.client.put(server.url, content=b"no film")
    time.sleep(0.5)
    grown = {name: server.metrics(name) - before[name] for name in names}
    called = sum(finding["call"] == "positive" for finding in answer["findings"])
    assert grown == dict(zip(names, (3, 3, called, 3, 1, 3), strict=True))
    after = server.metrics("cxr_films_total", code="unsupported", model_name="cxr_mtl", model_version="0.1")
    assert after - refused == 2
    assert server.metrics("cxr_requests_total", status="415") >= 2
    assert "Failed to" not in server.logs()


@pytest.mark.slow
def test_nothing_of_a_patient_or_of_a_hostile_caller_is_logged(server: Server) -> None:
    film = (server.place / "film.dcm").read_bytes()
    assert PATIENT.encode() in film
    for content in (film, film[:-5000], film[:2000]):
        server.client.put(server.url, content=content, params={"patient": PATIENT})
        server.client.post(server.url, files={"data": (f"{PATIENT}.dcm", content)}, data={PATIENT: PATIENT})
        server.client.post(server.url, files={"data": (f"{PATIENT}.dcm", content)}, data={"findings": PATIENT})
    for name in (PATIENT, "a" * 65, "a b", "[METRICS]cxr_x.count:1|#a:b|#type:COUNTER|#hostname:h,1"):
        answer = server.client.put(server.url, content=film, headers={"X-Request-Id": name})
        assert answer.headers["x-caller-request-id"] == answer.headers["x-request-id"]
        assert server.client.post(server.url, json={"inputs": [], "id": f"{name}\n[METRICS]forged"}).status_code == 400
    _folded(server, "fine\r\n [METRICS]forged")
    named = server.client.put(server.url, content=film, headers={"X-Request-Id": "ward-4.18"})
    assert named.headers["x-caller-request-id"] == "ward-4.18"
    logs = server.logs()
    assert re.search(r"request id=ward-4\.18 status=\d+ code=\w+ films=1 ms=\d+$", logs, flags=re.MULTILINE)
    assert "PUT /predictions/cxr_mtl HTTP/1.1" in logs
    assert not any(word in logs for word in ("Doe", "Jane", "[METRICS]", "forged", "a" * 65))


def _folded(server: Server, name: str) -> None:
    """A header of two lines, which the client library would not send."""
    host, _, port = server.info.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.putrequest("PUT", "/predictions/cxr_mtl")
    head = {"Authorization": server.client.headers["Authorization"], "Content-Length": "7"}
    for header, value in head.items():
        connection.putheader(header, value)
    connection._buffer.append(f"X-Request-Id: {name}".encode())  # type: ignore[attr-defined]
    connection.endheaders(b"no film")
    assert connection.getresponse().status in (400, 415)
    connection.close()

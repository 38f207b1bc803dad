"""A real TorchServe, started from a real archive, asked as people ask and as people should not."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.package.mar import build_archive
from cxr_mtl.predict.aio import AsyncRemotePredictor
from cxr_mtl.predict.command import predict_many
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.remote import RemotePredictor, read_key
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.state import ServerInfo, load_state
from cxr_mtl.types import Options, Prediction

pytestmark = pytest.mark.slow
pytest.importorskip("ts")
PATIENT = "Doe^Jane"


@dataclass
class Server:
    """The one server of this file, and a client with its key."""

    info: ServerInfo
    store: Path
    client: httpx.Client
    url: str

    def worker_pids(self) -> list[int]:
        return sorted(child.pid for child in psutil.Process(self.info.pid).children(recursive=True))

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.info.log_dir.iterdir())


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started once; that nothing is left of it is checked when it stops."""
    store = tmp_path_factory.mktemp("store é")
    build_archive(tiny_bundle, store, max_batch_delay_ms=300)
    info = torchserve.start(store, port=0, wait=200)
    headers = {"Authorization": f"Bearer {read_key(info.key_file)}"}
    with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
        server = Server(info, store, client, f"{info.url}/predictions/cxr_mtl")
        yield server
        pids = [info.pid, *server.worker_pids()]
    state = load_state(torchserve.state_dir_of(store))
    assert state is not None
    assert len(pids) >= 2
    assert torchserve.stop(torchserve.state_dir_of(store))
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not state.temp.exists()
    assert not info.key_file.exists()
    assert torchserve.status(torchserve.state_dir_of(store)) is None
    assert torchserve.stop(torchserve.state_dir_of(store)) is False


@pytest.fixture(scope="module")
def local(tiny_bundle: Path) -> LocalPredictor:
    return LocalPredictor(tiny_bundle)


def picture(width: int, height: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4096, (height // 10 + 1, width // 10 + 1), dtype=np.uint16)
    return np.kron(coarse, np.ones((10, 10), np.uint16))[:height, :width]


def png(seed: int = 0, width: int = 210, height: int = 150) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((picture(width, height, seed) // 16).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def dicom(seed: int = 0, width: int = 200, height: int = 160) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.PatientName, film.Modality, film.BodyPartExamined = PATIENT, "DX", "CHEST"
    film.Rows, film.Columns, film.SamplesPerPixel = height, width, 1
    film.PhotometricInterpretation = "MONOCHROME1"
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.PixelData = picture(width, height, seed).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, film)
    return buffer.getvalue()


def bomb() -> bytes:
    """A small PNG whose header promises 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1 << 20))), (b"IEND", b"")]
    written = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def colour() -> bytes:
    """A photograph, as far as a reader can tell."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def close(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same words, and the same numbers to 1e-4."""

    def flat(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            for key in sorted(value):
                yield key
                yield from flat(value[key])
        elif isinstance(value, list):
            for item in value:
                yield from flat(item)
        else:
            yield value

    ours, theirs = list(flat(answer)), list(flat(expected))
    assert [v for v in ours if not isinstance(v, float)] == [v for v in theirs if not isinstance(v, float)]
    numbers = [v for v in ours if isinstance(v, float)]
    assert len(numbers) > 20
    assert numbers == pytest.approx([v for v in theirs if isinstance(v, float)], abs=1e-4)


def expected(local: LocalPredictor, film: bytes, options: Options | None = None) -> dict[str, Any]:
    (answer,) = local.predict([film], options or Options())
    assert isinstance(answer, Prediction)
    return answer.to_dict()


def test_it_runs_from_the_archive_and_its_state_is_private(server: Server) -> None:
    current = torchserve.status(torchserve.state_dir_of(server.store))
    assert current is not None
    assert current.ready
    assert current.info == server.info
    (model,) = current.models
    assert (model.name, model.version, model.default, model.workers) == ("cxr_mtl", "0.1", True, ("READY",))
    assert model.pids[0] in server.worker_pids()
    assert stat.S_IMODE(server.info.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.info.key_file.parent.stat().st_mode) == 0o700
    state = load_state(torchserve.state_dir_of(server.store))
    assert state is not None
    assert f"sources {state.temp}/models/" in server.logs(), "the sources of the archive, not this checkout"


@pytest.mark.parametrize("make", [png, dicom], ids=["png", "dicom"])
def test_every_way_of_asking_gives_the_local_answer(server: Server, local: LocalPredictor, make: Any) -> None:
    film = make()
    raw = server.client.put(server.url, content=film)
    assert raw.status_code == 200
    assert raw.headers["content-type"] == "application/json"
    close(raw.json(), expected(local, film))
    body = {"image": base64.b64encode(film).decode(), "operating_point": "sensitive", "heatmaps": ["Effusion"]}
    wanted = Options("sensitive", heatmaps=("Effusion",))
    close(server.client.post(server.url, json=body).json(), expected(local, film, wanted))
    form = {"operating_point": "specific", "findings": "Edema,Nodule", "boxes": "false"}
    answer = server.client.post(server.url, data=form, files={"data": film})
    close(answer.json() | {}, expected(local, film, Options("specific", ("Edema", "Nodule"), boxes=False)))


def test_explanations_map_what_is_flagged(server: Server, local: LocalPredictor) -> None:
    url, film = server.url.replace("/predictions/", "/explanations/"), png(7)
    wanted = Options("sensitive", heatmaps=("Mass",), explain="integrated_gradients")
    body = {"image": base64.b64encode(film).decode(), "operating_point": "sensitive", "explain": wanted.explain}
    answer = server.client.post(url, json=body | {"heatmaps": ["Mass"]}).json()
    assert [(heat["finding"], heat["method"]) for heat in answer["heatmaps"]] == [("Mass", "integrated_gradients")]
    close(answer | {"heatmaps": []}, expected(local, film, wanted) | {"heatmaps": []})
    form, files = {"operating_point": "sensitive"}, {"data": film}
    plain = server.client.post(url, data=form, files=files).json()
    assert [heat["finding"] for heat in plain["heatmaps"]] == [f["name"] for f in flagged(plain)] != []
    assert {heat["method"] for heat in plain["heatmaps"]} == {"grad_cam"}
    assert "heatmaps" not in server.client.post(server.url, data=form, files=files).json(), "the other door"
    bare = server.client.put(url, content=film).json()
    assert [heat["finding"] for heat in bare.get("heatmaps", ())] == [f["name"] for f in flagged(bare)]
    for method in ("attention", "occlusion", "integrated_gradients"):  # not this model's; too long; of what is flagged
        wrong = server.client.post(url, json=body | {"explain": method})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "bad_request")
        assert f"explain '{method}'" in wrong.json()["error"]["message"]


def flagged(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [f for f in answer["findings"] if f["call"] == "positive" and f["name"] != "No Finding"]


def test_the_remote_predictor_gives_the_local_answers(server: Server, local: LocalPredictor, tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom(3))
    films = [png(1), path, png(2)[:-40], png(4)]
    remote = RemotePredictor(server.info.url, read_key(server.info.key_file))
    assert remote.healthy()
    options = Options("f1", heatmaps=("Mass",))
    for answer, truth in zip(remote.predict(films, options), local.predict(films, options), strict=True):
        if isinstance(truth, ImageError):
            assert isinstance(answer, ImageError)
            assert (answer.to_dict(), answer.status) == (truth.to_dict(), truth.status)
        else:
            assert isinstance(answer, Prediction)
            close(answer.to_dict(), truth.to_dict())


def test_the_async_predictor_and_many_films_give_the_local_answers(
    server: Server, local: LocalPredictor, tmp_path: Path
) -> None:
    films = []
    for n in range(12):
        films.append(tmp_path / f"{n}.png")
        films[-1].write_bytes(png(n))
    films[7].write_bytes(b"")
    options = Options("f1", findings=("Mass", "Effusion"), boxes=False)

    async def ask() -> list[Prediction | ImageError]:
        key = read_key(server.info.key_file)
        async with AsyncRemotePredictor(server.info.url, key, concurrency=6) as remote:
            assert await remote.healthy()
            return await remote.predict(films, options)

    for answer, truth in zip(asyncio.run(ask()), local.predict(films, options), strict=True):
        if isinstance(truth, ImageError):
            assert isinstance(answer, ImageError)
            assert answer.to_dict() == truth.to_dict()
        else:
            assert isinstance(answer, Prediction)
            close(answer.to_dict(), truth.to_dict())
    out, told = tmp_path / "p.parquet", list[str]()
    where = {"url": server.info.url, "key_file": server.info.key_file}
    assert predict_many("cxr_mtl", films, out, tell=told.append, **where) == 1  # type: ignore[arg-type]
    assert told == [f"12 films: 11 answered, 1 not (empty 1): {out}"]
    table = pq.read_table(out)
    for row, truth in zip(table.to_pylist(), local.predict(films), strict=True):
        if isinstance(truth, Prediction):
            numbers = {f"probability:{f.name}": f.probability for f in truth.findings if f.probability is not None}
            assert {name: row[name] for name in numbers} == pytest.approx(numbers, abs=1e-4)


def test_nobody_is_answered_without_the_key(server: Server) -> None:
    film = png()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": read_key(server.info.key_file)}):
        refused = httpx.put(server.url, content=film, headers=headers, trust_env=False)
        assert refused.status_code in (400, 401)
        assert "schema" not in refused.json()
        models = httpx.get(f"{server.info.management_url}/models", headers=headers, trust_env=False)
        assert models.status_code in (400, 401)
    with_inference_key = server.client.get(f"{server.info.management_url}/models")
    assert with_inference_key.status_code in (400, 401)
    with pytest.raises(ServeError, match=r"refused the key.*key_file\.json"):
        RemotePredictor(server.info.url, "wrong").predict([film])
    with pytest.raises(ServeError, match="has no model 'other'"):
        RemotePredictor(server.info.url, read_key(server.info.key_file), model="other").predict([film])


def test_no_model_can_be_added(server: Server) -> None:
    headers = {"Authorization": f"Bearer {read_key(server.info.key_file, 'management')}"}
    url = f"{server.info.management_url}/models"
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
    answer = httpx.post(f"{url}?url=http://127.0.0.1:1/x.mar", headers=headers, trust_env=False)
    assert answer.status_code >= 400
    assert httpx.delete(f"{url}/cxr_mtl", headers=headers, trust_env=False).status_code >= 400


def test_only_the_loopback_listens(server: Server) -> None:
    listening = [c for c in psutil.Process(server.info.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 5
    assert {str(c.laddr.ip).removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def test_one_corrupt_film_of_a_batch_gets_its_error_and_its_neighbours_their_answers(
    server: Server, local: LocalPredictor
) -> None:
    before = server.logs().count("Backend received inference")
    films = [png(1), dicom(2), png(3)[: len(png(3)) // 2], png(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda film: server.client.put(server.url, content=film), films))
    assert [answer.status_code for answer in answers] == [200, 200, 400, 200]
    error = answers[2].json()["error"]
    assert error["code"] == "truncated"
    assert error["message"]
    assert error["hint"]
    for i in (0, 1, 3):
        close(answers[i].json(), expected(local, films[i]))
    assert server.logs().count("Backend received inference") - before < len(films), "they went as one batch"


HOSTILE: dict[str, tuple[dict[str, Any], int, str]] = {
    "truncated PNG": ({"content": png()[:-40]}, 400, "truncated"),
    "header alone": ({"content": png()[:20]}, 400, "truncated"),
    "colour photograph": ({"content": colour()}, 422, "colour"),
    "40,000 x 40,000 header": ({"content": bomb()}, 413, "too_large"),
    "text file named .dcm": ({"content": b"This is no film at all.\n" * 20}, 415, "unsupported"),
    "truncated DICOM": ({"content": dicom()[:-5000]}, 400, "truncated"),
    "garbage after DICM": ({"content": b"\0" * 128 + b"DICM" + bytes(range(256)) * 8}, 0, ""),
    "HTML": ({"content": b"<html><script>alert(1)</script></html>"}, 415, "unsupported"),
    "nothing": ({"content": b""}, 400, "bad_request"),
    "broken JSON": ({"content": b'{"image": "AAA'}, 400, "bad_request"),
    "deep JSON": ({"content": b'{"image": ' + b"[" * 200_000}, 400, "bad_request"),
    "JSON without film": ({"json": {"boxes": True}}, 400, "bad_request"),
    "not base64": ({"json": {"image": "data:image/png;base64,AAAA"}}, 400, "bad_request"),
    "unknown option": ({"json": {"image": "AAAA", "operating_pont": "f1"}}, 400, "bad_request"),
    "unknown operating point": (
        {"json": {"image": base64.b64encode(png()).decode(), "operating_point": "best"}},
        400,
        "bad_request",
    ),
    "unknown finding": ({"json": {"image": base64.b64encode(png()).decode(), "heatmaps": ["Foo"]}}, 400, "bad_request"),
    "form without film": ({"files": {"operating_point": b"f1"}}, 400, "bad_request"),
}


def test_the_server_stays_up_whatever_it_is_sent(server: Server, local: LocalPredictor) -> None:
    workers = server.worker_pids()
    answers = {name: server.client.post(server.url, **request) for name, (request, _, _) in HOSTILE.items()}
    for name, (_, status, code) in HOSTILE.items():
        answer, error = answers[name], answers[name].json().get("error", {})
        assert 400 <= answer.status_code < 500, name
        assert all(error.get(part) for part in ("code", "message", "hint")), (name, answer.text)
        if status:
            assert (answer.status_code, error["code"]) == (status, code), name
    assert server.worker_pids() == workers
    close(server.client.put(server.url, content=png()).json(), expected(local, png()))


def test_a_film_as_large_as_they_come_fits_and_a_larger_one_is_refused(server: Server) -> None:
    film = dicom(5, width=4300, height=3500)
    assert len(film) > 30e6
    assert server.client.put(server.url, content=film).status_code == 200
    remote = RemotePredictor(server.info.url, read_key(server.info.key_file))
    good, large = remote.predict([film, b"\0" * 101_000_000])
    assert isinstance(good, Prediction)
    assert isinstance(large, ImageError)
    assert (large.code, large.status) == ("too_large", 413)


def test_the_logs_name_no_patient_and_no_key(server: Server) -> None:
    server.client.put(server.url, content=dicom()[:-5000])
    server.client.put(server.url, content=dicom())
    for address in (f"{server.url}/", f"{server.url}/0.1/", f"{server.info.url}/predictions/", f"{server.info.url}/"):
        server.client.put(f"{address}DOE_Jane.dcm?of=Doe", content=dicom())
    logs = server.logs()
    assert '"PUT /predictions/cxr_mtl HTTP/1.1" 200' in logs
    assert '"PUT /predictions HTTP/1.1" 404' in logs
    assert '"PUT / HTTP/1.1" 404' in logs
    keys = json.loads(server.info.key_file.read_text())
    secret = [keys[kind]["key"] for kind in ("inference", "management")]
    assert not any(word in logs for word in ("Doe", "DOE", "Jane", *secret))


def test_two_servers_do_not_mix(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=f"runs already: {server.info.url}"):
        torchserve.start(server.store)
    shutil.copy(server.store / "cxr_mtl.mar", tmp_path)
    port = int(server.info.url.rpartition(":")[2])
    with pytest.raises(ServeError, match=f"Port {port} is taken"):
        torchserve.start(tmp_path, port=port)


def test_an_archive_that_was_changed_does_not_start_and_says_why(server: Server, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    changed = store / "cxr_mtl.mar"
    with zipfile.ZipFile(server.store / "cxr_mtl.mar") as before, zipfile.ZipFile(changed, "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name) + (b"\n" if name == "bundle.yaml" else b""))
    started = set(psutil.pids())
    with pytest.raises(ServeError) as caught:
        torchserve.start(store, port=0, wait=200)
    assert "bundle.yaml is not the file that was archived" in caught.value.message
    assert str(torchserve.state_dir_of(store) / "logs") in caught.value.hint
    left = [pid for pid in set(psutil.pids()) - started if str(store) in " ".join(_command(pid))]
    assert left == []
    assert torchserve.status(torchserve.state_dir_of(store)) is None


def test_a_file_that_is_no_archive_does_not_start_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "cxr_mtl.mar").write_bytes(b"no zip")
    with pytest.raises(ServeError, match=r"cxr_mtl\.mar is no model archive"):
        torchserve.start(tmp_path, port=0, wait=60)
    assert torchserve.status(torchserve.state_dir_of(tmp_path)) is None


def _command(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []

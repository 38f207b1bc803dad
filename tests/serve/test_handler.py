"""The handler behind TorchServe's own service, in this process: batches as it makes them, memory that runs out."""

from __future__ import annotations

import base64
import inspect
import io
import json
import shutil
import struct
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr_mtl.package.checksums import write_sums
from cxr_mtl.paths import handlers_dir
from cxr_mtl.predict.health import Health
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.tell import ID_HEADER

pytestmark = pytest.mark.slow
ts = pytest.importorskip("ts")


def png(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    coarse = rng.integers(0, 256, (15, 21), dtype=np.uint8)
    Image.fromarray(np.kron(coarse, np.ones((10, 10), np.uint8))).save(stream, "PNG")
    return stream.getvalue()


class Worker:
    """One worker's service with the handler, and the front end's half of their protocol."""

    def __init__(self, folder: Path) -> None:
        from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
        from ts.service import Service

        sys.path.insert(0, str(handlers_dir()))
        try:
            import cxr_handler
        finally:
            sys.path.remove(str(handlers_dir()))
        self.module = cxr_handler
        self.handler = cxr_handler.CxrHandler()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # It leaves its file open.
            metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs/metrics.yaml"))
        metrics.initialize_cache()
        metrics.model_name = "chest"
        manifest = {"model": {"modelName": "chest", "modelVersion": "2.0"}}
        self.service = Service("chest", str(folder), manifest, self.handler.handle, None, 4, metrics_cache=metrics)
        self.handler.initialize(self.service.context)
        self.handler.health = Health(lambda: None)  # a spoilt worker ends its process, which here is the tests'
        self.service.set_cl_socket(None)

    def ask(self, *rows: tuple[dict[str, bytes], dict[str, str]]) -> list[tuple[int, dict[str, str], Any]]:
        """Status, headers and JSON of each answer to fields and headers."""
        batch = [
            {
                "requestId": f"ts-{i}".encode(),
                "headers": [{"name": n.encode(), "value": v.encode()} for n, v in headers.items()],
                "parameters": [{"name": n, "value": v, "contentType": "image/png"} for n, v in fields.items()],
            }
            for i, (fields, headers) in enumerate(rows)
        ]
        return list(_answers(io.BytesIO(self.service.predict(batch)), len(rows)))


def _answers(sent: io.BytesIO, count: int) -> Iterator[tuple[int, dict[str, str], Any]]:
    """The worker's side of ``ts.protocol.otf_message_handler.create_predict_response``, read back."""

    def number() -> int:
        return int(struct.unpack("!i", sent.read(4))[0])

    def text() -> str:
        return sent.read(number()).decode()

    assert (number(), text()) == (200, "Prediction success")
    for i in range(count):
        assert text() == f"ts-{i}"
        content_type, status, _ = text(), number(), text()
        headers = {text(): text() for _ in range(number())}
        assert content_type == headers["content-type"] == "application/json"
        yield status, headers, json.loads(text())
    assert number() == -1


@pytest.fixture(scope="module")
def worker(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = tmp_path_factory.mktemp("unpacked") / "model"
    shutil.copytree(tiny_bundle, folder)
    write_sums(folder)
    return Worker(folder)


def test_the_file_has_one_class_and_it_only_translates(worker: Worker) -> None:
    classes = [c for _, c in inspect.getmembers(worker.module, inspect.isclass) if c.__module__ == "cxr_handler"]
    assert classes == [type(worker.handler)]
    source = inspect.getsource(worker.module)
    assert not any(word in source.split() for word in ("try:", "except", "while"))


def test_all_ways_of_asking_share_a_batch(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    film = png(1)
    infer = {
        "id": "v2",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [2], "data": [base64.b64encode(film).decode(), "AAAA"]}
        ],
    }
    with caplog.at_level("INFO"):
        answers = worker.ask(
            ({"body": film}, {"explain": "False", "X-Request-Id": "mine"}),
            ({"data": film, "operating_point": b"sensitive"}, {"explain": "True"}),
            ({"body": film[:-40]}, {"explain": "False"}),
            ({"body": json.dumps(infer).encode()}, {}),
            ({"body": b""}, {"describe": "True"}),
            ({"data": film, "explain": b"grad_cam"}, {"explain": "False"}),
        )
    assert [status for status, _, _ in answers] == [200, 200, 400, 200, 200, 200]
    assert [headers[ID_HEADER] for _, headers, _ in answers] == ["mine", "ts-1", "ts-2", "v2", "ts-4", "ts-5"]
    bodies = [body for _, _, body in answers]
    assert "heatmaps" not in bodies[0]
    assert bodies[1]["heatmaps"]
    assert (bodies[2]["error"]["code"], bodies[2]["request_id"]) == ("truncated", "ts-2")
    assert (bodies[3]["model_name"], bodies[3]["model_version"], bodies[3]["id"]) == ("chest", "2.0", "v2")
    assert json.loads(bodies[3]["outputs"][-1]["data"][0])["findings"] == bodies[0]["findings"]
    assert bodies[4]["schema"] == "cxr-mtl.model/1"
    metrics = [line for line in caplog.messages if line.startswith("[METRICS]cxr_")]
    dimensions = "|#model_name:chest,model_version:2.0"
    assert any(f"cxr_films_total.Count:4{dimensions},code:ok|#type:COUNTER" in line for line in metrics)
    assert any(f"cxr_batch_fill_ratio.ratio:1.25{dimensions}|#type:HISTOGRAM" in line for line in metrics)
    assert sum("cxr_preprocess_seconds.seconds:" in line for line in metrics) == 6
    assert not any("Failed to update metric" in line for line in caplog.messages)


def test_a_film_that_does_not_fit_into_memory_costs_only_itself(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LocalPredictor._forward

    def full(self: LocalPredictor, squares: Sequence[Any], model: Any) -> Any:
        if len(squares) > 1:
            raise MemoryError
        if squares[0].mean() == wide:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")
        return forward(self, squares, model)

    seen: list[float] = []
    monkeypatch.setattr(LocalPredictor, "_forward", lambda self, s, m: seen.append(s[0].mean()) or forward(self, s, m))
    worker.ask(({"body": png(2)}, {}))
    (wide,) = seen
    monkeypatch.setattr(LocalPredictor, "_forward", full)
    answers = worker.ask(({"body": png(1)}, {}), ({"body": png(2)}, {}), ({"body": png(3)}, {}))
    assert [status for status, _, _ in answers] == [200, 507, 200]
    assert answers[1][2]["error"]["code"] == "out_of_memory"


def test_a_picture_that_does_not_fit_into_memory_is_not_called_damaged(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("cxr_mtl.data.read.decode", full)
    ((status, _, body),) = worker.ask(({"body": png(1)}, {}))
    assert (status, body["error"]["code"]) == (507, "out_of_memory")

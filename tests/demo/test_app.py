"""The page as it is served: really launched on loopback and driven by Gradio's own client."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from demo_fake import FakePredictor
from gradio_client import Client, handle_file
from PIL import Image
from typer.testing import CliRunner

from cxr_mtl import cli
from cxr_mtl.demo import app, present
from cxr_mtl.demo.page import look
from cxr_mtl.demo.visit import Judged, judge
from cxr_mtl.errors import ConfigError, ImageError, ServeError
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.remote import RemotePredictor
from cxr_mtl.types import Options


class Served:
    """A running page, its predictor and its API: (film, table, tree, json, facts) for (file, mode, finding)."""

    def __init__(self, predictor: Any, **options: Any) -> None:
        self.predictor = predictor
        self.blocks = app.build(predictor, **options)
        self.url = app.launch(self.blocks, port=None)
        self.client = Client(self.url, verbose=False, analytics_enabled=False)

    def ask(self, file: Path | None, mode: str = "balanced", finding: str | None = None) -> tuple[Any, ...]:
        return self.client.predict(handle_file(file) if file else None, mode, finding, api_name="/predict")

    def close(self) -> None:
        self.client.close()
        self.blocks.close(verbose=False)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey film, wider than high."""
    path = tmp_path_factory.mktemp("films") / "film.png"
    noise = np.random.default_rng(0).integers(40, 200, (90, 130))
    picture = np.asarray(Image.fromarray(noise.astype(np.uint8)).resize((390, 270), Image.Resampling.BICUBIC))
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, film: Path) -> Iterator[Served]:
    examples = tmp_path_factory.mktemp("examples")
    (examples / "notes.txt").write_text("no film")
    shutil.copy(film, examples / "drawn effusion.png")
    page = Served(FakePredictor(), examples=examples)
    yield page
    page.close()


def test_the_json_is_the_prediction_unchanged(served: Served, film: Path) -> None:
    _, _, _, body, _ = served.ask(film, "specific", "Effusion")
    [expected] = served.predictor.predict([film], Options("specific", heatmaps=("Effusion",)))
    assert body == expected.to_dict()


def test_the_page_shows_the_answer(served: Served, film: Path) -> None:
    picture, table, tree, _, facts = served.ask(film, "balanced", "Effusion")
    assert 'class="heat"' in picture
    assert 'viewBox="0 0 390 270"' in picture
    assert "not trained" in table
    assert "given Pleural" in tree
    assert "390 × 270 px, png" in facts


def test_the_controls_reach_the_predictor(served: Served, film: Path) -> None:
    served.ask(film, "sensitive", "")
    assert served.predictor.asked[-1] == Options("sensitive")
    served.ask(film, "f1", "Mass")
    assert served.predictor.asked[-1] == Options("f1", heatmaps=("Mass",))
    served.client.predict(handle_file(film), "f1", "Mass", "occlusion", api_name="/predict")
    assert served.predictor.asked[-1] == Options("f1", heatmaps=("Mass",), explain="occlusion")


def test_a_server_is_not_asked_for_what_it_refuses(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[gr.Blocks] = []
    monkeypatch.setattr(app, "launch", lambda blocks, **_: built.append(blocks))
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda _: None)
    app.main(url="http://127.0.0.1:9", tell=lambda _: None)
    assert "occlusion" not in json.dumps(built[0].config)
    assert "integrated_gradients" in json.dumps(built[0].config)
    app.main(tiny_bundle, tell=lambda _: None)
    assert "occlusion" in json.dumps(built[1].config)


def test_a_dicom_file_without_extension_is_read(served: Served, real_films: Path, tmp_path: Path) -> None:
    bare = tmp_path / "IM000001"
    shutil.copy(next(real_films.glob("dicom/nih_udacity_test1*")), bare)
    _, _, _, body, facts = served.ask(bare)
    assert body["image"]["format"] == "dicom"
    assert "dicom" in facts


def test_a_file_that_is_no_film_is_refused_with_a_reason(served: Served, tmp_path: Path) -> None:
    letter = tmp_path / "letter.dcm"
    letter.write_text("Dear colleague")
    picture, table, tree, body, _ = served.ask(letter)
    assert set(body["error"]) == {"code", "message", "hint"}
    assert "letter.dcm" in body["error"]["message"]
    assert 'role="alert"' in picture
    assert "Traceback" not in picture
    assert (table, tree) == ("", "")


def test_no_film_is_no_error(served: Served) -> None:
    picture, _, _, body, _ = served.ask(None)
    assert picture == present.blank(examples=True).film
    assert body is None


def test_an_example_is_offered_without_its_files_name(served: Served) -> None:
    config = json.dumps(served.blocks.config)
    assert "Example 1" in config
    assert "drawn effusion" not in config


def test_the_opacity_slider_starts_where_the_style_sheet_does(served: Served) -> None:
    [slider] = [part for part in served.blocks.config["components"] if part["type"] == "slider"]
    style = Path(app.__file__).with_name("demo.css").read_text()
    assert f"--heat: {slider['props']['value'] / 100};" in style
    events = [event for event in served.blocks.config["dependencies"] if (slider["id"], "input") in event["targets"]]
    assert [event["backend_fn"] for event in events] == [False], "it stays in the browser"


def test_only_predict_is_public(served: Served) -> None:
    assert set(served.client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {"/predict"}


def test_nothing_is_kept_sent_or_shared(served: Served) -> None:
    blocks = served.blocks
    assert blocks.analytics_enabled is False
    assert blocks.delete_cache == (60, 600)
    assert blocks.run_history is False
    assert blocks.share is False
    assert blocks.share_url is None
    assert blocks.enable_monitoring is False
    assert blocks.max_file_size == 64 * 1024**2
    assert blocks.footer_links == []
    assert blocks.show_error is False
    assert blocks.server_name == "127.0.0.1"
    assert httpx.get(f"{served.url}monitoring", trust_env=False).status_code in {403, 404, 405}


def test_the_browser_is_sent_nowhere_else(served: Served) -> None:
    page = httpx.get(served.url, trust_env=False)
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    # What a browser would fetch by itself: not the words of a meta tag or of a link nobody presses.
    fetched = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']([^\"']+)", page.text)
    assert fetched
    assert [address for address in fetched if "//" in address] == []
    styles = [httpx.get(served.url + a.lstrip("./"), trust_env=False).text for a in fetched if a.endswith(".css")]
    styles += [httpx.get(f"{served.url}theme.css", trust_env=False).text]
    assert not [url for style in styles for url in re.findall(r"(?:url\(|@import)\s*[\"']?(https?:[^)\"']+)", style)]


def test_demo_server_and_command_line_give_the_same_numbers(tiny_bundle: Path, film: Path) -> None:
    local = LocalPredictor(tiny_bundle)
    finding = "Cardiomegaly"
    [expected] = local.predict([film], Options(heatmaps=(finding,)))

    def serve(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=expected.to_dict())

    for predictor in (local, RemotePredictor("http://server.invalid", transport=httpx.MockTransport(serve))):
        page = Served(predictor)
        try:
            picture, table, _, body, _ = page.ask(film, "balanced", finding)
        finally:
            page.close()
        assert body == json.loads(json.dumps(expected.to_dict()))
        assert 'class="heat"' in picture
        assert "not trained" in table


def test_an_unknown_finding_is_answered_with_what_is_known(tiny_bundle: Path, film: Path) -> None:
    judged = judge(LocalPredictor(tiny_bundle), Judged(film, film.name), Options())
    screen = look(LocalPredictor(tiny_bundle), judged, "balanced", "Cardiomegali")
    assert (
        "There is no heat map of Cardiomegali: &#x27;Cardiomegali&#x27; is not a finding of this model." in screen.film
    )
    assert "It knows: " in screen.film
    assert 'class="stage"' in screen.film, "the answer stays"
    asked = judge(LocalPredictor(tiny_bundle), judged, Options(heatmaps=("Cardiomegali",)))
    assert isinstance(asked.answer, ImageError)
    assert asked.answer.code == "bad_request"


def test_a_server_that_is_away_is_said_to_be_away(film: Path) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    remote = RemotePredictor("http://127.0.0.1:9", transport=httpx.MockTransport(refuse))
    screen = look(remote, judge(remote, Judged(film, film.name), Options()), "balanced")
    assert "No server answers at http://127.0.0.1:9." in screen.film
    assert "cxr-mtl serve" in screen.film


def test_main_keeps_uploads_private_and_deletes_them(
    tiny_bundle: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    told: list[str] = []
    seen: list[Path] = []

    def use_it(blocks: gr.Blocks) -> None:
        with httpx.Client(trust_env=False) as client:
            [path] = client.post(
                f"{blocks.local_url}gradio_api/upload", files={"files": ("film.png", film.read_bytes())}
            ).json()
        folder = Path(path).parents[1]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        seen.append(Path(path))

    monkeypatch.setattr(gr.Blocks, "block_thread", use_it)
    app.main(tiny_bundle, port=None, tell=told.append)
    assert "http://127.0.0.1:" in told[0]
    assert not seen[0].exists()


def test_main_wants_one_who_answers(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="one bundle or one server"):
        app.main(tell=print)
    with pytest.raises(ConfigError, match="one bundle or one server"):
        app.main(tiny_bundle, "http://127.0.0.1:8080", tell=print)
    with pytest.raises(ConfigError, match="no folder"):
        app.main(tiny_bundle, examples=Path("nowhere"), tell=print)
    with pytest.raises(ServeError, match="holds no certificate"):
        app.main(url="https://127.0.0.1:9", ca=Path(__file__), tell=print)
    with pytest.raises(ConfigError, match="names a model on a server"):
        app.main(tiny_bundle, model="other", tell=print)


def test_the_model_of_a_server_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(app, "main", lambda *_, **options: asked.update(options))
        assert CliRunner().invoke(cli.app, ["demo", "--url", "http://x", "--model", "b"]).exit_code == 0
    assert asked["model"] == "b"
    for model, path, who in ((None, "cxr_mtl", "the server at http://x"), ("b", "b", "b of the server at http://x")):
        predictor, told = app._predictor(None, "http://x", None, None, model)
        assert isinstance(predictor, RemotePredictor)
        assert (predictor.model, told) == (path, who)


def test_a_taken_port_is_said_to_be_taken(served: Served) -> None:
    port = int(served.url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(ServeError, match=f"Port {port} on 127.0.0.1 cannot be had: Address already in use"):
        app.launch(app.build(FakePredictor()), port=port)


def test_a_port_that_is_none_is_said_to_be_none() -> None:
    with pytest.raises(ServeError, match=r"Port 99999 on 127.0.0.1 cannot be had: .*0-65535"):
        app.launch(app.build(FakePredictor()), port=99999)


@pytest.mark.slow
def test_the_file_at_the_top_serves_until_stopped_and_cleans_up(tiny_bundle: Path, film: Path, tmp_path: Path) -> None:
    repo = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(repo / "gradio_demo.py"), "--bundle", str(tiny_bundle), "--port", str(_any_port())]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=repo, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = re.search(r"http://127.0.0.1:\d+/", process.stdout.readline())
            assert url is not None
            client = Client(url[0], verbose=False, analytics_enabled=False)
            body = client.predict(handle_file(film), "balanced", None, api_name="/predict")[3]
            client.close()
            kept = list(tmp_path.glob("cxr_mtl_demo_*/*/film.png"))
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert body["schema"] == "cxr-mtl.prediction/1"
    assert kept, "while the page is up the film lies in the private folder"
    assert process.returncode == 0
    assert list(tmp_path.glob("cxr_mtl_demo_*")) == []


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_file_that_is_too_large_is_not_taken(served: Served) -> None:
    files = {"files": ("huge.dcm", b"\0" * (64 * 1024**2 + 1))}
    answer = httpx.post(f"{served.url}gradio_api/upload", files=files, trust_env=False, timeout=60)
    assert answer.status_code == 413


@pytest.mark.slow
def test_the_pictures_are_taken_again_by_one_command(browser: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    from cxr_mtl.data.synthetic import write_study_set

    write_study_set(tmp_path / "films", 40, 0, 128)
    repo = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(repo / "docs" / "pictures.py"), "--bundle", str(tiny_bundle)]
    command += ["--films", str(tmp_path / "films"), "--out", str(tmp_path / "pictures")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in (repo / "docs" / "pictures").iterdir()}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == kept

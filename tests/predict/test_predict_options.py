"""The options of ``cxr-mtl predict`` do the same whether a bundle here is asked or a server, and so do the errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pretended import URL, fields_of
from typer.testing import CliRunner

from cxr_mtl.cli import app
from cxr_mtl.errors import ConfigError
from cxr_mtl.predict import RemotePredictor, command
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import Ask, answer_requests

Run = Callable[..., Any]


@pytest.fixture(params=["here", "server"])
def run(request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``predict`` of one film; from a server it is asked as TorchServe's worker is."""
    film = tmp_path / "a.png"
    coarse = np.random.default_rng(0).integers(0, 256, (21, 15), dtype=np.uint8)
    Image.fromarray(np.kron(coarse, np.ones((10, 10), np.uint8))).save(film)
    where = [str(tiny_bundle)]
    if request.param == "server":
        local = LocalPredictor(tiny_bundle)

        def serve(asked: httpx.Request) -> httpx.Response:
            (said,) = answer_requests(local, [Ask(fields_of(asked))])
            return httpx.Response(said.status, content=said.body)

        pretended = partial(RemotePredictor, transport=httpx.MockTransport(serve))
        monkeypatch.setattr(command, "RemotePredictor", pretended)
        where = ["cxr_mtl", "--url", URL]
    return lambda *options: CliRunner().invoke(app, ["predict", where[0], str(film), *where[1:], *options])


def told(run: Run, *options: str) -> dict[str, Any]:
    done = run("--json", *options)
    assert done.exit_code == 0, done.exception
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_only_what_is_wanted_is_answered_with(run: Run) -> None:
    whole = told(run, "--operating-point", "sensitive")
    asked = ("--operating-point", "sensitive", "--findings", "Mass, Edema")
    some = told(run, *asked)
    assert {finding["name"] for finding in some["findings"]} == {"Mass", "Edema"}
    assert some["boxes"] == [box for box in whole["boxes"] if box["finding"] in ("Mass", "Edema")]
    (best,) = told(run, *asked, "--top-k", "1")["findings"]
    assert best["probability"] == max(finding["probability"] for finding in some["findings"])
    assert whole["boxes"], "else there is nothing to leave out"
    assert told(run, "--operating-point", "sensitive", "--no-boxes")["boxes"] == []


def test_heat_maps_are_pictures_or_numbers(run: Run) -> None:
    (picture,) = told(run, "--heatmap", "Mass")["heatmaps"]
    (array, other) = told(run, "--heatmap", "Mass,Edema", "--heatmap-format", "array")["heatmaps"]
    assert picture.keys() == {"finding", "method", "png"}
    assert array.keys() == {"finding", "method", "array"}
    assert other["finding"] == "Edema"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--findings", "Mass,Dragon"), "'Dragon' is not a finding of this model. It knows: "),
        (("--json", "--heatmap-format", "jpeg"), "heatmap_format 'jpeg': no such format of heat maps. Choose one of: "),
        (("--json", "--heatmap", "Dragon"), "'Dragon' is not a finding of this model. It knows: "),
    ],
)
def test_what_the_model_does_not_know_is_one_line_in_the_words_of_the_server(
    run: Run, options: tuple[str, ...], says: str
) -> None:
    done = run(*options)
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith(says)
    assert "\n" not in str(done.exception)


def test_a_table_has_the_columns_that_are_wanted(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    done = run("--out", str(out), "--findings", "Mass,Edema", "--no-boxes")
    assert done.exit_code == 0, done.exception
    (row,) = pq.read_table(out).to_pylist()
    assert {name for name in row if name.startswith("call:")} == {"call:Mass", "call:Edema"}
    assert row["boxes"] == []
    refused = run("--out", str(tmp_path / "q.parquet"), "--findings", "Dragon")
    assert isinstance(refused.exception, ConfigError)
    assert str(refused.exception).startswith("'Dragon' is not a finding of this model. It knows: ")
    assert "--heatmap-format" in str(run("--out", str(out), "--heatmap-format", "array").exception)

"""An archive is not done before it has answered where nothing but itself lies."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxr_mtl.bundle import load_bundle
from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.package import rehearse as rehearsing
from cxr_mtl.package.mar import build_archive
from cxr_mtl.package.rehearse import differs, rehearse
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.types import Prediction

pytest.importorskip("model_archiver")


def film() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 90), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def truth(tiny_bundle: Path) -> Prediction:
    (answer,) = LocalPredictor(tiny_bundle).predict([film()])
    assert isinstance(answer, Prediction)
    return answer


def said(truth: Prediction, status: int = 200, **changed: Any) -> dict[str, Any]:
    return {"status": status, "answer": json.loads(json.dumps(truth.to_dict() | changed))}


def test_the_same_answer_is_the_same(truth: Prediction) -> None:
    assert differs(said(truth), truth) == ""
    error = ImageError("x", code="blank", status=422, hint="")
    assert differs({"status": 422, "answer": error.to_dict()}, error) == ""


def test_what_differs_is_named(truth: Prediction) -> None:
    assert differs(said(truth, operating_point="f1"), truth) == "operating_point is f1"
    assert differs(said(truth, status=500), truth).startswith("status 500")
    findings = truth.to_dict()["findings"]
    moved = [dict(f) for f in findings]
    moved[0]["probability"] = findings[0]["probability"] + 0.03
    assert findings[0]["name"] in differs(said(truth, findings=moved), truth, 0.02)
    assert differs(said(truth, findings=moved), truth, 0.04) == ""
    assert differs(said(truth, findings=findings[1:]), truth) == "it names other findings"
    tree = [dict(node) for node in truth.to_dict()["hierarchy"]]
    tree[0]["probability"] = 0.99
    assert differs(said(truth, hierarchy=tree), truth).startswith("in the tree")
    assert len(truth.boxes) > 0
    assert differs(said(truth, boxes=[]), truth).startswith("a box of")
    error = ImageError("x", code="blank", status=422, hint="")
    assert "instead of (422, 'blank')" in differs(said(truth), error)


@pytest.mark.slow
def test_a_whole_archive_is_rehearsed_and_a_broken_one_is_not_written(tiny_bundle: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    archive = build_archive(tiny_bundle, tmp_path / "store", engine="auto", rehearsed=True, tell=lines.append)
    assert archive.is_file()
    assert lines[-1] == "Rehearsed: unpacked alone, it answers 6 drawn films as the bundle does."
    bundle = load_bundle(tiny_bundle)
    with pytest.raises(ServeError, match=r"clean folder: .*predictor.py is not the file that was archived"):
        rehearse(_changed(archive, tmp_path, "cxr_mtl/predict/predictor.py", b"# other\n"), bundle, None)
    with pytest.raises(ServeError, match=r"clean folder: .*SyntaxError|invalid syntax"):
        rehearse(_changed(archive, tmp_path, "cxr_handler.py", b"def (\n"), bundle, None)
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other)
    (other / "bundle.yaml").write_text((other / "bundle.yaml").read_text().replace("name: tiny", "name: other"))
    another = load_bundle(other)
    with pytest.raises(ServeError, match="otherwise than its bundle"):
        rehearse(archive, another, None)


@pytest.mark.slow
def test_nothing_is_written_where_the_rehearsal_fails(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsing, "differs", lambda *_: "all of it")
    with pytest.raises(ServeError, match="film 1 of 6 otherwise than its bundle: all of it"):
        build_archive(tiny_bundle, tmp_path / "store", rehearsed=True)
    assert list((tmp_path / "store").iterdir()) == []


def _changed(archive: Path, folder: Path, name: str, more: bytes) -> Path:
    target = folder / "changed.mar"
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(target, "w") as after:
        for entry in before.namelist():
            after.writestr(entry, before.read(entry) + (more if entry == name else b""))
    return target

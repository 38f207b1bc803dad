"""Many films by processes of their own: the launcher of training, ranks killed with SIGKILL, gone on with by others."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import ALONE, DEEPSPEED, ENVIRONMENT, PATIENCE

from cxr_mtl.data.manifest import make_manifest
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FILMS = 400
TOLD = f"{FILMS} films: {FILMS - 1} answered, 1 not (truncated 1)"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for n in range(FILMS):
        Image.fromarray(rng.integers(0, 255, (60, 70), dtype=np.uint8)).save(folder / f"{n}.png")
    (folder / "200.png").write_bytes((folder / "200.png").read_bytes()[:900])
    records = [Record(f"{n}.png", str(n), str(n // 3), str(n), "nih") for n in range(FILMS)]
    save_manifest(make_manifest(records, folder, load_ontology("nih14"), {}), folder / "films.parquet")
    return folder / "films.parquet"


def begin(launcher: tuple[str, ...], bundle: Path, study: Path, out: Path, **rank: str) -> subprocess.Popen[str]:
    asked = ["predict", str(bundle), str(study), "--out", str(out), "--batch-size", "4"]
    output = subprocess.PIPE
    return subprocess.Popen([*launcher, *asked], env=ENVIRONMENT | rank, stdout=output, stderr=output, text=True)


@pytest.fixture(scope="module")
def whole(tiny_bundle: Path, study: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an undisturbed run of one process."""
    out = tmp_path_factory.mktemp("whole") / "p.parquet"
    process = begin(ALONE, tiny_bundle, study, out)
    said, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (1, f"{TOLD}: {out}\n"), errors
    assert errors.splitlines()[-1].startswith(f"{FILMS} of {FILMS} films of this rank")
    return out.read_bytes()


def test_two_ranks_of_deepspeeds_launcher(tiny_bundle: Path, study: Path, whole: bytes, tmp_path: Path) -> None:
    process = begin(DEEPSPEED, tiny_bundle, study, tmp_path / "p.parquet")
    said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors  # for the one film
    lines = [line for line in said.splitlines() if "films" in line and "predict" not in line]
    assert lines[-1] == f"{TOLD}: {tmp_path / 'p.parquet'}", said
    assert any(line.startswith("Rank ") and line.endswith("the last one joins all.") for line in lines[:-1])
    assert (tmp_path / "p.parquet").read_bytes() == whole


def test_ranks_killed_at_any_time(tiny_bundle: Path, study: Path, whole: bytes, tmp_path: Path) -> None:
    out, draw = tmp_path / "p.parquet", random.Random()

    def answered() -> int:
        return len(list(out.with_name("p.parquet.parts").glob("[0-9]*.parquet")))

    ranks = [begin(ALONE, tiny_bundle, study, out, RANK=str(n), WORLD_SIZE="2") for n in range(2)]
    deadline, goal = time.monotonic() + PATIENCE, draw.randrange(1, 60)
    while answered() < goal:
        assert time.monotonic() < deadline
        assert any(rank.poll() is None for rank in ranks)
        time.sleep(draw.random() / 100)
    for rank in draw.sample(ranks, 2):
        rank.kill()
        time.sleep(draw.random() / 20)
    for rank in ranks:
        rank.communicate()
    kept = answered()
    assert not out.exists()
    assert goal <= kept < FILMS // 4
    process = begin(ALONE, tiny_bundle, study, out, RANK="0", WORLD_SIZE="1")
    said, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (1, f"{TOLD}: {out}\n"), errors
    begun = errors.splitlines()[0]
    assert begun.startswith(f"{4 * kept} of {FILMS} films of this rank")
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [out.name]

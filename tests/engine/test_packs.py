"""Ranks of one node share a pack; nodes share it where they share a disk, and else make their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_mtl.data.manifest import make_manifest
from cxr_mtl.data.manifest_file import save_manifest
from cxr_mtl.data.pack import make_pack
from cxr_mtl.data.pack_index import INDEX
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Record

SIDE, FILMS = 64, 6

RANK = """
import sys
from pathlib import Path
import numpy as np
from cxr_mtl.config import DataConfig
from cxr_mtl.data import pack
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.engine.distributed import ranks
from cxr_mtl.errors import CxrError
from cxr_mtl.engine.packs import shared_pack
decoded, plain = [], pack.read_image
def read(path):
    decoded.append(path)
    return plain(path)
pack.read_image = read
manifest, folder = Path(sys.argv[1]), Path(sys.argv[2])
with ranks() as (rank, world):
    try:
        found = shared_pack(DataConfig(manifest=manifest, pack=folder), load_manifest(manifest), 64, main=rank == 0)
    except CxrError as error:
        sys.exit(str(error))
    print(len(decoded), int(found.films(np.arange(len(found.at))).sum()), flush=True)
"""


def disk(folder: Path) -> Path:
    """A node's own disk, with films and manifest; gives the manifest."""
    rng = np.random.default_rng(0)
    records = []
    (folder / "films").mkdir(parents=True)
    for i in range(FILMS):
        Image.fromarray(rng.integers(0, 255, (80, 80), dtype=np.uint8)).save(folder / "films" / f"{i}.png")
        records.append(Record(image_path=f"{i}.png", image_id=str(i), patient_id=str(i), study_id=str(i), dataset="t"))
    save_manifest(make_manifest(records, folder / "films", load_ontology("nih14"), {}), folder / "films.parquet")
    return folder / "films.parquet"


def run(nodes: list[tuple[Path, Path, int]]) -> list[tuple[int, str, str]]:
    """One process for each manifest, pack folder and local rank; gives exit code, output and errors of each."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    processes = []
    for rank, (manifest, folder, local) in enumerate(nodes):
        told = {"RANK": rank, "WORLD_SIZE": len(nodes), "LOCAL_RANK": local, "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = os.environ | {"MASTER_ADDR": "127.0.0.1"} | {k: str(v) for k, v in told.items()}
        command = [sys.executable, "-c", RANK, str(manifest), str(folder)]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return [(p.returncode, out.strip(), errors) for p in processes for out, errors in [p.communicate(timeout=120)]]


@pytest.mark.slow
def test_two_nodes_of_one_disk_decode_once(tmp_path: Path) -> None:
    films = disk(tmp_path / "shared")
    folder = tmp_path / "shared" / "pack"
    outcomes = run([(films, folder, 0), (films, folder, 0)])
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    (mine, first), (theirs, second) = (out.split() for _, out, _ in outcomes)
    assert (int(mine), int(theirs)) == (FILMS, 0)
    assert first == second
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == [".lock"]  # the token is gone
    again = run([(films, folder, 0), (films, folder, 1)])
    assert [out.split()[0] for _, out, _ in again] == ["0", "0"]


@pytest.mark.slow
def test_two_nodes_of_two_disks_decode_each_their_own(tmp_path: Path) -> None:
    """Two ranks a node: the second of each waits for the first of its own."""
    disks = [disk(tmp_path / name) for name in ("one", "two")]
    nodes = [(films, films.parent / "pack", local) for films in disks for local in (0, 1)]
    outcomes = run(nodes)
    assert [code for code, _, _ in outcomes] == [0] * 4, outcomes
    assert [out.split()[0] for _, out, _ in outcomes] == [str(FILMS), "0", str(FILMS), "0"]
    assert len({out.split()[1] for _, out, _ in outcomes}) == 1
    assert all((films.parent / "pack" / INDEX).is_file() for films in disks)


@pytest.mark.slow
def test_one_nodes_trouble_ends_all_of_them_in_a_line(tmp_path: Path) -> None:
    disks = [disk(tmp_path / name) for name in ("one", "two")]
    (tmp_path / "two" / "pack").write_text("a file where the folder is to be")
    outcomes = run([(films, films.parent / "pack", 0) for films in disks])
    for code, _, errors in outcomes:
        assert code == 1
        assert "could not be written" in errors.strip().splitlines()[-1]
        assert "Traceback" not in errors


@pytest.mark.slow
def test_a_named_pack_of_other_films_is_not_overwritten(tmp_path: Path) -> None:
    from cxr_mtl.data.manifest_file import load_manifest

    films = disk(tmp_path / "one")
    make_pack(load_manifest(films), SIDE, tmp_path / "one" / "pack")
    other = disk(tmp_path / "two")
    Image.fromarray(np.zeros((70, 70), dtype=np.uint8)).save(tmp_path / "two" / "films" / "3.png")
    ((code, _, errors),) = run([(other, tmp_path / "one" / "pack", 0)])
    assert code == 1
    assert "holds other films, or these at another size or before they changed" in errors

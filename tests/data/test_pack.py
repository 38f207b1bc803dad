"""The pack: films as prediction sees them, whole or not at all, whatever is killed, damaged or in the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_mtl.data import pack, pack_draft
from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.pack import Pack, find_pack, make_pack, open_pack, verify_pack
from cxr_mtl.data.pack_index import INDEX
from cxr_mtl.data.read import read_image
from cxr_mtl.data.refuse import refuse
from cxr_mtl.data.transforms import to_input
from cxr_mtl.errors import DataError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Record

SIDE, FILMS, BLOCK = 64, 30, 4


def manifest_of(root: Path, names: list[str]) -> Manifest:
    records = [
        Record(image_path=name, image_id=f"id {name}", patient_id=name, study_id=name, dataset="test") for name in names
    ]
    return make_manifest(records, root, load_ontology("nih14"), {})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Thirty films of two shapes, in folders; the sixth cannot be read."""
    root = tmp_path_factory.mktemp("films")
    (root / "a").mkdir()
    rng = np.random.default_rng(0)
    names = [f"a/{i}.png" for i in range(FILMS)]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 255, (50, 100 + i % 2), dtype=np.uint8)).save(root / name)
    (root / names[5]).write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return manifest_of(root, names)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_draft, "BLOCK_FILMS", BLOCK)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the films that are decoded while the test runs."""
    names: list[str] = []

    def read(path: Path) -> object:
        names.append(path.name)
        return read_image(path)

    monkeypatch.setattr(pack, "read_image", read)
    return names


def same(one: Pack, other: Pack) -> bool:
    rows = np.arange(len(one.at))
    return np.array_equal(one.films(rows), other.films(rows)) and one.unread == other.unread


def test_holds_what_predict_would_see(manifest: Manifest, tmp_path: Path) -> None:
    done: list[int] = []
    made = make_pack(manifest, SIDE, tmp_path, progress=done.append)
    for row in (0, 9, FILMS - 1):
        film = read_image(manifest.path(row))
        expected, _ = to_input(film.pixels, SIDE)
        assert np.array_equal(made.films(np.array([row]))[0], expected)
        assert made.sizes[row].tolist() == [film.width, film.height]
    assert sum(done) == FILMS
    assert list(made.unread) == ["id a/5.png"]
    assert made.usable.tolist() == [row != 5 for row in range(FILMS)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", next(tmp_path.glob("images-*")).name, INDEX]


@pytest.mark.usefixtures("small_blocks")
def test_any_number_of_workers_gives_the_same_bytes(manifest: Manifest, tmp_path: Path) -> None:
    one, three = (make_pack(manifest, SIDE, tmp_path / str(n), workers=n) for n in (1, 3))
    assert same(one, three)


def test_finished_pack_is_opened_not_made_again(manifest: Manifest, tmp_path: Path, decoded: list[str]) -> None:
    make_pack(manifest, SIDE, tmp_path)
    assert len(decoded) == FILMS
    make_pack(manifest, SIDE, tmp_path)
    assert len(decoded) == FILMS
    with pytest.raises(DataError, match="is a pack of 64 px films"):
        make_pack(manifest, 96, tmp_path)


def test_a_pack_may_hold_more_than_is_asked_for(manifest: Manifest, tmp_path: Path, decoded: list[str]) -> None:
    whole = make_pack(manifest, SIDE, tmp_path)
    rows = [20, 5, 3]
    part = replace(manifest, table=manifest.table.iloc[rows].reset_index(drop=True))
    found = make_pack(part, SIDE, tmp_path)
    assert len(decoded) == FILMS
    assert np.array_equal(found.films(np.array([0, 2])), whole.films(np.array([20, 3])))
    assert found.sizes.tolist() == whole.sizes[rows].tolist()
    assert found.usable.tolist() == [True, False, True]
    assert list(found.unread) == ["id a/5.png"]


def test_a_larger_pack_is_not_replaced_by_a_part_of_it(manifest: Manifest, tmp_path: Path) -> None:
    root = Path(shutil.copytree(manifest.root, tmp_path / "films"))
    whole = replace(manifest, root=root)
    make_pack(whole, SIDE, tmp_path / "pack")
    part = replace(whole, table=whole.table.iloc[:2].reset_index(drop=True))
    Image.new("L", (70, 50)).save(root / "a/1.png")
    with pytest.raises(DataError, match="also holds 28 films that the manifest lacks"):
        make_pack(part, SIDE, tmp_path / "pack")
    assert len(make_pack(whole, SIDE, tmp_path / "pack").at) == FILMS


def test_a_film_that_a_disk_would_not_give_is_tried_again(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> object:
        if path.name == "3.png":
            raise refuse("unreadable", "cannot be opened", "Check the disk.")
        return read_image(path)

    with monkeypatch.context() as broken:
        broken.setattr(pack, "read_image", read)
        assert set(make_pack(manifest, SIDE, tmp_path).unread) == {"id a/3.png", "id a/5.png"}
    assert set(make_pack(manifest, SIDE, tmp_path).unread) == {"id a/5.png"}


def test_a_pack_whose_films_are_gone_is_made_again(manifest: Manifest, tmp_path: Path) -> None:
    first = make_pack(manifest, SIDE, tmp_path)
    copy = first.films(np.arange(FILMS))
    for file in tmp_path.glob("images-*.npy"):
        file.write_bytes(file.read_bytes()[:500])
    assert np.array_equal(make_pack(manifest, SIDE, tmp_path).films(np.arange(FILMS)), copy)
    for file in tmp_path.glob("images-*.npy"):
        file.unlink()
    assert np.array_equal(make_pack(manifest, SIDE, tmp_path).films(np.arange(FILMS)), copy)


def test_a_journal_left_beside_a_live_pack_does_no_harm(manifest: Manifest, tmp_path: Path) -> None:
    """Killed while it swept up; then a byte flips, and the pack is mended from itself."""
    make_pack(manifest, SIDE, tmp_path)
    (images,) = tmp_path.glob("images-*.npy")
    images.with_name(f"{images.name}.journal").write_bytes(b'\xff[0, "no", []]\n')
    damaged = bytearray(images.read_bytes())
    damaged[-1] ^= 1
    images.write_bytes(damaged)
    make_pack(manifest, SIDE, tmp_path, verify=True)
    assert verify_pack(tmp_path) == []


def test_found_under_another_root_but_not_by_a_name_alone(manifest: Manifest, tmp_path: Path) -> None:
    make_pack(manifest, SIDE, tmp_path)
    merged = manifest_of(manifest.root.parent, [f"{manifest.root.name}/a/7.png"])
    found = find_pack(tmp_path, merged, SIDE)
    assert found is not None
    assert found.at.tolist() == [7]
    elsewhere = tmp_path / "films" / "a"
    elsewhere.mkdir(parents=True)
    (elsewhere / "7.png").write_bytes(b"another film of the same name")
    assert find_pack(tmp_path, manifest_of(tmp_path / "films", ["a/7.png"]), SIDE) is None


def test_pack_moves_with_its_films(manifest: Manifest, tmp_path: Path) -> None:
    root = Path(shutil.copytree(manifest.root, tmp_path / "films"))
    make_pack(replace(manifest, root=root), SIDE, tmp_path / "pack")
    moved, there = (Path(shutil.move(tmp_path / n, tmp_path / f"new {n}")) for n in ("films", "pack"))
    assert find_pack(there, replace(manifest, root=moved), SIDE) is not None


def test_mended_film_alone_is_decoded_again(manifest: Manifest, tmp_path: Path, decoded: list[str]) -> None:
    """The doctor's advice was followed: a film was replaced under its old name."""
    root = Path(shutil.copytree(manifest.root, tmp_path / "films"))
    moved = replace(manifest, root=root)
    before = make_pack(moved, SIDE, tmp_path / "pack")
    decoded.clear()
    shutil.copy(root / "a/0.png", root / "a/5.png")  # of another size than the broken file
    after = make_pack(moved, SIDE, tmp_path / "pack")
    assert decoded == ["5.png"]
    assert after.unread == {}
    assert np.array_equal(after.images[5], after.images[0])
    others = np.delete(np.arange(FILMS), 5)
    assert np.array_equal(after.films(others), before.films(others))
    assert after.sizes[others].tolist() == before.sizes[others].tolist()
    assert not before.images[5].any()  # who had the old films mapped still sees them
    assert verify_pack(tmp_path / "pack") == []


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"format": 1}', "\x00"])
def test_unfinished_or_foreign_folder_is_not_a_pack(manifest: Manifest, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / INDEX).write_text(text)
    assert find_pack(tmp_path, manifest, SIDE) is None
    with pytest.raises(DataError, match="not a finished pack"):
        open_pack(tmp_path, manifest)


def test_truncated_films_are_said(manifest: Manifest, tmp_path: Path) -> None:
    make_pack(manifest, SIDE, tmp_path)
    images = next(tmp_path.glob("images-*"))
    os.truncate(images, images.stat().st_size // 2)
    with pytest.raises(DataError, match="cannot be mapped"):
        open_pack(tmp_path, manifest)


def test_all_unreadable_is_an_error(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of the 1 films could be read"):
        make_pack(replace(manifest, table=manifest.table.iloc[[5]].reset_index(drop=True)), SIDE, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.usefixtures("small_blocks")
def test_flipped_byte_is_found_named_and_mended(manifest: Manifest, tmp_path: Path, decoded: list[str]) -> None:
    made = make_pack(manifest, SIDE, tmp_path)
    good = made.films(np.arange(FILMS))
    assert verify_pack(tmp_path) == []
    images = next(tmp_path.glob("images-*"))
    with images.open("r+b") as file:
        file.seek(images.stat().st_size - (FILMS - 13) * SIDE**2 + 2000)  # in film 13
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    (bad,) = verify_pack(tmp_path)
    assert bad.rows == range(12, 16)
    assert str(bad) == "films 12 to 15 (a/12.png to a/15.png) are damaged"
    assert find_pack(tmp_path, manifest, SIDE) is not None  # nobody reads 29 GB unasked
    decoded.clear()
    mended = make_pack(manifest, SIDE, tmp_path, verify=True)
    assert sorted(decoded) == ["12.png", "13.png", "14.png", "15.png", "5.png"]
    assert np.array_equal(mended.films(np.arange(FILMS)), good)
    assert verify_pack(tmp_path) == []


@pytest.mark.usefixtures("small_blocks")
def test_what_a_failed_run_leaves_is_checked_before_it_is_used(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    def write(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pack, "write_index", write)
        with pytest.raises(DataError, match=r"No space left on device\. Free some disk and run this again"):
            make_pack(manifest, SIDE, tmp_path)
    decoded.clear()
    images, journal = next(tmp_path.glob("images-*.npy")), next(tmp_path.glob("*.journal"))
    with images.open("r+b") as file:  # power was lost before the last blocks reached the disk
        file.truncate(images.stat().st_size - 2 * BLOCK * SIDE**2)
        file.truncate(images.stat().st_size + 2 * BLOCK * SIDE**2)
    with journal.open("a") as file:
        file.write('[0, "cut sh')
    made = make_pack(manifest, SIDE, tmp_path)
    assert sorted(decoded) == [f"{i}.png" for i in range(20, FILMS)]  # eight films' bytes, three blocks
    assert same(made, make_pack(manifest, SIDE, tmp_path / "fresh"))


def test_too_small_a_disk_is_said_at_once(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"0\.0 GB are needed, 0\.0 GB are free\. Free some disk"):
        make_pack(manifest, SIDE, tmp_path)
    assert decoded == []


PACKER = """
import sys, time
from pathlib import Path
from cxr_mtl.data import pack, pack_draft
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.errors import CxrError
pack_draft.BLOCK_FILMS = {block}
plain = pack.read_image
def slowly(path):
    time.sleep({sleep})
    return plain(path)
pack.read_image = slowly
def progress(n):
    print(n, flush=True)
{before}
try:
    pack.make_pack(load_manifest(Path({manifest!r})), {side}, Path({out!r}), workers=1, progress=progress)
except CxrError as error:
    sys.exit(str(error))
"""


def packer(manifest: Path, out: Path, *, sleep: float = 0.0, before: str = "") -> subprocess.Popen[str]:
    code = PACKER.format(block=BLOCK, sleep=sleep, before=before, manifest=str(manifest), side=SIDE, out=str(out))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def saved(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cxr_mtl.data.manifest_file import save_manifest

    path = tmp_path_factory.mktemp("manifest") / "films.parquet"
    save_manifest(manifest, path)
    return path


@pytest.mark.usefixtures("small_blocks")
def test_killed_packer_goes_on_where_it_was(
    manifest: Manifest, saved: Path, tmp_path: Path, decoded: list[str]
) -> None:
    process = packer(saved, tmp_path / "pack", sleep=0.05)
    assert process.stdout is not None
    blocks = 0
    while blocks < 3:  # the first line is 0: nothing was there
        blocks += process.stdout.readline().strip() == str(BLOCK)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "pack" / INDEX).exists()
    done: list[int] = []
    made = make_pack(manifest, SIDE, tmp_path / "pack", progress=done.append)
    assert done[0] >= 3 * BLOCK  # were there
    assert len(decoded) == FILMS - done[0]
    assert sum(done) == FILMS
    decoded.clear()
    assert same(made, make_pack(manifest, SIDE, tmp_path / "fresh"))


@pytest.mark.usefixtures("small_blocks")
def test_full_disk_is_one_line_and_not_the_end(
    manifest: Manifest, saved: Path, tmp_path: Path, decoded: list[str]
) -> None:
    """The kernel refuses to let the file grow, as it does on a full disk."""
    limit = 128 + 3 * BLOCK * SIDE**2 + 1000
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    process = packer(saved, tmp_path / "pack", before=before)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(errors.strip().splitlines()) == 1
    assert "the pack could not be written: File too large. Free some disk and run this again" in errors
    made = make_pack(manifest, SIDE, tmp_path / "pack")
    assert len(decoded) == FILMS - 3 * BLOCK
    assert same(made, make_pack(manifest, SIDE, tmp_path / "fresh"))


@pytest.mark.usefixtures("small_blocks")
def test_two_packers_take_turns(manifest: Manifest, saved: Path, tmp_path: Path) -> None:
    processes = [packer(saved, tmp_path / "pack", sleep=0.02) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(sum(map(int, out.split())) for out, _ in outputs) == [0, FILMS]  # the second found the work done
    assert verify_pack(tmp_path / "pack") == []
    assert same(open_pack(tmp_path / "pack", manifest), make_pack(manifest, SIDE, tmp_path / "fresh"))


@pytest.mark.usefixtures("small_blocks")
def test_without_locks_packers_do_no_harm(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some network file systems have none."""
    import fcntl

    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", none)
    slow = threading.Barrier(2)
    plain = pack.read_image

    def read(path: Path) -> object:
        if path.name == "0.png":
            slow.wait(timeout=30)  # both are in the middle of it
        time.sleep(0.002)
        return plain(path)

    monkeypatch.setattr(pack, "read_image", read)
    threads = [threading.Thread(target=make_pack, args=(manifest, SIDE, tmp_path / "pack")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "has no locks" in caplog.text
    monkeypatch.undo()
    assert verify_pack(tmp_path / "pack") == []
    assert same(open_pack(tmp_path / "pack", manifest), make_pack(manifest, SIDE, tmp_path / "fresh"))


def test_index_speaks_of_every_film(manifest: Manifest, tmp_path: Path) -> None:
    make_pack(manifest, SIDE, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["side"] == SIDE
    assert len(index["paths"]) == len(index["stamps"]) == len(index["sizes"]) == FILMS
    assert not list(tmp_path.glob("*.part"))

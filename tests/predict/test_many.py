"""Many films into one table: whatever is killed, and whoever goes on, the table is that of an undisturbed run."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from pretended import URL, prediction
from typer.testing import CliRunner

from cxr_mtl.cli import app
from cxr_mtl.data.manifest import make_manifest
from cxr_mtl.data.manifest_file import WHO, save_manifest
from cxr_mtl.errors import ConfigError, CxrError, DataError, ImageError, ServeError
from cxr_mtl.ontology import load_ontology
from cxr_mtl.predict import RemotePredictor, bundle_asker, parts
from cxr_mtl.predict.askers import Results, ServerAsker
from cxr_mtl.predict.command import predict_many
from cxr_mtl.predict.films import FilmList, list_named
from cxr_mtl.predict.many import answer_many
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.shards import Rank
from cxr_mtl.types import DISCLAIMER, Options, Prediction, Record

BATCH = 4


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 37 films, of which one is cut short, one is blank and one is not there; the last four are tests."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    records = []
    for n in range(37):
        size = (50 + n, 70)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(folder / f"{n}.png")
        split = "test" if n > 32 else "train"
        records.append(Record(f"{n}.png", f"film {n}", f"patient {n // 2}", f"study {n}", "nih", split))
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:900])
    Image.new("L", (60, 60)).save(folder / "6.png")
    (folder / "34.png").unlink()
    save_manifest(make_manifest(records, folder, load_ontology("nih14"), {}), folder / "films.parquet")
    return folder / "films.parquet"


def ask(bundle: Path, manifest: Path, out: Path, **asked: Any) -> tuple[int, list[str]]:
    told: list[str] = []
    return predict_many(str(bundle), [manifest], out, tell=told.append, batch_size=BATCH, **asked), told


def about(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"cxr_mtl"])
    return found


@pytest.fixture(scope="module")
def undisturbed(tiny_bundle: Path, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "predictions.parquet"
    failed, (told,) = ask(tiny_bundle, study, out)
    assert failed == 3
    assert told == f"37 films: 34 answered, 3 not (truncated 1, blank 1, missing 1): {out}"
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return out


def test_rows_are_the_local_predictor_s_answers(tiny_bundle: Path, study: Path, undisturbed: Path) -> None:
    local = LocalPredictor(tiny_bundle)
    table = pq.read_table(undisturbed)
    assert table["image_path"].to_pylist() == [f"{n}.png" for n in range(37)]
    assert table["patient_id"].to_pylist() == [f"patient {n // 2}" for n in range(37)]
    rows = table.to_pylist()
    for start in range(0, 37, BATCH):
        films = [study.parent / row["image_path"] for row in rows[start : start + BATCH]]
        for row, answer in zip(rows[start:], local.predict(films), strict=False):
            if isinstance(answer, ImageError):
                assert (row["error_code"], row["error_message"]) == (answer.code, answer.message)
                assert row["warnings"] is row["boxes"] is row["width"] is row["call:Mass"] is None
                continue
            assert row["error_code"] is row["error_message"] is None
            assert (row["width"], row["height"]) == (answer.image["width"], answer.image["height"])
            assert (row["format"], row["image_sha256"]) == ("png", answer.image["sha256"])
            for finding in answer.findings:
                assert row[f"call:{finding.name}"] == finding.call
                number = row[f"probability:{finding.name}"]
                assert math.isnan(number) if finding.probability is None else number == finding.probability
            for node in answer.hierarchy:
                assert node.probability is None or row[f"hierarchy:{node.name}"] == node.probability
                assert node.conditional is None or row[f"conditional:{node.name}"] == node.conditional
            found = [(b["finding"], b["score"], (b["x1"], b["y1"], b["x2"], b["y2"]), b["weak"]) for b in row["boxes"]]
            assert found == [(b.finding, b.score, b.xyxy, b.weak) for b in answer.boxes]
            assert math.isnan(row["novelty"])  # this bundle has no gate
            assert row["warnings"] == list(answer.warnings)
    assert any(row["boxes"] for row in rows)


def test_the_file_says_what_it_is(tiny_bundle: Path, study: Path, undisturbed: Path) -> None:
    said = about(undisturbed)
    bundle = LocalPredictor(tiny_bundle).bundle
    assert said["schema"] == "cxr-mtl.predictions/1"
    assert said["disclaimer"] == DISCLAIMER
    assert said["model"]["sha256"] == bundle.sha256
    assert said["model"]["thresholds"]["Mass"] == 0.5
    assert said["run"]["options"]["operating_point"] == "balanced"
    assert said["run"]["films"]["manifest"] == study.name
    assert said["run"]["films"]["count"] == 37
    assert (said["answered"], said["refused"]) == (34, {"truncated": 1, "blank": 1, "missing": 1})


@pytest.mark.slow
def test_ranks_make_the_same_table(
    tiny_bundle: Path, study: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.parquet"
    for number, last in ((1, False), (0, False), (2, True)):
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "3")
        failed, (told,) = ask(tiny_bundle, study, out)
        assert failed == (3 if last else 0)
        assert told.startswith("37 films" if last else f"Rank {number} of 3 is done.")
        assert out.exists() is last
    assert out.read_bytes() == undisturbed.read_bytes()


def test_a_finished_file_is_not_made_again(tiny_bundle: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "test.parquet"
    assert ask(tiny_bundle, study, out, split="test") == (1, [f"4 films: 3 answered, 1 not (missing 1): {out}"])
    made = out.stat().st_mtime_ns
    (tmp_path / "deep" / "test.parquet.parts").mkdir()  # as one leaves it that is killed at the very end
    failed, (told,) = ask(tiny_bundle, study, out, split="test")
    assert (failed, out.stat().st_mtime_ns) == (1, made)
    assert told.endswith("was finished before.")
    assert list(out.parent.iterdir()) == [out]
    for other in ({"split": "train"}, {"split": "test", "options": Options("f1")}):
        with pytest.raises(ConfigError, match="holds something else"):
            ask(tiny_bundle, study, out, **other)
    with pytest.raises(ConfigError, match="holds something else"):
        ask(tiny_bundle, study, study)


def test_a_film_without_memory_costs_only_itself(
    tiny_bundle: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = bundle_asker.read_frontal

    def scarce(source: Path) -> Any:
        if source.name == "35.png":
            raise MemoryError
        return read(source)

    monkeypatch.setattr(bundle_asker, "read_frontal", scarce)
    failed, (told,) = ask(tiny_bundle, study, tmp_path / "p.parquet", split="test")
    assert failed == 2
    assert "missing 1, out_of_memory 1" in told
    assert pq.read_table(tmp_path / "p.parquet")["error_message"][2].as_py() == "There is no memory left for 35.png."


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_batch_without_memory_is_judged_film_by_film(
    tiny_bundle: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    look, batches = LocalPredictor.look, list[int]()

    def scarce(self: LocalPredictor, films: Any, operating_point: str | None = None) -> Any:
        batches.append(len(films))
        if len(films) > 1 or films[0].box.height == 50 + 35:
            raise error
        return look(self, films, operating_point)

    monkeypatch.setattr(LocalPredictor, "look", scarce)
    failed, (told,) = ask(tiny_bundle, study, tmp_path / "p.parquet", split="test")
    assert (failed, batches) == (2, [3, 1, 1, 1])
    assert "missing 1, out_of_memory 1" in told
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert [row["error_code"] for row in rows] == [None, "missing", "out_of_memory", None]
    assert rows[0]["probability:Mass"] is not None


def test_a_fault_that_is_not_of_the_memory_ends_the_run(
    tiny_bundle: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(LocalPredictor, "look", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        ask(tiny_bundle, study, tmp_path / "p.parquet", split="test")


def test_files_and_folders(tiny_bundle: Path, study: Path, tmp_path: Path) -> None:
    (tmp_path / "films" / "deep").mkdir(parents=True)
    for name in ("b.png", "a.png", "deep/c", ".hidden"):
        (tmp_path / "films" / name).write_bytes((study.parent / "1.png").read_bytes())
    (tmp_path / "films" / "notes.txt").write_text("no film")
    out = tmp_path / "p.parquet"
    named = [str(tmp_path / "films"), str(study.parent / "2.png")]
    done = CliRunner().invoke(app, ["predict", str(tiny_bundle), *named, "--out", str(out)])
    assert done.exit_code == 1
    assert "5 films: 4 answered, 1 not (unsupported 1)" in done.stdout
    rows = pq.read_table(out).to_pylist()
    assert [row["image_id"] for row in rows] == ["a.png", "b.png", "c", "notes.txt", "2.png"]
    assert [row["error_code"] for row in rows] == [None, None, None, "unsupported", None]
    assert rows[0]["image_path"] == str(tmp_path / "films" / "a.png")
    assert rows[0]["patient_id"] is None
    shown = CliRunner().invoke(app, ["predict", str(tiny_bundle), str(tmp_path / "films"), "--json"])
    assert [Path(json.loads(line)["file"]).name for line in shown.stdout.splitlines()] == [
        "a.png", "b.png", "c", "notes.txt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["M"], r"films.parquet is a manifest. Say where its answers go: --out"),
        (["M", "--split", "test"], "needs --out"),
        (["M", "--out", "p.parquet", "--json"], "no --json, --overlay"),
        (["M", "a.png", "--out", "p.parquet"], "goes alone"),
        (["a.png", "--out", "p.parquet", "--split", "test"], "Files have no --split"),
        (["M", "--out", "p.parquet", "--split", "tset"], "No film of .* is in split 'tset'. It has: test, train."),
        (["none.parquet", "--out", "p.parquet"], "none.parquet does not exist"),
        (["EMPTY", "--out", "p.parquet"], "holds no file"),
        (["M", "--out", "p.parquet", "--operating-point", "best"], "Choose one of: balanced"),
        (["M", "--out", "M/p.parquet"], "cannot be written: Not a directory"),
    ],
)
def test_misuse_is_one_line(args: list[str], says: str, tiny_bundle: Path, study: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    named = {"M": str(study), "EMPTY": str(tmp_path / "empty"), "p.parquet": str(tmp_path / "p.parquet")}
    named["M/p.parquet"] = str(study / "p.parquet")
    done = CliRunner().invoke(app, ["predict", str(tiny_bundle), *(named.get(arg, arg) for arg in args)])
    assert isinstance(done.exception, CxrError)
    with pytest.raises(CxrError, match=says):
        raise done.exception
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "p.parquet").exists()
    assert not (tmp_path / "p.parquet.parts").exists()


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Disks that are slow to sync cost these tests minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


class Killed(BaseException):
    """What no program foresees."""


class Counting:
    """An asker that knows each film's answer by its name, counts who was asked, and is killed after some batches."""

    def __init__(self, model: str = "one", kill_after: float = math.inf) -> None:
        self.threads, self.model = 2, {"sha256": model}
        self.asked: Counter[str] = Counter()
        self.left = kill_after

    def prepare(self, source: Path) -> Prediction | ImageError:
        number = int(source.name)
        if number % 7 == 3:
            return ImageError("Blank.", code="blank")
        return prediction(number, self.model["sha256"])

    def judge(self, prepared: Sequence[Any]) -> Results:
        if self.left <= 0:
            raise Killed
        self.left -= 1
        self.asked.update(str(p.image["width"]) for p in prepared if isinstance(p, Prediction))
        return list(prepared)

    def give_up(self) -> None:
        """Nothing takes long."""


def numbered(count: int) -> FilmList:
    who = pa.table([[str(n) for n in range(count)]] * len(WHO), names=list(WHO))
    return FilmList(who, Path(), "of numbers", "numbers", None)


def answer(asker: Any, count: int, out: Path, batch: int, rank: Rank = Rank(), told: list[str] | None = None) -> int:  # noqa: B008
    tell: Callable[[str], None] = (told if told is not None else []).append
    return answer_many(asker, numbered(count), out, Options(), rank=rank, batch=batch, tell=tell)


@pytest.mark.slow
@settings(max_examples=15, phases=[Phase.generate])  # shrinking would take minutes of writing files
@given(
    count=st.integers(1, 90),
    batch=st.integers(1, 9),
    kills=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 25)), max_size=6),
    world=st.integers(1, 3),
)
def test_killed_anywhere_and_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    batch: int,
    kills: list[tuple[int, int, int]],
    world: int,
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    failed = answer(Counting(), count, folder / "whole.parquet", batch)
    asked: Counter[str] = Counter()
    losses = 0
    for size, number, after in kills:  # any number of ranks, any of them
        one = Counting(kill_after=after)
        try:
            answer(one, count, folder / "p.parquet", batch, Rank(number % size, size))
        except Killed:
            losses += 1
        asked += one.asked
    told: list[str] = []
    ends = []
    for number in range(world):
        one = Counting()
        ends.append(answer(one, count, folder / "p.parquet", batch, Rank(number, world), told))
        asked += one.asked
    assert failed == sum(n % 7 == 3 for n in range(count))
    assert max(ends) == failed
    assert (folder / "p.parquet").read_bytes() == (folder / "whole.parquet").read_bytes()
    assert not (folder / "p.parquet.parts").exists()
    assert max(asked.values(), default=1) <= 1 + losses
    twice = sum(asked.values()) - len(asked)
    assert twice <= losses * max(batch, count // 64)  # a kill costs no more than the block at hand


def test_going_on_with_something_else_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    with pytest.raises(Killed):
        answer(Counting(kill_after=3), 40, out, 4)
    for other, count, batch, what in (("two", 40, 4, "model"), ("one", 41, 4, "films"), ("one", 40, 5, "batch size")):
        with pytest.raises(ConfigError, match=f"begun with another {what}.*Give the same again"):
            answer(Counting(other), count, out, batch)
    with pytest.raises(ConfigError, match="another options"):
        answer_many(Counting(), numbered(40), out, Options("f1"), rank=Rank(), batch=4, tell=print)
    assert answer(Counting(), 40, out, 4) == 6


def test_a_full_disk_is_one_line_and_what_was_answered_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, synced, room = tmp_path / "p.parquet", os.fsync, [4]

    def fsync(file: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError, match=r"No space left on device\. Free some disk.*go on\.$"):
        answer(Counting(), 40, out, 4)
    kept = sorted(path.name for path in (tmp_path / "p.parquet.parts").iterdir())
    assert kept == ["000000.parquet", "000001.parquet", "000002.parquet", "run.json"]
    room[0] = 7
    with pytest.raises(DataError, match=r"p\.parquet cannot be written: No space left"):  # not even for the joined file
        answer(Counting(), 40, out, 4)
    assert not out.exists()
    room[0] = 1
    last = Counting()
    assert answer(last, 40, out, 4) == 6
    assert not last.asked


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    with pytest.raises(Killed):
        answer(Counting(kill_after=3), 40, out, 4)
    part = tmp_path / "p.parquet.parts" / "000001.parquet"
    part.write_bytes(part.read_bytes()[:200])
    with pytest.raises(DataError, match=r"000001\.parquet is damaged. Remove that file"):
        answer(Counting(), 40, out, 4)
    part.unlink()
    assert answer(Counting(), 40, out, 4) == 6


def test_row_groups_bound_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "GROUP", 10)
    answer(Counting(), 40, tmp_path / "p.parquet", 4)
    file = pq.ParquetFile(tmp_path / "p.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [12, 12, 12, 4]
    assert file.read().column("image_id").to_pylist() == [str(n) for n in range(40)]


def test_nothing_but_refusals_first(tmp_path: Path) -> None:
    """Parts without a model's columns join those that have them."""

    class Late(Counting):
        def judge(self, prepared: Sequence[Any]) -> Results:
            late = Results()
            for one in prepared:
                first = isinstance(one, Prediction) and one.image["width"] < 20
                late.append(ImageError("Blank.", code="blank") if first else one)
            return late

    assert answer(Late(), 40, tmp_path / "p.parquet", 4) == 20 + 3
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    assert [row["probability:Edema"] for row in rows[18:22]] == [None, None, 0.75, 0.75]
    assert [row["error_code"] for row in rows[18:22]] == ["blank", "blank", None, None]

    class Never(Counting):
        def judge(self, prepared: Sequence[Any]) -> Results:
            return [ImageError("Blank.", code="blank") for _ in prepared]

    assert answer(Never(), 40, tmp_path / "none.parquet", 4) == 40
    assert pq.read_table(tmp_path / "none.parquet")["error_code"].to_pylist() == ["blank"] * 40


def of_server(
    transport: Callable[[httpx.Request], httpx.Response], study: Path, out: Path, **settings: Any
) -> tuple[int, list[str]]:
    told: list[str] = []
    settings = {"retries": 0, "concurrency": 3} | settings
    with RemotePredictor(URL, transport=httpx.MockTransport(transport), **settings) as remote:
        films = list_named([study])
        asker = ServerAsker(remote, Options())
        return answer_many(asker, films, out, Options(), rank=Rank(), batch=1, tell=told.append), told


def test_a_server_is_asked_alike_and_goes_on_after_it_was_gone(study: Path, tmp_path: Path) -> None:
    asked: list[int] = []
    gone = True

    def serve(request: httpx.Request) -> httpx.Response:
        size = len(request.content)
        if gone and len(asked) == 15:
            raise httpx.ConnectError("refused")
        asked.append(size)
        cut = ImageError("Cut off.", code="truncated", hint="Again.", status=400)
        return (
            httpx.Response(400, json=cut.to_dict())
            if size == 900
            else httpx.Response(200, json=prediction(size).to_dict())
        )

    with pytest.raises(ServeError, match=r"No server answers.*What was answered is kept"):
        of_server(serve, study, tmp_path / "p.parquet")
    gone = False
    failed, (told,) = of_server(serve, study, tmp_path / "p.parquet")
    assert told.startswith("37 films: 35 answered, 2 not (truncated 1, missing 1)")
    assert failed == 2
    assert len(asked) <= 36 + 6  # under way when the server went
    widths = pq.read_table(tmp_path / "p.parquet")["width"].to_pylist()
    sizes = [None if n in (5, 34) else (study.parent / f"{n}.png").stat().st_size for n in range(37)]
    assert widths == sizes


def test_an_interrupt_does_not_wait_for_a_busy_server(study: Path, tmp_path: Path) -> None:
    """Ctrl-C ends the run at once, though films would be asked about for minutes."""
    asked: list[None] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(None)
        if len(asked) == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return httpx.Response(503, headers={"Retry-After": "20"})

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        of_server(serve, study, tmp_path / "p.parquet", patience=600.0)
    assert time.monotonic() - begun < 15


def test_who_waits_for_a_place_asks_no_more_once_nobody_waits_for_him() -> None:
    """Else a Ctrl-C lets every thread that stands in line send its film, one after the other."""
    asked, over = list[None](), threading.Event()

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(None)
        over.set()
        return httpx.Response(200, json=prediction(1).to_dict())

    with (
        RemotePredictor(URL, concurrency=1, transport=httpx.MockTransport(serve)) as remote,
        ThreadPoolExecutor(4) as pool,
    ):
        films = [pool.submit(remote.predict_one, b"x", Options(), over) for _ in range(4)]
    assert len(asked) == 1
    assert sum(isinstance(film.exception(), ServeError) for film in films) == 3


def test_a_model_that_is_exchanged_meanwhile_is_not_mixed_in(study: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append("old" if len(asked) < 20 else "new")
        return httpx.Response(200, json=prediction(1, asked[-1]).to_dict())

    for _ in range(2):  # also when it is asked again
        with pytest.raises(ServeError, match=r"Two models answered: m 1 \(old\) and m 1 \(new\)"):
            of_server(serve, study, tmp_path / "p.parquet")
    assert not (tmp_path / "p.parquet").exists()


def test_an_option_the_server_does_not_know_ends_it(study: Path, tmp_path: Path) -> None:
    wrong = ImageError("operating_point 'x' is not one.", code="bad_request", hint="Choose.", status=400)
    with pytest.raises(ConfigError, match=r"operating_point 'x' is not one\. Choose\."):
        of_server(lambda request: httpx.Response(400, json=wrong.to_dict()), study, tmp_path / "p.parquet")

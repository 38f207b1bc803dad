"""Requests a second of TorchServe with our archive: against its stock handler, four other servers and no server at all.

    python benchmarks/serve.py [--quick] [--json FILE] [--bundle DIR] [--films DIR] [--rivals PYTHON] [--rounds N]
                               [--servers NAME ...]

One run on two cores. Every server starts, is warmed, is asked for one window by 1, by 4 and by 16 callers, and ends;
then the next; several rounds. Callers post grey PNGs of 1024 px and post the next when they have the answer. All serve
the same three-head network (without --bundle convnext_tiny at 224 px of random weights), and every answer is compared
with that of fp32 eager in this process.

Settings read w2 t1 b4: two workers of one torch thread, at most four films in a forward pass. Rivals run with each of
several settings and count with the best at each number of callers; ours counts as `cxr-mtl package` and `cxr-mtl serve`
make it. TorchServe's stock image_classifier runs at its defaults, with grey transforms, because its own fail on a
picture of one channel. Rivals and stock do less than ours for a film: they decode, resize, run the network and give
probabilities; ours also checks what was sent, and finds boxes, the tree and calibrated probabilities. The limit is a
process without a server, of one worker with two threads or two with one, at the best number of films at once: the
forward pass alone, and all from a file's bytes to the answer's.

Rivals have an environment of their own, which sees this one's torch and timm behind its own packages:

    python -m venv RIVALS
    RIVALS/bin/pip install litserve==0.2.19 bentoml==1.4.40 'ray[serve]==2.60.0' fastapi==0.165.0 uvicorn==0.54.0
    python -c 'import site; print(site.getsitepackages()[0])' > RIVALS/lib/python3.11/site-packages/project.pth
    python benchmarks/serve.py --rivals RIVALS/bin/python
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from parts.serve_films import find_films, make_bundle, right_answers
from parts.serve_measure import measure, measure_limit
from parts.serve_peer import Setting
from parts.serve_report import Found, report
from parts.serve_servers import (
    AS_PACKAGED,
    CALLERS,
    EAGER_ERROR,
    FAST,
    OURS,
    PACKAGES,
    RIVALS,
    STOCK,
    Failed,
    Server,
    archive,
    engines,
    ours,
    rival,
    stock,
    stock_archive,
    versions,
)

from cxr_mtl.errors import CxrError
from cxr_mtl.serve.java import find_java

CORES = 2
SETTINGS = (Setting(1, 2, 4), Setting(2, 1, 1), Setting(2, 1, 4))
BATCHES = {"forward": (1, 4, 8), "answer": (1, 4)}


def main() -> None:
    arguments = parse()
    skip_where_nothing_runs()
    # A larger machine is made as small; a setting of threads from outside would be nobody's default.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(CORES)
    known = versions(arguments.rivals)
    with tempfile.TemporaryDirectory(prefix="cxr-serve-") as scratch:
        work = Path(scratch)
        (work / "films").mkdir()
        films, of = find_films(arguments.films / "native_1024", work / "films", 4 if arguments.quick else 20)
        random = ("test_convnext", 64) if arguments.quick else ("convnext_tiny", 224)
        bundle = arguments.bundle or make_bundle(work / "bundle", *random)
        servers, missing = make_servers(arguments, bundle, work, films[0], known)
        right = right_answers(bundle, films)
        found = Found(what=f"{of}, {arguments.bundle or f'{random[0]} at {random[1]} px of random weights'}")
        for number in range(arguments.rounds):
            for engine in engines() if "ours" in arguments.servers else ["eager"]:
                seconds = 1.0 if arguments.quick else 4.0
                found.add_limit(engine, number, measure_limit(bundle, engine, films, BATCHES, seconds))
            for server in servers if number % 2 == 0 else servers[::-1]:
                one_turn(server, films, right, number, arguments.quick, found)
            print(f"round {number + 1} of {arguments.rounds} is done", file=sys.stderr, flush=True)
            rows, ratios = found.rows(), found.ratios()
            if arguments.json:
                arguments.json.write_text(json.dumps(whole(rows, ratios, known), indent=2) + "\n")
    report(found)
    print(f"\nNot here, so not measured: {', '.join(missing) or 'nothing'}.")
    if found.failures:
        sys.exit("serve: " + "; ".join(found.failures))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy network and short windows: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here, after every round")
    parser.add_argument("--bundle", type=Path, help="a trained one; random weights without")
    parser.add_argument("--films", type=Path, default=Path("../shared/data/nih"), help="holds native_1024/; else drawn")
    parser.add_argument("--rivals", default=sys.executable, help="the interpreter that runs the rivals")
    parser.add_argument("--rounds", type=int, help="turns of each server; 3, quick 1")
    names = ["stock", "ours", *RIVALS]
    parser.add_argument("--servers", nargs="*", choices=names, default=names, help="which; all by default")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


def skip_where_nothing_runs() -> None:
    """Without TorchServe there is nothing to compare with anything."""
    lacking = [name for name in ("ts", "model_archiver", "psutil") if importlib.util.find_spec(name) is None]
    try:
        find_java()
    except CxrError:
        lacking.append("Java")
    if lacking:
        print(f"serve skipped: {', '.join(lacking)} is not here. Run `pip install 'cxr-mtl[serve]'`.")
        sys.exit(0)


def make_servers(
    arguments: argparse.Namespace, bundle: Path, work: Path, film: Path, known: dict[str, str]
) -> tuple[list[Server], list[str]]:
    """In the order of the table, and who cannot run here; archives are built on the way."""
    servers, missing = [], []
    if "stock" in arguments.servers:
        stock_archive(bundle, work / "stock")
        servers.append(Server(STOCK, "default", partial(stock, work / "stock", film), "stock", fewest=5))
    for engine in engines() if "ours" in arguments.servers else []:
        for setting in (None,) if arguments.quick else (None, SETTINGS[-1]):
            store = work / f"{engine} {setting}"
            archive(bundle, store, engine, setting)
            label, tolerance = str(setting or AS_PACKAGED), FAST.get(engine, EAGER_ERROR)
            servers.append(Server(f"{OURS}, {engine}", label, partial(ours, store), "ours", tolerance))
    for name in (name for name in RIVALS if name in arguments.servers):
        if not all(known[package] for package in PACKAGES[name]):
            missing.append(f"{name} (not installed for {arguments.rivals})")
            continue
        for setting in SETTINGS[:1] if arguments.quick else SETTINGS:
            told = Setting(setting.workers, setting.threads, setting.batch, bundle=str(bundle.resolve()))
            start = partial(rival, name, arguments.rivals, told, film)
            servers.append(Server(name, str(setting), start, "rivals"))
    if engines() == ["eager"]:
        missing.append("our fast mode (this version has none)")
    return servers, missing


def one_turn(server: Server, films: list[Path], right: dict[str, Any], number: int, quick: bool, found: Found) -> None:
    """One server from start to end. Who does not start is named, and costs the others nothing."""
    try:
        with server.start() as running:
            ask = partial(measure, server, running, films, right[server.right])
            ask(CALLERS[-1], 0.0, 2.0 if quick else 5.0)
            for callers in CALLERS:
                ramp, seconds = (0.3, 1.2) if quick else (1.0 + callers / 4, 8.0 + callers / 2)
                found.add(server, callers, number, ask(callers, ramp, seconds))
    except (Failed, CxrError) as error:
        found.failures.append(f"{server.name} ({server.setting}) did not run: {error}")


def whole(rows: list[dict[str, Any]], ratios: dict[str, float], known: dict[str, str]) -> dict[str, Any]:
    ours_too = ("cxr-mtl", "torch", "timm", "torchserve", "openvino", "pillow")
    return {
        "benchmark": "serve",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": CORES},
        "versions": {name: version_of(name) for name in ours_too} | known,
        "rows": rows,
        "ratios": ratios,
    }


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()

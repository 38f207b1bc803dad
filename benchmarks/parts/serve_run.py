"""One run of benchmarks/serve.py: who takes part, and whose turn it is."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import zipfile
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from parts.serve_films import Calls, make_bundle, pick_films, right_answers
from parts.serve_measure import measure, measure_limit
from parts.serve_peer import RIVALS, Setting
from parts.serve_report import Found, report
from parts.serve_servers import (
    AS_PACKAGED,
    CALLERS,
    EAGER_ERROR,
    ENGINES,
    FAST,
    OURS,
    STOCK,
    Failed,
    Server,
    archive,
    ours,
    rival,
    stock,
    stock_archive,
    versions,
)

from cxr_mtl.errors import CxrError

SETTINGS = (Setting(1, 2, 4), Setting(2, 1, 1), Setting(2, 1, 4))
BATCHES = {"forward": (1, 4, 8), "answer": (1, 4)}


def run(arguments: argparse.Namespace) -> None:
    """All rounds, the table, the file."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    known = versions(arguments.rivals)
    with tempfile.TemporaryDirectory(prefix="cxr-serve-") as scratch:
        work = Path(scratch)
        (work / "films").mkdir()
        films, of = pick_films(arguments.films / "native_1024", work / "films", 4 if arguments.quick else 20)
        random = ("test_convnext", 64) if arguments.quick else ("convnext_tiny", 224)
        bundle = arguments.bundle or make_bundle(work / "bundle", *random)
        servers, missing = make_servers(arguments, bundle, work, films[0], known)
        right, calls = right_answers(bundle, films)
        found = Found(what=f"{of}, {arguments.bundle or f'{random[0]} at {random[1]} px of random weights'}")
        for number in range(arguments.rounds):
            for engine in ours_with(arguments) or ["eager"]:
                seconds = 0.3 if arguments.quick else 4.0
                folder = unpacked(work, engine) or bundle
                found.add_limit(engine, number, measure_limit(folder, films, BATCHES, seconds))
            for server in servers if number % 2 == 0 else servers[::-1]:
                one_turn(server, films, right, calls, number, arguments.quick, found)
            print(f"round {number + 1} of {arguments.rounds} is done", file=sys.stderr, flush=True)
            rows, ratios = found.rows(), found.ratios()
            if arguments.json:
                arguments.json.write_text(json.dumps(whole(rows, ratios, known), indent=2) + "\n")
    report(found)
    print(f"\nNot here, so not measured: {', '.join(missing) or 'nothing'}.")
    if found.failures:
        sys.exit("serve: " + "; ".join(found.failures))


def make_servers(
    arguments: argparse.Namespace, bundle: Path, work: Path, film: Path, known: dict[str, str]
) -> tuple[list[Server], list[str]]:
    """In the order of the table, and who cannot run here; archives are built on the way."""
    servers, missing = [], []
    if "stock" in arguments.servers:
        stock_archive(bundle, work / "stock")
        servers.append(Server(STOCK, "default", partial(stock, work / "stock", film), "stock", fewest=5))
    for engine in ours_with(arguments):
        store = work / f"{engine} store"
        archive(bundle, store, engine, arguments.manifest)
        tolerance = FAST.get(engine, EAGER_ERROR)
        servers.append(Server(f"{OURS}, {engine}", AS_PACKAGED, partial(ours, store), "ours", tolerance))
    for name in (name for name in RIVALS if name in arguments.servers):
        if not all(known[package] for package in RIVALS[name].packages):
            missing.append(f"{name} (not installed for {arguments.rivals})")
            continue
        for setting in SETTINGS[:1] if arguments.quick else SETTINGS:
            told = replace(setting, bundle=str(bundle.resolve()))
            start = partial(rival, name, arguments.rivals, told, film)
            servers.append(Server(name, str(setting), start, "rivals"))
    if arguments.manifest is None:
        missing.append("our fast modes (no --manifest of films to prove them on)")
    return servers, missing


def ours_with(arguments: argparse.Namespace) -> list[str]:
    """The engines that ours runs on here."""
    if "ours" not in arguments.servers:
        return []
    return list(ENGINES) if arguments.manifest is not None else list(ENGINES[:1])


def unpacked(work: Path, engine: str) -> Path | None:
    """The folder of our archive with an engine, once it was built."""
    folder = work / f"unpacked {engine}"
    for store in [] if folder.is_dir() else work.glob(f"{engine} *"):
        zipfile.ZipFile(store / "cxr_mtl.mar").extractall(folder)
        break
    return folder if folder.is_dir() else None


def one_turn(
    server: Server,
    films: list[Path],
    right: dict[str, Any],
    calls: list[Calls],
    number: int,
    quick: bool,
    found: Found,
) -> None:
    """One server from start to end. Who does not start is named, and costs the others nothing."""
    try:
        with server.start() as running:
            own = calls if server.right == "ours" else ()
            ask = partial(measure, server, running, films, right[server.right], calls=own)
            ask(CALLERS[-1], 0.0, 2.0 if quick else 5.0)
            for callers in CALLERS:
                ramp, seconds = (0.3, 1.2) if quick else (1.0 + callers / 8, 6.0 + callers / 2)
                found.add(server, callers, number, ask(callers, ramp, seconds))
    except (Failed, CxrError) as error:
        found.failures.append(f"{server.name} ({server.setting}) did not run: {error}")


def whole(rows: list[dict[str, Any]], ratios: dict[str, float], known: dict[str, str]) -> dict[str, Any]:
    ours_too = ("cxr-mtl", "torch", "timm", "torchserve", "openvino", "pillow")
    return {
        "benchmark": "serve",
        "command": " ".join(["python", *sys.argv]),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))},
        "versions": {name: version_of(name) for name in ours_too} | known,
        "rows": rows,
        "ratios": ratios,
    }


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

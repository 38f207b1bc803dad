"""A bundle as a TorchServe archive.

    cxr_handler.py        the door; one class
    weights.safetensors   the bundle, without its lists of films
    bundle.yaml
    gate.safetensors      where the bundle has one
    encoder.xml, .bin     the encoder compiled for a CPU, and encoder.yaml, what was proved of it; see ``engine``
    model_card.md         where the bundle has one
    model-config.yaml     batches, workers, timeouts
    cxr_mtl/              this package's own sources, so that the archive needs the pinned libraries and nothing else
    LICENSE
    SHA256SUMS            of all the above, checked when a worker loads it
    MAR-INF/              TorchServe's manifest

The same bundle and the same sources give the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

import cxr_mtl
from cxr_mtl.bundle import CARD, DESCRIPTION, GATE, WEIGHTS, load_bundle
from cxr_mtl.errors import ConfigError, ServeError
from cxr_mtl.package.checksums import write_sums
from cxr_mtl.package.engine import EAGER, equip, proof_films
from cxr_mtl.package.rehearse import rehearse
from cxr_mtl.paths import handlers_dir
from cxr_mtl.predict.compiled import NUMBERS

CONFIG_FILE = "model-config.yaml"
_HANDLER = "cxr_handler.py"
_MANIFEST = "MAR-INF/MANIFEST.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # The earliest date a zip can hold, for every file.


def build_archive(
    bundle_dir: Path,
    out_dir: Path,
    *,
    name: str = "cxr_mtl",
    version: str | None = None,
    batch_size: int = 4,
    max_batch_delay_ms: int = 1,
    workers: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    engine: str = EAGER,
    films: Path | None = None,
    split: str = "val",
    rehearsed: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes ``out_dir/NAME.mar``, or ``NAME-VERSION.mar``, whole and in place of the one that was there.

    Args:
        bundle_dir: a bundle; it is loaded once, so that what cannot be served is not packed.
        out_dir: the model store; made where missing.
        name: under which it is served: ``/predictions/NAME``.
        version: None for the bundle's; one that is given stands in the file's name, too.
        batch_size: films in one forward pass at most.
        max_batch_delay_ms: how long the first film of a batch waits for more. Under load they are there already; with 0
            TorchServe 0.12 was seen to wait for 100.
        workers: processes; None leaves it to the server.
        threads: torch threads of each worker; None leaves it to the server.
        device: ``cpu`` or ``gpu``; None for the GPU where the server has one.
        engine: what computes the network on a CPU, see ``engine.equip``.
        films: manifest to prove the engine on; None takes that of the bundle's run, where it is still there.
        split: of it.
        rehearsed: whether it must first answer in a clean folder as the bundle does.
        tell: called with a line on the engine and one on the rehearsal.

    Raises:
        CheckpointError: the bundle does not load.
        ConfigError: an argument makes no sense.
        DataError: the manifest cannot be read.
        ServeError: torch-model-archiver is missing or failed, the engine cannot be had, or the rehearsal went wrong.
    """
    if version is not None and not _NAME.fullmatch(version):
        raise ConfigError(f"'{version}' cannot be a version.", hint="Such as 1.0: letters, digits, '_', '-' and '.'.")
    config = _model_config(name, batch_size, max_batch_delay_ms, workers, threads, device)
    if importlib.util.find_spec("model_archiver") is None:
        raise ServeError("torch-model-archiver is not installed.", hint="Run `pip install 'cxr-mtl[serve]'`.")
    bundle = load_bundle(bundle_dir)
    real = proof_films(bundle, films, split) if engine != EAGER or rehearsed else None
    out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / (f"{name}.mar" if version is None else f"{name}-{version}.mar")
    # Beside the target, so that the last step is a rename; hidden, so that no server takes it for a model.
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=f".{name}-") as temp:
        work = Path(temp)
        extra = work / "extra"
        extra.mkdir()
        equip(bundle, extra, engine, real, tell)
        _stage(bundle_dir, work, config)
        packed = _archive(work, name, version or bundle.version)
        finished = work / "finished.mar"
        _normalise(packed, finished)
        if rehearsed:
            tell(rehearse(finished, bundle, real))
        finished.replace(target)
    return target


def _model_config(
    name: str, batch_size: int, max_batch_delay_ms: int, workers: int | None, threads: int | None, device: str | None
) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"'{name}' cannot name a model.", hint="Letters, digits, '_', '-' and '.' only.")
    counts = {"batch_size": batch_size, "max_batch_delay_ms": max_batch_delay_ms, "workers": workers}
    for setting, value in (counts | {"threads": threads}).items():
        if value is not None and value < 1:
            raise ConfigError(f"{setting} is {value}.", hint="It must be 1 or more.")
    if device not in (None, "cpu", "gpu"):
        raise ConfigError(f"device is '{device}'.", hint="cpu or gpu.")
    config: dict[str, Any] = {"batchSize": batch_size, "maxBatchDelay": max_batch_delay_ms}
    config |= {"responseTimeout": 120, "startupTimeout": 300}
    if workers is not None:
        config |= {"minWorkers": workers, "maxWorkers": workers}
    if device is not None:
        config["deviceType"] = device
    if threads is not None:
        config["cxr_mtl"] = {"threads": threads}  # The handler's own section.
    return config


def _stage(bundle_dir: Path, work: Path, config: dict[str, Any]) -> None:
    """Lays out under ``work`` what the archiver takes: three files by name and the folder ``extra``."""
    extra = work / "extra"
    for file in (DESCRIPTION, CARD, GATE):  # By name: split.csv says who was filmed and stays behind.
        if (bundle_dir / file).is_file():
            shutil.copyfile(bundle_dir / file, extra / file)
    _copy_sources(extra / "cxr_mtl")
    (extra / "LICENSE").write_text(license_text(), encoding="utf-8")
    shutil.copyfile(bundle_dir / WEIGHTS, work / WEIGHTS)
    shutil.copyfile(handlers_dir() / _HANDLER, work / _HANDLER)
    (work / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    write_sums(extra, [work / WEIGHTS, work / _HANDLER, work / CONFIG_FILE])


def _copy_sources(target: Path) -> None:
    package = Path(cxr_mtl.__file__).parent
    for source in sorted(package.rglob("*.py")):
        relative = source.relative_to(package)
        if relative.parts[0] != "handlers":  # A wheel carries the handler inside the package.
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / relative)


def license_text() -> str:
    """The licence's text: beside the package in a checkout, in the metadata of an installed wheel."""
    beside = Path(cxr_mtl.__file__).parent.parent / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    text = importlib.metadata.distribution("cxr-mtl").read_text("licenses/LICENSE")
    if text is None:
        raise ServeError("cxr-mtl's LICENSE is missing, and its sources may not travel without.", hint="Reinstall it.")
    return text


def _archive(work: Path, name: str, version: str) -> Path:
    """Runs torch-model-archiver in ``work``.

    In a process of its own with its own temporary folder, because it first deletes ``TMPDIR/NAME``, whatever that is;
    and with relative names, because it splits and globs what it is given.
    """
    temp = work / "temp"
    temp.mkdir()
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", version]
    command += ["--handler", _HANDLER, "--serialized-file", WEIGHTS, "--config-file", CONFIG_FILE]
    command += ["--extra-files", "extra", "--export-path", ".", "--archive-format", "zip-store"]
    environment = os.environ | {"TMPDIR": str(temp)}
    result = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    archive = work / f"{name}.mar"
    if result.returncode != 0 or not archive.is_file():
        said = (result.stderr.strip() or result.stdout.strip() or "nothing").splitlines()[-1]
        raise ServeError(f"torch-model-archiver failed: {said}", hint="Is it the version of constraints.txt?")
    return archive


def _normalise(source: Path, target: Path) -> None:
    """The same archive without the traces of when and where it was made. Weights are stored: they do not shrink."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in sorted(before.namelist()):
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_STORED if name in (WEIGHTS, NUMBERS) else zipfile.ZIP_DEFLATED
            if name == _MANIFEST:
                manifest = json.loads(before.read(name))
                manifest.pop("createdOn", None)
                after.writestr(entry, json.dumps(manifest, indent=2) + "\n")
                continue
            with before.open(name) as reader, after.open(entry, "w", force_zip64=True) as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)

"""A bundle in the formats of others, beside its archive: ``NAME-VERSION.onnx`` and the folder ``NAME-VERSION_monai``.

Each is made in a hidden folder, answers films there as the bundle does, and only then is put in its place.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cxr_mtl.bundle import Bundle, load_bundle
from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ConfigError
from cxr_mtl.package.engine import proof_films
from cxr_mtl.package.monai_bundle import write_monai_bundle
from cxr_mtl.package.onnx_file import write_onnx
from cxr_mtl.package.rehearse import sample_films
from cxr_mtl.types import Radiograph

ONNX, MONAI = FORMATS = ("onnx", "monai")
_NEEDS = {ONNX: ("onnx", "onnxruntime", "onnxscript"), MONAI: ("monai", "fire", "ignite")}
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
Write = Callable[[Bundle, Path, Sequence[Radiograph]], str]
_WRITE: dict[str, tuple[str, Write]] = {ONNX: (".onnx", write_onnx), MONAI: ("_monai", write_monai_bundle)}


def check_exports(formats: Sequence[str]) -> None:
    """Refuse what cannot be made here, before the archive takes its minute.

    Raises:
        ConfigError: a package that a format needs is not installed.
    """
    for format in formats:
        if missing := [name for name in _NEEDS[format] if importlib.util.find_spec(name) is None]:
            what = f"Exporting to {format.upper()} needs {', '.join(missing)}."
            raise ConfigError(what, hint=f"Run `pip install 'cxr-mtl[{format}]'`.")


def export(
    bundle_dir: Path,
    out_dir: Path,
    formats: Sequence[str],
    *,
    name: str = "cxr_mtl",
    version: str | None = None,
    films: Path | None = None,
    split: str = "val",
    tell: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write a bundle in other formats, each whole and in place of the one that was there.

    Args:
        bundle_dir: of the bundle.
        out_dir: to write to; made where missing.
        formats: of ``FORMATS``.
        name: of the files.
        version: None for the bundle's.
        films: manifest with films to compare answers on; None takes that of the bundle's run, where it is still there,
            and else drawn films.
        split: of it.
        tell: called with a line on each.

    Raises:
        CheckpointError: the bundle does not load.
        ConfigError: a package is missing, or the version cannot stand in a file's name.
        DataError: the manifest cannot be read.
        ServeError: a format cannot hold this network, or answers otherwise than the bundle.
    """
    if not formats:
        return []
    check_exports(formats)
    bundle = load_bundle(bundle_dir)
    version = version or bundle.version
    if not _VERSION.fullmatch(version):
        raise ConfigError(f"The bundle's version '{version}' cannot stand in a file's name.", hint="Give --version.")
    shown = [read_image(film) for film in sample_films(proof_films(bundle, films, split))]
    out_dir.mkdir(parents=True, exist_ok=True)
    made = []
    for format in formats:
        ending, write = _WRITE[format]
        target = out_dir / f"{name}-{version}{ending}"
        with tempfile.TemporaryDirectory(dir=out_dir, prefix=f".{name}-") as temp:
            draft = Path(temp, target.name)
            said = write(bundle, draft, shown)
            _put(draft, target, Path(temp, "before"))
        tell(f"{format.upper()}: {target}. {said}")
        made.append(target)
    return made


def _put(draft: Path, target: Path, aside: Path) -> None:
    """A file is replaced in one step; a folder cannot be, so the old one steps aside first, and back if that fails."""
    if target.is_dir():
        target.rename(aside)
    try:
        draft.replace(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise

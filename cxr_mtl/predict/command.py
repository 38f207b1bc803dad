"""The body of ``cxr-mtl predict``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cxr_mtl.data.read import read_image
from cxr_mtl.errors import ConfigError, ImageError
from cxr_mtl.predict.askers import ServerAsker
from cxr_mtl.predict.films import MANIFEST, files_of, list_named, names_of
from cxr_mtl.predict.keep import Keeper, Kept
from cxr_mtl.predict.many import answer_many
from cxr_mtl.predict.marks import NORMAL_NAMES
from cxr_mtl.predict.overlay import draw_overlay
from cxr_mtl.predict.remote import RemotePredictor, read_key
from cxr_mtl.predict.shards import rank_of
from cxr_mtl.types import DEFAULT_OPTIONS, DISCLAIMER, FLAGGED, Options, Prediction

TOGETHER = 8  # films in one forward pass; bounds memory however many files are named
BATCH, AT_ONCE = 16, 6  # the proxy of configs/serve/container lets 8 through: who comes second finds a place
RETRIES, PATIENCE = 10, 600.0  # of one of many films: 24 to 48 s for a server that is away, 10 minutes for a busy one


def predict_files(
    bundle: str,
    files: Sequence[Path],
    options: Options = DEFAULT_OPTIONS,
    *,
    tell: Callable[[str], None],
    as_json: bool = False,
    overlay: Path | None = None,
    url: str | None = None,
    key_file: Path | None = None,
    ca: Path | None = None,
    reports: Keeper | None = None,
) -> int:
    """Judge files and tell of each; gives the number that could not be judged.

    Args:
        bundle: folder, or the model's name on the server.
        files: to judge, in this order; of a folder all.
        options: what is wanted of each.
        tell: called with one text a file.
        as_json: the prediction contract instead of a table.
        overlay: folder for pictures: one a film, or with several heat maps one a map.
        url: of a server to ask instead of a bundle.
        key_file: of that server.
        ca: certificate of that server, or of its authority.
        reports: writes what the answers are to be kept as; a film of which it cannot counts as not judged.

    Raises:
        ConfigError: heat maps are asked for and nothing shows them, an option is none of the model's, or a manifest is
            named.
    """
    mapped = options.heatmaps or options.explain or options.heatmap_format != DEFAULT_OPTIONS.heatmap_format
    if mapped and overlay is None and not as_json and not (reports and reports.shows_maps):
        raise ConfigError("A table of words shows no heat map.", hint="Add --overlay FOLDER for pictures, or --json.")
    if reports and reports.wants_maps and not options.heatmaps:
        options = replace(options, heatmaps=(FLAGGED,))
    if manifest := next((file for file in files if file.suffix == MANIFEST), None):
        raise ConfigError(f"{manifest} is a manifest.", hint="Say where its answers go: --out predictions.parquet.")
    files = [path for file in files for path in files_of(file)]
    if reports is not None:
        reports.begin(files)
    if url is None:
        from cxr_mtl.predict.predictor import LocalPredictor  # here, for who asks a server needs no torch

        predict = LocalPredictor(Path(bundle)).predict
    else:
        predict = RemotePredictor(url, read_key(key_file) if key_file else None, bundle, ca=ca).predict
    if overlay is not None:
        overlay.mkdir(parents=True, exist_ok=True)
    failed = 0
    names = names_of(files)
    for start in range(0, len(files), TOGETHER):
        part = files[start : start + TOGETHER]
        for file, result in zip(part, predict(part, options), strict=True):
            if isinstance(result, ImageError):
                if result.code == "bad_request":
                    raise ConfigError(result.message, hint=result.hint)
                failed += 1
                tell(json.dumps({"file": str(file)} | result.to_dict()) if as_json else f"{file}: {result}")
                continue
            kept: Kept | ImageError | None = None
            if reports is not None:
                try:
                    kept = reports.write(file, result)
                except ImageError as error:
                    failed += 1
                    kept = error
            tell(as_line(file, result, kept) if as_json else in_words(file, result, kept))
            if overlay is not None:
                save_pictures(file, result, overlay / f"{names[file]}.png")
    return failed


def predict_many(
    bundle: str,
    named: Sequence[Path],
    out: Path,
    options: Options = DEFAULT_OPTIONS,
    *,
    tell: Callable[[str], None],
    split: str | None = None,
    batch_size: int | None = None,
    url: str | None = None,
    key_file: Path | None = None,
    ca: Path | None = None,
) -> int:
    """Judge a manifest's films, or files and folders, into one Parquet file; one of several ranks, or alone.

    Args:
        bundle: folder, or the model's name on the server.
        named: a manifest, or files and folders.
        out: the file; what was answered before it is finished lies beside it, and is gone on with.
        options: what is wanted of each film.
        tell: called with what came out.
        split: of the manifest; None for all.
        batch_size: films judged together; of a server, asked at once. None for ``BATCH`` or ``AT_ONCE``.
        url: of a server to ask instead of a bundle.
        key_file: of that server.
        ca: certificate of that server, or of its authority.

    Returns:
        How many films have no answer, from the rank that joined all answers; 0 from the others.
    """
    rank = rank_of(os.environ)
    films = list_named(named, split)
    if url is None:
        from cxr_mtl.predict.bundle_asker import BundleAsker

        asker = BundleAsker(Path(bundle), options, rank)
        return answer_many(asker, films, out, options, rank=rank, batch=batch_size or BATCH, tell=tell)
    key = read_key(key_file) if key_file else None
    with RemotePredictor(
        url, key, bundle, concurrency=batch_size or AT_ONCE, retries=RETRIES, patience=PATIENCE, ca=ca
    ) as remote:
        # The server makes batches of its own.
        return answer_many(ServerAsker(remote, options), films, out, options, rank=rank, batch=1, tell=tell)


def save_pictures(file: Path, prediction: Prediction, target: Path) -> None:
    """The film with its boxes as ``target``; with several heat maps one picture of each, the finding in its name."""
    film = read_image(file)
    mapped = [heat.finding for heat in prediction.heatmaps]  # none of a finding never trained
    if len(mapped) < 2:
        draw_overlay(film, prediction, heatmap=next(iter(mapped), None)).save(target)
        return
    for finding in mapped:
        name = "".join(letter if letter.isalnum() or letter in "-_ " else "-" for letter in finding)
        draw_overlay(film, prediction, heatmap=finding).save(target.with_name(f"{target.stem}.{name}.png"))


def as_line(file: Path, prediction: Prediction, kept: Kept | ImageError | None = None) -> str:
    """One film's answer as JSON, and where its reports are."""
    line: dict[str, object] = {"file": str(file)} | prediction.to_dict()
    if kept is not None:
        line["reports"] = kept.to_dict()
    return json.dumps(line)


def in_words(file: Path, prediction: Prediction, kept: Kept | ImageError | None = None) -> str:
    """One film's findings as a table for the terminal, and where its reports are."""
    lines = [f"{file}  ({prediction.image['width']} x {prediction.image['height']} px, {prediction.image['format']})"]
    known = [f for f in prediction.findings if f.probability is not None]
    for finding in sorted(known, key=lambda f: -(f.probability or 0)):
        flag = "FLAGGED" if finding.call == "positive" and finding.name not in NORMAL_NAMES else "-"
        boxes = sum(b.finding == finding.name for b in prediction.boxes)
        lines.append(
            f"  {finding.name:<28} {finding.probability:.2f}  threshold {finding.threshold:.2f}  {flag:<8}"
            + (f"{boxes} box{'es' if boxes > 1 else ''}" if boxes else "")
        )
    untrained = [f.name for f in prediction.findings if f.probability is None]
    if untrained:
        lines.append(f"  not trained: {', '.join(untrained)}")
    lines += [f"  note: {warning}" for warning in prediction.warnings]
    if isinstance(kept, ImageError):
        lines.append(f"  no report: {kept}")
    elif kept is not None:
        lines += [f"  {format}: {path}" for format, path in kept.files.items()]
        lines += [f"  left out: {what}" for what in kept.left_out]
    return "\n".join([*lines, f"  {DISCLAIMER}"])

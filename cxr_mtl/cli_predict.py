"""The command line of ``predict``: a few films for the eye, or many into a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_mtl.errors import ConfigError

_EITHER = "Either a few films to look at, or many with --out."


def predict(
    bundle: Annotated[str, typer.Argument(help="Bundle folder; with --url, the model's name on the server.")],
    files: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG, or folders of them; with --out a manifest.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    overlay: Annotated[Path | None, typer.Option(help="Folder for pictures with boxes and heat map.")] = None,
    operating_point: Annotated[str, typer.Option(help="balanced, f1, sensitive or specific.")] = "balanced",
    heatmap: Annotated[
        list[str] | None, typer.Option(help="Findings to map, `flagged` for each that is; commas, or repeat it.")
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(help="How to map: grad_cam, attention, integrated_gradients or occlusion (without --url)."),
    ] = None,
    heatmap_format: Annotated[str, typer.Option(help="Of heat maps in --json: png, or array for the numbers.")] = "png",
    findings: Annotated[str | None, typer.Option(help="Only these, with commas between; all by default.")] = None,
    boxes: Annotated[bool, typer.Option("--boxes/--no-boxes", help="Answer with boxes.")] = True,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the most probable findings; all by default.")] = None,
    format: Annotated[
        list[str] | None, typer.Option(help="Reports to write: sr, seg, gsps, fhir, json; with commas, or repeated.")
    ] = None,
    reports: Annotated[Path | None, typer.Option(help="Folder for the reports of --format.")] = None,
    with_patient: Annotated[bool, typer.Option("--with-patient", help="Let fhir say whose film it is.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Parquet file for the answers; a killed run goes on, ranks share the films.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="With a manifest: train, val or test; all else.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="With --out: films judged together (16), or with --url asked at once (6).")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask a running server instead.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="The server's key file, or one with a proxy's key.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file: the server's certificate or its authority's.")] = None,
) -> None:
    """Judge films. Exit code 1 if any could not be judged.

    Example: cxr-mtl predict runs/nih_convnext/best film.dcm --overlay pictures

    Reports: cxr-mtl predict runs/nih_convnext/best film.dcm --format sr,gsps --reports reports

    Many films: cxr-mtl predict runs/nih_convnext/best nih.parquet --out predictions.parquet
    """
    if out and (as_json or overlay or heatmap or explain or heatmap_format != "png" or top_k or format):
        lacks = "--json, --overlay, --heatmap, --explain, --heatmap-format, --top-k or --format"
        raise ConfigError(f"A table of many films has no {lacks}.", hint=_EITHER)
    if split and not out:
        raise ConfigError("--split is of a manifest, and a manifest needs --out FILE.parquet.", hint=_EITHER)
    if bool(format) != (reports is not None) or (with_patient and not format):
        raise ConfigError(
            "--format, --reports and --with-patient go together.", hint="--format sr,gsps --reports FOLDER"
        )
    from cxr_mtl.export import Reports
    from cxr_mtl.predict.command import predict_files, predict_many
    from cxr_mtl.predict.options import parse_options

    options = parse_options(
        {
            "operating_point": operating_point,
            "findings": findings,
            "boxes": boxes,
            "heatmaps": ",".join(heatmap or ()),
            "explain": explain,
            "heatmap_format": heatmap_format,
            "top_k": top_k,
        }
    )
    if out is None:
        failed = predict_files(
            bundle,
            files,
            options,
            tell=print,
            as_json=as_json,
            overlay=overlay,
            url=url,
            key_file=key_file,
            ca=ca,
            reports=Reports(format, reports, with_patient=with_patient) if format and reports else None,
        )
    else:
        failed = predict_many(
            bundle,
            files,
            out,
            options,
            tell=print,
            split=split,
            batch_size=batch_size,
            url=url,
            key_file=key_file,
            ca=ca,
        )
    if failed:
        raise typer.Exit(1)

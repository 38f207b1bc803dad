"""The command line. Every body is one import and one call; nothing heavy is imported before it is needed."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cxr_mtl import __version__
from cxr_mtl.cli_data import Manifest, data
from cxr_mtl.cli_predict import predict
from cxr_mtl.cli_serve import serve
from cxr_mtl.errors import CxrError

app = typer.Typer(
    help="Chest X-ray findings, boxes and a tree of findings from one model. Research use only. Not for clinical use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # locals in a traceback can hold patient data
    add_completion=False,
)
app.add_typer(data, name="data")

Settings = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Override a setting: -s train.lr=3e-4."),
]
BundleFolder = Annotated[Path, typer.Argument(help="Bundle folder, such as runs/NAME/best.")]
Split = Annotated[str, typer.Option(help="train, val or test.")]
Resamples = Annotated[int, typer.Option(min=10, help="Bootstrap resamples of patients.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the resamples.")]
AllowSeen = Annotated[bool, typer.Option(help="Test on patients a bundle learned from, too; it is reported.")]
debug_wanted = False


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, a problem found is 1."""
    args = [
        a for a in sys.argv[1:] if not a.startswith("--local_rank")
    ]  # DeepSpeed's launcher adds it; RANK says it too
    try:
        app(args=args)
    except CxrError as error:
        _fail(f"{type(error).__name__}: {error}", error.exit_code, shared=error.shared)
    except OSError as error:
        _fail(f"{error.filename or 'Input or output'}: {error.strerror or error}.")
    except ModuleNotFoundError as error:
        _fail(f"This command needs {error.name}. Install it with: pip install -e '.[all]'")
    except KeyboardInterrupt:
        print("Stopped. What had been checkpointed can be resumed.", file=sys.stderr)
        sys.exit(130)


def _fail(line: str, code: int = 2, *, shared: bool = False) -> NoReturn:
    """One line on stderr; called in the handler of the error, which --debug raises again."""
    if debug_wanted:
        raise
    rank = int(os.environ.get("RANK", "0"))
    if not (shared and rank):
        print(f"rank {rank}: {line}" if rank else line, file=sys.stderr)
    sys.exit(code)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    global debug_wanted
    debug_wanted = debug
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cxr_mtl").setLevel(logging.INFO)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="New folder for everything it makes.")] = Path("quickstart"),
) -> None:
    """Draw films, train, evaluate, package, serve and ask once. CPU, no network.

    Example: cxr-mtl quickstart --out quickstart
    """
    from cxr_mtl.quickstart import quickstart as run

    run(out, tell=print)


@app.command()
def train(
    config: Annotated[Path, typer.Option("-c", "--config", help="Run file, such as configs/nih_convnext.yaml.")],
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
) -> None:
    """Train a run; also under `deepspeed --num_gpus N --module cxr_mtl train -c ...`.

    Example: cxr-mtl train -c configs/nih_convnext.yaml -s train.epochs=10
    """
    from cxr_mtl.config import load_config

    checked = load_config(config, settings or [])
    from cxr_mtl.train.loop import train as run  # after the check: these imports take seconds

    bundle = run(checked, resume=resume)
    print(f"Best bundle: {bundle}. Next: cxr-mtl evaluate {bundle} MANIFEST --out report")


@app.command()
def pretrain(
    config: Annotated[Path, typer.Option("-c", "--config", help="Run file, such as configs/pretrain_nih.yaml.")],
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
) -> None:
    """Learn an encoder from films without labels (DINO), for `train` to start from.

    Example: cxr-mtl pretrain -c configs/pretrain_nih.yaml
    """
    from cxr_mtl.config import load_config

    checked = load_config(config, settings or [])
    from cxr_mtl.pretrain.loop import pretrain as run  # after the check: these imports take seconds

    encoder = run(checked, resume=resume)
    print(f"Encoder: {encoder}. Next: cxr-mtl train -c RUN.yaml -s model.weights={encoder}")


@app.command()
def evaluate(
    bundle: BundleFolder,
    manifest: Manifest,
    split: Split = "test",
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html, ...")] = Path("report"),
    resamples: Resamples = 1000,
    seed: Seed = 0,
    allow_seen: AllowSeen = False,
    films: Annotated[
        bool, typer.Option("--films/--no-films", help="Show films in report.html; without, it names none.")
    ] = True,
) -> None:
    """Measure a bundle on a split: results.json, predictions.parquet, report.html, figures.

    Example: cxr-mtl evaluate runs/nih_convnext/best nih.parquet --split test --out report
    """
    from cxr_mtl.evaluate.run import evaluate as run
    from cxr_mtl.evaluate.run import headline

    results = run(bundle, manifest, split, out, resamples=resamples, seed=seed, allow_seen=allow_seen, films=films)
    print("\n".join([*headline(results), f"Report: {out / 'report.html'}"]))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Bundle folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another; every difference is A - B.")],
    manifest: Manifest,
    split: Split = "test",
    out: Annotated[Path, typer.Option(help="Folder for comparison.json.")] = Path("comparison"),
    resamples: Resamples = 1000,
    seed: Seed = 0,
    allow_seen: AllowSeen = False,
) -> None:
    """Measure two bundles on the same films: differences with paired 95 % intervals.

    Example: cxr-mtl compare runs/nih_convnext/best runs/nih_swin/best nih.parquet --split test --out comparison
    """
    from cxr_mtl.evaluate.compare import COMPARISON, comparison_lines
    from cxr_mtl.evaluate.compare import compare as run

    result = run(first, second, manifest, split, out, resamples=resamples, seed=seed, allow_seen=allow_seen)
    print("\n".join([*comparison_lines(result), f"Everything: {out / COMPARISON}"]))


@app.command()
def calibrate(
    bundle: BundleFolder,
    manifest: Manifest,
    split: Annotated[str, typer.Option(help="Whose films fit: train, val or test of the manifest.")] = "val",
    out: Annotated[Path, typer.Option(help="New folder of the calibrated bundle.")] = Path("calibrated"),
) -> None:
    """Fit calibration, thresholds and box cut to another hospital's films; the weights stay as they are.

    Example: cxr-mtl calibrate runs/nih_convnext/best ours.parquet --split val --out ours_bundle
    """
    from cxr_mtl.evaluate.calibrate import calibrate as run

    print("\n".join([*run(bundle, manifest, split, out), f"Bundle: {out}. Next: cxr-mtl evaluate {out} {manifest}"]))


app.command()(predict)


@app.command()
def package(
    bundle: BundleFolder,
    out: Annotated[Path, typer.Option(help="Model store to write to.")] = Path("model_store"),
    name: Annotated[str, typer.Option(help="The model's name on the server.")] = "cxr_mtl",
    version: Annotated[
        str | None, typer.Option(help="Another than the bundle's; the file is then NAME-VERSION.mar.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What computes on a CPU: auto, eager (torch), openvino or openvino_bf16.")
    ] = "auto",
    films: Annotated[
        Path | None, typer.Option(help="Manifest to prove the engine on; the run's own where it is still there.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of those films.")] = "val",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; the server decides by default.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each; the server decides by default.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write NAME-VERSION.onnx, too.")] = False,
    monai_bundle: Annotated[
        bool, typer.Option("--monai-bundle", help="Write a MONAI bundle, too: the folder NAME-VERSION_monai.")
    ] = False,
) -> None:
    """Make the TorchServe archive (.mar) of a bundle; it must first answer in a clean folder as the bundle does.

    Example: cxr-mtl package runs/nih_convnext/best --out model_store
    """
    from cxr_mtl.package.exports import check_exports, export
    from cxr_mtl.package.mar import build_archive

    formats = ["onnx"] * onnx + ["monai"] * monai_bundle
    check_exports(formats)
    archive = build_archive(
        bundle,
        out,
        name=name,
        version=version,
        engine=engine,
        films=films,
        split=split,
        workers=workers,
        threads=threads,
        rehearsed=True,
        tell=print,
    )
    print(f"Archive: {archive}. Next: cxr-mtl serve --model-store {out}")
    export(bundle, out, formats, name=name, version=version, films=films, split=split, tell=print)


app.command()(serve)


@app.command()
def demo(
    bundle: Annotated[Path | None, typer.Option(help="Bundle folder.")] = None,
    url: Annotated[str | None, typer.Option(help="A running server, such as http://127.0.0.1:8080.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="The server's key file.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name on the server, if not cxr_mtl.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file: the server's certificate or its authority's.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page.")] = 7860,
    host: Annotated[str, typer.Option(help="Address to listen on; containers need another.")] = "127.0.0.1",
    examples: Annotated[Path | None, typer.Option(help="Folder of example films.")] = None,
) -> None:
    """Open the page: drop a film, see findings, boxes, heat map and tree.

    Example: cxr-mtl demo --bundle runs/nih_convnext/best
    """
    from functools import partial

    from cxr_mtl.demo.app import main as run

    # Flushed, or a container's log shows the address only once the page has closed.
    run(
        bundle,
        url,
        key_file,
        model=model,
        ca=ca,
        port=port,
        host=host,
        examples=examples,
        tell=partial(print, flush=True),
    )

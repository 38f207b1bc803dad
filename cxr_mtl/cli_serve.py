"""``cxr-mtl serve``: the life of a server. As in cli.py, the body is one import and one call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def serve(
    archive: Annotated[Path | None, typer.Argument(help="With --roll-over: the .mar to roll over to.")] = None,
    model_store: Annotated[Path, typer.Option(help="Folder of .mar files.")] = Path("model_store"),
    port: Annotated[
        int, typer.Option(min=0, max=65533, help="Of predictions; management and metrics take the next two. 0: any.")
    ] = 8080,
    control: Annotated[bool, typer.Option("--control", help="Let --roll-over load versions while it runs.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and stop the server at SIGTERM or Ctrl-C: for containers.")
    ] = False,
    roll_over: Annotated[
        bool, typer.Option("--roll-over", help="Let a newer version take over without a failed request.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Answer what was asked, then stop the server.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Say how it is. Exit code 1 if it does not run or a worker is down.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: for programs.")] = False,
    host: Annotated[str, typer.Option(help="Address of predictions; other than the loopback wants TLS.")] = "127.0.0.1",
    tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate, for https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its RSA key, PEM without a password.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="For keys and logs; STORE/.serve by default.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of each model, sharing the cores; from cores and memory by default.")
    ] = None,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that requests under way have at a stop.")] = 30.0,
) -> None:
    """Start TorchServe on loopback with token authorisation, wait until it answers, and say how to ask it.

    Example: cxr-mtl serve --model-store model_store
    """
    from cxr_mtl.serve.command import serve as run
    from cxr_mtl.serve.tls import make_tls

    code = run(
        model_store,
        archive,
        tell=lambda text: print(text, flush=True),  # Where it stays, a pipe would keep it back.
        port=port,
        control=control,
        foreground=foreground,
        roll=roll_over,
        stop=stop,
        status=status,
        as_json=as_json,
        terminal=sys.stdout.isatty(),
        drain_seconds=drain,
        state_dir=state_dir,
        host=host,
        tls=make_tls(tls_cert, tls_key),
        workers=workers,
    )
    if code:
        raise typer.Exit(code)

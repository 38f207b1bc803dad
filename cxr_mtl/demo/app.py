"""The demo: one Gradio page over any predictor, opened and closed here; `page.py` puts it together.

Films may be of patients, so every default of Gradio that keeps or sends something is off: see `launch`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from starlette.middleware import Middleware

from cxr_mtl.demo.examples import find_examples
from cxr_mtl.demo.page import Page
from cxr_mtl.demo.private import StayHere, end_on_sigterm, private_uploads
from cxr_mtl.errors import ConfigError, ServeError

if TYPE_CHECKING:
    from cxr_mtl.predict.predictor import Predictor

MAX_FILE_SIZE = "64mb"

_STYLE, _SCRIPT = Path(__file__).with_name("demo.css"), Path(__file__).with_name("demo.js")


def build(
    predictor: Predictor,
    *,
    title: str = "cxr_mtl",
    examples: Path | None = None,
    slow: bool = True,
    who: str = "",
) -> gr.Blocks:
    """The page, not yet served.

    Args:
        predictor: a bundle here or a server elsewhere.
        title: of the browser's tab.
        examples: folder of films to offer; None for no offer.
        slow: whether to offer heat maps that a server refuses, because they take it too long.
        who: answers, in words for the page's head.
    """
    return Page(predictor, find_examples(examples) if examples else [], who, slow).build(title)


def launch(blocks: gr.Blocks, *, port: int | None = 7860, host: str = "127.0.0.1") -> str:
    """Serve the page in the background.

    Args:
        blocks: from `build`.
        port: None for any free one.
        host: an address other than loopback shows films to whoever can reach it: the page has no login.

    Returns:
        The page's address.

    Raises:
        ServeError: the port is taken, or the page did not start.
    """
    chosen = _free_port(host, port)
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=chosen,
            prevent_thread_lock=True,
            quiet=True,
            theme=_theme(),
            css_paths=[_STYLE],
            js=_SCRIPT.read_text(encoding="utf-8"),
            app_kwargs={"middleware": [Middleware(StayHere)]},
            max_file_size=MAX_FILE_SIZE,
            footer_links=[],
            # Each of these would keep a film, show it to someone else or call home; some are on by default.
            share=False,
            run_history=False,
            enable_monitoring=False,
            show_error=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
        )
    except OSError:
        raise ServeError(f"The page did not start on {host}:{chosen}.", hint="Try again, or another --port.") from None
    return str(url)


def main(
    bundle: Path | None = None,
    url: str | None = None,
    key_file: Path | None = None,
    *,
    model: str | None = None,
    ca: Path | None = None,
    port: int | None = 7860,
    host: str = "127.0.0.1",
    examples: Path | None = None,
    tell: Callable[[str], None],
) -> None:
    """Show the page until interrupted; films that were dropped are deleted at the end.

    Args:
        bundle: folder to answer with, or
        url: address of a running server.
        key_file: of that server, as TorchServe wrote it; None for a server without authorisation.
        model: the name that server serves it under; None for ``cxr_mtl``.
        ca: PEM file of that server's certificate, or of its authority's; None for the usual authorities.
        port: of the page; None for any free one.
        host: of the page.
        examples: folder of films to offer.
        tell: is told where the page is.

    Raises:
        ConfigError: both or neither of bundle and url; a model's name without a url; no such folder of examples.
        CheckpointError: the bundle cannot be loaded.
        ServeError: the port is taken, the key file is none, or ``ca`` holds no certificate.
    """
    predictor, who = _predictor(bundle, url, key_file, ca, model)
    with end_on_sigterm(), private_uploads():
        blocks = build(predictor, examples=examples, slow=url is None, who=who)
        try:
            tell(f"The demo is at {launch(blocks, port=port, host=host)} (Ctrl-C ends it).")
            blocks.block_thread()
        finally:
            blocks.close(verbose=False)


def _free_port(host: str, port: int | None) -> int:
    """The port, or any free one. Gradio would try a hundred and then say that none was free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port or 0))
        except (OSError, OverflowError) as error:
            what = f"Port {port} on {host} cannot be had: {getattr(error, 'strerror', None) or error}."
            raise ServeError(what, hint="Choose another with --port.") from None
        return int(probe.getsockname()[1])


def _theme() -> gr.themes.Base:
    """Gradio's own with the system's fonts, so that none is fetched, greys dark enough to read, and blue for controls.

    Gradio's orange would say of a control what the page says of a flagged finding.
    """
    fonts, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=mono)
    quiet, quiet_dark = "#5c6370", "#a9b0bc"
    return theme.set(
        body_text_color_subdued=quiet,
        body_text_color_subdued_dark=quiet_dark,
        block_info_text_color=quiet,
        block_info_text_color_dark=quiet_dark,
    )


def _predictor(
    bundle: Path | None, url: str | None, key_file: Path | None, ca: Path | None, model: str | None
) -> tuple[Predictor, str]:
    # Imported here so that the page of a server loads no torch.
    if model is not None and url is None:
        raise ConfigError("--model names a model on a server.", hint="Give --url URL, too.")
    if bundle is not None and url is None:
        from cxr_mtl.predict.predictor import LocalPredictor

        local = LocalPredictor(bundle)
        return local, f"{local.bundle.name} {local.bundle.version} on this machine"
    if url is not None and bundle is None:
        from cxr_mtl.predict.remote import RemotePredictor, read_key

        key = read_key(key_file) if key_file else None
        remote = RemotePredictor(url, key, model or "cxr_mtl", ca=ca)
        return remote, f"{f'{model} of ' if model else ''}the server at {url}"
    raise ConfigError("The demo answers with one bundle or one server.", hint="Give --bundle DIR or --url URL.")

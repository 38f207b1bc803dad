"""The demo: one Gradio page over any predictor. It only wires; what the page says is made in `present.py`.

Films may be of patients, so every default of Gradio that keeps or sends something is off: see `launch`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.middleware import Middleware

from cxr_mtl.data.read import read_image
from cxr_mtl.demo import present
from cxr_mtl.demo.private import StayHere, end_on_sigterm, private_uploads
from cxr_mtl.demo.rows import trained
from cxr_mtl.errors import ConfigError, CxrError, ServeError
from cxr_mtl.predict.overlay import HEAT_STRENGTH
from cxr_mtl.types import Options

if TYPE_CHECKING:
    from cxr_mtl.predict.predictor import Predictor

MAX_FILE_SIZE = "64mb"
KEEP_SECONDS = 600
NO_HEAT = ("None", "")
# Attention is the usual way of the models that have it, and refused by those that have not.
_WAYS = [
    ("The model's usual way", ""),
    ("Grad-CAM", "grad_cam"),
    ("Integrated gradients", "integrated_gradients"),
]
_SLOW_WAYS = [("Occlusion (slow)", "occlusion")]

_STYLE = Path(__file__).with_name("demo.css")
_SET_HEAT = "(value) => { document.documentElement.style.setProperty('--heat', value / 100); }"
_SET_BOXES = "(shown) => { document.documentElement.classList.toggle('cxr-no-boxes', !shown); }"
_PRESS = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-finding]');
  if (button) trigger('select', {finding: button.dataset.finding});
});"""


def analyse(
    predictor: Predictor, file: str | None, mode: str, finding: str | None, explain: str | None = None
) -> present.Screen:
    """One film's screen.

    Args:
        predictor: who answers.
        file: path of the film; None for none yet.
        mode: operating point.
        finding: which heat map to show; empty for none.
        explain: how it is made; empty for the model's usual way.
    """
    if file is None:
        return present.blank()
    started = time.perf_counter()
    options = Options(mode, heatmaps=(finding,), explain=explain or None) if finding else Options(mode)
    try:
        [answer] = predictor.predict([Path(file)], options)
        if isinstance(answer, CxrError):
            return present.refused(answer)
        seconds = time.perf_counter() - started
        return present.answered(read_image(Path(file)), answer, finding or None, seconds)
    except CxrError as error:
        return present.refused(error)


def build(
    predictor: Predictor, *, title: str = "cxr_mtl", examples: Path | None = None, slow: bool = True
) -> gr.Blocks:
    """The page, not yet served.

    Args:
        predictor: a bundle here or a server elsewhere.
        title: of the browser's tab.
        examples: folder of films to offer; None for no offer.
        slow: whether to offer heat maps that a server refuses, because they take it too long.
    """

    def run(file: str | None, mode: str, finding: str | None, explain: str | None) -> tuple[Any, ...]:
        screen = analyse(predictor, file, mode, finding, explain)
        return screen.film, screen.table, screen.tree, screen.body, screen.facts

    def press(finding: str | None, event: gr.EventData) -> str:
        return "" if event.finding == finding else event.finding

    kept = (KEEP_SECONDS, KEEP_SECONDS)
    blocks = gr.Blocks(analytics_enabled=False, delete_cache=kept, title=title, fill_width=True)
    with blocks:
        _html(present.banner_html(), "Disclaimer", elem_id="cxr-banner")
        start = present.blank()
        with gr.Row(elem_id="cxr-screen"):
            with gr.Column(scale=4, min_width=250):
                file, mode, finding, explain = _controls(examples, slow)
            with gr.Column(scale=9, min_width=300, elem_id="cxr-film"):
                film = _html(start.film, "Film")
            with gr.Column(scale=8, min_width=300), gr.Tabs():
                with gr.Tab("Findings"):
                    table = _html(start.table, "Findings", js_on_load=_PRESS)
                with gr.Tab("Tree"):
                    tree = _html(start.tree, "Tree of findings")
                with gr.Tab("Details"):
                    facts = _html(start.facts, "Details")
                    body = gr.JSON(label="Prediction", max_height=400)
        # One film at a time: the model uses all cores as it is.
        answer: dict[str, Any] = {
            "fn": run,
            "inputs": [file, mode, finding, explain],
            "outputs": [film, table, tree, body, facts],
            "show_progress": "minimal",
            "show_progress_on": film,
            "concurrency_limit": 1,
            "concurrency_id": "model",
        }
        gr.on(
            [file.change, mode.input, finding.input, explain.input],
            api_name="predict",
            trigger_mode="always_last",
            **answer,
        )
        table.select(press, finding, finding, show_progress="hidden", api_visibility="private").then(
            api_visibility="private", **answer
        )
        body.change(_choices, body, finding, show_progress="hidden", api_visibility="private")
    return blocks


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
        ca: PEM file of that server's certificate, or of its authority's; None for the usual authorities.
        port: of the page; None for any free one.
        host: of the page.
        examples: folder of films to offer.
        tell: is told where the page is.

    Raises:
        ConfigError: both or neither of bundle and url; no such folder of examples.
        CheckpointError: the bundle cannot be loaded.
        ServeError: the port is taken, the key file is none, or ``ca`` holds no certificate.
    """
    if examples is not None and not examples.is_dir():
        raise ConfigError(f"There is no folder {examples}.", hint="Examples are films in one folder.")
    predictor = _predictor(bundle, url, key_file, ca)
    with end_on_sigterm(), private_uploads():
        blocks = build(predictor, examples=examples, slow=url is None)
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


def _predictor(bundle: Path | None, url: str | None, key_file: Path | None, ca: Path | None) -> Predictor:
    # Imported here so that the page of a server loads no torch.
    if bundle is not None and url is None:
        from cxr_mtl.predict.predictor import LocalPredictor

        return LocalPredictor(bundle)
    if url is not None and bundle is None:
        from cxr_mtl.predict.remote import RemotePredictor, read_key

        return RemotePredictor(url, read_key(key_file) if key_file else None, ca=ca)
    raise ConfigError("The demo answers with one bundle or one server.", hint="Give --bundle DIR or --url URL.")


def _controls(examples: Path | None, slow: bool) -> tuple[gr.File, gr.Radio, gr.Dropdown, gr.Dropdown]:
    """The left column. Opacity and outlines are the page's own business and never reach the server."""
    # No file_types: Gradio would refuse a DICOM file without an extension. Reading looks at the content.
    file = gr.File(label="Film (PNG, JPEG, DICOM)", height=150, elem_id="cxr-file")
    films = sorted(path for path in examples.iterdir() if path.is_file()) if examples else []
    if films:
        gr.Examples([[str(film)] for film in films], [file], label="Examples", example_labels=[f.stem for f in films])
    modes = [(words, name) for name, words in present.MODES.items()]
    mode = gr.Radio(modes, value="balanced", label="Operating point", info=present.MODES_HELP)
    # Any value is let through: what the model knows is seen from its answers, and it says itself what it does not know.
    finding = gr.Dropdown([NO_HEAT], value="", label="Heat map", allow_custom_value=True)
    explain = gr.Dropdown(_WAYS + (_SLOW_WAYS if slow else []), value="", label="Heat map by")
    strength = gr.Slider(0, 100, value=round(100 * HEAT_STRENGTH), step=5, label="Heat map opacity, %")
    strength.input(None, strength, None, js=_SET_HEAT, api_visibility="private")
    outlines = gr.Checkbox(True, label="Show boxes")
    outlines.input(None, outlines, None, js=_SET_BOXES, api_visibility="private")
    return file, mode, finding, explain


def _html(value: str, label: str, *, js_on_load: str | None = None, elem_id: str | None = None) -> gr.HTML:
    """HTML with the page's own style sheet instead of Gradio's, which is made for prose."""
    return gr.HTML(value, label=label, js_on_load=js_on_load, elem_id=elem_id, apply_default_css=False)


def _choices(body: dict[str, Any] | None) -> Any:
    return gr.update(choices=[NO_HEAT, *((name, name) for name in trained(body))])

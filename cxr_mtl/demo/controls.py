"""What can be set on the demo's page. Opacity, outlines and filter are the page's own and never reach the server."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from cxr_mtl.demo import present
from cxr_mtl.predict.overlay import HEAT_STRENGTH

NO_HEAT = ("None", "")
# Attention is the usual way of the models that have it, and refused by those that have not.
_WAYS = [
    ("The model's usual way", ""),
    ("Grad-CAM", "grad_cam"),
    ("Integrated gradients", "integrated_gradients"),
]
_SLOW_WAYS = [("Occlusion (slow)", "occlusion")]
_SET_HEAT = "(value) => { document.documentElement.style.setProperty('--heat', value / 100); }"
_SET_BOXES = "(shown) => { document.documentElement.classList.toggle('cxr-no-boxes', !shown); }"
_SHOW = "(names) => { window.cxrShow(names); }"


@dataclass(frozen=True, slots=True)
class Settings:
    """The controls that the server is asked with, and the filter, whose choices it sets."""

    mode: gr.Radio
    finding: gr.Dropdown
    explain: gr.Dropdown
    shown: gr.CheckboxGroup
    everything: gr.Button


def drop_zone() -> gr.File:
    # No file_types: Gradio would refuse a DICOM file without an extension. Reading looks at the content.
    return gr.File(label="Films: PNG, JPEG, DICOM", file_count="multiple", height=148, elem_id="cxr-file")


def settings(*, slow: bool) -> Settings:
    """All controls.

    Args:
        slow: whether to offer heat maps that a server refuses, because they take it too long.
    """
    with gr.Accordion("Settings", open=True, elem_id="cxr-settings"):
        modes = [(words, name) for name, words in present.MODES.items()]
        mode = gr.Radio(modes, value="balanced", label="Operating point", info=present.MODES_HELP)
        # Any value is let through: what the model knows is seen from its answers, and it says itself what it does not.
        finding = gr.Dropdown([NO_HEAT], value="", label="Heat map", allow_custom_value=True)
        strength = gr.Slider(0, 100, value=round(100 * HEAT_STRENGTH), step=5, label="Opacity, %")
        strength.input(None, strength, None, js=_SET_HEAT, api_visibility="private")
        outlines = gr.Checkbox(True, label="Show boxes")
        outlines.input(None, outlines, None, js=_SET_BOXES, api_visibility="private")
        explain = gr.Dropdown(_WAYS + (_SLOW_WAYS if slow else []), value="", label="Heat map by")
    with gr.Accordion("Findings to show", open=False, elem_id="cxr-filter-box"):
        info = "On the film and in the table. Tree, batch and saved files keep all."
        shown = gr.CheckboxGroup([], label="Findings", info=info)
        # Not the group's own box for all, which has no label.
        with gr.Row():
            everything, nothing = gr.Button("All", size="sm"), gr.Button("None", size="sm")
        nothing.click(lambda: [], None, shown, show_progress="hidden", api_visibility="private")
        shown.change(None, shown, None, js=_SHOW, api_visibility="private")
    return Settings(mode, finding, explain, shown, everything)


def choose_film(label: str) -> gr.Dropdown:
    return gr.Dropdown([], value=None, label=label, type="value")


def html(value: str, label: str, *, js: str | None = None, elem_id: str | None = None) -> gr.HTML:
    """HTML with the page's own style sheet instead of Gradio's, which is made for prose."""
    return gr.HTML(value, label=label, js_on_load=js, elem_id=elem_id, apply_default_css=False)

"""What the demo's page shows of a prediction, as HTML made from values only. No Gradio, no files.

Rules of the page: what is not flagged is grey, never green; colour is never alone; nothing hides behind hover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cxr_mtl.demo.compare import curtain_html
from cxr_mtl.demo.facts import NO_FACTS, facts_html
from cxr_mtl.demo.film import film_html, stroke
from cxr_mtl.demo.picture import Picture
from cxr_mtl.demo.rows import CALLS, FEW, Row, bar, is_refusal, number, rows
from cxr_mtl.demo.tree import tree_html
from cxr_mtl.demo.visit import KEEP_SECONDS, SWEEP_SECONDS
from cxr_mtl.errors import CxrError
from cxr_mtl.types import DISCLAIMER, Prediction

MODES = {"balanced": "Balanced", "sensitive": "Sensitive", "specific": "Specific", "f1": "Best F1"}
MODES_HELP = "Where to draw the line. Sensitive misses less and flags more; specific the reverse."
_WHAT_COMES = """
<div class="cxr-guide"><h2>What you will get</h2><ul>
<li><b>Findings</b> with a calibrated probability, the threshold it is held to, and a call.</li>
<li><b>Boxes</b> on the film, and for one finding at a time a heat map of where its score is sensitive.</li>
<li><b>A tree</b> of the findings, open where something is flagged.</li>
<li><b>A comparison</b> with the plain film, or with an earlier one; a table of many films, as CSV and JSON.</li>
</ul></div>"""
_HOW_TO_READ = """
<div class="cxr-guide"><h2>How to read it</h2><dl>
<dt><span class="flagged"><span class="call">flagged</span></span></dt>
<dd>The probability reached the threshold of the operating point. Look there.</dd>
<dt><span class="unflagged"><span class="call">not flagged</span></span></dt>
<dd>It did not. That does not make the film normal.</dd>
<dt><span class="untrained"><span class="call">not trained</span></span></dt>
<dd>The model never learned this finding and says nothing of it.</dd>
<dt><span class="refused"><span class="call">refused</span></span></dt>
<dd>The file is no frontal chest film that can be judged; the reason stands beside it.</dd>
<dt><span class="unanswered"><span class="call">no answer</span></span></dt>
<dd>The model could not be asked; that is no fault of the file.</dd></dl></div>"""

# Shown by the filter itself, in the browser, while it hides a row that is flagged.
_FILTERED = '<p class="caution filtered">The filter hides a finding that is flagged.</p>'


@dataclass(frozen=True, slots=True)
class Screen:
    """What the page says of one film."""

    film: str
    table: str
    tree: str
    facts: str
    curtain: str


def answered(
    picture: Picture, prediction: Prediction, heatmap: str | None, seconds: float, saved: str = "", trouble: str = ""
) -> Screen:
    """The screen of one film's answer.

    Args:
        picture: what was judged.
        prediction: the answer.
        heatmap: finding in focus; its map is shown if the prediction has it, and other findings' boxes step back.
        seconds: from submission to answer.
        saved: address of the picture to save.
        trouble: why something that was asked for is not shown; empty for nothing.
    """
    heat = next((h for h in prediction.heatmaps if h.finding == heatmap), None)
    return Screen(
        film=film_html(picture, prediction, heat, heatmap, saved, trouble),
        table=table_html(rows(prediction), heatmap),
        tree=tree_html(prediction),
        facts=facts_html(prediction, seconds),
        curtain=curtain_html(picture, prediction, heat),
    )


def refused(error: CxrError, picture: Picture | None = None) -> Screen:
    """The screen of a film that could not be judged: what, and what to do."""
    title = "This file was not judged" if is_refusal(error) else "No answer"
    seen = f'<img src="{picture.thumb}" alt="The refused picture">' if picture else ""
    html = (
        f'<div class="cxr-refusal" role="alert">{seen}<div><h2>{title}</h2><p>{escape(error.message)}</p>'
        f"<p>{escape(error.hint)}</p></div></div>"
    )
    return Screen(film=html, table="", tree="", facts=NO_FACTS, curtain=curtain_html(None, None))


def blank(who: str = "", examples: bool = False) -> Screen:
    """The screen before the first film: what to do, what will come of it, and where it goes.

    Args:
        who: answers; empty for the model of this page.
        examples: whether there is one to press.
    """
    most = (KEEP_SECONDS + SWEEP_SECONDS) // 60
    press = "; or press an example" if examples else ""
    html = (
        f'<div class="cxr-blank"><div><p class="big">Drop frontal chest films</p><p>PNG, JPEG or DICOM, one or many'
        f"{press}.</p><p>A film is shown here with what the model proposes. This page sends it nowhere but to "
        f"{escape(who or 'its model')}. Its file is deleted when you take it away or leave, and after {most} minutes "
        "at most; its picture and answer last until you take it away or leave.</p></div></div>"
    )
    return Screen(html, _WHAT_COMES, _HOW_TO_READ, NO_FACTS, curtain_html(None, None))


def waiting() -> Screen:
    """The screen of a film whose turn has not come."""
    html = '<div class="cxr-blank" role="status"><p class="big">Waiting for its turn …</p></div>'
    return Screen(html, "", "", NO_FACTS, curtain_html(None, None))


def banner_html() -> str:
    return f'<div class="cxr-banner" role="note">{DISCLAIMER}</div>'


def title_html(who: str) -> str:
    """The page's heading and who answers."""
    told = f"<p>Answered by {escape(who)}</p>" if who else ""
    return f'<div class="cxr-title"><h1>Chest X-ray findings</h1>{told}</div>'


def table_html(shown: Sequence[Row], focus: str | None = None) -> str:
    """All the picture says, in rows; a finding's name is a button that asks for its heat map."""
    silent = [row.name for row in shown if row.call.probability is None]
    own = shown if len(silent) <= FEW else [row for row in shown if row.call.probability is not None]
    body = "".join(_row(row, row.name == focus) for row in own)
    if len(own) < len(shown):
        names = escape(", ".join(silent))
        body += (
            f'<tr class="untrained"><td colspan="5"><span class="call">{CALLS["not_trained"]}:</span> {names}</td></tr>'
        )
    columns = ("Finding", "Probability", "Threshold", "Call", "Boxes")
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    return (
        f'<div class="cxr-findings"><h2>Findings</h2>{_FILTERED}<div class="cxr-scroll"><table class="cxr-table">'
        "<caption>Press a finding to see it alone, with its heat map.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _row(row: Row, pressed: bool) -> str:
    call = row.call
    name, numbers, boxes = escape(row.name), "<td>–</td><td>–</td>", "–"
    if call.probability is not None and call.threshold is not None:
        length = bar(call.probability, call.threshold)
        numbers = f"<td>{number(call.probability)}{length}</td><td>{number(call.threshold)}</td>"
        asks = f'data-finding="{name}" data-key="{name}" aria-pressed="{str(pressed).lower()}"'
        name = f'<button type="button" {asks}>{name}</button>'
    if row.style is not None:
        line = f'<line x1="1" y1="6" x2="27" y2="6" {stroke(row.style)}/>'
        boxes = f'{row.num_boxes}<svg class="swatch" width="28" height="12" aria-hidden="true">{line}</svg>'
    kind = "flagged" if row.flagged else "untrained" if call.call == "not_trained" else "unflagged"
    return (
        f'<tr class="{kind}" data-finding="{escape(row.name)}"><th scope="row">{name}</th>{numbers}'
        f'<td class="call">{row.words}</td><td>{boxes}</td></tr>'
    )

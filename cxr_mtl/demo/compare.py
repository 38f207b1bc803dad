"""Two pictures beside each other: a film and what the model lays over it, or two films of one patient. Pure."""

from __future__ import annotations

from html import escape

from cxr_mtl.demo.film import overlay_html, plain_html, stage_html
from cxr_mtl.demo.picture import Picture
from cxr_mtl.demo.rows import Row, bar, number, rows
from cxr_mtl.demo.visit import Judged
from cxr_mtl.predict.marks import format_number
from cxr_mtl.types import Heatmap, Prediction

NO_MEANING = (
    "A difference is one between two answers of a model, and has no meaning beyond it: breath, position, exposure and "
    "another machine change an answer too. That both films are of one patient was not checked."
)
_NO_FILM = "<p>Open a film first: here its plain picture can be drawn over what the model proposes, like a curtain.</p>"
PAIR_HEAD = '<div class="cxr-pair"><h2>Two films of one patient</h2></div>'
_NO_PAIR = "<p>Open two films of one patient, and choose which is the earlier and which the later.</p>"


def curtain_html(picture: Picture | None, prediction: Prediction | None, heat: Heatmap | None = None) -> str:
    """The plain film left of the curtain, boxes and heat map right of it; mouse, finger and keys move it."""
    head = "<h2>Plain film against overlay</h2>"
    if picture is None or prediction is None:
        return f'<div class="cxr-compare">{head}{_NO_FILM}</div>'
    over = overlay_html(picture, prediction, heat)
    slider = '<input type="range" min="0" max="100" value="50" aria-label="Plain share of the film, in percent">'
    return (
        f'<div class="cxr-compare">{head}<div class="stage curtain" style="--ratio:{picture.ratio:.4f};--cut:50%">'
        f'{plain_html(picture, prediction)}<div class="over">{over}</div><span class="edge" aria-hidden="true"></span>'
        f'{slider}</div><p class="sides"><span>plain film</span><span>with boxes and heat map</span></p>'
        "<p>Drag, or use the arrow keys. The heat map chosen under Settings is shown.</p></div>"
    )


def pair_html(earlier: Judged | None, later: Judged | None) -> str:
    """Two films and how their answers differ, finding by finding."""
    if earlier is None or later is None:
        return f'<div class="cxr-pair">{_NO_PAIR}</div>'
    sides = "".join(_side(title, film) for title, film in (("Earlier", earlier), ("Later", later)))
    pair = f'<div class="sides">{sides}</div>'
    if not isinstance(earlier.answer, Prediction) or not isinstance(later.answer, Prediction):
        return f'<div class="cxr-pair">{pair}<p>There is no difference to show: a film has no answer.</p></div>'
    after = {row.name: row for row in rows(later.answer)}
    both = [(row, after[row.name]) for row in rows(earlier.answer) if row.name in after]
    known = [(a, b) for a, b in both if a.call.probability is not None and b.call.probability is not None]
    known.sort(key=lambda two: (not (two[0].flagged or two[1].flagged), -abs(_difference(*two))))
    unknown = [a.name for a, b in both if a.call.probability is None or b.call.probability is None]
    body = "".join(_row(a, b) for a, b in known)
    names = ("Finding", "Earlier", "Later", "Difference", "Call")
    columns = "".join(f'<th scope="col">{name}</th>' for name in names)
    left_out = f"<p>Not trained: {escape(', '.join(unknown))}.</p>" if unknown else ""
    return (
        f'<div class="cxr-pair"><p class="caution">{NO_MEANING}</p>{pair}'
        '<div class="cxr-scroll" tabindex="0" role="group" aria-label="Table of differences">'
        f'<table class="cxr-table"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>{left_out}</div>'
    )


def call_change(earlier: Row, later: Row) -> str:
    """What became of a call, in words."""
    if earlier.stands_for_normal:
        return "no call changed" if earlier.words == later.words else f"{earlier.words}, then {later.words}"
    if earlier.flagged and later.flagged:
        return "flagged in both"
    if later.flagged:
        return "newly flagged"
    return "no longer flagged" if earlier.flagged else "flagged in neither"


def difference_words(value: float) -> str:
    """With its sign, in two digits; what is too small to show is said to be so."""
    return "less than 0.01" if abs(value) < 0.005 else f"{'+' if value > 0 else '−'}{format_number(abs(value))}"


def _difference(earlier: Row, later: Row) -> float:
    return (later.call.probability or 0.0) - (earlier.call.probability or 0.0)


def _row(earlier: Row, later: Row) -> str:
    change, gap = call_change(earlier, later), _difference(earlier, later)
    kind = "flagged" if later.flagged or earlier.flagged else "unflagged"
    values = "".join(
        f"<td>{number(row.call.probability or 0.0)}{bar(row.call.probability or 0.0, row.call.threshold)}</td>"
        for row in (earlier, later)
    )
    return (
        f'<tr class="{kind}"><th scope="row">{escape(earlier.name)}</th>{values}'
        f'<td class="number">{difference_words(gap)}</td><td class="call">{change}</td></tr>'
    )


def _side(title: str, film: Judged) -> str:
    caption = f"<figcaption><b>{title}</b> {escape(film.name)}</figcaption>"
    if isinstance(film.answer, Prediction) and film.picture is not None:
        return f'<figure class="cxr-figure">{caption}{stage_html(film.picture, film.answer, None)}</figure>'
    why = film.answer.message if film.answer is not None and not isinstance(film.answer, Prediction) else "It waits."
    return f'<figure class="cxr-figure">{caption}<p class="cxr-refusal">{escape(why)}</p></figure>'

"""The strip of the films that are open: which is looked at, what each said, and how far the model is. Pure."""

from __future__ import annotations

from html import escape

from cxr_mtl.demo.rows import is_refusal, notes, rows
from cxr_mtl.demo.visit import Judged, Visit
from cxr_mtl.types import Prediction


def strip_html(visit: Visit) -> str:
    """One button a film; nothing before the first."""
    count = len(visit.films)
    if not count:
        return ""
    items = "".join(f"<li>{_film(film, at, at == visit.at)}</li>" for at, film in enumerate(visit.films))
    steps = ""
    if count > 1:
        back, on = (visit.at - 1) % count, (visit.at + 1) % count
        steps = (
            f'<button type="button" class="step" data-film="{back}" data-key="back" aria-label="Film before">‹</button>'
            f"<span>Film {visit.at + 1} of {count}</span>"
            f'<button type="button" class="step" data-film="{on}" data-key="on" aria-label="Next film">›</button>'
        )
    clear = '<button type="button" class="plain" data-film="-1" data-key="clear">Remove all films</button>'
    return (
        f'<section class="cxr-strip" aria-label="Open films"><div class="head">{steps}{progress_html(visit)}{clear}'
        f"</div><ol>{items}</ol></section>"
    )


def progress_html(visit: Visit) -> str:
    """How far the model is; nothing once it is through."""
    done, count = visit.done, len(visit.films)
    if done == count:
        return ""
    bar = f'<progress value="{done}" max="{count}" aria-label="Films judged"></progress>'
    return f'<span class="progress" role="status">{bar} {done} of {count} judged</span>'


def outcome(film: Judged) -> tuple[str, str]:
    """A film's answer in two words, and its kind for the style sheet."""
    if film.answer is None:
        return "waiting", "waiting"
    if not isinstance(film.answer, Prediction):
        return ("refused", "refused") if is_refusal(film.answer) else ("no answer", "unanswered")
    flags = sum(row.flagged for row in rows(film.answer))
    return (f"{flags} flagged", "flagged") if flags else ("not flagged", "unflagged")


def unlike(film: Judged) -> str:
    """A mark for a film that is unlike those that the model learned from; empty for any other."""
    marked = isinstance(film.answer, Prediction) and notes(film.answer)[0]
    return '<span class="caution">unlike training films</span>' if marked else ""


def _film(film: Judged, at: int, current: bool) -> str:
    words, kind = outcome(film)
    image = (
        f'<img src="{film.picture.thumb}" alt="">' if film.picture else '<span class="none" aria-hidden="true">?</span>'
    )
    asks = f'data-film="{at}" data-key="{at}"' + (' aria-current="true"' if current else "")
    return (
        f'<button type="button" class="{kind}" {asks}>{image}<span class="name">{escape(film.name)}</span>'
        f'<span class="call">{words}</span>{unlike(film)}</button>'
    )

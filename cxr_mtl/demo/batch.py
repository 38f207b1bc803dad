"""All films of a visit in one table, as CSV and as JSON: refused ones stand there with their reason. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from cxr_mtl.demo.picture import bytes_url
from cxr_mtl.demo.rows import error_body, rows
from cxr_mtl.demo.strip import outcome, progress_html, unlike
from cxr_mtl.demo.visit import Judged, Visit
from cxr_mtl.predict.marks import format_number
from cxr_mtl.types import DISCLAIMER, Prediction

_NO_FLAG = "A film without a flag is not thereby normal."
EMPTY = "<p>Drop several films at once: each becomes a row here, with what was flagged, or why it was refused.</p>"


def batch_html(visit: Visit) -> str:
    """The table, and links that save it once every film has its row."""
    films = visit.films
    if not films:
        return f'<div class="cxr-batch"><h2>All films</h2>{EMPTY}</div>'
    body = "".join(_row(film, at) for at, film in enumerate(films))
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("Film", "Outcome", "Flagged, or why not judged", "Boxes")
    )
    saves = _links(films) if visit.done == len(films) else progress_html(visit)
    return (
        f'<div class="cxr-batch"><h2>All films</h2><p>{_counts(films)}</p><p class="saves">{saves}</p>'
        f'<div class="cxr-scroll" tabindex="0" role="group" aria-label="Table of films"><table class="cxr-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><p>{_NO_FLAG}</p></div>"
    )


def batch_csv(films: Sequence[Judged]) -> str:
    """One line a film, whatever became of it; numbers as the model gave them, empty where never trained.

    Columns are those of ``cxr-mtl predict --out`` where they mean the same.
    """
    names = list(dict.fromkeys(call.name for film in _answered(films) for call in film.findings))
    first = ["film", "status", "operating_point", "width", "height", "format", "image_sha256"]
    last = ["boxes", "warnings", "error_code", "error_message", "hint", "model", "bundle_sha256", "disclaimer"]
    numbers = [f"{kind}:{name}" for name in names for kind in ("probability", "threshold", "call")]
    stream = io.StringIO()
    table = csv.DictWriter(stream, [*first, *numbers, *last], restval="", lineterminator="\r\n")
    table.writeheader()
    for film in films:
        table.writerow({key: _safe(value) for key, value in _line(film).items()})
    return stream.getvalue()


def batch_json(films: Sequence[Judged]) -> str:
    """The contract's JSON of every film, with the name it was dropped under."""
    return json.dumps([{"film": film.name, **body_of(film)} for film in films], indent=1, ensure_ascii=False)


def body_of(film: Judged) -> dict[str, Any]:
    """A film's answer as the contract has it."""
    if film.answer is None:
        return {}
    return film.answer.to_dict() if isinstance(film.answer, Prediction) else error_body(film.answer)


def _line(film: Judged) -> dict[str, Any]:
    answer = film.answer
    line: dict[str, Any] = {"film": film.name, "disclaimer": DISCLAIMER}
    if not isinstance(answer, Prediction):
        error = body_of(film).get("error", {})
        told = {"error_code": error.get("code"), "error_message": error.get("message"), "hint": error.get("hint")}
        return line | {"status": outcome(film)[0], **told}
    line |= {"status": "answered", "operating_point": answer.operating_point}
    line |= {key: answer.image.get(key) for key in ("width", "height", "format")}
    line |= {"image_sha256": answer.image.get("sha256"), "bundle_sha256": answer.model.get("sha256")}
    line |= {"model": f"{answer.model.get('name')} {answer.model.get('version')}"}
    line["boxes"] = json.dumps(answer.to_dict()["boxes"])
    line["warnings"] = "; ".join(answer.warnings)
    for call in answer.findings:
        line |= {f"probability:{call.name}": call.probability, f"threshold:{call.name}": call.threshold}
        line[f"call:{call.name}"] = call.call
    return line


def _safe(value: object) -> object:
    """A spreadsheet runs text that begins like a formula, and a file may have any name."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _links(films: Sequence[Judged]) -> str:
    kinds = (("CSV", "csv", "text/csv", batch_csv(films)), ("JSON", "json", "application/json", batch_json(films)))
    return " ".join(
        f'<a class="save" href="{bytes_url(text.encode("utf-8-sig" if end == "csv" else "utf-8"), kind)}" '
        f'download="cxr_mtl_films.{end}">Save as {name}</a>'
        for name, end, kind, text in kinds
    )


def _counts(films: Sequence[Judged]) -> str:
    kinds = [outcome(film)[1] for film in films]
    words = {"flagged": "with a flag", "unflagged": "without", "refused": "refused"}
    words |= {"unanswered": "without an answer", "waiting": "waiting"}
    told = ", ".join(f"{kinds.count(kind)} {text}" for kind, text in words.items() if kind in kinds)
    return f"{len(films)} film{'s' if len(films) > 1 else ''}: {told}."


def _row(film: Judged, at: int) -> str:
    words, kind = outcome(film)
    thumb = f'<img src="{film.picture.thumb}" alt="">' if film.picture else ""
    name = f'<button type="button" data-film="{at}">{escape(film.name)}</button>'
    said, boxes = "–", "–"
    if isinstance(film.answer, Prediction):
        flagged = [row for row in rows(film.answer) if row.flagged]
        said = escape(", ".join(f"{row.name} {format_number(row.call.probability or 0)}" for row in flagged)) or "–"
        said += f" <small>{escape(film.note)}</small>" if film.note else ""
        boxes = str(len(film.answer.boxes) or "–")
    elif film.answer is not None:
        said = f"{escape(film.answer.message)} <small>{escape(film.answer.hint)}</small>"
    return (
        f'<tr class="{kind}"><th scope="row"><span class="film">{thumb}{name}</span></th>'
        f'<td class="call">{words}{unlike(film)}</td><td class="said">{said}</td><td>{boxes}</td></tr>'
    )


def _answered(films: Sequence[Judged]) -> list[Prediction]:
    return [film.answer for film in films if isinstance(film.answer, Prediction)]

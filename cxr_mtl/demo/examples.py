"""Films to try the page with: a few of a folder, as different as can be, each with words instead of a file's name."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from cxr_mtl.data.read import read_image
from cxr_mtl.demo.picture import thumb_url
from cxr_mtl.errors import ConfigError, ImageError
from cxr_mtl.predict.overlay import film_image

NUM_EXAMPLES = 6
_NIH_TABLES, _IMAGE, _LABELS = "Data_Entry_2017*.csv", "Image Index", "Finding Labels"


@dataclass(frozen=True, slots=True)
class Example:
    """A film with its title and what its dataset says of it, empty where that is not known."""

    path: Path
    title: str
    labels: str
    thumb: str


def find_examples(folder: Path) -> list[Example]:
    """Some films of a folder that can be read, one of each set of labels first.

    Labels come from NIH's table where there is one in the folder or beside it, as the quickstart draws one; without,
    examples have numbers.

    Args:
        folder: of films.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}.", hint="Examples are films in one folder.")
    labels = _labels(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".csv")
    found: list[Example] = []
    for path in _various(files, labels):
        try:
            thumb = thumb_url(film_image(read_image(path), 512))
        except ImageError:
            continue
        said = labels.get(path.name, "").replace("|", ", ").replace("_", " ")
        found.append(Example(path, f"Example {len(found) + 1}", said, thumb))
        if len(found) == NUM_EXAMPLES:
            break
    return found


def examples_html(examples: Sequence[Example]) -> str:
    """A strip of small films, each a button."""
    items = "".join(
        f'<li><button type="button" data-example="{at}"><img src="{one.thumb}" alt="">'
        f"<span><b>{escape(one.title)}</b>{_said(one)}</span></button></li>"
        for at, one in enumerate(examples)
    )
    note = ", with its dataset's labels" if any(one.labels for one in examples) else ""
    return f'<section class="cxr-examples"><h2>Or try an example{note}</h2><ul>{items}</ul></section>'


def _said(one: Example) -> str:
    return f" <small>{escape(one.labels)}</small>" if one.labels else ""


def _labels(folder: Path) -> dict[str, str]:
    for place in (folder, folder.parent):
        for table in sorted(place.glob(_NIH_TABLES)):
            with table.open(newline="", encoding="utf-8", errors="replace") as lines:
                return {row[_IMAGE]: row.get(_LABELS) or "" for row in csv.DictReader(lines) if row.get(_IMAGE)}
    return {}


def _various(files: Sequence[Path], labels: dict[str, str]) -> list[Path]:
    """The first film of each set of labels, then the rest."""
    firsts: dict[str, Path] = {}
    for path in files:
        firsts.setdefault(labels.get(path.name, ""), path)
    taken = set(firsts.values())
    return [*firsts.values(), *(path for path in files if path not in taken)]

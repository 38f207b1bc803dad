"""Reads report.html back: elements with attributes and text, and what a validator would say of them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = frozenset({"meta", "line", "rect", "br", "link", "img", "path", "use", "circle", "image"})


class Page(HTMLParser):
    """Elements in order as (tag, attributes, text inside); HTML that does not nest is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.shown = ""
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {[tag for tag, _ in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of {tag} comes twice"
        self.handle_data(" ")
        inside: list[str] = []
        self.found.append((tag, dict(attrs), inside))
        if tag not in VOID:
            self._open.append((tag, inside))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag, f"{tag} closes {opened}"
        self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for _, inside in self._open:
            inside.append(data)
        if not any(tag == "style" for tag, _ in self._open):
            self.shown += data

    def all(self, *tags: str) -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of the elements of these kinds."""
        return [(attrs, " ".join("".join(text).split())) for tag, attrs, text in self.found if tag in tags]

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _, _ in self.found}

    @property
    def headings(self) -> list[int]:
        return [int(tag[1]) for tag, _, _ in self.found if re.fullmatch("h[1-6]", tag)]

    @property
    def addresses(self) -> list[str]:
        """Everything that a browser would go to or fetch."""
        names = ("href", "src", "srcset", "xlink:href", "action", "data", "poster")
        return [attrs[name] or "" for _, attrs, _ in self.found for name in names if name in attrs]

"""Reads the demo's HTML back: elements with their attributes and the text inside them."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"img", "input", "line", "rect", "br"}


class Page(HTMLParser):
    """Elements in order as (tag, attributes, text inside); refuses HTML that does not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        self.found.append((tag, dict(attrs), text))
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag

    def handle_data(self, data: str) -> None:
        for _, text in self._open:
            text.append(data)

    def all(self, tag: str, kind: str = "") -> list[tuple[dict[str, str | None], str]]:
        wanted = set(kind.split())
        return [
            (attrs, "".join(text))
            for name, attrs, text in self.found
            if name == tag and wanted <= set((attrs.get("class") or "").split())
        ]

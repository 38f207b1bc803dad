"""The page for who cannot see it well: axe's rules, in light, dark and on a phone, on every tab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def violations(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_timeout(300)
    found = Axe().run(page).response["violations"]
    return [f"{rule['impact']} {rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found]


@pytest.mark.parametrize(
    ("width", "query"), [(1440, ""), (1440, "?__theme=dark"), (360, "")], ids=["light", "dark", "phone"]
)
def test_axe_finds_nothing(site: Any, films: list[Path], tmp_path: Path, width: int, query: str) -> None:
    letter = tmp_path / "letter.dcm"
    letter.write_text("Dear colleague")
    visitor = site.visit(width, 900, query)
    assert violations(visitor.page) == [], "before a film"
    visitor.drop(*films[:2], letter)
    visitor.page.locator("#cxr-table button[data-finding=Mass]").click()
    visitor.page.wait_for_selector("#cxr-film img.heat")
    visitor.page.get_by_text("Findings to show").click()
    for name in ("Film", "Compare", "Batch", "Details"):
        visitor.tab(name)
        assert violations(visitor.page) == [], name
    visitor.page.locator("#cxr-strip ol button").nth(2).click()
    visitor.page.wait_for_selector(".cxr-refusal")
    assert violations(visitor.page) == [], "a refusal"


def test_dark_is_dark_and_follows_the_system(site: Any, films: list[Path]) -> None:
    visitor = site.visit(color_scheme="dark")
    visitor.drop(films[0])
    ground = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in ground.removeprefix("rgb(").removesuffix(")").split(",")[:3]) < 64
    stage = visitor.page.evaluate("getComputedStyle(document.querySelector('#cxr-film .stage')).backgroundColor")
    assert stage == "rgb(0, 0, 0)", "a film is on black in either"

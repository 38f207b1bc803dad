"""A real browser for the page's tests, where this machine has one, and films to drop into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_fake import FakePredictor
from PIL import Image

from cxr_mtl.demo import app


@pytest.fixture(scope="module")  # while Playwright is there, its event loop keeps others' from running
def browser() -> Iterator[Any]:
    """Chromium, headless: the one that CXR_MTL_CHROMIUM names, or the first on the path."""
    names = (os.environ.get("CXR_MTL_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if name and (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no chromium on this machine: install one, or name it in CXR_MTL_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Visitor:
    """A page in a browser of its own, and what it asked the network for."""

    page: Any
    url: str
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def drop(self, *films: Path) -> None:
        """Drop films and wait until each has its answer."""
        before = self.page.locator("#cxr-strip ol li").count()
        self.page.set_input_files("#cxr-file input[type=file]", [str(film) for film in films])
        self.settled(before + len(films))

    def settled(self, films: int) -> None:
        """Wait until so many films have their answers."""
        self.page.wait_for_function(
            "n => document.querySelectorAll('#cxr-strip ol li').length === n"
            " && !document.querySelector('#cxr-strip .progress, #cxr-strip .waiting')"
            " && !document.querySelector('#cxr-film .cxr-blank')",
            arg=films,
        )

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()
        self.page.wait_for_selector(f"[role=tabpanel]:visible #cxr-{PANES[name]}, #cxr-{PANES[name]}:visible")

    def cut_off(self) -> list[str]:
        """What is seen to reach past the right edge; the page clips it, so its own width tells nothing."""
        return list(self.page.evaluate(CUT_OFF))


# What lies in a box that scrolls sideways, or clips its own content on purpose, is reached or meant so.
CUT_OFF = """() => [...document.body.querySelectorAll('*')].filter((e) => {
  if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true})) return false;
  const {width, height, right} = e.getBoundingClientRect();
  if (!width || !height || right <= innerWidth + 0.5) return false;
  for (let up = e.parentElement; up && !up.matches('.gradio-container, body'); up = up.parentElement)
    if (getComputedStyle(up).overflowX !== 'visible' && up.getBoundingClientRect().right < innerWidth + 1) return false;
  return true;
}).map((e) => `${e.tagName}#${e.id}.${e.className}`)"""
PANES = {"Film": "film", "Compare": "choose", "Batch": "batch", "Details": "ask"}


@dataclass
class Site:
    """A served page that opens browsers on itself."""

    predictor: Any
    blocks: Any
    url: str
    browser: Any
    contexts: list[Any] = field(default_factory=list)

    def visit(self, width: int = 1440, height: int = 900, query: str = "", **options: Any) -> Visitor:
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        visitor = Visitor(page, self.url)
        page.on("request", lambda request: visitor.asked.append(request.url))
        page.on("pageerror", lambda error: visitor.errors.append(str(error)))
        page.goto(self.url + query)
        page.wait_for_selector("#cxr-film .cxr-blank")
        return visitor

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        self.contexts.clear()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three grey films, wider than high, no two alike."""
    folder = tmp_path_factory.mktemp("films")
    made = []
    for seed, name in enumerate(("first.png", "second.png", "third.png")):
        noise = np.random.default_rng(seed).integers(40, 200, (90, 130)).astype(np.uint8)
        Image.fromarray(noise).resize((390, 270), Image.Resampling.BICUBIC).save(folder / name)
        made.append(folder / name)
    return made


@pytest.fixture(scope="module")
def served_site(browser: Any, films: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page over a predictor that answers the same of each film."""
    examples = tmp_path_factory.mktemp("examples")
    table = "Image Index,Finding Labels\n"
    for number, film in enumerate(films[:2]):
        shutil.copy(film, examples / f"0000000{number}_000.png")
        table += f"0000000{number}_000.png,{'Effusion|Mass' if number else 'No Finding'}\n"
    (examples / "Data_Entry_2017_v2020.csv").write_text(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        predictor = FakePredictor()
        blocks = app.build(predictor, examples=examples, who="fake 1.0 on this machine")
        site = Site(predictor, blocks, app.launch(blocks, port=None), browser)
        yield site
        site.close()
        blocks.close(verbose=False)


@pytest.fixture
def site(served_site: Site) -> Iterator[Site]:
    """The same with no browser open on it before or after."""
    served_site.predictor.asked.clear()
    yield served_site
    served_site.close()

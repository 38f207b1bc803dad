"""The README's pictures of the demo's page, taken in a real Chromium on drawn films: `make pictures`.

No picture shows a patient's film. `make quickstart` draws the films and trains the bundle that judges them.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

REPO = Path(__file__).resolve().parents[1]
DONE = (
    "n => document.querySelectorAll('#cxr-strip ol li').length === n"
    " && !document.querySelector('#cxr-strip .progress, #cxr-strip .waiting')"
    " && document.querySelector('#cxr-film .stage')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=REPO / "quickstart/runs/quickstart/best")
    parser.add_argument("--films", type=Path, default=REPO / "quickstart/films", help="as the quickstart draws them")
    parser.add_argument("--out", type=Path, default=REPO / "docs/pictures")
    asked = parser.parse_args()
    if not asked.bundle.is_dir():
        sys.exit(f"There is no bundle at {asked.bundle}. Run `make quickstart` first, or name one with --bundle.")
    asked.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(REPO / "gradio_demo.py"), "--bundle", str(asked.bundle), "--port", "0"]
    command += ["--examples", str(asked.films / "images")]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as demo,
    ):
        try:
            assert demo.stdout is not None
            found = re.search(r"http://127.0.0.1:\d+/", demo.stdout.readline())
            if found is None:
                sys.exit("The demo did not start.")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
                films = to_drop(asked.films, Path(folder))
                take(browser, found[0], films, asked.out)
                tell_times(browser, found[0], films[0])
                browser.close()
        finally:
            demo.terminate()


def chromium() -> str:
    names = (os.environ.get("CXR_MTL_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    for name in names:
        if name and (found := shutil.which(name)):
            return found
    sys.exit("There is no Chromium here. Install one, or name it in CXR_MTL_CHROMIUM.")


def to_drop(films: Path, folder: Path) -> list[Path]:
    """Two films of one drawn patient, three with the most findings, and one file that is no film."""
    with next(films.glob("Data_Entry_2017*.csv")).open(newline="") as lines:
        table = list(csv.DictReader(lines))
    labels = {row["Image Index"]: row["Finding Labels"] for row in table}
    first = next(row for row in table if row["Follow-up #"] == "1" and "Effusion" in row["Finding Labels"])
    patient = [row["Image Index"] for row in table if row["Patient ID"] == first["Patient ID"]][:2]
    many = sorted((name for name in labels if name not in patient), key=lambda name: -labels[name].count("|"))
    names = {"drawn patient, first visit.png": patient[0], "drawn patient, second visit.png": patient[1]}
    names |= {f"drawn film {at}.png": name for at, name in enumerate(many[:3], 1)}
    dropped = [Path(shutil.copy(films / "images" / source, folder / name)) for name, source in names.items()]
    photo = folder / "holiday.jpg"
    Image.linear_gradient("L").resize((640, 480)).convert("RGB").point([*range(256), *[90] * 512]).save(photo)
    return [*dropped, photo]


def take(browser: Any, url: str, films: list[Path], out: Path) -> None:
    wide = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    wide.goto(url)
    drop(wide, films)
    press(wide, 3, "Effusion")
    shoot(wide, out / "page.webp")
    keep(wide.locator("#cxr-tree").screenshot(), out / "tree.webp")
    for name in ("Compare", "Batch"):
        wide.get_by_role("tab", name=name).click()
        shoot(wide, out / f"{name.lower()}.webp", full_page=name == "Compare")
    dark = browser.new_context(viewport={"width": 1440, "height": 1000}, color_scheme="dark").new_page()
    dark.goto(url)
    drop(dark, films)
    press(dark, 3, "Effusion")
    shoot(dark, out / "dark.webp")
    phone = browser.new_context(viewport={"width": 360, "height": 740}, device_scale_factor=2).new_page()
    phone.goto(url)
    drop(phone, films)
    press(phone, 3, "Effusion")
    phone.locator("#cxr-film").evaluate("film => { film.style.scrollMarginTop = '90px'; film.scrollIntoView(); }")
    shoot(phone, out / "phone.webp")


def tell_times(browser: Any, url: str, film: Path) -> None:
    """How long a visitor waits, the model being warm: the best of three, each in a browser that has cached nothing."""
    waits = []
    for _ in range(3):
        page = browser.new_context().new_page()
        started = time.perf_counter()
        page.goto(url)
        page.wait_for_selector("#cxr-film .cxr-blank")
        there = time.perf_counter()
        drop(page, [film])
        waits.append((there - started, time.perf_counter() - there))
        page.context.close()
    pages, answers = zip(*waits, strict=True)
    sys.stdout.write(f"page {min(pages):.2f} s, from drop to answer {min(answers):.2f} s (best of {len(waits)})\n")


def drop(page: Any, films: list[Path]) -> None:
    page.wait_for_selector("#cxr-film .cxr-blank")
    page.set_input_files("#cxr-file input[type=file]", [str(film) for film in films])
    page.wait_for_function(DONE, arg=len(films))


def press(page: Any, film: int, finding: str) -> None:
    """Look at a film and at one of its findings alone."""
    page.locator("#cxr-strip ol button").nth(film - 1).click()
    page.wait_for_function(f"document.querySelector('#cxr-strip [aria-current]').dataset.film === '{film - 1}'")
    page.locator(f"#cxr-table button[data-finding={finding}]").click()
    page.wait_for_selector("#cxr-film img.heat")


def shoot(page: Any, file: Path, *, full_page: bool = False) -> None:
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    keep(page.screenshot(full_page=full_page), file)


def keep(shot: bytes, file: Path) -> None:
    """As WebP: a fifth of the bytes, and text stays sharp."""
    Image.open(io.BytesIO(shot)).convert("RGB").save(file, quality=90, method=6)


if __name__ == "__main__":
    main()

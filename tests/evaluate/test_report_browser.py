"""report.html in a real browser, as wide as a phone: nothing runs off the page, what is too wide scrolls by itself."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_predictor import FakePredictor

from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.evaluate.run import evaluate

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
# A frame is as narrow as it is told, which a browser's window is not.
FRAME = """<!doctype html><iframe id="f" src="report.html" style="border:0;width:{width}px;height:4000px"></iframe>
<pre id="said"></pre><script>
document.getElementById("f").onload = () => {{
  const page = document.getElementById("f").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(d => d.open = true);
  const wide = [...page.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll > *") && !e.closest("svg > *") && e.getBoundingClientRect().right > {width} + 1);
  const inner = [...page.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth);
  document.getElementById("said").textContent = JSON.stringify({{
    scroll: root.scrollWidth, scrolling: inner.length, reachable: inner.every(e => e.tabIndex === 0),
    wide: wide.map(e => e.tagName + "." + e.className).slice(0, 5),
    notice: getComputedStyle(page.querySelector(".notice")).position,
  }});
}};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_nothing_runs_off_a_phone(tiny_bundle: Path, tmp_path: Path) -> None:
    write_study_set(tmp_path / "films", 120, 1, 64)
    manifest, _ = import_source("nih", tmp_path / "films", ontology="nih14", seed=0)
    save_manifest(manifest, tmp_path / "m.parquet")
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    predictor = FakePredictor(copy, load_manifest(tmp_path / "m.parquet"))
    out = tmp_path / "out"
    evaluate(predictor.bundle, tmp_path / "m.parquet", "test", out, predictor=predictor, resamples=20, progress=False)
    for width in (360, 320):
        said = _ask(out, tmp_path / "profile", width)
        assert said["scroll"] <= width, said
        assert said["wide"] == []
        assert said["scrolling"] > 5, "wide tables scroll in their own boxes"
        assert said["reachable"], "by keyboard, too"
        assert said["notice"] == "sticky"


def _ask(folder: Path, profile: Path, width: int) -> dict[str, object]:
    (folder / "frame.html").write_text(FRAME.format(width=width))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--allow-file-access-from-files", "--virtual-time-budget=10000", "--window-size=800,1000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{folder / 'frame.html'}"], capture_output=True, text=True, timeout=120)
    (said,) = re.findall(r'<pre id="said">(.+?)</pre>', done.stdout, re.S)
    return dict(json.loads(html.unescape(said)))

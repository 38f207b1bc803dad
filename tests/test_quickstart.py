"""`make quickstart` does what the README says, and what it trains is right on the drawn films."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def test_quickstart(tmp_path: Path) -> None:
    command = "cxr-mtl quickstart --out quickstart"
    assert command in MAKEFILE.read_text()
    done = subprocess.run(
        [Path(sys.executable).parent / "cxr-mtl", *command.split()[1:]],
        cwd=tmp_path,
        # As in a bare shell: nothing of the environment's bin folder is on PATH, and no operator was ever built.
        env=os.environ | {"PATH": "/usr/bin:/bin", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "quickstart"
    for path in ("report/report.html", "runs/quickstart/best", "model_store/cxr_mtl.mar", "overlay.png"):
        assert f"quickstart/{path}" in done.stdout
        assert (out / path).exists()
    answer = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    assert answer["schema"] == "cxr-mtl.prediction/1"
    results = json.loads((out / "report" / "results.json").read_text())
    assert results["classification"]["macro"]["auroc"]["value"] >= 0.90
    assert results["localization"]["accuracy_at_tiou"]["0.5"]["mean"]["value"] >= 0.6
    assert results["hierarchy"]["violation_rate"]["value"] == 0

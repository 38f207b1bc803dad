"""A run with films enough fits a gate and puts it into its bundle; one with fewer says why it has none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from runs import draw_films, run_file

from cxr_mtl.bundle import GATE, load_bundle
from cxr_mtl.config import load_config
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.split import with_split
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.train.fit import fit_doorkeeper
from cxr_mtl.train.loop import train
from cxr_mtl.types import Prediction


def test_one_validation_patient_is_too_few_to_say_what_is_usual() -> None:
    """The films of each are measured by those of the others, so the limit would be no number."""
    val = SimpleNamespace(rows=np.arange(200, 260), patients=np.r_[np.arange(200), np.arange(60) % 4])
    why = fit_doorkeeper(SimpleNamespace(train=SimpleNamespace(rows=np.arange(200)), val=val), 0)  # type: ignore[arg-type]
    assert why == "validation films of 4 patients; 5 are needed to fit one"


@pytest.mark.slow
def test_a_run_of_few_films_says_why_it_has_no_gate(tmp_path: Path) -> None:
    bundle = train(load_config(run_file(draw_films(tmp_path), "few", epochs=1)))
    assert "200 and 50 are needed" in load_bundle(bundle).description.gate["none"]
    assert not (bundle / GATE).exists()
    assert "It has no gate" in (bundle / "model_card.md").read_text()


@pytest.mark.slow
def test_a_run_puts_its_gate_into_the_bundle(tmp_path: Path) -> None:
    write_study_set(tmp_path / "films", 420, 0, 96)
    manifest, _ = import_source("nih", tmp_path / "films", ontology="nih14", seed=0)
    if (manifest.splits == "val").sum() < 50:  # carve_validation takes a tenth; the gate wants fifty
        split = manifest.splits
        split[split == "test"] = "val"
        manifest = with_split(manifest, split, {"how": "of a test"})
    save_manifest(manifest, tmp_path / "films.parquet")
    folder = train(load_config(run_file(tmp_path, "gated", epochs=2)))
    bundle = load_bundle(folder)
    about = bundle.description.gate
    assert about["train_films"] == (manifest.splits == "train").sum()
    assert about["validation_films_passed"] > 0.95
    assert about["drawn_pictures_stopped"]["limbs"] > 0.9
    assert "The gate was fitted on" in (folder / "model_card.md").read_text()
    film = load_manifest(tmp_path / "films.parquet").where(split="val").path(0)
    turned = tmp_path / "turned.png"
    Image.fromarray(np.rot90(np.asarray(Image.open(film)), 2)).save(turned)
    good, bad = LocalPredictor(bundle).predict([film, turned])
    assert isinstance(good, Prediction)
    assert good.image["novelty"]["percentile"] <= 100
    assert isinstance(bad, ImageError)
    assert bad.code == "turned"

"""Another hospital's films fit calibration, thresholds and box cut; nothing else of a bundle changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr_mtl.bundle import CARD, DESCRIPTION, SPLIT, WEIGHTS, load_bundle, save_bundle
from cxr_mtl.bundle.fit import RULES, Said, fit_points, refit_calibration, refit_points
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.split_file import read_split, split_text
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.evaluate.calibrate import _box_cut, calibrate
from cxr_mtl.evaluate.collect import collect
from cxr_mtl.evaluate.run import evaluate
from cxr_mtl.metrics.calibrate import Calibration, fit_calibration
from cxr_mtl.metrics.classify import ece, per_finding
from cxr_mtl.metrics.localize import choose_box_threshold
from cxr_mtl.predict.predictor import LocalPredictor

QUIET = {"progress": False}
NAMES = ("A", "B", "C", "D")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_study_set(folder / "films", 150, 0, 64)
    manifest, _ = import_source("nih", folder / "films", ontology="nih14")
    save_manifest(manifest, folder / "films.parquet")
    return folder / "films.parquet"


@pytest.fixture(scope="module")
def trained(tiny_bundle: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, as if trained on the drawn films."""
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    (folder / SPLIT).write_text(split_text(load_manifest(drawn)))
    (folder / CARD).write_text("# tiny 0.1\n\n## Calibration and thresholds\nold words\n\n## Limits\n- some\n")
    return folder


@pytest.fixture(scope="module")
def done(trained: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("new") / "bundle"
    return out, calibrate(trained, drawn, "val", out, **QUIET)


def site(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) presence and well calibrated logits; D is present in three films."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (count, 4))
    presence = (rng.random((count, 4)) < 1 / (1 + np.exp(-logits))).astype(float)
    presence[:, 3] = np.arange(count) < 3
    return presence, logits


def test_films_of_a_site_lower_the_ece_of_its_other_films() -> None:
    """Another scanner stretched and shifted what the network says; half of the films mend it for the other half."""
    old = fit_calibration(*site(4000, 0))
    (presence, logits), (other, other_logits) = site(400, 1), site(2000, 2)
    changed, other_changed = 1.8 * logits + 1.5, 1.8 * other_logits + 1.5
    new, is_new = refit_calibration(old, presence, changed)
    assert is_new.tolist() == [True, True, True, False]
    before, after = (per_finding(ece, other, c.apply(other_changed))[:3] for c in (old, new))
    assert (after < before / 2).all()
    assert after.max() < 0.08
    for c in range(3):  # no ranking changes
        assert roc_auc_score(other[:, c], new.apply(other_changed)[:, c]) == pytest.approx(
            roc_auc_score(other[:, c], other_changed[:, c]), abs=1e-9
        )


def test_a_finding_with_too_few_films_keeps_its_numbers_and_one_never_trained_stays_so() -> None:
    presence, logits = site(400, 1)
    old = fit_calibration(*site(4000, 0), np.array([True, True, False, True]))
    new, is_new = refit_calibration(old, presence, logits + 2)
    assert is_new.tolist() == [True, True, False, False]
    assert np.isnan(new.scale[2])
    for name in ("scale", "bias", "num_positive", "num_negative", "pooled"):
        assert getattr(new, name)[3] == getattr(old, name)[3]


def test_films_that_do_not_contradict_the_old_calibration_leave_it() -> None:
    old = Calibration(np.array([2.0]), np.array([-1.0]), np.array([9]), np.array([9]), np.array([False]))
    presence = np.r_[np.ones(5), np.zeros(5)][:, None]
    logits = np.r_[np.full(5, 1.5), np.full(5, -0.5)][:, None]
    few, many = (refit_calibration(old, np.tile(presence, (n, 1)), np.tile(logits, (n, 1)))[0] for n in (1, 50))
    assert (few.scale[0], few.bias[0]) == (2, -1)
    assert many.scale[0] > 1.5 * few.scale[0]


def test_operating_points_follow_where_there_are_films() -> None:
    (presence, logits), (old_presence, old_logits) = site(400, 1), site(4000, 0)
    probability = 1 / (1 + np.exp(-logits))
    points, rules = fit_points(old_presence, 1 / (1 + np.exp(-(old_logits + 3))), NAMES)
    again, new_rules, is_new = refit_points(points, rules, presence, probability, NAMES)
    direct, direct_rules = fit_points(presence, probability, NAMES)
    assert is_new.tolist() == [True, True, True, False]
    for point in RULES:
        assert {n: again[point][n] for n in "ABC"} == {n: direct[point][n] for n in "ABC"}
        assert again[point]["D"] == points[point]["D"]
        assert new_rules[point]["reached"]["A"] == direct_rules[point]["reached"]["A"]
        assert new_rules[point]["reached"]["D"] == rules[point]["reached"]["D"]


def test_weights_stay_and_what_fitted_is_said(trained: Path, done: tuple[Path, list[str]], drawn: Path) -> None:
    out, lines = done
    old, new = load_bundle(trained), load_bundle(out)
    assert (out / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()
    assert new.sha256 != old.sha256
    assert new.version == "0.1+calibrated.nih"
    fitted = new.description.fitted_on
    val = load_manifest(drawn).where(split="val")
    assert (fitted["dataset"], fitted["split"], fitted["films"]) == ("nih", "val", len(val))
    assert fitted["patients"] == len(set(val.patient_ids))
    assert fitted["before"] == old.description.fitted_on
    assert len(fitted["manifest_sha256"]) == 64
    assert new.trained == old.trained
    assert not new.sees("Hernia")
    assert "Hernia" not in new.operating_points["balanced"]
    assert new.description.learned_datasets == old.description.learned_datasets
    kept = fitted["findings_kept"]
    assert kept, "some findings are too rare in so few films"
    assert any(kept[0] in line for line in lines)
    (unranked,) = [line for line in lines if "no better than chance" in line]
    assert "Ranked no better than chance on these films, which no calibration mends: " in unranked, "weights are random"
    for name in kept:
        assert new.operating_points["balanced"][name] == 0.5
    moved = [n for n in new.trained if n not in kept]
    assert moved
    assert any(new.operating_points["balanced"][n] != 0.5 for n in moved)
    assert fitted["box_cut"] == "kept", "so few films have no five boxes"
    assert new.box_min_score == old.box_min_score


def test_what_was_fitted_is_what_the_answers_logits_say(
    trained: Path, done: tuple[Path, list[str]], drawn: Path
) -> None:
    """By the same films, read and looked at here: no film is beside another's labels."""
    from cxr_mtl.data.read import read_image
    from cxr_mtl.evaluate.collect import stated_presence

    old, new = load_bundle(trained), load_bundle(out := done[0])
    val = load_manifest(drawn).where(split="val")
    looked = LocalPredictor(old).look([read_image(val.path(i)) for i in range(len(val))])
    presence = stated_presence(old, val)
    trained_here = np.array([name in old.trained for name in old.ontology.names])
    said = Said(presence, looked.findings, looked.hierarchy, trained_here, old.ontology.parents, "conditional")
    expected, _ = refit_calibration(old.findings_calibration, said.presence, said.findings)
    assert np.allclose(new.findings_calibration.scale, expected.scale, equal_nan=True, rtol=1e-3), out
    assert np.allclose(new.findings_calibration.bias, expected.bias, equal_nan=True, rtol=1e-3, atol=1e-3)


def test_a_bundle_that_learned_the_tree_alone_says_what_was_fitted(trained: Path, drawn: Path, tmp_path: Path) -> None:
    whole = load_bundle(trained)
    unknown = np.full(len(whole.ontology.names), np.nan)
    untrained = replace(whole.description.findings_calibration, scale=unknown, bias=unknown)
    description = replace(whole.description, findings_calibration=untrained)
    save_bundle(tmp_path / "tree", description, trained / WEIGHTS, {CARD: (trained / CARD).read_text()})
    lines = calibrate(tmp_path / "tree", drawn, "val", tmp_path / "out", **QUIET)
    new = load_bundle(tmp_path / "out").description
    kept = set(new.fitted_on["findings_kept"])
    assert set(new.fitted_on["tree_nodes_kept"]) <= kept < set(new.trained)
    moved = [name for name in new.trained if name not in kept]
    assert any(new.operating_points["balanced"][name] != 0.5 for name in moved)
    assert [name for name in kept if new.operating_points["balanced"][name] != 0.5] == []
    (unranked,) = [line for line in lines if "no better than chance" in line]
    assert any(name in unranked for name in moved), "weights are random"


@pytest.mark.slow
def test_the_box_cut_is_that_of_the_drawn_findings(tiny_bundle: Path, drawn: Path) -> None:
    predictor = LocalPredictor(tiny_bundle)
    answered = collect(predictor, load_manifest(drawn), "train", batch_size=32, progress=False)
    cut = _box_cut(predictor.bundle, answered)
    assert cut == choose_box_threshold(answered.annotated, answered.proposed, answered.asked).score
    assert 0 < cut < 1
    few = replace(answered, annotated=answered.annotated.keep(np.arange(4)))
    assert np.isnan(_box_cut(predictor.bundle, few))


@pytest.mark.slow
def test_no_test_is_made_on_films_that_fitted(
    trained: Path, done: tuple[Path, list[str]], drawn: Path, tmp_path: Path
) -> None:
    manifest = load_manifest(drawn)
    out = tmp_path / "on_test"
    calibrate(trained, drawn, "test", out, **QUIET)
    table, about = read_split(out / SPLIT)
    assert set(table.loc[table["image_id"].isin(manifest.where(split="test").table["image_id"]), "split"]) == {"val"}
    assert about["calibrated_on"]["split"] == "test"
    assert len(table) == len(manifest)
    with pytest.raises(DataError, match="learned from"):
        evaluate(out, drawn, "test", tmp_path / "report", resamples=10, **QUIET)
    again = tmp_path / "again"
    calibrate(out, drawn, "val", again, **QUIET)
    assert load_bundle(again).version == "0.1+calibrated.nih.2"
    assert load_bundle(again).description.fitted_on["before"]["split"] == "test"
    assert load_bundle(done[0]).version == "0.1+calibrated.nih"


def test_the_card_says_it(done: tuple[Path, list[str]]) -> None:
    card = (done[0] / CARD).read_text()
    assert card.startswith("# tiny 0.1+calibrated.nih\n")
    assert "old words" not in card
    assert "Before that they were fitted on:" in card
    assert card.count("## Limits") == 1
    assert not (done[0] / "results.json").exists(), "the old calibration's numbers are not the new one's"


def test_what_cannot_be_done_says_so_and_leaves_nothing(trained: Path, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the weights learned from"):
        calibrate(trained, drawn, "train", tmp_path / "out", **QUIET)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        calibrate(trained, drawn, "val", tmp_path / "taken", **QUIET)
    manifest = load_manifest(drawn)
    few = replace(manifest, table=manifest.table[manifest.table["split"] == "val"].head(3).reset_index(drop=True))
    save_manifest(few, tmp_path / "few.parquet")
    with pytest.raises(DataError, match="No finding is present in 5"):
        calibrate(trained, tmp_path / "few.parquet", "val", tmp_path / "out", **QUIET)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.parquet", "taken"]


def test_a_bundle_without_its_list_of_films_is_calibrated_and_says_what_nobody_knows(
    tiny_bundle: Path, drawn: Path, tmp_path: Path
) -> None:
    lines = calibrate(tiny_bundle, drawn, "val", tmp_path / "out", **QUIET)
    assert "no split.csv" in lines[-1]
    table, _ = read_split(tmp_path / "out" / SPLIT)
    assert set(table["split"]) == {"val"}
    assert json.dumps(load_bundle(tmp_path / "out").description.to_dict())
    assert (tmp_path / "out" / DESCRIPTION).is_file()

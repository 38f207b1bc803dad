"""Two bundles on the same films: paired in every resample, nothing hidden, nothing half-written."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from answered import NAMES, answered, bundle, drawn, films
from fake_predictor import FakePredictor
from sklearn.metrics import roc_auc_score

from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import DataError
from cxr_mtl.evaluate import compare as door
from cxr_mtl.evaluate.collect import Unread
from cxr_mtl.evaluate.compare import compare, comparison_lines
from cxr_mtl.evaluate.paired import Side, comparisons, measure_pair, same_films
from cxr_mtl.evaluate.results import classification
from cxr_mtl.metrics.intervals import patient_resamples

NAN = float("nan")
MASS = NAMES.index("Mass")


def pair(skill=(1.0, 1.0), resamples=60):
    """Two models of the same films, each with noise of its own."""
    first = drawn(skill=skill[0])
    rng = np.random.default_rng(99)
    logit = rng.normal(size=first.presence.shape) + skill[1] * (first.presence - 0.5)
    second = replace(first, probability=(p := 1 / (1 + np.exp(-logit))), hierarchy=p, conditional=p)
    draws = patient_resamples(first.manifest.patient_ids, resamples, 0)
    return (Side(bundle(), first), Side(bundle(), second)), draws


def test_a_bundle_does_not_differ_from_itself():
    (side, _), draws = pair()
    found = measure_pair((side, side), draws)
    rows = list(comparisons(found))
    assert len(rows) > 100
    for row in rows:
        assert row["a"] == row["b"]
        assert row["difference"]["value"] == 0
        assert row["difference"]["ci95"] == [0, 0]
        assert not row["excludes_zero"]


def test_swapping_the_bundles_swaps_the_signs():
    sides, draws = pair((0.5, 2.0))
    there, back = (list(comparisons(measure_pair(s, draws))) for s in (sides, sides[::-1]))
    for one, other in zip(there, back, strict=True):
        assert one["a"] == other["b"]
        low, high = other["difference"]["ci95"]
        assert one["difference"]["ci95"] == pytest.approx([-high, -low], abs=1e-12)
        assert one["difference"]["value"] == pytest.approx(-other["difference"]["value"])
        assert one["excludes_zero"] == other["excludes_zero"]


def test_differences_are_paired_and_each_side_is_what_evaluate_says():
    sides, draws = pair((0.5, 2.0))
    found = measure_pair(sides, draws)
    mass = found["classification"]["findings"]["Mass"]
    label = sides[0].answered.presence[:, MASS]
    by_hand = []
    for r in range(len(draws)):
        rows = np.repeat(np.arange(len(label)), draws.counts[draws.patient, r])
        values = [roc_auc_score(label[rows], side.answered.probability[rows, MASS]) for side in sides]
        by_hand.append(values[0] - values[1])
    assert mass["auroc"]["difference"]["value"] == pytest.approx(by_hand[0])
    assert mass["auroc"]["difference"]["ci95"] == pytest.approx(np.percentile(by_hand[1:], [2.5, 97.5]))
    assert mass["auroc"]["excludes_zero"]
    for letter, side in zip("ab", sides, strict=True):
        alone = classification(side.bundle, side.answered, draws)
        assert found["classification"]["macro"]["auroc"][letter] == alone["macro"]["auroc"]
        assert mass["auroc"][letter] == alone["findings"]["Mass"]["auroc"]
        assert mass["ece"][letter] == alone["findings"]["Mass"]["ece"]
        at = alone["findings"]["Mass"]["operating_points"]["specific"]
        assert mass["operating_points"]["specific"]["sensitivity"][letter] == at["sensitivity"]


def test_pairing_narrows_the_interval():
    (side, _), draws = pair()
    almost = replace(side.answered, probability=side.answered.probability * 0.99 + 0.01 * (side.answered.presence == 1))
    row = measure_pair((side, replace(side, answered=almost)), draws)["classification"]["macro"]["auroc"]
    width = {name: row[name]["ci95"][1] - row[name]["ci95"][0] for name in ("a", "difference")}
    assert width["difference"] < 0.3 * width["a"]


def test_what_only_one_answers_or_what_is_rare_is_named_and_not_compared():
    (first, second), draws = pair()
    own = [name for name in NAMES if name != "Hernia"]
    probability = first.answered.probability.copy()
    probability[:, NAMES.index("Hernia")] = NAN
    presence = first.answered.presence.copy()
    presence[:, MASS] = np.arange(300) < 5
    first = Side(bundle(trained=own), replace(first.answered, probability=probability, presence=presence))
    second = replace(second, answered=replace(second.answered, presence=presence))
    found = measure_pair((first, second), draws)
    assert (found["only_a"], found["only_b"], found["few"]) == ([], ["Hernia"], ["Mass"])
    assert not {"Hernia", "Mass"} & set(found["classification"]["findings"])
    assert found["classification"]["findings"]


def test_labels_that_the_two_read_differently_are_left_out_and_counted():
    (first, second), draws = pair()
    presence = second.answered.presence.copy()
    presence[:20, MASS], presence[20:30, MASS] = NAN, 1 - presence[20:30, MASS]
    found = measure_pair((first, replace(second, answered=replace(second.answered, presence=presence))), draws)
    assert found["labels_read_differently"] == 30
    label, score = first.answered.presence[30:, MASS], first.answered.probability[30:, MASS]
    assert found["classification"]["findings"]["Mass"]["auroc"]["a"]["value"] == pytest.approx(
        roc_auc_score(label, score)
    )


def test_other_trees_and_other_boxes_are_compared_where_they_meet():
    (first, second), draws = pair()
    ontology = replace(first.bundle.ontology, normal=None)
    second = Side(bundle(ontology=ontology, located=("Mass", "Nodule")), second.answered)
    found = measure_pair((first, second), draws)
    assert found["hierarchy"] == {}
    assert found["localization"]["findings"] == ["Mass"]
    nothing = Side(bundle(located=()), second.answered.located([]))
    assert measure_pair((first, nothing), draws)["localization"]["map40"]["a"]["value"] is None


def test_only_films_that_both_could_read_are_compared():
    rng = np.random.default_rng(0)
    whole = answered(films(40, 9, rng), *rng.random((2, 40, len(NAMES))))
    one, other = same_films(Side(bundle(), whole.only(np.arange(0, 38))), Side(bundle(), whole.only(np.r_[0:5, 7:40])))
    expected = [f"{i}.png" for i in [*range(5), *range(7, 38)]]
    for side in (one, other):
        assert side.answered.manifest.table["image_path"].tolist() == expected
    np.testing.assert_array_equal(one.answered.probability, other.answered.probability)


@pytest.fixture(scope="module")
def films_and_bundles(tmp_path_factory, tiny_bundle):
    folder = tmp_path_factory.mktemp("compared")
    write_study_set(folder / "films", 60, 0, 64)
    manifest, _ = import_source("nih", folder / "films", ontology="nih14")
    manifest.table["split"] = "test"
    save_manifest(manifest, folder / "films.parquet")
    for name in "ab":
        shutil.copytree(tiny_bundle, folder / name)
    return folder


def predictors(folder):
    manifest = load_manifest(folder / "films.parquet")
    return [FakePredictor(folder / name, manifest, skill=skill) for name, skill in (("a", 4.0), ("b", 0.2))]


def test_the_whole_door(films_and_bundles, tmp_path):
    folder = films_and_bundles
    found = compare(*predictors(folder), folder / "films.parquet", "test", tmp_path, resamples=30, progress=False)
    assert json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail) == found
    assert [p.name for p in tmp_path.iterdir()] == ["comparison.json"]
    assert found["comparisons"]["made"] == len(list(comparisons(found)))
    assert 0 < found["comparisons"]["excluding_zero"] <= found["comparisons"]["made"]
    assert found["classification"]["macro"]["auroc"]["excludes_zero"]
    assert {"accuracy_at_tiou", "pointing_game", "map40"} <= set(found["localization"])
    assert list(found["localization"]["accuracy_at_tiou"]) == ["0.1", "0.3", "0.5"]
    lines = comparison_lines(found)
    (macro,) = (line for line in lines if line.startswith("macro auroc"))
    assert macro.endswith("*")
    assert any(f"of {found['comparisons']['made']} intervals exclude zero" in line for line in lines)
    assert any(line.startswith("Fewer than 10 films") for line in lines)


def test_a_film_that_one_cannot_read_is_named_and_left_out_of_both(films_and_bundles, tmp_path, monkeypatch):
    folder = films_and_bundles
    both = predictors(folder)
    collect = door.collect

    def stricter(predictor, *args, **options):
        whole = collect(predictor, *args, **options)
        if predictor is not both[1]:
            return whole
        return replace(whole.only(np.arange(3, 60)), unread=(Unread("x", "not_chest", "No."),))

    monkeypatch.setattr(door, "collect", stricter)
    found = compare(*both, folder / "films.parquet", "test", tmp_path, resamples=20, progress=False)
    assert found["n_images"] == 57
    assert found["a"]["unread"] == []
    assert [film["image_id"] for film in found["b"]["unread"]] == ["x"]
    assert any("Films not answered by one of them or by both: 1;" in line for line in comparison_lines(found))


def test_films_that_either_learned_from_are_refused(films_and_bundles, tmp_path):
    folder = films_and_bundles
    patient = load_manifest(folder / "films.parquet").table["patient_id"].iat[0]
    split = folder / "b" / "split.csv"
    split.write_text(f"# cxr-mtl split {{}}\ndataset,image_id,patient_id,split\nnih,x,{patient},train\n")
    try:
        with pytest.raises(DataError, match=r"b: .* films \(1 patients\) of split 'test'"):
            compare(folder / "a", folder / "b", folder / "films.parquet", "test", tmp_path / "new", progress=False)
        assert not (tmp_path / "new").exists()
        both = predictors(folder)
        found = compare(
            *both, folder / "films.parquet", "test", tmp_path, resamples=20, progress=False, allow_seen=True
        )
    finally:
        split.unlink()
    assert found["a"]["films_the_bundle_learned_from"] == 0
    assert found["b"]["films_the_bundle_learned_from"] > 0
    assert any("learned from" in line for line in comparison_lines(found))


@pytest.mark.slow
def test_the_command_prints_a_table_and_leaves_one_file(films_and_bundles, tmp_path):
    folder = films_and_bundles
    command = [sys.executable, "-m", "cxr_mtl", "compare", "a", "b", "films.parquet", "--resamples", "20"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "new")], cwd=folder, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert "60 films" in lines[0]
    assert any(
        re.match(r"macro auroc +0\.\d{3} +0\.\d{3} +\+0\.000  \(\+0\.000 to \+0\.000\)$", line) for line in lines
    )
    assert any(line.startswith("0 of ") for line in lines), "a bundle and its copy"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["comparison.json"]

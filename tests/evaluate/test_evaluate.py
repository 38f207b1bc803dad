"""evaluate on drawn films, with a predictor whose answers are known beforehand."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_predictor import FakePredictor
from PIL import Image
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from cxr_mtl.data.manifest import make_manifest
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.split_file import split_text
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import DataError
from cxr_mtl.evaluate import run
from cxr_mtl.evaluate.collect import collect
from cxr_mtl.evaluate.groups import age_bands
from cxr_mtl.evaluate.run import evaluate, headline
from cxr_mtl.metrics.localize import iou_matrix
from cxr_mtl.ontology import load_ontology
from cxr_mtl.types import Box, Record

QUIET = {"resamples": 40, "progress": False}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A manifest of drawn films; most are tested on, so that some findings are there often enough for the means."""
    folder = tmp_path_factory.mktemp("drawn")
    write_study_set(folder / "films", 150, 0, 64)
    manifest, _ = import_source("nih", folder / "films", ontology="nih14")
    train = manifest.table["split"] == "train"
    manifest.table.loc[train & (manifest.table["patient_id"].astype(int) % 8 > 0), "split"] = "test"
    save_manifest(manifest, folder / "films.parquet")
    return folder / "films.parquet"


@pytest.fixture(scope="module")
def predictor(drawn, tiny_bundle, tmp_path_factory):
    """Right about most films; its bundle is a copy, for evaluating writes into it."""
    copy = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(tiny_bundle, copy)
    return FakePredictor(copy, load_manifest(drawn))


@pytest.fixture(scope="module")
def measured(drawn, predictor, tmp_path_factory):
    """Results of the test split, and the folder with all that was written."""
    out = tmp_path_factory.mktemp("out")
    return evaluate(predictor.bundle, drawn, "test", out, predictor=predictor, **QUIET), out


@pytest.fixture
def no_figures(monkeypatch):
    """Curves take most of the time of a small evaluation; most tests are about something else."""
    monkeypatch.setattr(run, "_draw", lambda *_: {"roc": {}, "reliability": {}, "boxes": {}})


def values(node):
    """Every {"value", "ci95"} anywhere in the results."""
    if isinstance(node, dict):
        if "ci95" in node:
            yield node
        for child in node.values():
            yield from values(child)


def test_results_follow_the_contract(measured):
    results, out = measured
    on_disk = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert on_disk == results
    assert results["schema"] == "cxr-mtl.results/1"
    assert set(results) >= {"dataset", "split", "n_images", "n_patients", "bundle_sha256", "subgroups", "seconds"}
    for row in results["classification"]["findings"].values():
        assert {"n_pos", "prevalence", "auroc", "auprc", "ece", "brier", "operating_points"} <= set(row)
    assert {"violation_rate", "hf", "conditional_auroc", "depth_auroc", "flat_violation_rate"} <= set(
        results["hierarchy"]
    )
    for body in (results["localization"], results["localization"]["random"]):
        assert {"accuracy_at_tiou", "pointing_game", "map40", "froc"} <= set(body)
        assert list(body["accuracy_at_tiou"]) == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"]


def test_every_value_has_an_interval_around_it(measured):
    found = list(values(measured[0]))
    assert len(found) > 300
    for row in found:
        assert isinstance(row["value"], float | None)
        low, high = row["ci95"]
        assert (low is None) == (high is None)
        if low is not None:
            assert low <= high
    macro = measured[0]["classification"]["macro"]["auroc"]
    assert macro["ci95"][0] < macro["value"] < macro["ci95"][1]


def test_the_numbers_equal_scikit_learn_on_the_predictions_written(measured):
    results, out = measured
    table = pd.read_parquet(out / "predictions.parquet")
    assert len(table) == results["n_images"]
    rows = results["classification"]["findings"] | results["classification"]["groups"]
    for name, row in rows.items():
        known = table[f"presence:{name}"].notna()
        truth, given = table.loc[known, f"presence:{name}"], table.loc[known, f"probability:{name}"]
        assert (row["n"], row["n_pos"]) == (known.sum(), truth.sum())
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(truth, given), abs=1e-12)
        assert row["auprc"]["value"] == pytest.approx(average_precision_score(truth, given), abs=1e-12)
        assert row["brier"]["value"] == pytest.approx(brier_score_loss(truth, given), abs=1e-12)
        point = row["operating_points"]["sensitive"]
        assert point["threshold"] == 0.2
        called = given >= 0.2
        assert (point["tp"], point["fp"]) == ((called & (truth == 1)).sum(), (called & (truth == 0)).sum())
        assert point["sensitivity"]["value"] == pytest.approx(called[truth == 1].mean())
    main = [row["auroc"]["value"] for row in results["classification"]["findings"].values()]
    assert results["classification"]["macro"]["auroc"]["value"] == pytest.approx(np.mean(main))


def test_groups_and_normal_stay_out_of_the_mean(measured):
    found = measured[0]["classification"]
    assert {"No Finding", "Lung Opacity", "Pleural"} <= set(found["groups"])
    assert not set(found["groups"]) & set(found["findings"])
    assert found["macro"]["num_findings"] == len(found["findings"])


def test_what_cannot_be_measured_is_listed_and_never_averaged(measured, drawn):
    found = measured[0]["classification"]
    assert found["not_trained"] == ["Hernia"]
    labels = load_manifest(drawn).where(split="test")
    table = pd.DataFrame(labels.labels(), columns=labels.ontology.names)
    one_class = {name for name in table if table[name].dropna().nunique() < 2} - {"Hernia"}
    assert one_class, "the drawn films lack this case"
    assert set(found["skipped"]) == one_class
    assert not one_class & (set(found["findings"]) | set(found["groups"]))


def test_the_tree_is_consistent_and_the_flat_head_is_not(measured, predictor):
    found = measured[0]["hierarchy"]
    assert found["violation_rate"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    table = pd.read_parquet(measured[1] / "predictions.parquet")
    names = predictor.bundle.ontology.names
    gap = [table[f"probability:{names[c]}"] > table[f"probability:{names[p]}"] + 1e-6 for c, p in predictor.edges()]
    assert found["flat_violation_rate"]["value"] == pytest.approx(np.mean(gap))
    assert found["flat_violation_rate"]["value"] > 0.1


def test_boxes_come_back_in_the_readers_frame(measured):
    # The films are 64 px wide, the readers' frame is 1024: a box not rescaled would overlap nothing.
    found = measured[0]["localization"]
    assert found["accuracy_at_tiou"]["0.1"]["mean"]["value"] == 1
    assert found["accuracy_at_tiou"]["0.5"]["mean"]["value"] > 0.8
    assert found["pointing_game"]["value"] > 0.9
    assert found["random"]["accuracy_at_tiou"]["0.5"]["mean"]["value"] < 0.2
    assert found["map40"]["value"] > 5 * found["random"]["map40"]["value"]
    assert found["froc"]["value"] > found["random"]["froc"]["value"]


def test_subgroups_add_up(measured):
    results, _ = measured
    for groups in results["subgroups"].values():
        assert sum(row["n_images"] for row in groups.values()) == results["n_images"]
    assert results["subgroups"]["dataset"]["nih"]["macro_auroc"]["value"] == pytest.approx(
        results["classification"]["macro"]["auroc"]["value"]
    )


@pytest.mark.usefixtures("no_figures")
def test_the_same_seed_gives_the_same_numbers(measured, drawn, predictor, tmp_path):
    again = evaluate(predictor.bundle, drawn, "test", tmp_path, predictor=predictor, batch_size=7, **QUIET)
    assert again | {"seconds": 0} == measured[0] | {"seconds": 0}
    other = evaluate(predictor.bundle, drawn, "test", tmp_path, predictor=predictor, seed=1, **QUIET)
    assert other["classification"]["macro"]["auroc"]["value"] == again["classification"]["macro"]["auroc"]["value"]
    assert other["classification"]["macro"]["auroc"]["ci95"] != again["classification"]["macro"]["auroc"]["ci95"]


def test_headline_says_what_matters(measured):
    lines = "\n".join(headline(measured[0]))
    assert re.search(r"macro AUROC 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", lines)
    assert "tree violations 0.000" in lines
    assert "at random" in lines


@pytest.mark.usefixtures("no_figures")
def test_a_film_that_cannot_be_read_is_named(drawn, predictor, tmp_path):
    manifest = load_manifest(drawn)
    shutil.copytree(manifest.root, tmp_path / "films")
    broken = manifest.where(split="test")
    victim = broken.table["image_path"].iat[3]
    (tmp_path / "films" / victim).write_bytes((manifest.root / victim).read_bytes()[:200])
    save_manifest(replace(manifest, root=tmp_path / "films"), tmp_path / "films.parquet")
    results = evaluate(
        predictor.bundle, tmp_path / "films.parquet", "test", tmp_path / "out", predictor=predictor, **QUIET
    )
    assert results["n_images"] == len(broken) - 1
    (film,) = results["data"]["unread"]
    assert film["image_id"] == broken.table["image_id"].iat[3]
    assert film["code"]
    assert film["image_id"] in (tmp_path / "out" / "report.html").read_text()
    assert results["data"]["refused"] == {film["code"]: 1}
    own = {f.name for f in predictor.bundle.ontology.findings if not f.group} - {"No Finding"}
    shown = {name: 1 for name, value in broken.record(3).labels.items() if value == 1 and name in own}
    assert results["data"]["refused_positives"] == shown
    assert results["data"]["warned"] is None, "this predictor does not say how unlike a film is"
    words = " and ".join(f"1 show {name}" for name in results["data"]["refused_positives"]) or "none shows a finding"
    assert f"Films refused: 1; of them {words}." in (tmp_path / "out" / "report.html").read_text()
    assert f"Films not answered: 1 ({film['code']} 1)" in headline(results)[-1]
    assert film["image_id"] not in set(pd.read_parquet(tmp_path / "out" / "predictions.parquet")["image_id"])


@pytest.mark.usefixtures("no_figures")
def test_films_the_bundle_learned_from_are_refused_or_counted_and_warned_of(drawn, predictor, tmp_path):
    test = load_manifest(drawn).where(split="test").table
    first, other = test["patient_id"].unique()[:2]
    known = test.loc[test["patient_id"] == first, "image_id"]
    split = predictor.bundle.folder / "split.csv"
    # A film of the patient's that is not in the manifest: the patient was seen all the same.
    rows = f"nih,elsewhere,{first},val\nnih,none,{other},test\npadchest,none,{other},train\n"
    split.write_text(f"# cxr-mtl split {{}}\ndataset,image_id,patient_id,split\n{rows}")
    try:
        with pytest.raises(DataError, match=f"{len(known)} films .1 patients. of split 'test'") as caught:
            evaluate(predictor.bundle, drawn, "test", tmp_path, predictor=predictor, **QUIET)
        assert "--allow-seen" in caught.value.hint
        assert not list(tmp_path.iterdir()), "nothing is measured first"
        results = evaluate(predictor.bundle, drawn, "test", tmp_path, predictor=predictor, allow_seen=True, **QUIET)
        split.write_text(split_text(load_manifest(drawn)))
        again = evaluate(predictor.bundle, drawn, "test", tmp_path / "test", predictor=predictor, **QUIET)
        val = evaluate(predictor.bundle, drawn, "val", tmp_path / "val", predictor=predictor, **QUIET)
    finally:
        split.unlink()
    assert results["data"]["films_the_bundle_learned_from"] == len(known)
    assert f"WARNING: {len(known)} of these films" in (tmp_path / "report.html").read_text()
    assert again["data"]["films_the_bundle_learned_from"] == 0
    assert val["data"]["films_the_bundle_learned_from"] == val["n_images"], "asked for on purpose: counted, not refused"


@pytest.mark.usefixtures("no_figures")
def test_the_bundle_keeps_test_results_and_no_other_split_takes_their_place(drawn, predictor, tmp_path):
    kept = predictor.bundle.folder / "results.json"
    kept.unlink(missing_ok=True)
    evaluate(predictor.bundle, drawn, "val", tmp_path, predictor=predictor, **QUIET)
    assert json.loads(kept.read_text())["split"] == "val"
    evaluate(predictor.bundle, drawn, "test", tmp_path, predictor=predictor, **QUIET)
    evaluate(predictor.bundle, drawn, "val", tmp_path, predictor=predictor, **QUIET)
    assert json.loads(kept.read_text())["split"] == "test"
    assert json.loads((tmp_path / "results.json").read_text())["split"] == "val"


def record(name, size, **more):
    return Record(name, name, name, name, "nih", split="test", width=size[0], height=size[1], **more)


def test_wide_films_in_another_frame_keep_x_and_y_apart(tiny_bundle, tmp_path):
    rng = np.random.default_rng(0)
    box = Box("Nodule", 300, 40, 420, 90)
    records = []
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (50, 120), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        size = (None, None) if i == 2 else (600, 250)
        records.append(record(f"{i}.png", size, boxes=() if i == 2 else (box,), labels={"Nodule": float(i < 2)}))
    manifest = make_manifest(records, tmp_path, load_ontology("nih14"), {})
    answered = collect(FakePredictor(tiny_bundle, manifest, jitter=0), manifest, "test", batch_size=2, progress=False)
    assert answered.frames.tolist() == [[600, 250], [600, 250], [120, 50]]
    for film in (0, 1):
        own = (answered.proposed.film == film) & (answered.proposed.finding == 2)
        best = answered.proposed.keep(own).xyxy[np.argmax(answered.proposed.score[own])]
        assert iou_matrix([best], [box.xyxy])[0, 0] == pytest.approx(1)
    assert answered.asked[:, 2].tolist() == [True, True, True]
    assert not answered.asked[0, 0], "of an unknown finding no box is wrong"


def test_without_any_box_the_rest_is_still_measured(tiny_bundle, tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        labels = {"Effusion": float(i % 2), "Mass": -1.0}
        records.append(record(f"{i}.png", (40, 40), labels=labels, age=float("nan")))
    save_manifest(make_manifest(records, tmp_path, load_ontology("nih14"), {}), tmp_path / "m.parquet")
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    predictor = FakePredictor(copy, load_manifest(tmp_path / "m.parquet"), skill=50)
    results = evaluate(copy, tmp_path / "m.parquet", "test", tmp_path / "out", predictor=predictor, **QUIET)
    assert list(results["classification"]["findings"]) == ["Effusion"]
    assert results["classification"]["macro"]["auroc"]["value"] == 1
    assert "Mass" in results["classification"]["skipped"], "uncertain everywhere"
    assert results["localization"]["map40"]["value"] is None
    assert results["localization"]["findings"] == {}
    assert list(results["subgroups"]["age"]) == ["unknown"]
    assert "boxes were not measured" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_the_real_predictor_fits(drawn, tiny_bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    results = evaluate(copy, drawn, "test", tmp_path / "out", **QUIET)
    assert results["hierarchy"]["violation_rate"]["value"] == 0
    assert results["bundle_sha256"] == json.loads((copy / "results.json").read_text())["bundle_sha256"]
    assert results["localization"]["findings"]


def test_what_cannot_be_evaluated_says_so(drawn, predictor, tmp_path):
    manifest = load_manifest(drawn)
    with pytest.raises(DataError, match="split 'holdout'") as caught:
        collect(predictor, manifest, "holdout", batch_size=4, progress=False)
    assert "test" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="None of the"):
        collect(predictor, replace(manifest, root=tmp_path / "empty"), "test", batch_size=4, progress=False)
    others = [record("a.png", (9, 9), labels={"Normal": 1.0})]
    kermany = make_manifest(others, tmp_path, load_ontology("kermany"), {})
    kermany = replace(kermany, ontology=replace(kermany.ontology, findings=kermany.ontology.findings[:1]))
    with pytest.raises(DataError, match="share no finding"):
        collect(predictor, kermany, "test", batch_size=4, progress=False)


@pytest.mark.parametrize(
    ("years", "band"),
    [(0, "0-17"), (17.9, "0-17"), (18, "18-39"), (79, "60-79"), (101, "80+"), (float("nan"), "unknown")],
)
def test_age_bands(years, band):
    assert age_bands(np.array([years, 50.0])) == [band, "40-59"]

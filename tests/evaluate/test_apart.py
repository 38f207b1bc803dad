"""What is rare stands apart, studies are judged as one, and gaps between groups are paired and honest."""

from dataclasses import replace

import numpy as np
import pytest
from answered import LOCATED, NAMES, bundle, drawn
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_mtl.evaluate.groups import MIN_PATIENTS, subgroups
from cxr_mtl.evaluate.results import classification, hierarchy
from cxr_mtl.evaluate.studies import study
from cxr_mtl.metrics.intervals import patient_resamples

NAN = float("nan")
EFFUSION, MASS, HERNIA = (NAMES.index(name) for name in ("Effusion", "Mass", "Hernia"))


def with_presence(whole, **columns):
    presence = whole.presence.copy()
    for name, values in columns.items():
        presence[:, NAMES.index(name)] = values
    return replace(whole, presence=presence)


def draws_of(whole, resamples=30):
    return patient_resamples(whole.manifest.patient_ids, resamples, 0)


@pytest.mark.parametrize(("present", "absent", "where"), [(10, 10, "findings"), (9, 90, "few"), (90, 9, "few")])
def test_a_finding_with_fewer_than_ten_of_either_class_stands_apart(present, absent, where):
    whole = drawn()
    mass = np.full(300, NAN)
    mass[:present], mass[present : present + absent] = 1, 0
    whole = with_presence(whole, Mass=mass, Hernia=1.0)
    found = classification(bundle(), whole, draws_of(whole))
    assert found["min_positives"] == 10
    assert [key for key in ("findings", "groups", "few") if "Mass" in found[key]] == [where]
    assert found["skipped"] == ["Hernia"]
    known = ~np.isnan(mass)
    row = found[where]["Mass"]
    assert (row["n"], row["n_pos"]) == (present + absent, present)
    assert row["auroc"]["value"] == pytest.approx(roc_auc_score(mass[known], whole.probability[known, MASS]))
    assert row["auroc"]["ci95"][0] is not None
    mean = np.mean([row["auroc"]["value"] for row in found["findings"].values()])
    assert found["macro"]["auroc"]["value"] == pytest.approx(mean)
    assert found["macro"]["num_findings"] == len(found["findings"])


def test_a_rare_group_stands_apart_too_and_leaves_the_means_of_the_tree():
    whole = drawn()
    rare = np.where(np.arange(300) < 5, 1.0, 0.0)
    whole = with_presence(whole, Pleural=rare)
    draws = draws_of(whole)
    found, tree = classification(bundle(), whole, draws), hierarchy(bundle(), whole, draws)
    assert "Pleural" in found["few"]
    assert "Pleural" not in found["groups"]
    # Effusion is asked of the five films with a pleural finding: measured, named, and in no mean.
    given = tree["conditional_auroc"]
    assert "Effusion" in given["few"]
    assert "Effusion" in given["findings"] or "Effusion" not in found["findings"]
    kept = [row["value"] for name, row in given["findings"].items() if name not in given["few"]]
    assert given["value"] == pytest.approx(np.mean(kept))


def test_nothing_but_rare_findings_has_no_mean():
    whole = drawn()
    presence = np.full_like(whole.presence, NAN)
    presence[:12] = whole.presence[:12]
    whole = replace(whole, presence=presence)
    found = classification(bundle(), whole, draws_of(whole))
    assert found["macro"] == {
        "auroc": {"value": None, "ci95": [None, None], "left_out": 30},
        "auprc": {"value": None, "ci95": [None, None], "left_out": 30},
        "num_findings": 0,
    }
    assert found["few"]
    assert not found["findings"]
    assert subgroups(bundle(), whole, draws_of(whole))["subgroups"]["sex"]["F"]["macro_auroc"]["value"] is None
    assert study(bundle(), whole, draws_of(whole))["mean"]["macro"]["num_findings"] == 0


def test_reliability_bins_add_up_to_the_error_that_is_reported():
    whole = drawn()
    row = classification(bundle(), whole, draws_of(whole))["findings"]["Mass"]
    bins = row["reliability"]
    assert sum(b["n"] for b in bins) == row["n"]
    assert [b["probability"] for b in bins] == sorted(b["probability"] for b in bins)
    gap = sum(b["n"] * abs(b["probability"] - b["frequency"]["value"]) for b in bins) / row["n"]
    assert row["ece"]["value"] == pytest.approx(gap)
    assert all(b["frequency"]["ci95"][0] <= b["frequency"]["ci95"][1] for b in bins)


def test_a_study_is_its_films_taken_together():
    whole = drawn(study_id=[f"s{i // 2}" if i < 200 else None for i in range(300)])
    patient = np.array([str(i // 2 % 60) for i in range(300)])
    whole.manifest.table["patient_id"] = patient
    presence = whole.presence.copy()
    presence[0:2, MASS], presence[2:4, MASS], presence[4:6, MASS] = [NAN, 1.0], [0.0, NAN], [NAN, -1.0]
    whole = replace(whole, presence=presence)
    found = study(bundle(), whole, draws_of(whole))
    assert (found["n_studies"], found["n_with_several_films"]) == (200, 100)
    pairs, single = presence[:200, MASS].reshape(100, 2), presence[200:, MASS]
    label = np.concatenate([[1.0, 0.0, NAN], pairs[3:].max(axis=1), single])
    assert found["mean"]["findings"]["Mass"]["n"] == 199
    known = ~np.isnan(label)
    for how, together in (("mean", np.mean), ("max", np.max)):
        score = np.concatenate(
            [together(whole.probability[:200, MASS].reshape(100, 2), axis=1), whole.probability[200:, MASS]]
        )
        row = found[how]["findings"]["Mass"]
        assert row["n_pos"] == label[known].sum()
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(label[known], score[known]))
        assert row["auprc"]["value"] == pytest.approx(average_precision_score(label[known], score[known]))
        macro = np.mean([row["auroc"]["value"] for row in found[how]["findings"].values()])
        assert found[how]["macro"]["auroc"]["value"] == pytest.approx(macro)


def test_one_film_a_study_gives_the_numbers_of_films():
    whole = drawn()
    draws = draws_of(whole)
    found, films = study(bundle(), whole, draws), classification(bundle(), whole, draws)
    assert found["n_studies"] == 300
    for how in ("mean", "max"):
        assert found[how]["macro"] == films["macro"]


def by_sex(gap, seed=0):
    """Men and women, the model being so much better for men."""
    rng = np.random.default_rng(seed)
    sex = np.where(rng.random(600) < 0.5, "M", "F")
    whole = drawn(600, 200, seed, sex=sex)
    shift = np.where(sex == "M", gap, 0.0)[:, None] * (whole.presence - 0.5)
    logit = np.log(whole.probability / (1 - whole.probability)) + shift
    whole.manifest.table["patient_id"] = sex + whole.manifest.table["patient_id"]
    return replace(whole, probability=1 / (1 + np.exp(-logit))), sex


def test_a_gap_is_between_the_groups_it_is_between_and_paired():
    whole, sex = by_sex(2.0)
    draws = draws_of(whole, 100)
    found = subgroups(bundle(), whole, draws)
    gap = found["subgroup_gaps"]["kinds"]["sex"]
    assert (gap["groups"], gap["n_pairs"]) == (["F", "M"], 1)
    headline = list(classification(bundle(), whole, draws)["findings"])
    for measure in ("macro_auroc", "sensitivity", "specificity"):
        row = gap[measure]
        assert row["between"] == ["M", "F"]
        assert row["num_findings"] == len(headline)
        assert row["ci95"][0] > 0
        men, women = (found["subgroups"]["sex"][name][measure]["value"] for name in ("M", "F"))
        assert [v["value"] for v in row["values"]] == pytest.approx([men, women])
        assert row["value"] == pytest.approx(men - women)
    columns = [NAMES.index(name) for name in headline]
    by_hand = {
        name: np.mean(
            [
                [(whole.probability[rows & (whole.presence[:, c] == 1), c] >= 0.5).mean() for c in columns],
                [(whole.probability[rows & (whole.presence[:, c] == 0), c] < 0.5).mean() for c in columns],
            ],
            axis=1,
        )
        for name, rows in (("M", sex == "M"), ("F", sex == "F"))
    }
    assert gap["sensitivity"]["value"] == pytest.approx(by_hand["M"][0] - by_hand["F"][0])
    assert gap["specificity"]["value"] == pytest.approx(by_hand["M"][1] - by_hand["F"][1])


def test_equal_groups_have_a_gap_that_may_be_none():
    covered = [
        subgroups(bundle(), whole, draws_of(whole, 60))["subgroup_gaps"]["kinds"]["sex"]["macro_auroc"]["ci95"][0] <= 0
        for whole in (by_sex(0.0, seed)[0] for seed in range(8))
    ]
    assert sum(covered) >= 6


def test_a_finding_too_rare_in_one_group_is_in_neither_side_of_the_gap():
    whole, sex = by_sex(0.0)
    presence = whole.presence.copy()
    few = np.flatnonzero(sex == "M")[9:]
    presence[few, EFFUSION] = 0.0
    found = subgroups(bundle(), replace(whole, presence=presence), draws_of(whole))
    every = found["subgroups"]["sex"]["F"]["num_findings"]
    assert found["subgroup_gaps"]["kinds"]["sex"]["macro_auroc"]["num_findings"] == every - 1


def test_small_and_unknown_groups_take_no_part_in_a_gap():
    patients = [f"p{i}" for i in range(300)]
    sex = ["M"] * (MIN_PATIENTS - 1) + [None] * 100 + ["F"] * (300 - 100 - MIN_PATIENTS + 1)
    view = ["PA"] * 100 + ["UNKNOWN"] * 99 + [None] + ["AP"] * 100
    whole = drawn(patient_id=patients, sex=sex, view=view, age=[20.0] * 100 + [50.0] * 100 + [70.0] * 100)
    found = subgroups(bundle(), whole, draws_of(whole))
    assert set(found["subgroups"]["sex"]) == {"M", "F", "unknown"}
    sexes = found["subgroup_gaps"]["kinds"]["sex"]
    assert (sexes["groups"], sexes["n_pairs"]) == (["F"], 0)
    assert sexes["macro_auroc"] == {"value": None, "ci95": [None, None], "between": []}
    assert found["subgroups"]["view"]["unknown"]["n_images"] == 100, "however the manifest says so"
    assert found["subgroup_gaps"]["kinds"]["view"]["groups"] == ["AP", "PA"]
    ages = found["subgroup_gaps"]["kinds"]["age"]
    assert (ages["groups"], ages["n_pairs"]) == (["18-39", "40-59", "60-79"], 3)
    values = [found["subgroups"]["age"][name]["macro_auroc"]["value"] for name in ages["groups"]]
    assert ages["macro_auroc"]["value"] == pytest.approx(max(values) - min(values))


def test_boxes_and_films_can_be_taken_in_part_and_are_counted_anew():
    whole = drawn(60)
    kept = np.array([3, 4, 9, 30])
    part = whole.only(kept)
    assert part.manifest.table["image_path"].tolist() == ["3.png", "4.png", "9.png", "30.png"]
    np.testing.assert_array_equal(part.probability, whole.probability[kept])
    assert part.annotated.film.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(part.annotated.xyxy, whole.annotated.xyxy[np.isin(whole.annotated.film, kept)])
    swapped = whole.located([1, 0])
    np.testing.assert_array_equal(swapped.annotated.finding, 1 - whole.annotated.finding)
    one = whole.located([LOCATED.index("Mass")])
    assert set(one.proposed.finding) == {0}
    assert len(one.proposed) == (whole.proposed.finding == 1).sum()
    assert len(whole.located(range(0)).proposed) == 0

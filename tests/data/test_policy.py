"""What training makes of uncertain and blank labels: rules by hand, and agreement with the tree on random tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.manifest import Manifest, tabulate
from cxr_mtl.data.policy import learned_labels, may_be_blank, measured_labels
from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology import load_ontology

THORAX = load_ontology("thorax")
NAN = float("nan")


def films(*stated: dict[str, float], dataset: str = "chexpert") -> Manifest:
    labels = np.full((len(stated), len(THORAX.names)), NAN, dtype=np.float32)
    for row, film in enumerate(stated):
        for name, value in film.items():
            labels[row, THORAX.index(name)] = value
    names = [str(i) for i in range(len(stated))]
    columns = dict.fromkeys(("image_path", "image_id", "patient_id", "study_id"), names)
    return tabulate(pd.DataFrame(columns).assign(dataset=dataset), labels, Path("films"), THORAX, {})


def learned(film: dict[str, float], finding: str, dataset: str = "chexpert", **policy: object) -> float:
    labels = learned_labels(films(film, dataset=dataset), LabelsConfig(**policy))  # type: ignore[arg-type]
    return float(labels[0, THORAX.index(finding)])


@pytest.mark.parametrize(("word", "target"), [("ones", 1.0), ("zeros", 0.0), ("ignore", NAN)])
def test_an_uncertain_label_becomes_what_the_policy_says(word: str, target: float) -> None:
    assert learned({"Edema": -1}, "Edema", uncertain=word) == pytest.approx(target, nan_ok=True)


def test_the_policy_may_differ_by_finding() -> None:
    policy = {"default": "zeros", "Edema": "ones"}
    assert learned({"Edema": -1, "Fracture": -1}, "Edema", uncertain=policy) == 1
    assert learned({"Edema": -1, "Fracture": -1}, "Fracture", uncertain=policy) == 0


@pytest.mark.parametrize(("word", "low", "high"), [("smooth_ones", 0.55, 0.85), ("smooth_zeros", 0.0, 0.3)])
def test_smoothed_targets_fill_their_range_and_stay_with_their_film(word: str, low: float, high: float) -> None:
    manifest, policy = films(*[{"Fracture": -1}] * 2000), LabelsConfig(uncertain=word)  # type: ignore[arg-type]
    drawn = learned_labels(manifest, policy, seed=3)[:, THORAX.index("Fracture")]
    assert low <= drawn.min() < low + 0.01
    assert high - 0.01 < drawn.max() <= high
    assert drawn.mean() == pytest.approx((low + high) / 2, abs=0.01)
    assert np.array_equal(drawn, learned_labels(manifest, policy, seed=3)[:, THORAX.index("Fracture")])
    assert not np.array_equal(drawn, learned_labels(manifest, policy, seed=4)[:, THORAX.index("Fracture")])


def test_taken_for_present_it_makes_present_what_it_implies() -> None:
    assert learned({"Edema": -1}, "Lung Opacity", uncertain="ones") == 1
    assert np.isnan(learned({"Edema": -1}, "Lung Opacity", uncertain="smooth_ones"))


@pytest.mark.parametrize("word", ["ones", "smooth_ones", "ignore"])
def test_uncertain_below_a_stated_absence_is_absent(word: str) -> None:
    film = {"Lung Opacity": 0.0, "Edema": -1.0}
    assert learned(film, "Edema", uncertain=word) == 0
    assert learned(film, "Lung Opacity", uncertain=word) == 0


def test_what_the_policy_takes_for_absent_excludes_nothing() -> None:
    """Both uncertain, the opacity taken for absent: the edema keeps its own target, and lifts the opacity to it."""
    policy = {"default": "zeros", "Edema": "ones"}
    film = {"Lung Opacity": -1.0, "Edema": -1.0}
    assert (learned(film, "Edema", uncertain=policy), learned(film, "Lung Opacity", uncertain=policy)) == (1, 1)
    smooth = {"default": "smooth_zeros", "Edema": "smooth_ones"}
    assert learned(film, "Lung Opacity", uncertain=smooth) == learned(film, "Edema", uncertain=smooth) >= 0.55


def test_a_blank_is_unknown_unless_the_policy_calls_it_absent() -> None:
    assert np.isnan(learned({"Edema": 1}, "Fracture"))
    assert learned({"Edema": 1}, "Fracture", blank="absent") == 0
    assert learned({"Edema": 1}, "Fracture", blank={"default": "unknown", "Fracture": "absent"}) == 0
    assert np.isnan(learned({"Edema": 1}, "Fracture", blank={"default": "absent", "Fracture": "unknown"}))


def test_silence_is_no_blank() -> None:
    """CheXpert has no word for Scoliosis, NIH none for Fracture: there is nothing to take for absent."""
    assert np.isnan(learned({"Edema": 1}, "Scoliosis", blank="absent"))
    assert np.isnan(learned({"Edema": 1}, "Fracture", dataset="nih", blank="absent"))


def test_a_blank_above_what_may_be_present_stays_unknown() -> None:
    assert np.isnan(learned({"Edema": -1}, "Lung Opacity", blank="absent"))
    assert learned({"Edema": 1}, "Lung Opacity", blank="absent") == 1
    assert learned({"Edema": 0}, "Lung Opacity", blank="absent") == 0


def test_absence_goes_down_also_to_what_the_dataset_has_no_word_for() -> None:
    assert learned({"Lung Opacity": 0}, "Infiltration") == 0
    assert learned({"Lung Opacity": 0}, "Nodule") == 0


def test_a_normal_film_may_carry_support_devices() -> None:
    stated = THORAX.complete({"No Finding": 1, "Support Devices": 1}, "chexpert")
    assert (stated["Support Devices"], stated["Edema"]) == (1, 0)
    assert "Support Devices" not in THORAX.complete({"No Finding": 1}, "chexpert")
    assert "Scoliosis" not in stated


def test_metrics_never_count_what_is_uncertain() -> None:
    manifest = films({"Edema": -1, "Fracture": 0})
    labels = measured_labels(manifest, LabelsConfig(uncertain="ones", blank="absent"))
    assert np.isnan(labels[0, THORAX.index("Edema")])
    assert labels[0, THORAX.index("Fracture")] == 0
    assert labels[0, THORAX.index("Pneumothorax")] == 0  # a blank, which the policy reads


def test_a_finding_that_is_none_is_one_line() -> None:
    with pytest.raises(ConfigError, match="'Oedema' is no finding"):
        learned_labels(films({"Edema": -1}), LabelsConfig(uncertain={"default": "ignore", "Oedema": "ones"}))


def test_a_mapping_needs_a_default() -> None:
    with pytest.raises(ValueError, match="default"):
        LabelsConfig(uncertain={"Edema": "ones"})
    with pytest.raises(ValueError, match="low, high"):
        LabelsConfig(smooth_ones=(0.9, 0.1))


def test_own_tables_have_blanks_of_the_columns_they_have() -> None:
    manifest = films({"Edema": 1}, dataset="mine")
    manifest.info["datasets"] = {"mine": {"source": "csv", "labelled": ["Edema", "Hernia"]}}
    assert may_be_blank(manifest)[0].sum() == 2


@pytest.mark.parametrize("dataset", ["nih", "padchest", "kermany", "vindr"])
def test_where_nothing_is_marked_nothing_is_blank(dataset: str) -> None:
    """PadChest's unchanged films say nothing of anything, and a pneumonia of unknown germ is none of no germ."""
    assert not may_be_blank(films({"Pneumonia": 1}, dataset=dataset)).any()
    assert not may_be_blank(films({})).any()


def test_nobody_writes_not_normal() -> None:
    """A film without labels but uncertain ones is neither normal nor not."""
    assert np.isnan(learned({"Fracture": -1, "Edema": 0}, "No Finding", blank="absent"))


def test_a_group_of_blanks_is_absent_with_them() -> None:
    assert learned({"Edema": 1}, "Pleural", blank="absent") == 0
    assert np.isnan(learned({"Edema": 1}, "Pleural"))
    assert np.isnan(learned({"Edema": 1, "Effusion": -1}, "Pleural", blank="absent"))


def test_the_policy_for_blanks_is_for_the_datasets_of_the_run() -> None:
    manifest, policy = films({"Edema": 1}), LabelsConfig(blank="absent")
    fracture = THORAX.index("Fracture")
    assert measured_labels(manifest, policy, {"chexpert"})[0, fracture] == 0
    assert np.isnan(measured_labels(manifest, policy, {"nih"})[0, fracture])


def test_what_can_be_implied_but_never_excluded_is_unknown() -> None:
    """NIH has no word for the mediastinum: its hearts would be the only mediastina, and all enlarged."""
    heart, mediastinum = THORAX.index("Cardiomegaly"), THORAX.index("Enlarged Cardiomediastinum")
    for labels in (learned_labels, measured_labels):
        nih = labels(films({"Cardiomegaly": 1}, dataset="nih"), LabelsConfig())
        assert (nih[0, heart], np.isnan(nih[0, mediastinum])) == (1, True)
        chexpert = labels(films({"Cardiomegaly": 1}), LabelsConfig())
        assert (chexpert[0, heart], chexpert[0, mediastinum]) == (1, 1)
    opacity = THORAX.index("Lung Opacity")
    assert np.isnan(learned_labels(films({"Pneumonia": 1}, dataset="kermany"), LabelsConfig())[0, opacity])
    assert learned_labels(films({"Pneumonia": 1}, dataset="nih"), LabelsConfig())[0, opacity] == 1


WORDS = st.sampled_from(["ones", "zeros", "ignore", "smooth_ones", "smooth_zeros"])


@given(st.integers(0, 2**32 - 1), WORDS, st.dictionaries(st.sampled_from(THORAX.names), WORDS), st.booleans())
def test_targets_agree_with_the_tree_and_with_what_is_stated(
    seed: int, default: str, own: dict[str, str], blank: bool
) -> None:
    rng = np.random.default_rng(seed)
    manifest = films(*[{}] * 30)
    manifest.info["datasets"] = {"chexpert": {"source": "chexpert", "labelled": list(THORAX.names)}}
    stated = rng.choice([1.0, 0.0, -1.0, NAN], p=[0.1, 0.2, 0.2, 0.5], size=(30, len(THORAX.names))).astype(np.float32)
    manifest.table[[f"label:{name}" for name in THORAX.names]] = stated
    policy = LabelsConfig(uncertain=own | {"default": default}, blank="absent" if blank else "unknown")  # type: ignore[arg-type]
    labels = learned_labels(manifest, policy, seed=seed)
    assert ((labels >= 0) & (labels <= 1) | np.isnan(labels)).all()
    assert (labels[stated == 1] == 1).all()
    # Where a stated absence gives way, something that implies the finding is present.
    for row, column in zip(*np.nonzero((stated == 0) & (labels != 0)), strict=True):
        below = [THORAX.index(name) for name in THORAX.descendants(THORAX.names[column])]
        assert labels[row, column] == 1
        assert (labels[row, below] == 1).any()
    for child, parent in THORAX.edges:
        assert (labels[labels[:, child] == 1, parent] == 1).all()
        assert (labels[labels[:, parent] == 0, child] == 0).all()
        both = ~np.isnan(labels[:, child]) & ~np.isnan(labels[:, parent])
        assert (labels[both, child] <= labels[both, parent]).all()
    measured = measured_labels(manifest, policy)
    assert np.isin(measured[~np.isnan(measured)], (0, 1)).all()
    certain = ~np.isnan(measured) & ~np.isnan(labels)
    raised = certain & (measured != labels)
    assert (labels[raised] == 1).all()  # only an uncertain label taken for present raises what it implies

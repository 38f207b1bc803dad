"""Completing what a dataset states of one film, by example."""

from __future__ import annotations

import pytest

from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology import Ontology, load_ontology

NAN = float("nan")


def test_complete_by_example() -> None:
    thorax = load_ontology("thorax")
    nothing = dict.fromkeys(thorax.labelled_by("nih"), 0.0)
    normal = thorax.complete({"No Finding": 1.0}, "nih")
    assert normal == {**nothing, "No Finding": 1, "Lung Opacity": 0, "Lung Lesion": 0, "Pleural": 0, "Pleural Other": 0}
    # NIH has no name for these, so even its normal films do not speak of them.
    assert normal.keys().isdisjoint({"Fracture", "Interstitial Pattern", "Enlarged Cardiomediastinum"})
    sick = thorax.complete({**nothing, "Nodule": 1.0}, "nih")
    assert (sick["Lung Lesion"], sick["Lung Opacity"], sick["Pleural"], sick["No Finding"]) == (1, 1, 0, 0)
    # CheXpert's blanks are unknown, so a group of which one label is blank is not absent.
    assert thorax.complete({"Effusion": 0.0, "Pneumothorax": 0.0}, "chexpert").keys() == {"Effusion", "Pneumothorax"}
    assert thorax.complete({"Effusion": 0.0, "Pneumothorax": 0.0, "Pleural Other": 0.0}, "chexpert")["Pleural"] == 0
    assert "Pleural" not in thorax.complete({"Effusion": 0.0, "Pneumothorax": -1.0, "Pleural Other": 0.0}, "chexpert")


def test_what_a_normal_film_may_show() -> None:
    thorax = load_ontology("thorax")
    # A device neither ends normality nor is ruled out by it.
    assert thorax.complete({"Support Devices": 1.0}, "chexpert") == {"Support Devices": 1}
    assert "Support Devices" not in thorax.complete({"No Finding": 1.0}, "chexpert")
    # A contradiction that was stated stays as it was stated, and is not made worse.
    both = thorax.complete({"No Finding": 1.0, "Pneumonia": 1.0, "Edema": NAN}, "chexpert")
    assert (both["No Finding"], both["Pneumonia"], both["Edema"], both["Lung Opacity"]) == (1, 1, 0, 1)
    assert thorax.complete({"Pneumonia": 1.0}, "chexpert")["No Finding"] == 0
    # An uncertain finding leaves what it implies unknown, on a normal film too.
    unsure = thorax.complete({"No Finding": 1.0, "Pneumonia": -1.0}, "chexpert")
    assert "Lung Opacity" not in unsure
    assert unsure["Edema"] == 0


def test_what_lies_below_an_allowed_finding_is_allowed_too() -> None:
    plain = load_ontology("thorax").to_dict()
    plain["findings"] += [
        {"name": "Pacemaker", "parents": ["Support Devices"], "names": {"chexpert": "Pacemaker"}},
        # Not this one: it implies something that no normal film shows.
        {"name": "Bone Plate", "parents": ["Support Devices", "Fracture"], "names": {"chexpert": "Bone Plate"}},
    ]
    thorax = Ontology.from_dict(plain)
    assert "No Finding" not in thorax.complete({"Pacemaker": 1.0}, "chexpert")
    assert thorax.complete({"Bone Plate": 1.0}, "chexpert")["No Finding"] == 0
    normal = thorax.complete({"No Finding": 1.0}, "chexpert")
    assert "Pacemaker" not in normal
    assert normal["Bone Plate"] == 0


def test_a_group_follows_from_a_group_below_it() -> None:
    """Pleural Other has a name at CheXpert, so Pleural waits for it, and it follows from Pleural Thickening first."""
    plain = load_ontology("thorax").to_dict()
    for finding in plain["findings"]:
        if finding["name"] == "Pleural Thickening":
            finding["names"]["chexpert"] = ["Pleural Thickening"]
        if finding["name"] == "Pleural Other":
            finding["complete_in"].append("chexpert")
    stated = {"Effusion": 0.0, "Pneumothorax": 0.0, "Pleural Thickening": 0.0}
    assert Ontology.from_dict(plain).complete(stated, "chexpert") == {**stated, "Pleural Other": 0, "Pleural": 0}


def test_complete_refuses_what_is_no_finding() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'Effusion'"):
        load_ontology("thorax").complete({"Efusion": 1.0}, "nih")

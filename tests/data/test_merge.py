"""Several datasets, one manifest: each speaks for itself, and is silent on what it never looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr_mtl.config import LabelsConfig
from cxr_mtl.data.manifest import Manifest, make_manifest
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.merge import merge_manifests
from cxr_mtl.data.policy import learned_labels
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology, list_ontologies, load_ontology, merge_ontologies
from cxr_mtl.types import Box, Record

NIH, KERMANY = load_ontology("nih14"), load_ontology("kermany")


def one(
    dataset: str, tree: Ontology, root: Path, labels: dict[str, float], film: str = "a", **more: object
) -> Manifest:
    record = Record(f"{film}.png", film, "p1", "s1", dataset, split="train", labels=labels, **more)  # type: ignore[arg-type]
    return make_manifest([record], root, tree, {})


def label(manifest: Manifest, row: int, finding: str) -> float:
    return float(manifest.labels()[row, manifest.ontology.index(finding)])


@pytest.fixture
def both(tmp_path: Path) -> Manifest:
    boxes = (Box("Effusion", 1, 2, 3, 4),)
    nih = one("nih", NIH, tmp_path / "nih", {"Effusion": 1.0, "Pneumonia": 0.0}, width=9, height=9, boxes=boxes)
    kermany = one("kermany", KERMANY, tmp_path / "k" / "films", {"Pneumonia": 1.0, "Viral": 1.0, "Normal": 0.0})
    return merge_manifests([nih, kermany])[0]


def test_a_finding_of_both_is_one_and_what_a_set_does_not_label_is_unknown(both: Manifest) -> None:
    assert (label(both, 0, "Effusion"), label(both, 0, "Pneumonia")) == (1, 0)
    assert (label(both, 1, "Pneumonia"), label(both, 1, "Viral")) == (1, 1)
    assert np.isnan(label(both, 0, "Viral"))
    assert np.isnan(label(both, 1, "Effusion"))
    assert both.boxes(0) == (Box("Effusion", 1, 2, 3, 4),)


def test_a_normal_film_is_a_normal_film(both: Manifest) -> None:
    assert both.ontology.normal == "No Finding"
    assert "Normal" not in both.ontology.names
    assert label(both, 1, "No Finding") == 0
    assert both.labelled("kermany") == {"No Finding", "Pneumonia", "Bacterial", "Viral"}


def test_each_label_teaches_through_the_merged_tree(both: Manifest) -> None:
    """NIH hangs Pneumonia below Lung Opacity, Kermany hangs its germs below Pneumonia."""
    learned = learned_labels(both, LabelsConfig())
    at = both.ontology.index
    assert learned[1, at("Pneumonia")] == 1
    assert np.isnan(learned[1, at("Lung Opacity")])  # Kermany's labels imply it and never exclude it
    assert (learned[0, at("Viral")], learned[0, at("Bacterial")]) == (0, 0)  # no pneumonia, so none by any germ
    assert np.isnan(learned[1, at("Effusion")])


def test_patients_and_films_of_two_datasets_stay_apart(both: Manifest, tmp_path: Path) -> None:
    assert both.patient_ids.tolist() == ["nih:p1", "kermany:p1"]
    assert [both.path(i) for i in range(2)] == [tmp_path / "nih/a.png", tmp_path / "k/films/a.png"]


def test_it_survives_its_file(both: Manifest, tmp_path: Path) -> None:
    save_manifest(both, tmp_path / "both.parquet")
    back = load_manifest(tmp_path / "both.parquet")
    assert back.ontology == both.ontology
    assert np.array_equal(back.labels(), both.labels(), equal_nan=True)
    assert back.labelled("kermany") == both.labelled("kermany")


def test_the_same_film_twice_is_refused(tmp_path: Path) -> None:
    nih = one("nih", NIH, tmp_path, {"Effusion": 1.0})
    with pytest.raises(DataError, match=r"1 films are in more than one of the manifests, first: a\.png"):
        merge_manifests([nih, nih])


def test_a_patient_of_another_dataset_is_that_datasets_patient(tmp_path: Path) -> None:
    """RSNA's films are NIH's: with the patient known they go where NIH has the patient, in either order."""
    tree = load_ontology("thorax")
    nih = one("nih", tree, tmp_path, {"Effusion": 1.0}, film="00000007_000")
    films = [
        Record(f"{p}.dcm", p, f"nih:{p}", "s", "rsna", split="test", labels={"Pneumonia": 1.0}) for p in ("p1", "p2")
    ]
    rsna = make_manifest(films, tmp_path, tree, {})
    for pair in ([nih, rsna], [rsna, nih]):
        merged, notes = merge_manifests(pair)
        table = merged.table.set_index(["dataset", "image_id"])
        assert table["split"].to_dict() == {
            ("nih", "00000007_000"): "train",
            ("rsna", "p1"): "train",
            ("rsna", "p2"): "test",
        }
        assert notes == ("1 films of rsna took the split that nih has for their patient",)


def test_two_own_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    """Else a blank of one would be an absence in the other, and patient 1 of both one person."""
    tables = [one("csv", NIH, tmp_path, {name: 1.0}, film=name) for name in ("Effusion", "Nodule")]
    for table, name in zip(tables, ("Effusion", "Nodule"), strict=True):
        table.info["datasets"] = {"csv": {"source": "csv", "labelled": [name], "boxed": []}}
    with pytest.raises(DataError, match="Two of the manifests call their films 'csv'") as caught:
        merge_manifests(tables)
    assert "--name" in caught.value.hint


def test_two_parts_of_a_public_set_merge(tmp_path: Path) -> None:
    parts = [one("nih", NIH, tmp_path, {"Effusion": 1.0}, film=film) for film in ("a", "b")]
    assert len(merge_manifests(parts)[0]) == 2


def test_any_two_of_our_ontologies_merge_and_keep_every_word() -> None:
    trees = [load_ontology(name) for name in list_ontologies()]
    for first in trees:
        for second in trees:
            merged, renamed = merge_ontologies([first, second])
            for tree, new in zip((first, second), renamed, strict=True):
                for finding in tree.findings:
                    name = new.get(finding.name, finding.name)
                    assert {new.get(parent, parent) for parent in finding.parents} <= set(merged[name].parents)
                    for dataset, words in finding.names.items():
                        meant = {merged.find(dataset, word) for word in words}
                        assert meant <= {name, *merged.descendants(name)}  # what says more keeps the word


def test_merging_with_itself_changes_nothing() -> None:
    assert merge_ontologies([NIH, NIH]) == (NIH, ({}, {}))


def test_a_group_is_complete_only_where_all_below_it_has_a_word() -> None:
    """lung10's Lung is complete in NIH; with a cavity below it that NIH does not label, it is complete no more."""
    plain = load_ontology("lung10").to_dict()
    cavity = {"name": "Cavity", "parents": ["Lung"], "names": {"vindr": ["Lung cavity"]}}
    group = {"name": "Lung", "group": True}
    other = Ontology.from_dict({"name": "x", "version": "1", "normal": None, "findings": [group, cavity]})
    merged, _ = merge_ontologies([Ontology.from_dict(plain), other])
    assert merged["Lung"].complete_in == ("vindr",)
    assert merged["Pleural"].complete_in == load_ontology("lung10")["Pleural"].complete_in


def test_trees_that_turn_each_other_round_are_one_line() -> None:
    def tree(child: str, parent: str) -> Ontology:
        findings = [{"name": parent}, {"name": child, "parents": [parent]}]
        return Ontology.from_dict({"name": f"{child}-{parent}", "version": "1", "findings": findings})

    with pytest.raises(ConfigError, match=r"Ontologies A-B and B-A cannot be merged: .*cycle"):
        merge_ontologies([tree("A", "B"), tree("B", "A")])

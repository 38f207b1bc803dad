"""The ontologies that come with the project, and what a file may not say."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
import yaml

from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology import Ontology, list_ontologies, load_ontology

NIH = Path(__file__).resolve().parents[1].parent / "shared/data/nih"
needs_nih = pytest.mark.skipif(not NIH.is_dir(), reason=f"needs the NIH films in {NIH}")

NIH_WORDS = {
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
    *("Infiltration", "Mass", "No Finding", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
}
CHEXPERT_WORDS = {
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Fracture"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    "Support Devices",
}
VINBIGDATA_WORDS = {
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis"),
    "No finding",
}
DATASETS = {"nih", "chexpert", "mimic", "padchest", "vindr", "vinbigdata", "rsna", "kermany", "folders"}


def tree(ontology: Ontology) -> dict[str, set[str]]:
    return {finding.name: set(finding.parents) for finding in ontology.findings}


# --- what comes with the project --------------------------------------------------------------------------------------


def test_five_ontologies_ship() -> None:
    assert list_ontologies() == ["kermany", "lung10", "nih14", "six_classes", "thorax"]


@pytest.mark.parametrize("name", list_ontologies())
def test_shipped(name: str) -> None:
    ontology = load_ontology(name)
    assert ontology.name == name
    assert {dataset for finding in ontology.findings for dataset in finding.names} <= DATASETS
    assert all(parent < child for child, parent in ontology.edges)
    for column, finding in enumerate(ontology.findings):
        assert ontology.index(finding.name) == column
        assert ontology[finding.name] is finding
        assert ontology.parents[column] == tuple(ontology.index(parent) for parent in finding.parents)
        assert ontology.depth[column] == max((ontology.depth[p] + 1 for p in ontology.parents[column]), default=0)
        # A finding that nobody labels and that is no group would be a column that nothing can ever fill.
        assert finding.group or finding.names
        for dataset, words in finding.names.items():
            assert all(ontology.find(dataset, word) == finding.name for word in words)


def test_lung10_is_the_tree_that_was_asked_for() -> None:
    expected = {name: set[str]() for name in ("No Finding", "Lung", "Pleural", "Cardiomegaly")}
    expected |= {
        name: {"Lung"} for name in ("Edema", "Atelectasis", "Pneumonia", "Emphysema", "Consolidation", "Fibrosis")
    }
    expected |= {name: {"Pleural"} for name in ("Pneumothorax", "Effusion")}
    ontology = load_ontology("lung10")
    assert tree(ontology) == expected
    assert ontology.groups == ("Lung", "Pleural")
    assert {"nih", "padchest"} <= set(ontology["Lung"].complete_in) & set(ontology["Pleural"].complete_in)


def test_kermany() -> None:
    ontology = load_ontology("kermany")
    assert tree(ontology) == {"Normal": set(), "Pneumonia": set(), "Bacterial": {"Pneumonia"}, "Viral": {"Pneumonia"}}
    assert ontology.normal == "Normal"
    # The word of the table, and those of the Kaggle copy's folders and file names.
    assert ontology.find("kermany", "Pneumonia/Bacterial") == ontology.find("kermany", "bacteria") == "Bacterial"
    assert ontology.find("kermany", "PNEUMONIA") == "Pneumonia"


def test_nih14_has_every_nih_label_and_no_other() -> None:
    ontology = load_ontology("nih14")
    assert {ontology.find("nih", word) for word in NIH_WORDS} == set(ontology.labelled_by("nih"))
    assert set(ontology.names) - set(ontology.labelled_by("nih")) == set(ontology.groups)
    assert len(ontology.labelled_by("nih")) == 15


@needs_nih
@pytest.mark.parametrize("name", ["thorax", "nih14", "lung10"])
def test_words_of_the_nih_tables(name: str) -> None:
    with (NIH / "Data_Entry_2017_v2020.csv").open(newline="") as file:
        labels = {word for row in csv.DictReader(file) for word in row["Finding Labels"].split("|")}
    with (NIH / "BBox_List_2017.csv").open(newline="") as file:
        boxes = {row["Finding Label"] for row in csv.DictReader(file)}
    assert labels == NIH_WORDS
    assert "Infiltrate" in boxes
    ontology = load_ontology(name)
    unknown = {word for word in labels | boxes if ontology.find("nih", word) is None}
    nothing = set[str]()
    lung10_lacks = {"Infiltration", "Infiltrate", "Nodule", "Mass", "Pleural_Thickening", "Hernia"}
    assert unknown == {"thorax": nothing, "nih14": nothing, "lung10": lung10_lacks}[name]


@pytest.mark.parametrize("dataset", ["chexpert", "mimic"])
def test_thorax_has_every_chexpert_label(dataset: str) -> None:
    thorax = load_ontology("thorax")
    assert {thorax.find(dataset, word) for word in CHEXPERT_WORDS} == set(thorax.labelled_by(dataset))
    assert len(thorax.labelled_by(dataset)) == 14


def test_thorax_has_every_vinbigdata_label() -> None:
    thorax = load_ontology("thorax")
    assert {thorax.find("vinbigdata", word) for word in VINBIGDATA_WORDS} == set(thorax.labelled_by("vinbigdata"))
    assert thorax.find("vinbigdata", "Other lesion") is None
    assert set(thorax.labelled_by("vinbigdata")) <= set(thorax.labelled_by("vindr"))


def test_thorax_says_what_is_clinically_true() -> None:
    thorax = load_ontology("thorax")
    assert not thorax.ancestors("Emphysema")
    assert thorax.ancestors("Hydropneumothorax") == {"Effusion", "Pneumothorax", "Pleural"}
    assert thorax.ancestors("Calcified Granuloma") == {"Granuloma", "Calcification"}
    assert thorax.ancestors("Nodule") == {"Lung Lesion", "Lung Opacity"}
    assert thorax.descendants("Pleural Other") == {"Pleural Thickening"}
    assert thorax.normal_allows == ("Support Devices",)


@pytest.mark.parametrize(
    "word", ["pericardial effusion", "subcutaneous emphysema", "mass", "breast mass", "mediastinal mass", "unchanged"]
)
@pytest.mark.parametrize("name", ["thorax", "nih14", "lung10"])
def test_words_that_only_look_alike_mean_nothing(name: str, word: str) -> None:
    assert load_ontology(name).find("padchest", word) is None


@pytest.mark.parametrize("name", ["nih14", "lung10"])
def test_a_word_means_the_same_everywhere(name: str) -> None:
    """Or something narrower in thorax, which has more findings to choose from."""
    small, thorax = load_ontology(name), load_ontology("thorax")
    for finding in small.findings:
        for dataset, words in finding.names.items():
            for word in words:
                meant = thorax.find(dataset, word)
                assert meant is not None
                assert finding.name in {meant, *thorax.ancestors(meant)}
    if name == "nih14":
        for child, parent in small.edges:
            assert small.names[parent] in thorax.ancestors(small.names[child])


def test_find_takes_whole_words_of_one_dataset() -> None:
    thorax = load_ontology("thorax")
    assert thorax.find("padchest", "  Pleural EFFUSION ") == "Effusion"
    assert thorax.find("nih", "Pleural Effusion") is None
    assert thorax.find("nih", "effus") is None
    assert thorax.find("nowhere", "Effusion") is None
    assert thorax.labelled_by("nowhere") == ()


def test_index_of_a_finding_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"^'effusoin' is no finding of the ontology 'thorax'\. .*'Effusion'\?$"):
        load_ontology("thorax").index("effusoin")
    with pytest.raises(ConfigError, match="Findings: Normal, Pneumonia, Bacterial, Viral"):
        load_ontology("kermany")["zzz"]


def test_loading_is_quick() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        load_ontology("thorax")
        return time.perf_counter() - start

    # About 0.03 s on a free core; a file that is read at every start of every command must not cost more.
    assert min(seconds() for _ in range(5)) < 0.25


@pytest.mark.parametrize("name", list_ontologies())
def test_round_trip(name: str, tmp_path: Path) -> None:
    ontology = load_ontology(name)
    assert Ontology.from_dict(ontology.to_dict()) == ontology
    # As in bundle.yaml, and as a file of its own.
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(ontology.to_dict(), sort_keys=False))
    assert load_ontology(path) == load_ontology(str(path)) == ontology
    assert len({ontology, load_ontology(path)}) == 1


def test_parents_among_skips_what_is_not_known() -> None:
    """Enlarged Cardiomediastinum is never stated absent in NIH, so nothing trains it; Cardiomegaly is then a root."""
    ontology = load_ontology("thorax")
    column = ontology.index
    assert [set(p) for p in ontology.parents_among(ontology.names)] == [set(p) for p in ontology.parents]
    assert ontology.parents_among(set(ontology.names) - {"Enlarged Cardiomediastinum"})[column("Cardiomegaly")] == ()
    skipped = ontology.parents_among(set(ontology.names) - {"Lung Lesion"})
    assert skipped[column("Nodule")] == (column("Lung Opacity"),)
    assert all(parent < child for child, above in enumerate(skipped) for parent in above)

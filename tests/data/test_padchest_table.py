"""The whole of PadChest's table against its own UMLS codes, against torchxrayvision, and against its counts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mtl.data.sources import import_source
from cxr_mtl.data.sources.padchest import read_padchest
from cxr_mtl.data.sources.padchest_words import REMARKS, WORDS
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.ontology import load_ontology

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
THORAX = load_ontology("thorax")
# torchxrayvision reads the dates as numbers.
pytestmark = pytest.mark.filterwarnings("ignore:Parsing integer or float values:pandas.errors.Pandas4Warning")


@pytest.fixture(scope="session")
def padchest_table() -> Path:
    """The whole table, as the package torchxrayvision carries it."""
    package = importlib.util.find_spec("torchxrayvision")
    if package is None or package.origin is None:
        pytest.skip("torchxrayvision, which carries PadChest's whole table, is not installed")
    return Path(package.origin).parent / "data" / f"{TABLE}.gz"


@pytest.fixture(scope="module")
def real_words(padchest_table: Path) -> pd.DataFrame:
    """The labels of all 160,861 films, their codes, and both as sets."""
    table = pd.read_csv(padchest_table, usecols=["Labels", "labelCUIS"], dtype=str, na_filter=False)
    counts = table.groupby(["Labels", "labelCUIS"], as_index=False).size()
    counts = counts[counts["Labels"] != "nan"]
    words = counts["Labels"].str.findall(r"'([^']*)'").map(lambda row: frozenset(w.strip().casefold() for w in row))
    codes = counts["labelCUIS"].str.findall(r"C\d{7}").map(frozenset)
    return counts.assign(words=words, codes=codes)


def test_the_vocabulary_is_the_table_s(real_words: pd.DataFrame) -> None:
    assert frozenset().union(*real_words["words"]) - {""} == WORDS


@pytest.mark.parametrize("name", ["thorax", "nih14", "lung10"])
def test_every_word_of_the_ontologies_is_in_the_table(real_words: pd.DataFrame, name: str) -> None:
    used = {word.casefold() for one in load_ontology(name).findings for word in one.names.get("padchest", ())}
    # PadChest's tree has a hemothorax, but no film does.
    assert used - frozenset().union(*real_words["words"]) <= {"hemothorax"}


@pytest.mark.parametrize("name", ["thorax", "nih14", "lung10"])
def test_whole_words_agree_with_the_umls_codes_of_every_film(real_words: pd.DataFrame, name: str) -> None:
    """A film has a code of a finding's words exactly where it has one of the words that have a code."""
    ontology = load_ontology(name)
    alone = real_words[real_words["words"].map(lambda words: len(words - {""}) == 1)]
    code = {next(iter(w - {""})): next(iter(c), None) for w, c in zip(alone["words"], alone["codes"], strict=True)}
    assert len(code) > 150
    # No two words share a code, so a word that is taken for another could not hide.
    assert len({c for c in code.values() if c}) == sum(c is not None for c in code.values())
    checked = 0
    for finding in ontology.findings:
        words = {word.casefold() for word in finding.names.get("padchest", ())}
        coded = {word for word in words if code.get(word)}
        codes = {code[word] for word in coded}
        by_code = real_words["codes"].map(lambda have, codes=codes: not codes.isdisjoint(have))
        by_word = real_words["words"].map(lambda have, coded=coded: not coded.isdisjoint(have))
        assert by_code.equals(by_word), finding.name
        checked += int(real_words.loc[by_code, "size"].sum())
    assert checked > 20_000


# Whose words differ: (films that torchxrayvision alone calls present, words that bring them), (ours alone, words).
# facts/domain.md 1b: theirs matches parts of words. Findings that are not here agree on every film.
XRV_NAMES = {"Pleural_Thickening": "Pleural Thickening", "Air Trapping": "Hyperinflation"}
DECISIONS: dict[str, tuple[int, set[str], int, set[str]]] = {
    "Air Trapping": (0, set(), 529, {"hyperinflated lung"}),
    "Aortic Elongation": (0, set(), 385, {"aortic button enlargement"}),
    "Consolidation": (139, {"air bronchogram"}, 0, set()),
    "Effusion": (40, {"pericardial effusion"}, 35, {"empyema", "hydropneumothorax"}),
    "Emphysema": (206, {"subcutaneous emphysema"}, 0, set()),
    "Hemidiaphragm Elevation": (0, set(), 1140, {"diaphragmatic eventration"}),
    "Hilar Enlargement": (
        1367,
        {"adenopathy", "calcified adenopathy", "calcified mediastinal adenopathy", "pulmonary artery enlargement"},
        0,
        set(),
    ),
    "Infiltration": (
        13567,
        {
            "air bronchogram",
            "alveolar pattern",
            "consolidation",
            "ground glass pattern",
            "interstitial pattern",
            "reticular interstitial pattern",
            "reticulonodular interstitial pattern",
        },
        0,
        set(),
    ),
    "Mass": (468, {"breast mass", "mass", "mediastinal mass", "pleural mass", "soft tissue mass"}, 0, set()),
    "Nodule": (2161, {"pseudonodule"}, 0, set()),
    "Pleural_Thickening": (0, set(), 232, {"calcified pleural plaques", "pleural plaques"}),
    # Theirs is pacemakers and whatever has "device" in it; tubes, catheters and valves are ours alone.
    "Support Devices": (0, set(), 10635, set()),
}
COLUMNS = ["ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"]
COLUMNS += ["Projection", "MethodLabel", "Labels"]
# Not ours: flattened diaphragm is below the line of thorax.yaml, Tube is stents.
XRV_ALONE = {"Flattened Diaphragm", "Tube"}


def compare(source: Path, tmp_path: Path, every: int) -> tuple[int, int, dict[str, tuple[int, int]]]:
    """Films kept, of how many that torchxrayvision labels; and where each alone calls a finding present.

    torchxrayvision drops a list of broken films and by year of birth: renamed and of one age, none are dropped.
    """
    datasets = pytest.importorskip("torchxrayvision.datasets")
    table = pd.read_csv(source, usecols=COLUMNS, dtype=str, na_filter=False).iloc[::every]
    table = table.assign(ImageID="x" + table["ImageID"])
    table.to_csv(tmp_path / TABLE, index=False)
    table.assign(PatientBirth="1950").to_csv(tmp_path / "xrv.csv", index=False)
    xrv = datasets.PC_Dataset(str(tmp_path), str(tmp_path / "xrv.csv"), views=["*"], unique_patients=False)
    tally = Tally()
    found = read_padchest(tmp_path, THORAX, tally, allow_missing_images=True)
    assert sum(found.info["methods"].values()) == len(table)
    lost = {reason: one.count for reason, one in tally.dropped.items()}
    assert set(lost) <= {
        "row has no labels",
        "report says nothing of the film ('exclude' alone)",
        "row says normal and lists findings",
    }
    assert len(found.rows) + sum(lost.values()) == len(table)
    assert len(xrv) == len(table) - lost.get("row has no labels", 0)
    theirs = pd.DataFrame(xrv.labels, index=xrv.csv["ImageID"].str.removesuffix(".png"), columns=xrv.pathologies)
    theirs = theirs.reindex(found.rows["image_id"])
    assert not theirs.isna().any(axis=None)
    raw = table.set_index(table["ImageID"].str.removesuffix(".png"))["Labels"].reindex(found.rows["image_id"])
    # Not by the code under test: what stands between quotes.
    words = raw.str.findall(r"'([^']*)'").map(lambda row: {w.strip().casefold() for w in row})
    left_open = words.map(lambda have: bool(have & {"", "unchanged"}) or have <= REMARKS).to_numpy()
    differ = {}
    assert set(xrv.pathologies) - XRV_ALONE == {n for n in xrv.pathologies if XRV_NAMES.get(n, n) in THORAX.names}
    for name in set(xrv.pathologies) - XRV_ALONE:
        ours = found.stated[:, THORAX.index(XRV_NAMES.get(name, name))]
        theirs_alone = (theirs[name] == 1).to_numpy() & (ours != 1)
        ours_alone = (theirs[name] == 0).to_numpy() & (ours == 1)
        _, of_theirs, _, of_ours = DECISIONS.get(name, (0, set(), 0, set()))
        assert words[theirs_alone].map(lambda have, any_of=of_theirs: bool(have & any_of)).all(), name
        if of_ours:
            assert words[ours_alone].map(lambda have, any_of=of_ours: bool(have & any_of)).all(), name
        # Unknown exactly where the list is open and does not say it.
        np.testing.assert_array_equal(np.isnan(ours), left_open & (ours != 1), err_msg=name)
        differ[name] = int(theirs_alone.sum()), int(ours_alone.sum())
    return len(found.rows), len(xrv), differ


def test_every_twentieth_film_against_torchxrayvision(padchest_table: Path, tmp_path: Path) -> None:
    kept, of, differ = compare(padchest_table, tmp_path, 20)
    assert 0.98 * of < kept < of
    assert all((num > 0) <= (name in DECISIONS) for name, counts in differ.items() for num in counts)


@pytest.mark.slow
def test_all_of_padchest_against_torchxrayvision(padchest_table: Path, tmp_path: Path) -> None:
    kept, of, differ = compare(padchest_table, tmp_path, 1)
    assert (kept, of) == (159_253, 160_758)
    assert {name: counts for name, counts in differ.items() if counts != (0, 0)} == {
        name: (theirs, ours) for name, (theirs, _, ours, _) in DECISIONS.items()
    }


@pytest.mark.slow
def test_all_of_padchest(padchest_table: Path) -> None:
    manifest, report = import_source("padchest", padchest_table.parent, allow_missing_images=True)
    assert (report.kept, report.patients) == (159_253, 67_165)
    assert {reason: one.count for reason, one in report.dropped.items()} == {
        "report says nothing of the film ('exclude' alone)": 1284,
        "row has no labels": 103,
        "row says normal and lists findings": 221,
    }
    views = {str(view): int(num) for view, num in manifest.table["view"].value_counts().items()}
    assert views == {"PA": 90_767, "LATERAL": 49_174, "AP": 18_680, "UNKNOWN": 632}
    normal = [report.labels.loc["No Finding", state] for state in ("present", "absent", "unknown")]
    assert normal == [50_395, 101_214, 7_644]
    assert report.labels.loc["Effusion", "present"] == 10_007
    notes = " ".join(report.notes)
    assert "4,915 films list nothing" in notes
    assert "12,482 films are 'unchanged' or have an unlabelled sentence" in notes
    assert "RNN_model 121,808, Physician 39,053" in notes
    assert manifest.table["patient_id"].str.fullmatch(r"\d{30,40}").all()
    ages = manifest.table["age"]
    assert (ages.min(), ages.max(), int(ages.isna().sum())) == (0, 105, 6)

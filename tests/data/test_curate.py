"""Curations: what each rule leaves out, and what the project's own ones keep of the real tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mtl.config import CurationRule, load_config, parse_config, save_config
from cxr_mtl.data.curate import curate, select, write_curated
from cxr_mtl.data.manifest import LABEL, Manifest, make_manifest
from cxr_mtl.data.manifest_file import load_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.sources.report import Tally
from cxr_mtl.data.split import check_patients
from cxr_mtl.errors import ConfigError, DataError
from cxr_mtl.ontology import Ontology, load_ontology
from cxr_mtl.types import Record

NAN = float("nan")
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def films(*rows: tuple[str, str, Mapping[str, float]], ontology: str = "lung10", **more: Any) -> Manifest:
    """(film, patient, what is stated) each; completed as an import does."""
    tree = load_ontology(ontology)
    records = [
        Record(f"{film}.png", film, patient, patient, "nih", labels=tree.complete(stated, "nih"), **more)
        for film, patient, stated in rows
    ]
    return make_manifest(records, Path("/films"), tree, {})


def rules(*given: Mapping[str, Any]) -> list[CurationRule]:
    return [CurationRule.model_validate(one) for one in given]


def kept(manifest: Manifest, *given: Mapping[str, Any], **more: Any) -> tuple[list[str], dict[str, int]]:
    """Names of the films kept, and how many were left out for which reason."""
    tally = Tally()
    left = select(manifest, rules(*given), tally, **more)
    return left.table["image_id"].tolist(), {reason: d.count for reason, d in tally.dropped.items()}


NORMAL = {"No Finding": 1.0}
EDEMA = {"Edema": 1.0, "No Finding": 0.0}
OTHER = {"Edema": 0.0, "No Finding": 0.0}


def test_views() -> None:
    manifest = films(("a", "1", NORMAL), ("b", "1", NORMAL), ("c", "2", NORMAL))
    manifest.table["view"] = pd.Series(["PA", "LATERAL", "UNKNOWN"], dtype="str")
    assert kept(manifest, {"views": ["PA", "AP"]}) == (["a"], {"view is LATERAL": 1, "view is UNKNOWN": 1})


def test_age_is_at_least_and_unknown_is_out() -> None:
    manifest = films(*((name, name, NORMAL) for name in "abcd"))
    manifest.table["age"] = np.asarray([15.99, 16, NAN, 90], dtype=np.float32)
    assert kept(manifest, {"min_age": 16}) == (["b", "d"], {"age is unknown": 1, "patient is younger than 16": 1})


def test_films_with_a_label_that_the_ontology_lacks() -> None:
    manifest = films(("a", "1", EDEMA), ("b", "1", EDEMA), ("c", "2", OTHER))
    unlisted = np.asarray([False, True, True])
    names, why = kept(manifest, {"unlisted": "drop"}, unlisted=unlisted)
    assert (names, why) == (["a"], {"film has a label that the ontology lacks": 2})
    with pytest.raises(ConfigError, match="cannot tell which labels the ontology lacks"):
        kept(manifest, {"unlisted": "drop"})


def test_films_with_a_finding_that_the_run_does_not_list() -> None:
    manifest = films(
        ("a", "1", EDEMA), ("b", "1", {"Edema": 1, "Effusion": 1}), ("c", "2", NORMAL), ("d", "3", {"Fibrosis": -1.0})
    )
    tally = Tally()
    left = select(manifest, rules({"unlisted": "drop"}), tally, findings=["Edema"])
    assert left.table["image_id"].tolist() == ["a", "d"]  # what is uncertain is not said to be there
    assert tally.dropped["film shows a finding that is not among data.findings"].count == 2
    assert "the source does not tell which of its labels the ontology lacks: such films are kept" in tally.notes
    # Lung lists all that is below it, and an edema implies it.
    assert kept(manifest, {"unlisted": "drop"}, findings=["Lung", "No Finding"])[0] == ["a", "c", "d"]


def test_how_many_findings_a_film_shows() -> None:
    both = {"Edema": 1.0, "Effusion": 1.0}
    manifest = films(("n", "1", NORMAL), ("e", "2", EDEMA), ("o", "3", OTHER), ("b", "4", both))
    assert kept(manifest, {"min_shown": 1}) == (["n", "e", "b"], {"film shows none of the findings listed": 1})
    assert kept(manifest, {"min_shown": 2}) == (["b"], {"film shows fewer than 2 of the findings listed": 3})
    # Lung and Pleural are present on b, too; they follow from the two.
    assert kept(manifest, {"max_shown": 2})[1] == {}
    assert kept(manifest, {"max_shown": 1}) == (["n", "e", "o"], {"film shows more than 1 of the findings listed": 1})
    assert kept(manifest, {"min_shown": 1}, findings=["Effusion"])[0] == ["b"]


def test_normal_films_of_the_ill_are_left_out() -> None:
    manifest = films(
        ("a", "1", NORMAL),
        ("b", "1", EDEMA),
        ("c", "2", NORMAL),
        ("d", "3", NORMAL),
        ("e", "3", {"Edema": -1.0}),  # may be ill
        ("f", "4", NORMAL),
        ("g", "4", OTHER),  # ill with what the ontology has no word for
        ("h", "5", NORMAL),
        ("i", "5", {"Edema": 0.0}),  # nothing was said of the rest
        ("j", "6", {"No Finding": 1.0, "Edema": 1.0}),
    )
    reason = "normal film of a patient who shows a finding on this or another film"
    expected = ["b", "c", "e", "g", "h", "i"], {reason: 4}
    assert kept(manifest, {"normal_patients": "healthy"}) == expected


def test_patients_of_two_datasets_are_two_patients() -> None:
    manifest = films(("a", "1", NORMAL), ("b", "1", EDEMA))
    manifest.table["dataset"] = pd.Series(["chexpert", "nih"], dtype="str")
    assert kept(manifest, {"normal_patients": "healthy"})[0] == ["a", "b"]


def test_a_pacemaker_is_no_finding() -> None:
    stated = {"Support Devices": 1.0}
    manifest = films(("a", "1", NORMAL), ("b", "1", stated), ontology="thorax")
    assert kept(manifest, {"normal_patients": "healthy"})[0] == ["a", "b"]


def test_normal_films_are_drawn_and_others_stay() -> None:
    manifest = films(*((f"n{i}", f"{i}", NORMAL) for i in range(20)), ("e", "e", EDEMA))
    names, why = kept(manifest, {"max_normal": 5}, seed=42)
    assert len(names) == 6
    assert names[-1] == "e"
    assert why == {"normal film beyond the 5 that are drawn": 15}
    assert names == kept(manifest, {"max_normal": 5}, seed=42)[0]
    assert names != kept(manifest, {"max_normal": 5}, seed=43)[0]
    assert kept(manifest, {"max_normal": 20})[1] == {}


def test_the_draw_is_the_one_pandas_makes_of_films_in_order() -> None:
    """So earlier projects' ``sample(n, random_state=42)`` of a table in order is the same draw, for good."""
    names = [f"{i:03d}" for i in range(200)]
    manifest = films(*((name, name, NORMAL) for name in names))
    expected = pd.Series(names).sample(30, random_state=42)
    assert kept(manifest, {"max_normal": 30}, seed=42)[0] == sorted(expected)


def test_rules_act_in_their_order() -> None:
    manifest = films(*((f"{i}", f"{i}", NORMAL) for i in range(10)))
    manifest.table["age"] = np.asarray([5] * 5 + [50] * 5, dtype=np.float32)
    draw, adults = {"max_normal": 5}, {"min_age": 16}
    assert len(kept(manifest, adults, draw)[0]) == 5
    assert len(kept(manifest, draw, adults)[0]) < 5
    # A patient's ill film of another view no longer counts once it is gone.
    manifest = films(("a", "1", NORMAL), ("b", "1", EDEMA))
    manifest.table["view"] = pd.Series(["PA", "LATERAL"], dtype="str")
    frontal, healthy = {"views": ["PA"]}, {"normal_patients": "healthy"}
    assert kept(manifest, frontal, healthy)[0] == ["a"]
    with pytest.raises(DataError, match="No film is left after the rule 'views"):
        kept(manifest, healthy, frontal)


def test_what_was_done_travels_with_the_manifest() -> None:
    manifest = films(("a", "1", NORMAL), ("b", "1", EDEMA))
    left = select(manifest, rules({"views": ["UNKNOWN"]}, {"normal_patients": "healthy"}), Tally(), seed=7)
    assert left.info["curation"] == {
        "seed": 7,
        "findings": [],
        "rules": [{"views": ["UNKNOWN"], "left_out": 0}, {"normal_patients": "healthy", "left_out": 1}],
    }


def test_an_ontology_without_a_normal_finding() -> None:
    tree = load_ontology("nih14").to_dict()
    tree |= {
        "normal": None,
        "normal_allows": [],
        "findings": [f for f in tree["findings"] if f["name"] != "No Finding"],
    }
    manifest = films(("a", "1", EDEMA), ontology="nih14")
    table = manifest.table.drop(columns=[LABEL + "No Finding"])
    manifest = replace(manifest, table=table, ontology=Ontology.from_dict(tree))
    for rule in ({"max_normal": 3}, {"normal_patients": "healthy"}):
        with pytest.raises(ConfigError, match="ontology nih14 has no finding that says a film is normal"):
            kept(manifest, rule)
    assert kept(manifest, {"min_shown": 1})[0] == ["a"]


RULE = st.one_of(
    st.builds(lambda v: {"views": v}, st.lists(st.sampled_from(["PA", "AP", "LATERAL"]), min_size=1)),
    st.builds(lambda v: {"min_age": v}, st.sampled_from([1, 16, 60])),
    st.just({"unlisted": "drop"}),
    st.builds(lambda v: {"min_shown": v}, st.integers(1, 2)),
    st.builds(lambda v: {"max_shown": v}, st.integers(1, 3)),
    st.just({"normal_patients": "healthy"}),
    st.builds(lambda v: {"max_normal": v}, st.integers(1, 6)),
)


@st.composite
def hospitals(draw: st.DrawFn) -> tuple[Manifest, np.ndarray]:
    """Up to 25 films of a few patients, with any labels, and which of them have a word more."""
    num, rng = draw(st.integers(1, 25)), np.random.default_rng(draw(st.integers(0, 2**32)))
    tree = load_ontology("lung10")
    records = []
    for i in range(num):
        if rng.random() < 0.5:
            stated = NORMAL
        else:
            names = rng.choice(tree.names, rng.integers(0, 4), replace=False)
            stated = {str(name): float(rng.choice([1, 1, 0, -1])) for name in names}
        view, age = str(rng.choice(["PA", "AP", "LATERAL"])), float(rng.choice([NAN, 5, 16, 50, 80]))
        labels = tree.complete(stated, "nih")
        patient = str(rng.integers(0, 6))
        records.append(Record(f"{i}.png", f"{i}", patient, patient, "nih", view=view, age=age, labels=labels))
    return make_manifest(records, Path("/films"), tree, {}), rng.random(num) < 0.3


@given(
    hospitals(), st.lists(RULE, max_size=5), st.sampled_from([(), ("Edema", "No Finding"), ("Pleural",)]), st.randoms()
)
def test_rules_keep_some_films_as_they_are(
    hospital: tuple[Manifest, np.ndarray], given: list[dict[str, Any]], findings: tuple[str, ...], random: Any
) -> None:
    """Kept films are films of before, unchanged; none is lost without a reason; twice is once; order is nothing."""
    manifest, unlisted = hospital
    tally = Tally()
    try:
        left = select(manifest, rules(*given), tally, findings=findings, unlisted=unlisted, seed=3)
    except DataError:
        assert sum(d.count for d in tally.dropped.values()) == len(manifest)
        return
    assert len(left) + sum(d.count for d in tally.dropped.values()) == len(manifest)
    rows = left.table["image_id"].astype(int).to_numpy()
    assert (np.diff(rows) > 0).all()
    pd.testing.assert_frame_equal(left.table, manifest.table.iloc[rows].reset_index(drop=True))

    again = select(left, rules(*given), Tally(), findings=findings, unlisted=unlisted[rows], seed=3)
    assert again.table["image_id"].tolist() == left.table["image_id"].tolist()

    order = list(range(len(manifest)))
    random.shuffle(order)
    mixed = replace(manifest, table=manifest.table.iloc[order].reset_index(drop=True))
    other = select(mixed, rules(*given), Tally(), findings=findings, unlisted=unlisted[order], seed=3)
    assert sorted(other.table["image_id"]) == sorted(left.table["image_id"])


def plan(*given: Mapping[str, Any], findings: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """A run file as it is read."""
    section = {"source": "nih", "ontology": "lung10", "rules": list(given)} | more
    return {"name": "x", "data": {"manifest": "x.parquet", "findings": list(findings), "curate": section}}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (plan({"min_agee": 3}), "data.curate.rules.0.min_agee: no such setting. Did you mean 'min_age'?"),
        (
            plan({"min_age": 16, "max_shown": 1}),
            "a rule is one setting, such as 'min_age: 16' (got min_age, max_shown)",
        ),
        (plan({}), "a rule is one setting, such as 'min_age: 16' (got none)"),
        (plan({"views": []}), "data.curate.rules.0.views"),
        (plan({"views": ["SIDE"]}), "data.curate.rules.0.views"),
        (plan({"max_normal": 0}), "greater than or equal to 1 (got 0)"),
        (plan({"unlisted": "keep"}), "data.curate.rules.0.unlisted: Input should be 'drop' (got 'keep')"),
        (plan(sead=1), "data.curate.sead: no such setting. Did you mean 'seed'?"),
    ],
)
def test_a_wrong_rule_is_one_line(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(tree, origin="x.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "x", "data": {"manifest": "x.parquet"}}, "no section data.curate"),
        (plan(findings=["Edemas"]), "'Edemas' is no finding of the ontology 'lung10'"),
        (plan(options={"seed": 1}), "data.curate.options: 'seed' is no option of a source"),
        (plan(options={"readers": "any"}), "Source 'nih' has no option 'readers'"),
        (plan(source="nihh"), "Did you mean 'nih'?"),
        (plan(ontology="lung11"), "lung11"),
    ],
)
def test_a_wrong_plan_is_one_line(tree: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        curate(parse_config(tree, origin="x.yaml").data, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_saved_run_file_has_the_same_rules(tmp_path: Path) -> None:
    config = load_config("lung10_nih")
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config
    assert "null" not in (tmp_path / "c.yaml").read_text().split("rules:")[1].split("findings:")[0]


def test_on_real_films_the_manifest_is_written_and_said(real_films: Path, tmp_path: Path) -> None:
    config = load_config("lung10_nih", [f"data.manifest={tmp_path / 'm.parquet'}"])
    lines = write_curated(config.data, real_films / "nih")
    manifest = load_manifest(tmp_path / "m.parquet")
    check_patients(manifest)
    assert manifest.info["split"]["how"] == "official lists"
    assert [rule["left_out"] > 0 for rule in manifest.info["curation"]["rules"]] == [True, True, False, True]
    assert lines[0] == f"nih: kept {len(manifest):,} films of {len(set(manifest.patient_ids)):,} patients"
    assert any("normal film of a patient who shows a finding" in line for line in lines)
    assert lines[-1].startswith("Wrote ")


@pytest.fixture(scope="session")
def real_tables() -> Path:
    """The datasets' own tables, as the package torchxrayvision carries them."""
    package = importlib.util.find_spec("torchxrayvision")
    if package is None or package.origin is None:
        pytest.skip("torchxrayvision, which carries the datasets' tables, is not installed")
    return Path(package.origin).parent / "data"


def present(manifest: Manifest) -> dict[str, int]:
    """Films that show each finding; groups left out."""
    counts = (manifest.labels() == 1).sum(axis=0)
    pairs = zip(manifest.ontology.findings, counts, strict=True)
    return {finding.name: int(num) for finding, num in pairs if not finding.group}


# An earlier project's own counts (SEOYUNJE/Lung-Image-Analysis): its NIH set before it left children out, and after.
NIH_BEFORE = {
    "No Finding": 10000,
    "Edema": 1172,
    "Atelectasis": 7164,
    "Pneumonia": 737,
    "Effusion": 7478,
    "Pneumothorax": 3611,
    "Emphysema": 1725,
    "Consolidation": 2675,
    "Fibrosis": 1027,
}
NIH_AFTER = {
    "No Finding": 9526,
    "Edema": 1131,
    "Atelectasis": 7028,
    "Pneumonia": 690,
    "Effusion": 7320,
    "Pneumothorax": 3501,
    "Emphysema": 1667,
    "Consolidation": 2543,
    "Fibrosis": 1022,
}
NIH_AFTER_V2020 = {
    "No Finding": 9507,
    "Edema": 1131,
    "Atelectasis": 7025,
    "Pneumonia": 689,
    "Effusion": 7317,
    "Pneumothorax": 3495,
    "Emphysema": 1664,
    "Consolidation": 2539,
    "Fibrosis": 1021,
    "Cardiomegaly": 1904,
}


@pytest.mark.slow
def test_lung10_of_all_of_nih(real_tables: Path) -> None:
    """Exact before the rule on age; after it the corrected table's ages differ by a year here and there."""
    data = load_config("lung10_nih").data
    manifest, report = curate(data, real_tables, allow_missing_images=True)
    assert (report.kept, report.patients) == (29849, 14919)  # theirs: 29,884 of 14,939
    assert present(manifest) == NIH_AFTER_V2020
    assert max(abs(num - NIH_AFTER_V2020[name]) for name, num in NIH_AFTER.items() if name != "No Finding") == 6
    assert [rule["left_out"] for rule in manifest.info["curation"]["rules"]] == [36565, 30819, 13796, 1091]

    assert data.curate is not None
    any_age = data.model_copy(update={"curate": data.curate.model_copy(update={"rules": data.curate.rules[:-1]})})
    manifest, report = curate(any_age, real_tables, allow_missing_images=True)
    assert report.kept == 30940
    counts = present(manifest)
    assert {name: counts[name] for name in NIH_BEFORE} == NIH_BEFORE


@pytest.mark.slow
def test_six_of_all_of_nih(real_tables: Path) -> None:
    manifest, report = curate(load_config("six_nih").data, real_tables, allow_missing_images=True)
    assert report.kept == 19556  # theirs, which six it does not say: 19,561
    shown = {name: num for name, num in present(manifest).items() if num}
    assert shown == {
        "Infiltration": 9547,
        "Effusion": 3955,
        "Pneumothorax": 2194,
        "Mass": 2139,
        "Cardiomegaly": 1093,
        "Edema": 628,
    }
    assert sum(shown.values()) == report.kept


# The same project's PadChest set. A film that PadChest gives two words for one finding counts twice in it.
PADCHEST_THEIRS = {
    "No Finding": 9925,
    "Edema": 458,
    "Atelectasis": 4420,
    "Pneumonia": 3625,
    "Effusion": 4165,
    "Pneumothorax": 249,
    "Emphysema": 962,
    "Consolidation": 1032,
    "Fibrosis": 683,
}
# Its words where they are not ours: it has pericardial effusions and subcutaneous emphysemas, and lacks other words.
PADCHEST_WORDS = {
    "Effusion": [
        "pleural effusion",
        "loculated pleural effusion",
        "pericardial effusion",
        "loculated fissural effusion",
    ],
    "Emphysema": ["emphysema", "subcutaneous emphysema"],
    "Atelectasis": ["atelectasis", "laminar atelectasis", "lobar atelectasis", "segmental atelectasis"],
}


def their_ontology() -> Ontology:
    tree = load_ontology("lung10").to_dict()
    for finding in tree["findings"]:
        if finding["name"] in PADCHEST_WORDS:
            finding["names"]["padchest"] = PADCHEST_WORDS[finding["name"]]
    return Ontology.from_dict(tree)


def their_table(real_tables: Path, out: Path) -> pd.DataFrame:
    """PadChest's table with the earlier project's two slips: ages are those of 2024, and it knows no supine films."""
    table = pd.read_csv(real_tables / f"{PADCHEST}.gz", dtype=str, keep_default_na=False)
    table = table[table["Projection"].isin(["PA", "AP"])]
    birth = pd.to_numeric(table["PatientBirth"])
    oldest = birth.clip(lower=1914).map("{:.0f}".format).where(birth.notna(), "")  # an age above 110 is no age to us
    table = table.assign(StudyDate_DICOM="2024" + table["StudyDate_DICOM"].str[4:], PatientBirth=oldest)
    table.to_csv(out / PADCHEST, index=False)
    return table


@pytest.mark.slow
def test_the_rules_are_those_of_the_earlier_padchest_set(real_tables: Path, tmp_path: Path) -> None:
    """Given its words and its ages, they leave its very disease films; its normal films are another draw of as many."""
    table, tree = their_table(real_tables, tmp_path), their_ontology()
    plan = load_config("lung10_padchest").data.curate
    assert plan is not None
    manifest, _ = import_source(
        "padchest",
        tmp_path,
        ontology=tree,
        allow_missing_images=True,
        select=lambda films, _, tally: select(films, plan.rules, tally, seed=plan.seed),
    )
    films = table.set_index(table["ImageID"].str.removesuffix(".png"))["Labels"].loc[manifest.table["image_id"]]
    words = films.str.findall(r"'\s*([^']*?)\s*'").explode().dropna()
    counts = words.map(lambda word: tree.find("padchest", word)).value_counts()
    off = {name: int(counts[name]) - num for name, num in PADCHEST_THEIRS.items()}
    assert abs(off.pop("No Finding")) <= 30  # three standard deviations of such a draw
    # Two of the PNGs that cannot be read are not in theirs; one shows these two.
    assert {name: num for name, num in off.items() if num} == {"Edema": 1, "Effusion": 1}
    assert (manifest.labels()[:, tree.index("No Finding")] != 1).sum() == 29835 - 9925 + 2


PADCHEST_OURS = {
    "No Finding": 9415,
    "Edema": 456,
    "Atelectasis": 4275,
    "Pneumonia": 3078,
    "Emphysema": 882,
    "Consolidation": 913,
    "Fibrosis": 683,
    "Pneumothorax": 238,
    "Effusion": 3863,
    "Cardiomegaly": 8693,
}


@pytest.mark.slow
def test_lung10_of_all_of_padchest(real_tables: Path) -> None:
    """Our words and ages at the film: a little fewer of the ill, and fewer children."""
    manifest, report = curate(load_config("lung10_padchest").data, real_tables, allow_missing_images=True)
    assert (report.kept, report.patients) == (28685, 22236)
    assert present(manifest) == PADCHEST_OURS
    assert [rule["left_out"] for rule in manifest.info["curation"]["rules"]] == [49806, 40023, 2305, 22580, 1680]


@pytest.mark.slow
def test_six_of_all_of_chexpert(real_tables: Path) -> None:
    manifest, report = curate(load_config("six_chexpert").data, real_tables, allow_missing_images=True)
    assert report.kept == 191027
    assert manifest.table["view"].value_counts().to_dict() == {"AP": 161590, "PA": 29420, "UNKNOWN": 17}
    counts = present(manifest)
    shown = {name: counts[name] for name in load_config("six_chexpert").data.findings}
    raw = pd.read_csv(real_tables / "chexpert_train.csv.gz")
    raw = raw[raw["Frontal/Lateral"] == "Frontal"].rename(columns={"Pleural Effusion": "Effusion"})
    assert shown == {name: int((raw[name] == 1).sum()) for name in shown}
    edema = report.labels.loc["Edema"]
    assert (edema["present"], edema["absent"]) == (49675, 29456)  # as the run file says

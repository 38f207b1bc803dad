"""report.html: one file that needs nothing else, says what results.json says, and shows no more than it may."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_predictor import FakePredictor
from PIL import Image
from report_page import Page
from sklearn.metrics import average_precision_score, roc_auc_score

from cxr_mtl.bundle import load_bundle
from cxr_mtl.data.manifest_file import load_manifest, save_manifest
from cxr_mtl.data.sources import import_source
from cxr_mtl.data.synthetic import write_study_set
from cxr_mtl.errors import ImageError
from cxr_mtl.evaluate import films, plots, run
from cxr_mtl.evaluate.chart import GUIDE, OTHER, Axis, Band, Bars, Chart, Dots, Line, Note, to_svg
from cxr_mtl.evaluate.charts import precision_recall, roc, scores
from cxr_mtl.evaluate.films import to_jpeg
from cxr_mtl.evaluate.report import PAGE_BYTES, TEMPLATES, fitted_on, tree, write_report
from cxr_mtl.evaluate.run import evaluate
from cxr_mtl.types import DISCLAIMER, Heatmap, Options, Prediction

QUIET = {"resamples": 20, "progress": False}
HOSTILE = "Mass <script>alert(1)</script> & \"q\" 'r' $x_1$ {{ 7 * 7 }}"


class Drawer(FakePredictor):
    """A predictor that can also say where it looked: in the upper left."""

    def predict(self, sources: list[Path], options: Options) -> list[Prediction | ImageError]:
        stream = io.BytesIO()
        grey = np.zeros((8, 8), np.uint8)
        grey[:4, :4] = 255
        Image.fromarray(grey).save(stream, "PNG")
        (name,) = options.heatmaps
        heat = Heatmap(name, base64.b64encode(stream.getvalue()).decode(), "grad_cam")
        return [Prediction({}, {}, options.operating_point, (), (), (), heatmaps=(heat,)) for _ in sources]


@pytest.fixture(scope="module", autouse=True)
def no_sheets() -> Iterator[None]:
    """Without the sheets of figures/, which take most of the time of a small evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "save_figures", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest whose every word of a patient but the image's own name says that it is secret; most are tested on."""
    folder = tmp_path_factory.mktemp("drawn")
    write_study_set(folder / "secret", 120, 1, 64)
    manifest, _ = import_source("nih", folder / "secret", ontology="nih14", seed=0)
    # Most films are tested on, so that some findings have enough of them to stand in the mean.
    train = manifest.table["split"] == "train"
    manifest.table.loc[train & (manifest.table["patient_id"].astype(int) % 8 > 0), "split"] = "test"
    names = {name: "secret-" + manifest.table[name].astype(str) for name in ("patient_id", "study_id")}
    save_manifest(replace(manifest, table=manifest.table.assign(**names)), folder / "m.parquet")
    return folder / "m.parquet"


@pytest.fixture(scope="module")
def predictor(drawn: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Drawer:
    copy = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(tiny_bundle, copy)
    return Drawer(copy, load_manifest(drawn))


@pytest.fixture(scope="module")
def made(drawn: Path, predictor: Drawer, tmp_path_factory: pytest.TempPathFactory):
    """Results, the folder of the report, and the page read back."""
    out = tmp_path_factory.mktemp("report")
    results = evaluate(predictor.bundle, drawn, "test", out, predictor=predictor, **QUIET)
    return results, out, Page((out / "report.html").read_text())


def without_pictures(text: str) -> str:
    return re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", text)


def test_the_page_fetches_nothing(made):
    _, out, page = made
    text = (out / "report.html").read_text()
    bare = without_pictures(text)
    assert len(bare) < len(text), "there are films on it"
    for outside in ("http", "//", "url(", "@import", "<script", "<link", "<iframe", "<object", "javascript:"):
        assert outside not in bare, outside
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in page.addresses)
    assert not [name for _, attrs, _ in page.found for name in attrs if name.startswith("on")]
    assert len(text.encode()) < PAGE_BYTES


def test_the_page_is_well_formed_and_can_be_found_ones_way_in(made):
    _, _, page = made
    ids = [attrs["id"] for _, attrs, _ in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(address[1:] in ids for address in page.addresses if address.startswith("#"))
    levels = page.headings
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), "a heading skips a level"
    listed = [text for attrs, text in page.all("a") if (attrs["href"] or "") in {f"#{i}" for i in ids}]
    assert {"Findings", "Finding by finding", "Tree of findings", "Boxes", "Films", "Limits"} <= set(listed)


def test_everything_on_the_page_can_be_heard(made):
    _, _, page = made
    assert all("scope" in attrs or attrs.get("aria-hidden") == "true" for attrs, _ in page.all("th"))
    for attrs, _ in page.all("svg"):
        assert attrs.get("aria-hidden") == "true" or (attrs["role"] == "img" and len(attrs["aria-label"] or "") > 15)
    assert all(attrs.get("aria-label") for attrs, _ in page.all("div", "section") if attrs.get("role") == "region")
    assert page.all("html")[0][0]["lang"] == "en"
    assert "details" in page.tags, "other operating points open without a script"


def test_the_page_says_what_the_results_say(made):
    results, _, page = made
    found = results["classification"]
    assert page.shown.count(DISCLAIMER) == 2
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b|Undefined", page.shown)
    for name in [*found["findings"], *found["groups"], *found["skipped"], *found["not_trained"]]:
        assert name in page.shown
    rows = [text for _, text in page.all("tr")]
    for name, row in found["findings"].items():
        low, high = row["auroc"]["ci95"]
        assert any(
            text.startswith(name) and f"{row['auroc']['value']:.3f} {low:.3f}–{high:.3f}" in text for text in rows
        )
        at = row["operating_points"]["balanced"]
        (body,) = [
            text for attrs, text in page.all("section") if attrs.get("aria-labelledby") and text.startswith(name)
        ]
        assert f" called {at['tp']} {at['fp']} PPV" in body
        assert f" not called {at['fn']} {at['tn']} NPV" in body
        for point, cut in row["operating_points"].items():
            assert f"{point} {cut['threshold']:.3f} {cut['tp']} {cut['fp']} {cut['fn']} {cut['tn']}" in body
    for needed in (results["bundle_sha256"], results["data"]["split_sha256"], "Random, mean"):
        assert needed in page.shown


def test_charts_of_every_finding_are_on_the_page(made):
    results, _, page = made
    labels = [attrs["aria-label"] or "" for attrs, _ in page.all("svg") if attrs.get("class") == "chart"]
    found = results["classification"]
    measured = [*found["findings"], *found["few"]]
    for name in measured:
        for kind in ("ROC curve of", "Precision-recall curve of", "Reliability of", "probabilities of"):
            assert any(f"{kind} {name}" in label for label in labels), (kind, name)
    assert len(labels) == 4 * len(measured) + 2


def test_sheets_hold_every_mark_and_any_name(tmp_path):
    axis, x = Axis("x", 0, 1, ((0.0, "0"), (1.0, "1"))), np.array([0.0, 0.4, 1.0])
    marks = (Line(x, x, dashed=True), Dots(x, x, x, OTHER), Band(x, x / 2, x), Bars(x, x[:2], GUIDE), Note(0, 0.5, "$"))
    chart = Chart("Kind", "0.5", "", axis, axis, marks)
    plots.save_figures(
        {"many": dict.fromkeys(("a", HOSTILE), chart), "one": {"all": replace(chart, wide=True)}, "none": {}},
        tmp_path / "figures",
    )
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == ["many.png", "one.png"]
    with Image.open(tmp_path / "figures" / "many.png") as picture:
        assert picture.width > 1.5 * picture.height


def test_findings_together_are_counted_as_pandas_counts_them(made):
    results, out, page = made
    pairs = results["cooccurrence"]
    table = pd.read_parquet(out / "predictions.parquet")
    for i, a in enumerate(pairs["findings"]):
        for j, b in enumerate(pairs["findings"]):
            known = table[f"presence:{a}"].notna() & table[f"presence:{b}"].notna()
            for what, has in (
                ("stated", lambda name: table[f"presence:{name}"] == 1),
                ("called", lambda name: table[f"probability:{name}"] >= 0.5),
            ):
                both, one = int((known & has(a) & has(b)).sum()), int((known & has(a)).sum())
                assert pairs[what]["count"][i][j] == both
                assert pairs[what]["share"][i][j] == (pytest.approx(both / one) if one else None)
    assert len(pairs["findings"]) >= 3
    assert "Findings together" in page.shown


def test_films_are_the_surest_and_the_worst_and_carry_their_id_alone(made, drawn):
    results, out, page = made
    table = pd.read_parquet(out / "predictions.parquet").set_index("image_id")
    manifest = load_manifest(drawn)
    boxed = {
        (manifest.table["image_id"].iat[i], box.finding) for i in range(len(manifest)) for box in manifest.boxes(i)
    }
    cases = [attrs["aria-label"] or "" for attrs, _ in page.all("section") if attrs.get("class") == "case"]
    texts = [text for attrs, text in page.all("section") if attrs.get("class") == "case"]
    assert 6 <= len(cases) <= 15
    for label, text in zip(cases, texts, strict=True):
        name, kind = label.split(", ")
        (film,) = re.findall(r"Film (\S+)", text)
        p, y = table[f"probability:{name}"], table[f"presence:{name}"]
        eligible = {"true positive": (y == 1) & (p >= 0.5), "false negative": (y == 1) & (p < 0.5)}.get(
            kind, (y == 0) & (p >= 0.5)
        )
        if kind != "false positive" and (own := eligible & np.array([(i, name) in boxed for i in table.index])).any():
            eligible = own
        best = p[eligible].idxmin() if kind == "false negative" else p[eligible].idxmax()
        assert film == best
        assert f"Probability {p[film]:.3f}" in text
    assert "secret" not in (out / "report.html").read_text()
    shown = " ".join(texts)
    assert "Heat map (Grad-CAM): where the score" in shown
    assert results["n_images"] > len(cases)


def test_pictures_are_small_grey_films_without_their_files_words(made):
    _, _, page = made
    pictures = [attrs["href"] or "" for attrs, _ in page.all("image")]
    assert pictures
    for source in pictures:
        data = base64.b64decode(source.split(",")[1])
        assert len(data) <= films.MAX_BYTES
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) <= films.SIDE
            assert not picture.getexif()
            assert not set(picture.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_a_picture_fits_whatever_is_on_it():
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    assert len(base64.b64decode(to_jpeg(Image.fromarray(noise)).split(",")[1])) <= films.MAX_BYTES


def test_without_films_the_page_names_none(drawn, predictor, tmp_path):
    manifest = load_manifest(drawn)
    shutil.copytree(manifest.root, tmp_path / "films")
    victim = manifest.path(int(np.flatnonzero(manifest.splits == "test")[0])).relative_to(manifest.root)
    (tmp_path / "films" / victim).write_bytes(b"\xff\xd8\xff nothing")
    moved = tmp_path / "m.parquet"
    save_manifest(replace(manifest, root=tmp_path / "films"), moved)
    for wanted in (True, False):
        out = tmp_path / str(wanted)
        results = evaluate(predictor.bundle, moved, "test", out, predictor=predictor, films=wanted, **QUIET)
        (refused,) = results["data"]["unread"]
        text = (out / "report.html").read_text()
        assert f"<code>{refused['code']}</code>" in text
        assert ("data:image" in text) == wanted
        assert (refused["image_id"] in text) == wanted
        assert wanted or not [i for i in manifest.table["image_id"] if str(i) in text]


def test_a_predictor_that_cannot_draw_gets_films_without_heat_maps(drawn, predictor, tmp_path):
    blind = FakePredictor(predictor.bundle.folder, load_manifest(drawn))
    evaluate(blind.bundle, drawn, "test", tmp_path, predictor=blind, **QUIET)
    text = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg" in text
    assert "No heat map." in text
    assert "where the score of" not in text


def renamed(node, old: str, new: str):
    """The same tree of plain data with one name changed, wherever it stands."""
    if isinstance(node, dict):
        return {renamed(key, old, new): renamed(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [renamed(value, old, new) for value in node]
    return new if node == old else node


def test_a_finding_of_a_hostile_name_is_only_a_name(drawn, predictor, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(predictor.bundle.folder, folder)
    described = yaml.safe_load((folder / "bundle.yaml").read_text())
    (folder / "bundle.yaml").write_text(yaml.safe_dump(renamed(described, "Pneumonia", HOSTILE), sort_keys=False))
    bundle = load_bundle(folder)
    manifest = load_manifest(drawn)
    table = manifest.table.rename(columns={"label:Pneumonia": f"label:{HOSTILE}"})
    save_manifest(replace(manifest, table=table, ontology=bundle.ontology), tmp_path / "m.parquet")
    hostile = Drawer(folder, load_manifest(tmp_path / "m.parquet"))
    results = evaluate(bundle, tmp_path / "m.parquet", "test", tmp_path / "out", predictor=hostile, **QUIET)
    found = results["classification"]
    assert HOSTILE in found["findings"] | found["few"]
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert "script" not in page.tags
    assert HOSTILE in page.shown
    assert any(HOSTILE in (attrs["aria-label"] or "") for attrs, _ in page.all("svg") if "aria-label" in attrs)


def test_what_other_numbers_there_may_be_is_shown(made, predictor, tmp_path):
    results, _, _ = made
    found = results["classification"]
    name, row = next(iter(found["findings"].items()))
    value = {"value": 0.123, "ci95": [0.045, 0.234]}
    none = {"value": None, "ci95": [None, None], "between": []}
    gap = {"value": 0.06, "ci95": [-0.07, 0.17], "between": ["F", "M"], "num_findings": 9}
    gaps = {"macro_auroc": gap, "sensitivity": gap, "specificity": none}
    groups = {
        kind: {g: r | {"sensitivity": value} for g, r in rows.items()} for kind, rows in results["subgroups"].items()
    }
    body = {"macro": {"auroc": value, "auprc": value, "num_findings": 7}}
    more = results | {
        "classification": found
        | {
            "findings": {k: r for k, r in found["findings"].items() if k != name},
            "few": {name: row},
        },
        "subgroups": groups,
        "subgroup_gaps": {"min_patients": 30, "kinds": {"sex": gaps}},
        "study": {"n_studies": 31, "n_with_several_films": 8, "mean": body, "max": body},
    }
    write_report(tmp_path / "report.html", more, predictor.bundle, {}, None)
    page = Page((tmp_path / "report.html").read_text())
    assert "fewer than 10 films known to show it" in page.shown
    (line,) = [text for _, text in page.all("tr") if text.startswith("sex gap")]
    assert line == "sex gap 0.060 −0.070 to 0.170 F over M 0.06 −0.07 to 0.17 F over M –"
    assert "31 studies, 8 of them" in page.shown
    assert any(text.startswith(name) for attrs, text in page.all("section") if attrs.get("class") == "finding")


def test_what_fitted_is_said_of_every_fit():
    first = {"dataset": "nih", "films": 60}
    assert fitted_on(first) == ["dataset nih; films 60"]
    again = {"dataset": "kermany", "findings_kept": ["Mass", "Nodule"], "nodes_kept": [], "before": first}
    assert fitted_on(again)[0] == "dataset kermany; findings kept Mass, Nodule; nodes kept none"
    assert fitted_on(again)[1:] == fitted_on(first)


def test_the_tree_names_second_parents_and_leaves_out_what_was_never_trained(made, predictor):
    results, _, _ = made
    roots = tree(results, predictor.bundle)

    def flat(nodes, depth=0):
        for node in nodes:
            yield node["name"], depth, node
            yield from flat(node["children"], depth + 1)

    ontology, nodes = predictor.bundle.ontology, list(flat(roots))
    assert [name for name, _, _ in nodes].count("Mass") == 1
    assert {name for name, _, _ in nodes} == set(ontology.names) - {"Hernia"}
    assert all(depth <= ontology.depth[ontology.index(name)] for name, depth, _ in nodes)
    assert all(list(node["also"]) == list(ontology[name].parents[1:]) for name, _, node in nodes)


def test_areas_under_drawn_curves_are_scikit_learns():
    rng = np.random.default_rng(3)
    presence = (rng.random(150) < 0.2).astype(float)
    probability = np.clip(np.round(0.3 * presence + rng.random(150) * 0.6, 2), 0.01, 0.99)
    number = {"value": 0.5, "ci95": [None, None]}
    row = {"n": 150, "n_pos": int(presence.sum()), "prevalence": {"value": presence.mean()}, "operating_points": {}}
    row |= {"auroc": number, "auprc": number}
    curves = [
        next(m for m in draw("x", presence, probability, row).marks if isinstance(m, Line) and m.tone == "main")
        for draw in (roc, precision_recall)
    ]
    areas = [float(np.trapezoid(curve.y, curve.x)) for curve in curves]
    assert areas[0] == pytest.approx(roc_auc_score(presence, probability))
    assert areas[1] == pytest.approx(average_precision_score(presence, probability))


def test_scores_are_shares_of_their_own_class_and_none_is_lost():
    presence = np.array([1, 1, 1, 0, 0, np.nan])
    probability = np.array([0.0, 0.5, 1.0, 0.02, 0.03, 0.9])
    up, down = [m for m in scores("x", presence, probability, {"operating_points": {}}).marks if isinstance(m, Bars)]
    assert up.height.sum() == pytest.approx(1)
    assert down.height.sum() == pytest.approx(-1)
    assert up.height[0] == up.height[-1] == pytest.approx(1 / 3), "the ends hold what lies beyond"


def test_a_chart_escapes_its_words_and_skips_what_is_unknown():
    axis = Axis("<x>", 0, 1, ((0.0, "&"),))
    x, y = np.array([0.0, 0.5, 1.0]), np.array([0.0, np.nan, 1.0])
    marks = (Line(x, y), Dots(x[:1], x[:1], x[2:]), Band(x, x, x), Bars(x, x[:2]), Note(0, 0, "<b>"))
    svg = to_svg(Chart("<t>", "&", '"alt"', axis, axis, marks))
    page = Page(svg)
    assert {"svg", "path", "text", "circle", "g"} == page.tags
    assert page.all("svg")[0][0]["aria-label"] == '"alt"'
    assert "nan" not in svg


def contrast(one: str, other: str) -> float:
    """WCAG 2's ratio of two colours."""

    def light(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    a, b = sorted((light(one), light(other)))
    return (b + 0.05) / (a + 0.05)


def test_words_stand_out_in_light_dark_and_print():
    css = (TEMPLATES / "report.css").read_text()
    themes = [dict(re.findall(r"--([\w-]+): ([^;]+);", body)) for body in re.findall(r":root \{(.*?)\}", css, re.S)]
    assert len(themes) == 3
    for theme in themes:
        for word in ("ink", "soft", "blue", "warm"):
            assert contrast(theme[word], theme["paper"]) >= 4.5, word
        for word in ("ink", "soft"):
            assert contrast(theme[word], theme["tint"]) >= 4.5, word
        assert contrast(theme["alert"], theme["alert-tint"]) >= 4.5
        share = float(theme["most"])
        heat = [int(part) for part in theme["heat"].split()]
        paper = theme["paper"].lstrip("#")
        paper = "".join(d * 2 for d in paper) if len(paper) == 3 else paper
        mixed = [round(share * h + (1 - share) * int(paper[2 * i : 2 * i + 2], 16)) for i, h in enumerate(heat)]
        assert contrast(theme["ink"], "#{:02x}{:02x}{:02x}".format(*mixed)) >= 4.5

"""The Grafana dashboard and the lines for Prometheus. That a live server has what it asks for: test_survive."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from dashboard import BOARD, FILE, asked, dashboard_fits, metrics_and_labels, queries
from typer.main import get_command

from cxr_mtl.cli import app
from cxr_mtl.predict.meters import METERS

PAGE = (Path(__file__).resolve().parents[2] / "docs/operations.md").read_text(encoding="utf-8")


def test_panels_have_their_own_ids_and_places() -> None:
    panels = BOARD["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in panels]
    assert len(set(places)) == len(places)
    assert all(x + w <= 24 for x, _, w, _ in places)
    assert all(panel["title"] and panel["description"] for panel in panels)
    assert BOARD["schemaVersion"] >= 41


def test_the_data_source_is_chosen_by_whoever_imports_it() -> None:
    uids = re.findall(r'"uid": "([^"]+)"', FILE.read_text(encoding="utf-8"))
    assert set(uids) == {"${datasource}", BOARD["uid"]}
    names = [variable["name"] for variable in BOARD["templating"]["list"]]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD))) - {"__rate_interval", "__all"}
    assert used == set(names)


def test_every_query_is_promql_of_metrics_that_we_know() -> None:
    assert len(queries()) >= 12
    ours = {meter.name: set(meter.labels) for meter in METERS}
    for name, labels in asked():
        if name.startswith("cxr_"):
            assert labels <= ours[name.removesuffix("_bucket")] | {"le"}, (name, labels)
    covered = {name.removesuffix("_bucket") for name, _ in asked()}
    assert set(ours) - covered == {"cxr_preprocess_seconds", "cxr_batch_fill_ratio"}


def test_the_parser_sees_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="invalid promql"):
        list(metrics_and_labels("sum by (code (rate(x[5m])))"))
    with pytest.raises(AssertionError):
        dashboard_fits("# TYPE cxr_requests_total counter\n")


def test_prometheus_is_told_where_the_metrics_are() -> None:
    (text,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", PAGE, flags=re.DOTALL)
    (job,) = yaml.safe_load(text)["scrape_configs"]
    (port,) = (option.default for option in get_command(app).commands["serve"].params if option.name == "port")  # type: ignore[attr-defined]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port + 2}"]}]
    assert set(job) == {"job_name", "scrape_interval", "static_configs"}, "path and scheme are Prometheus' defaults"
    assert "configs/serve/grafana/cxr_mtl.json" in PAGE

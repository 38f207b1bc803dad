"""The Grafana dashboard's queries, taken apart by a parser of PromQL, and held to what a server really says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser

from cxr_mtl.predict.meters import AGAIN
from cxr_mtl.serve.scrape import Metrics, read_metrics

FILE = Path(__file__).resolve().parents[2] / "configs/serve/grafana/cxr_mtl.json"
BOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
LOOK_UP = re.compile(r"label_values\((?P<metric>\w+), (?P<label>\w+)\)")


def queries() -> list[str]:
    """What Prometheus is asked, with Grafana's own interval filled in."""
    asked = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    return [text.replace("$__rate_interval", "5m") for text in asked]


def metrics_and_labels(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of a query with all labels that are asked of it, there or by what sums it."""
    return _walk(promql_parser.parse(query), frozenset())


def _walk(node: Any, outer: frozenset[str]) -> Iterator[tuple[str, set[str]]]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers} | outer
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from _walk(node.vector_selector, outer)
    elif isinstance(node, promql_parser.AggregateExpr):
        yield from _walk(node.expr, outer | frozenset(node.modifier.labels if node.modifier else ()))
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from _walk(node.lhs, outer)
        yield from _walk(node.rhs, outer)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from _walk(argument, outer)
    elif isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr):
        yield from _walk(node.expr, outer)
    else:
        assert isinstance(node, promql_parser.NumberLiteral), node


def asked() -> list[tuple[str, set[str]]]:
    """Every metric with its labels, of panels and of variables."""
    found = [pair for query in queries() for pair in metrics_and_labels(query)]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            looked = LOOK_UP.fullmatch(variable["query"]["query"])
            assert looked
            found.append((looked["metric"], {looked["label"]}))
    return found


def dashboard_fits(text: str) -> None:
    """Asserts that a server's metrics have every metric and label that the dashboard asks for."""
    metrics: Metrics = read_metrics(text)
    declared = set(re.findall(r"^# TYPE (\S+)", text, flags=re.MULTILINE))
    for name, labels in asked():
        lines = [sample for sample in metrics.samples if sample.name == name]
        if name == AGAIN.name and not lines:  # counted by engines in bfloat16 alone
            assert labels <= set(AGAIN.labels)
        elif not labels:
            assert lines or name in declared, name
        else:
            assert lines, name
            assert all(labels <= set(sample.labels) for sample in lines), (name, labels)

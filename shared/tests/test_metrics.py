"""Metrics: what is said of them is what is exposed, and nothing outside makes a series."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from towline.telemetry import metrics
from towline.telemetry.metrics import Standing, Use

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"\btowline_[a-z_]+\b")
UNITS = ("_total", "_seconds", "_records", "_lanes", "_busy", "_parked", "_assigned", "_running", "_waiting", "_open")
LABELS = {"service", "topic", "type", "kind", "end", "resource"}


def exposed() -> str:
    return metrics.exposition().decode()


def test_what_is_documented_is_what_is_exposed() -> None:
    helped = {line.split()[2] for line in exposed().splitlines() if line.startswith("# HELP ")}
    assert helped == {each.name for each in metrics.described()}


def test_each_metric_has_a_name_a_unit_a_sentence_and_known_labels() -> None:
    for each in metrics.described():
        assert each.name.startswith("towline_")
        assert each.name.endswith(UNITS)
        assert each.text.endswith(".")
        assert set(each.labels) <= LABELS
        assert each.labels[0] == "service"


def test_a_standing_is_asked_for_while_it_is_watched_and_no_longer() -> None:
    standing = Standing(
        partitions=24, lag={"towline.changes": 7}, lanes=3, gap=2, resources={"registry": Use(1, 2, open_breakers=1)}
    )
    metrics.watch("watched", lambda: standing)
    try:
        said = exposed()
        assert 'towline_lag_records{service="watched",topic="towline.changes"} 7.0' in said
        assert 'towline_effects_waiting{resource="registry",service="watched"} 2.0' in said
        assert 'towline_breakers_open{resource="registry",service="watched"} 1.0' in said
        assert 'towline_partitions_assigned{service="watched"} 24.0' in said
    finally:
        metrics.unwatch("watched")
    assert "watched" not in exposed()


def expressions(path: Path) -> list[str]:
    if path.suffix == ".json":
        panels = json.loads(path.read_text())["panels"]
        return [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        assert rule.keys() >= {"alert", "expr", "labels", "annotations"}, rule
        assert rule["labels"]["severity"] in ("warning", "critical")
    return [rule["expr"] for rule in rules]


FILES = sorted([*(ROOT / "deploy/alerts").glob("*.yaml"), *(ROOT / "deploy/dashboards").glob("*.json")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_alerts_and_dashboards_name_only_metrics_and_labels_that_exist(path: Path) -> None:
    known = {each.name: each for each in metrics.described()}
    said = expressions(path)
    assert said
    for expression in said:
        names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in NAME.findall(expression)}
        assert names
        assert names <= known.keys(), expression
        labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        assert labels - {"le"} <= set().union(*(known[name].labels for name in names)), expression


def test_the_pages_name_only_metrics_that_exist() -> None:
    known = {each.name for each in metrics.described()}
    for page in (ROOT / "docs/operate").glob("*.md"):
        for name in NAME.findall(page.read_text()):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in known, f"{page.name}: {name}"


def test_every_alert_stands_on_the_page_that_explains_it() -> None:
    page = (ROOT / "docs/operate/lag.md").read_text()
    rules = [r for g in yaml.safe_load((ROOT / "deploy/alerts/towline.yaml").read_text())["groups"] for r in g["rules"]]
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in page] == []

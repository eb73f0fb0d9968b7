"""Scope: which settings are refused and with what words, and which routes match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from towline.errors import BadInput
from towline.events import Severity
from towline.settings import load
from towline_notifier.messages import Draft
from towline_notifier.routing import Policy
from towline_notifier.settings import NotifierSettings

CHANNEL = {"kind": "webhook", "url": "https://hooks.example.test/x"}


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    notifier: NotifierSettings = NotifierSettings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("channels: {ops: {kind: slack}}", "give exactly one of url_file, url_env and url"),
        ("channels: {ops: {kind: slack, url: a, url_env: B}}", "give exactly one of url_file, url_env and url"),
        ("channels: {ops: {kind: slack, url: a, secret: b}}", "a slack channel signs nothing"),
        ("channels: {ops: {kind: webhook, url: a, secret: b, secret_env: C}}", "at most one of secret_file"),
        ("channels: {ops: {kind: teams, url: a}}", "'webhook' or 'slack'"),
        ("channels: {Ops!: {kind: slack, url: a}}", "channels.Ops!"),
        ("routes: [{channels: [ops]}]", "names 'ops', which is no channel; there is: none is configured"),
        ("channels: {ops: {kind: slack, url: a}}\n  routes: [{channels: []}]", "routes.0.channels"),
        (
            "channels: {ops: {kind: slack, url: a}}\n  routes: [{match: {events: [merge]}, channels: [ops]}]",
            "'change-merged'",
        ),
        (
            "channels: {ops: {kind: slack, url: a}}\n  routes: [{match: {severity: x}, channels: [ops]}]",
            "info, warning",
        ),
        ("horizon_second: 5", "did you mean horizon_seconds?"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_was_expected(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "towline.yaml"
    file.write_text(f"notifier:\n  {text}\n")
    with pytest.raises(BadInput) as caught:
        load(Settings, file, {})
    assert said in str(caught.value)


def draft(**changes: Any) -> Draft:
    values = {
        "kind": "sync-failed",
        "severity": Severity.ERROR,
        "group": "prod/shop/cart",
        "repo": "git.test/shop/cart",
    }
    return Draft.model_validate({"application": "prod/shop/cart", "title": "x", **values, **changes})


def routed(*routes: dict[str, Any], to: Draft | None = None) -> tuple[str, ...]:
    channels = {name: CHANNEL for name in ("ops", "team", "all")}
    settings = NotifierSettings.model_validate({"channels": channels, "routes": routes})
    return Policy(settings).channels_for(to or draft())


def test_without_routes_every_channel_gets_everything() -> None:
    assert routed() == ("ops", "team", "all")


def test_every_matching_route_adds_its_channels_once() -> None:
    assert routed({"channels": ["team"]}, {"channels": ["all", "team"]}) == ("team", "all")


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        ({"events": ["sync-failed", "change-merged"]}, True),
        ({"events": ["change-merged"]}, False),
        ({"repos": ["git.test/shop/*"]}, True),
        ({"repos": ["git.test/other/*"]}, False),
        ({"applications": ["prod/*"]}, True),
        ({"applications": ["test/*"]}, False),
        ({"severity": "error"}, True),
        ({"events": ["sync-failed"], "applications": ["test/*"]}, False),
    ],
)
def test_a_route_matches_when_all_that_it_names_matches(match: dict[str, Any], hit: bool) -> None:
    assert bool(routed({"match": match, "channels": ["ops"]})) is hit


def test_a_route_for_applications_matches_no_change() -> None:
    match = {"applications": ["*"]}
    of_change = draft(application=None, kind="change-merged")
    assert routed({"match": {**match, "applications": ["prod/*"]}, "channels": ["ops"]}, to=of_change) == ()


def test_a_severity_nobody_knows_yet_is_told() -> None:
    route = {"match": {"severity": "error"}, "channels": ["ops"]}
    assert routed(route, to=draft(severity=Severity.UNKNOWN)) == ("ops",)
    assert routed(route, to=draft(severity=Severity.WARNING)) == ()

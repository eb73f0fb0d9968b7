"""What status and trace say of a log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from towline import flow
from towline_cli.show import application_lines
from towline_cli.view import progress, timeline
from towline_cli.view.facts import TOPICS, Fact, short_name

START = datetime(2026, 1, 1, tzinfo=UTC)
CHANGE = "local/app!polite"
HEAD = "a" * 40


def facts(*steps: tuple[str, dict[str, Any]]) -> list[Fact]:
    return [
        Fact(name, str(i), START + timedelta(seconds=i), {"change": CHANGE, "head": HEAD, **data}, "00-abc-def-01")
        for i, (name, data) in enumerate(steps)
    ]


CREATED = ("change.created", {"title": "Greet", "author": "Ada", "target": "main"})
CANDIDATE = ("candidate.created", {"candidate": "c" * 40, "purpose": "gate"})
TESTED = ("pipelinerun.finished", {**CANDIDATE[1], "outcome": "success"})
BUILT = ("build.finished", {**CANDIDATE[1], "outcome": "success", "images": []})


def test_the_topics_are_those_of_the_map() -> None:
    assert tuple(stream.topic for stream in flow.STREAMS) == TOPICS


def test_an_event_type_has_a_short_name() -> None:
    assert short_name("dev.cdevents.change.merged.0.3.0") == "change.merged"
    assert short_name("dev.cdeventsx.towline-candidate.created.0.1.0") == "candidate.created"


def test_a_change_under_test_says_what_it_waits_for() -> None:
    view = progress.changes(facts(CREATED, CANDIDATE))[CHANGE]
    assert (view.state, view.says) == ("testing", "waits for its tests and its images")
    view = progress.changes(facts(CREATED, CANDIDATE, BUILT))[CHANGE]
    assert view.says == "waits for its tests"


def test_the_end_of_a_superseded_candidate_ends_no_wait_of_the_next() -> None:
    """Its tests were then said to be over although they had only begun."""
    next_one = ("candidate.created", {"candidate": "d" * 40, "purpose": "gate"})
    view = progress.changes(facts(CREATED, CANDIDATE, next_one, TESTED, BUILT))[CHANGE]
    assert view.says == "waits for its tests and its images"


def test_a_rejected_change_names_file_and_line() -> None:
    problem = {"message": "expected an integer", "file": "deploy/app.yaml", "line": 7}
    rejected = ("candidate.rejected", {"stage": "pipeline", "reason": "its checks failed", "problems": [problem]})
    view = progress.changes(facts(CREATED, CANDIDATE, rejected))[CHANGE]
    assert (view.state, view.problems) == ("rejected", ("deploy/app.yaml:7: expected an integer",))


def test_a_late_verdict_does_not_bring_a_merged_change_back() -> None:
    merged = ("change.merged", {"landed": "d" * 40, "images": []})
    view = progress.changes(facts(CREATED, CANDIDATE, TESTED, BUILT, merged, TESTED))[CHANGE]
    assert (view.state, view.says) == ("merged", f"landed as {'d' * 12}")


def test_a_new_head_starts_over() -> None:
    rejected = ("candidate.rejected", {"stage": "pipeline", "reason": "no", "problems": []})
    view = progress.changes(facts(CREATED, rejected, ("change.updated", {"title": "Again"})))[CHANGE]
    assert (view.state, view.title, view.problems) == ("arrived", "Again", ())


def test_a_commit_a_change_or_a_topic_finds_the_way() -> None:
    log = facts(CREATED, CANDIDATE)
    for name in (HEAD[:7], "c" * 12, CHANGE, "polite"):
        assert timeline.changes_of(log, name) == [CHANGE]
    assert timeline.changes_of(log, "aaa") == []


def test_a_timeline_counts_seconds_from_the_first_sight() -> None:
    lines = timeline.timeline(facts(CREATED, CANDIDATE, TESTED), CHANGE)
    assert [line.after for line in lines] == [0, 1, 2]
    assert [line.stage for line in lines] == ["git-watcher", "git-watcher", "ci-runner"]


def test_an_application_is_known_by_its_last_health() -> None:
    app = {"application": "lab/default/hello", "revision": "e" * 40, "change": None}
    log = [Fact("health.changed", "1", START, {**app, "health": "healthy", "previous": "progressing"})]
    assert progress.applications(log)["lab/default/hello"].health == "healthy"
    removed = Fact("service.removed", "2", START, app)
    assert progress.applications([*log, removed]) == {}


def test_an_application_says_what_differs_from_git_until_it_is_repaired() -> None:
    """A repair that the cluster refuses was seen in the log of the reconciler alone; status said healthy."""
    drift = {"application": "lab/default/hello", "revision": "e" * 40, "object": "ConfigMap default/conf"}
    seen = Fact("drift.detected", "1", START, drift)
    [view] = progress.applications([seen]).values()
    assert "ConfigMap default/conf differs from Git and is not repaired yet" in "".join(application_lines(view))
    [view] = progress.applications([seen, Fact("drift.repaired", "2", START, drift)]).values()
    assert view.drifts == ()

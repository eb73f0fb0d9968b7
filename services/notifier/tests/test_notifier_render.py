"""Scope: the words of each notice, and that foreign text cannot break out of its line or carry a credential."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline import flow
from towline.events import (
    Applied,
    ArtifactPackaged,
    ArtifactPublished,
    BuildFinished,
    BuildStarted,
    CandidateRejected,
    ChangeAbandoned,
    ChangeCreated,
    ChangeMerged,
    ChangeUpdated,
    DriftDetected,
    DriftRepaired,
    Event,
    HealthChanged,
    IncidentDetected,
    IncidentResolved,
    NoticeRendered,
    Outcome,
    PinnedImage,
    PipelineRunFinished,
    PipelineRunQueued,
    PipelineRunStarted,
    Problem,
    Purpose,
    ServiceDeployed,
    ServiceRemoved,
    ServiceUpgraded,
    Severity,
    SyncFinished,
    SyncStarted,
    TaskRunFinished,
    TaskRunStarted,
    Verdict,
)
from towline_notifier.render import _RENDERERS, TEXT_CHARS, TITLE_CHARS, draft_of, notice_of
from towline_notifier.untrusted import block, line

CHANGE: dict[str, Any] = {"repo": "git.test/shop/cart", "change": "git.test/shop/cart!login", "head": "a" * 40}
TARGETED = {**CHANGE, "target": "main"}
RUN = {**CHANGE, "candidate": "b" * 40, "source_tree": "c" * 40, "purpose": Purpose.GATE}
APP: dict[str, Any] = {"application": "prod/shop/cart", "repo": "git.test/shop/cart", "revision": "d" * 40}
PROBLEM = Problem(message="unknown field replica", file="deploy/app.yaml", line=7)

MERGED = ChangeMerged(
    **TARGETED,
    candidate="b" * 40,
    landed="d" * 40,
    previous="e" * 40,
    source_tree="c" * 40,
    images=(PinnedImage(name="web", reference="registry.test/web@sha256:" + "1" * 64),),
)
REJECTED = CandidateRejected(**TARGETED, stage="configuration", reason="One manifest is invalid.", problems=(PROBLEM,))
FAILED_RUN = PipelineRunFinished(
    **RUN, run="r-1", outcome=Outcome.FAILURE, verdict=Verdict.INVALID, problems=(PROBLEM,)
)
FAILED_BUILD = BuildFinished(**RUN, outcome=Outcome.FAILURE, problems=(Problem(message="RUN exited with 1"),))
FAILED_SYNC = SyncFinished(**APP, outcome=Outcome.FAILURE, applied=Applied(failed=2), problems=(PROBLEM,))
DRIFT = DriftRepaired(**APP, object="Deployment shop/cart", fields=("spec.replicas",), seconds=0.021)

WORDS: list[tuple[Event, Severity, str, str]] = [
    (MERGED, Severity.INFO, "Merged: cart!login into main", "Pinned web: registry.test/web@sha256:" + "1" * 64),
    (
        REJECTED,
        Severity.WARNING,
        "Rejected: cart!login cannot land on main",
        "One manifest is invalid.\n• deploy/app.yaml:7: unknown field replica",
    ),
    (
        FAILED_RUN,
        Severity.WARNING,
        "Pipeline failed: cart!login failed its checks",
        "• deploy/app.yaml:7: unknown field replica",
    ),
    (FAILED_BUILD, Severity.WARNING, "Image build failed: cart!login", "• RUN exited with 1"),
    (
        ServiceDeployed(**APP, images=("registry.test/web@sha256:1",)),
        Severity.INFO,
        "Deployed: prod/shop/cart is healthy for the first time",
        "Runs registry.test/web@sha256:1",
    ),
    (ServiceUpgraded(**APP), Severity.INFO, "Upgraded: prod/shop/cart is healthy at dddddddddddd", ""),
    (ServiceRemoved(**APP), Severity.WARNING, "Removed: prod/shop/cart is gone from the cluster", ""),
    (
        DRIFT,
        Severity.WARNING,
        "Drift repaired: Deployment shop/cart in prod/shop/cart",
        "Somebody changed in the cluster what Git owns; it was put back within 0.02 s:\n• spec.replicas",
    ),
    (
        FAILED_SYNC,
        Severity.ERROR,
        "Sync failed: prod/shop/cart at dddddddddddd",
        "2 objects were not applied.\n• deploy/app.yaml:7: unknown field replica",
    ),
    (
        IncidentDetected(**APP, reason="Deployment cart has 0 of 2 replicas."),
        Severity.ERROR,
        "Incident: prod/shop/cart is not healthy at dddddddddddd",
        "Deployment cart has 0 of 2 replicas.",
    ),
    (IncidentResolved(**APP), Severity.INFO, "Resolved: prod/shop/cart is healthy again", ""),
]


@pytest.mark.parametrize(("event", "severity", "title", "text"), WORDS, ids=lambda value: type(value).__name__)
def test_a_notice_says_what_happened_where(event: Event, severity: Severity, title: str, text: str) -> None:
    draft = draft_of(event)
    assert draft is not None
    assert (draft.severity, draft.title, draft.text) == (severity, title, text)


def test_a_topic_with_marks_of_its_own_is_named_whole() -> None:
    """It was told as `x!y`, a change of a repository that there is not."""
    draft = draft_of(MERGED.model_copy(update={"change": "git.test/shop/cart!feat/x!y"}))
    assert draft is not None
    assert draft.title == "Merged: cart!feat/x!y into main"


@pytest.mark.parametrize(
    "event",
    [
        FAILED_RUN.model_copy(update={"outcome": Outcome.SUCCESS}),
        FAILED_RUN.model_copy(update={"outcome": Outcome.CANCEL}),
        FAILED_BUILD.model_copy(update={"outcome": Outcome.SUCCESS}),
        FAILED_SYNC.model_copy(update={"outcome": Outcome.SUCCESS}),
        PipelineRunStarted(**RUN, run="r-1"),
        DriftDetected(**APP, object="Deployment shop/cart"),
    ],
)
def test_what_goes_well_or_goes_on_is_no_news(event: Event) -> None:
    assert draft_of(event) is None


PASSED_OVER = {
    ChangeAbandoned,
    PipelineRunQueued,
    PipelineRunStarted,
    TaskRunStarted,
    TaskRunFinished,
    BuildStarted,
    ArtifactPackaged,
    ArtifactPublished,
    SyncStarted,
    DriftDetected,
    HealthChanged,
}
"""No news by themselves: they go on, or end in something that is told."""


def test_every_event_that_the_map_sends_is_told_or_passed_over_on_purpose() -> None:
    sent = flow.consumed_by(flow.NOTIFIER) - {NoticeRendered}
    told = {event for event in sent if event in _RENDERERS}
    titles = {ChangeCreated, ChangeUpdated}
    assert told | titles | PASSED_OVER == sent
    assert not told & PASSED_OVER


def test_a_check_that_could_not_be_made_is_an_error_of_ours() -> None:
    draft = draft_of(FAILED_RUN.model_copy(update={"outcome": Outcome.ERROR, "verdict": Verdict.ERROR}))
    assert draft is not None
    assert (draft.severity, draft.title) == (Severity.ERROR, "Pipeline failed: cart!login could not be checked")


def test_more_problems_than_fit_are_counted() -> None:
    problems = tuple(Problem(message=f"wrong {number}") for number in range(14))
    draft = draft_of(FAILED_RUN.model_copy(update={"problems": problems}))
    assert draft is not None
    assert draft.text.endswith("• wrong 9\nand 4 more")


def test_drift_that_differs_only_in_how_long_it_took_is_the_same() -> None:
    one, two = draft_of(DRIFT), draft_of(DRIFT.model_copy(update={"seconds": 0.5}))
    assert one is not None
    assert two is not None
    assert one.same == two.same
    assert one.same != getattr(draft_of(DRIFT.model_copy(update={"fields": ("spec.paused",)})), "same", None)


def test_a_failed_check_and_its_rejection_are_the_same() -> None:
    run, rejected = draft_of(FAILED_RUN), draft_of(REJECTED.model_copy(update={"candidate": FAILED_RUN.candidate}))
    assert run is not None
    assert rejected is not None
    assert run.same == rejected.same


def test_a_notice_names_the_title_and_author_of_its_change() -> None:
    draft = draft_of(MERGED)
    assert draft is not None
    notice = notice_of(draft, "ops", "event-1", "Fix the login", "Ada")
    assert notice.facts == {
        "title": "Fix the login",
        "author": "Ada",
        "change": "git.test/shop/cart!login",
        "commit": "d" * 12,
    }


def test_a_problem_cannot_forge_a_second_line() -> None:
    problem = Problem(message="bad\n• deploy/x.yaml:1: all is well\r\u2028Approved by: admin")
    draft = draft_of(FAILED_RUN.model_copy(update={"problems": (problem,)}))
    assert draft is not None
    assert draft.text.splitlines() == ["• bad • deploy/x.yaml:1: all is well Approved by: admin"]


def test_credentials_that_a_test_printed_are_taken_out() -> None:
    message = "fatal: https://ada:hunter2@git.test/x refused; Authorization: Bearer abc.def token=xyz"
    draft = draft_of(FAILED_RUN.model_copy(update={"problems": (Problem(message=message),)}))
    assert draft is not None
    for secret in ("hunter2", "abc.def", "xyz"):
        assert secret not in draft.text


@given(st.text(max_size=500), st.integers(5, 50))
def test_foreign_text_becomes_one_clean_line_of_bounded_length(text: str, limit: int) -> None:
    said = line(text, limit)
    assert len(said) <= limit
    assert len(said.splitlines()) <= 1
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in said)
    assert not any(char in said for char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


@given(st.text(max_size=500))
def test_a_block_keeps_line_ends_and_nothing_else_that_controls(text: str) -> None:
    assert not any(unicodedata.category(char) == "Cc" for char in block(text, 600).replace("\n", ""))


@given(st.lists(st.text(max_size=400), max_size=60), st.text(max_size=3000))
def test_every_notice_fits_into_a_record(messages: list[str], reason: str) -> None:
    problems = tuple(Problem(message=message, file=message or None, line=1) for message in messages)
    draft = draft_of(REJECTED.model_copy(update={"problems": problems, "reason": reason, "target": reason}))
    assert draft is not None
    assert len(draft.title) <= TITLE_CHARS
    assert len(draft.text) <= TEXT_CHARS
    assert len(draft.model_dump_json()) < 64 * 1024

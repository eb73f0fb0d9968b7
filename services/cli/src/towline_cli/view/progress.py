"""Where every change and application stands, as a pure function of the facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from towline_cli.view.facts import Fact


@dataclass(frozen=True)
class ChangeView:
    change: str
    title: str = ""
    author: str = ""
    target: str = ""
    head: str = ""
    state: str = "arrived"
    """arrived, testing, landing, merged, rejected or abandoned."""
    says: str = ""
    """One sentence: what it waits for, or why it ended."""
    problems: tuple[str, ...] = ()
    landed: str = ""
    since: datetime | None = None
    until: datetime | None = None
    candidate: str = ""
    purpose: str = ""
    pending: frozenset[str] = frozenset()
    """What has not ended yet of the newest candidate."""


@dataclass(frozen=True)
class ApplicationView:
    application: str
    revision: str = ""
    health: str = "unknown"
    says: str = ""
    images: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())
    drifts: tuple[str, ...] = ()
    """Objects that differ from Git and were not repaired."""


_WAITS = {"pipelinerun.finished": "its tests", "build.finished": "its images"}


def changes(facts: Iterable[Fact]) -> dict[str, ChangeView]:
    views: dict[str, ChangeView] = {}
    for fact in facts:
        if fact.change is None:
            continue
        before = views.get(fact.change)
        if before is None and fact.name not in ("change.created", "change.merged", "candidate.rejected"):
            continue
        view = before or ChangeView(fact.change, since=fact.time)
        views[fact.change] = _after(view, fact)
    return views


def _after(view: ChangeView, fact: Fact) -> ChangeView:
    data = fact.data
    match fact.name:
        case "change.created" | "change.updated":
            return _arrived(view, fact)
        case "candidate.created":
            landing = data.get("purpose") == "landing"
            candidate, purpose = _candidate(data)
            view = replace(view, candidate=candidate, purpose=purpose, state="landing" if landing else "testing")
            return replace(view, pending=frozenset(_WAITS), says=_waiting(_WAITS))
        case "pipelinerun.finished" | "build.finished" if view.state in ("testing", "landing"):
            if _candidate(data) != (view.candidate, view.purpose):
                return view  # of one that was superseded
            pending = view.pending - {fact.name}
            return replace(view, pending=pending, says=_waiting(pending))
        case "change.merged":
            landed = str(data["landed"])
            return replace(view, state="merged", landed=landed, says=f"landed as {landed[:12]}", until=fact.time)
        case "candidate.rejected":
            said = tuple(problem_line(problem) for problem in data.get("problems", ()))
            return replace(view, state="rejected", says=str(data["reason"]), problems=said, until=fact.time)
        case "change.abandoned":
            return replace(view, state="abandoned", says=str(data["reason"]), until=fact.time)
    return view


def _arrived(view: ChangeView, fact: Fact) -> ChangeView:
    data = fact.data
    return ChangeView(
        view.change,
        title=str(data.get("title", "")),
        author=str(data.get("author", "")),
        target=str(data.get("target", "")),
        head=str(data.get("head", "")),
        says="waits for its candidate",
        since=view.since,
    )


def _candidate(data: Mapping[str, Any]) -> tuple[str, str]:
    """The same commit may be a candidate twice, for a check and for the gate."""
    return str(data.get("candidate", "")), str(data.get("purpose", ""))


def _waiting(pending: Iterable[str]) -> str:
    waits = [_WAITS[name] for name in sorted(pending, reverse=True)]
    return f"waits for {' and '.join(waits)}" if waits else "waits for its turn to land"


def problem_line(problem: Mapping[str, Any]) -> str:
    """`file:line: message`, as an author reads it."""
    where = ":".join(str(problem[part]) for part in ("file", "line") if problem.get(part) is not None)
    return f"{where}: {problem['message']}" if where else str(problem["message"])


def applications(facts: Iterable[Fact]) -> dict[str, ApplicationView]:
    views: dict[str, ApplicationView] = {}
    for fact in facts:
        name = fact.data.get("application")
        if name is None:
            continue
        view = replace(views.get(name, ApplicationView(name)), revision=str(fact.data["revision"]))
        match fact.name:
            case "health.changed":
                view = replace(view, health=str(fact.data["health"]), says=str(fact.data.get("reason", "")))
            case "service.deployed" | "service.upgraded":
                view = replace(view, images=tuple(fact.data.get("images", ())))
            case "sync.finished":
                view = replace(view, problems=tuple(problem_line(p) for p in fact.data.get("problems", ())))
            case "drift.detected" | "drift.repaired":
                object = str(fact.data["object"])
                others = tuple(each for each in view.drifts if each != object)
                view = replace(view, drifts=(*others, object) if fact.name == "drift.detected" else others)
            case "service.removed":
                views.pop(name, None)
                continue
        views[name] = view
    return views

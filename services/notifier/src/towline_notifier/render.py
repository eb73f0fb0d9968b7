"""Every word a person reads in a notice stands here; nothing is decided here, and nothing is escaped.

An event that has no entry in `_RENDERERS` is not worth a notice. Text is plain: each channel escapes it for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from towline.events import (
    BuildFinished,
    BuiltImage,
    CandidateRejected,
    ChangeMerged,
    DriftRepaired,
    Event,
    IncidentDetected,
    IncidentResolved,
    NoticeRendered,
    Outcome,
    PinnedImage,
    PipelineRunFinished,
    Problem,
    ServiceDeployed,
    ServiceRemoved,
    ServiceUpgraded,
    Severity,
    SyncFinished,
    Verdict,
)
from towline_notifier.kind import Kind
from towline_notifier.messages import Draft
from towline_notifier.untrusted import block, line

MOST_PROBLEMS = 10
TITLE_CHARS = 200
MESSAGE_CHARS = 300
TEXT_CHARS = 4000
FACT_CHARS = 300

MARKS = {Severity.INFO: "✅", Severity.WARNING: "⚠️", Severity.ERROR: "🔴", Severity.UNKNOWN: "ℹ️"}
"""What stands before a title where a channel has no colours."""


def draft_of(event: Event) -> Draft | None:
    """The notice that tells of the event; None when there is nothing to tell."""
    renderer = _RENDERERS.get(type(event))
    return renderer(event) if renderer else None


def notice_of(draft: Draft, channel: str, about: str, title: str, author: str) -> NoticeRendered:
    """The notice as one channel gets it. `title` and `author` are the change's, empty when not known."""
    known = {"title": title, "author": author}
    return NoticeRendered(
        channel=channel,
        group=draft.group,
        kind=draft.kind,
        severity=draft.severity,
        title=draft.title,
        text=draft.text,
        facts={**{name: value for name, value in known.items() if value}, **draft.facts},
        about=about,
        change=draft.change,
    )


def spoken(notice: NoticeRendered) -> str:
    """The title with its mark, for a channel that shows plain lines."""
    return f"{MARKS[notice.severity]} {notice.title}"


def _merged(event: ChangeMerged) -> Draft:
    how = "Merged" if event.gated else "Pushed directly"
    return _of_change(
        event,
        Kind.CHANGE_MERGED,
        Severity.INFO,
        f"{how}: {_short_change(event.change)} into {event.target}",
        text=_images("Pinned", event.images),
        facts={"commit": event.landed[:12]},
    )


def _rejected(event: CandidateRejected) -> Draft:
    return _of_change(
        event,
        Kind.CANDIDATE_REJECTED,
        Severity.WARNING,
        f"Rejected: {_short_change(event.change)} cannot land on {event.target}",
        text=_said(event.reason, event.problems),
        facts={"stage": event.stage, "head": event.head[:12]},
        same=_failure(event.candidate or event.head),
    )


def _pipeline(event: PipelineRunFinished) -> Draft | None:
    if event.outcome in (Outcome.SUCCESS, Outcome.CANCEL):
        return None
    broken = event.verdict is Verdict.ERROR or event.outcome is Outcome.ERROR
    said = "could not be checked" if broken else "failed its checks"
    return _of_change(
        event,
        Kind.PIPELINE_FAILED,
        Severity.ERROR if broken else Severity.WARNING,
        f"Pipeline failed: {_short_change(event.change)} {said}",
        text=_problems(event.problems),
        facts={"run": event.run, "head": event.head[:12]},
        same=_failure(event.candidate),
    )


def _image(event: BuildFinished) -> Draft | None:
    if event.outcome in (Outcome.SUCCESS, Outcome.CANCEL):
        return None
    return _of_change(
        event,
        Kind.IMAGE_FAILED,
        Severity.ERROR if event.outcome is Outcome.ERROR else Severity.WARNING,
        f"Image build failed: {_short_change(event.change)}",
        text=_problems(event.problems),
        facts={"head": event.head[:12]},
        same=_failure(event.candidate),
    )


def _deployed(event: ServiceDeployed) -> Draft:
    title = f"Deployed: {event.application} is healthy for the first time"
    return _of_application(event, Kind.SERVICE_DEPLOYED, Severity.INFO, title, text=_running(event.images))


def _upgraded(event: ServiceUpgraded) -> Draft:
    title = f"Upgraded: {event.application} is healthy at {event.revision[:12]}"
    return _of_application(event, Kind.SERVICE_UPGRADED, Severity.INFO, title, text=_running(event.images))


def _removed(event: ServiceRemoved) -> Draft:
    title = f"Removed: {event.application} is gone from the cluster"
    return _of_application(event, Kind.SERVICE_REMOVED, Severity.WARNING, title)


def _drift(event: DriftRepaired) -> Draft:
    fields = "\n".join(f"• {field}" for field in event.fields[:MOST_PROBLEMS])
    return _of_application(
        event,
        Kind.DRIFT_REPAIRED,
        Severity.WARNING,
        f"Drift repaired: {event.object} in {event.application}",
        text="Somebody changed in the cluster what Git owns; it was put back"
        + (f" within {event.seconds:.2f} s" if event.seconds else "")
        + (f":\n{fields}" if fields else "."),
        same=f"drift {event.object} {' '.join(sorted(event.fields))}",
    )


def _sync(event: SyncFinished) -> Draft | None:
    if event.outcome in (Outcome.SUCCESS, Outcome.CANCEL):
        return None
    failed = event.applied.failed
    return _of_application(
        event,
        Kind.SYNC_FAILED,
        Severity.ERROR,
        f"Sync failed: {event.application} at {event.revision[:12]}",
        text=_said(
            f"{failed} {'object was' if failed == 1 else 'objects were'} not applied." if failed else "", event.problems
        ),
        same=f"sync {event.revision} " + " ".join(str(problem) for problem in event.problems),
    )


def _incident(event: IncidentDetected) -> Draft:
    title = f"Incident: {event.application} is not healthy at {event.revision[:12]}"
    return _of_application(event, Kind.INCIDENT_DETECTED, Severity.ERROR, title, text=event.reason)


def _recovery(event: IncidentResolved) -> Draft:
    title = f"Resolved: {event.application} is healthy again"
    return _of_application(event, Kind.INCIDENT_RESOLVED, Severity.INFO, title, text=event.reason)


_RENDERERS: dict[type[Event], Callable[[Any], Draft | None]] = {
    ChangeMerged: _merged,
    CandidateRejected: _rejected,
    PipelineRunFinished: _pipeline,
    BuildFinished: _image,
    ServiceDeployed: _deployed,
    ServiceUpgraded: _upgraded,
    ServiceRemoved: _removed,
    DriftRepaired: _drift,
    SyncFinished: _sync,
    IncidentDetected: _incident,
    IncidentResolved: _recovery,
}


def _of_change(
    event: ChangeMerged | CandidateRejected | PipelineRunFinished | BuildFinished,
    kind: Kind,
    severity: Severity,
    title: str,
    *,
    text: str = "",
    facts: dict[str, str] | None = None,
    same: str = "",
) -> Draft:
    return Draft(
        kind=kind,
        severity=severity,
        group=event.change,
        repo=event.repo,
        change=event.change,
        title=line(title, TITLE_CHARS),
        text=block(text, TEXT_CHARS),
        facts=_facts({"change": event.change, **(facts or {})}),
        same=same,
    )


def _of_application(event: Any, kind: Kind, severity: Severity, title: str, *, text: str = "", same: str = "") -> Draft:
    facts = {"application": event.application, "revision": event.revision[:12], "change": event.change or ""}
    return Draft(
        kind=kind,
        severity=severity,
        group=event.application,
        repo=event.repo,
        application=event.application,
        change=event.change,
        title=line(title, TITLE_CHARS),
        text=block(text, TEXT_CHARS),
        facts=_facts(facts),
        same=same,
    )


def _failure(candidate: str) -> str:
    """A failed check and the rejection that follows from it are one thing to tell."""
    return f"failure {candidate}"


def _short_change(change: str) -> str:
    """`<name>!<topic>`: the host and owner stand in the facts. A topic may hold a `!` of its own."""
    repo, _, topic = change.partition("!")
    return f"{repo.rsplit('/', 1)[-1]}!{topic}"


def _facts(facts: dict[str, str]) -> dict[str, str]:
    return {name: line(value, FACT_CHARS) for name, value in facts.items() if value}


def _said(reason: str, problems: Iterable[Problem]) -> str:
    return "\n".join(part for part in (line(reason, MESSAGE_CHARS), _problems(problems)) if part)


def _problems(problems: Iterable[Problem]) -> str:
    """One line each, `file:line: message`, and how many more there are."""
    every = list(problems)
    lines = [f"• {line(str(problem), MESSAGE_CHARS)}" for problem in every[:MOST_PROBLEMS]]
    more = len(every) - len(lines)
    return "\n".join([*lines, f"and {more} more"] if more else lines)


def _images(word: str, images: Iterable[PinnedImage | BuiltImage]) -> str:
    return "\n".join(f"{word} {image.name}: {image.reference}" for image in images)


def _running(references: Iterable[str]) -> str:
    return "\n".join(f"Runs {reference}" for reference in references)

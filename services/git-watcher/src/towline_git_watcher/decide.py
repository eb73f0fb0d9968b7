"""The watcher's decision: refs as they were read, answers of jail and Git, verdicts → facts and what to do next. Pure.

    RefsHinted ─► FetchRefs ─► RefsRead ─► (gate) ─► ComputeCandidate ─► CandidateComputed ─► candidate.created
    pipeline and build finished ─► WritePins ─► PinsWritten ─► candidate.created (landing)
    pipeline and build finished ─► Land (the intent is in state before it runs) ─► Landed ─► change.merged

Rule: an answer counts only for the question that is still open; everything else is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from towline.delivery.model import Decision, EffectFailed, Envelope, TimerFired
from towline.events import BuildFinished, CandidateCreated, Event, PipelineRunFinished, Purpose
from towline_git_watcher import landing, refs, verdicts
from towline_git_watcher.gate.settle import Settling, about
from towline_git_watcher.messages import (
    CandidateComputed,
    CandidateLost,
    CandidateRefused,
    ComputeCandidate,
    FetchRefs,
    Land,
    Landed,
    PinsRefused,
    PinsWritten,
    RefsHinted,
    RefsRead,
    WritePins,
)
from towline_git_watcher.state import Candidate, Change, Step, WatcherState

READ_AGAIN = "read"
"""The timer after a reading that failed for good."""
READ_AGAIN_AFTER = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Watched:
    """What decisions need to know of a repository's settings."""

    host: str
    branches: tuple[str, ...]


def decide(
    watched: Mapping[str, Watched], state: WatcherState, envelope: Envelope, now: datetime
) -> Decision[WatcherState]:
    """The lane key is the repository. One that is not watched any more is left as it stands."""
    repo = watched.get(envelope.key)
    if repo is None:
        return Decision(state)
    turn = Settling.of(envelope.key, repo.host, state)
    match envelope.event:
        case RefsHinted() | TimerFired():
            turn.read_refs()
        case RefsRead() as event:
            refs.on_read(turn, event, repo.branches)
        case PipelineRunFinished() | BuildFinished() as event:
            verdicts.on_finished(turn, event)
        case EffectFailed() as event:
            _on_failed(turn, event, now)
        case _:
            _on_answer(turn, envelope.event)
    return turn.decision()


def _on_answer(turn: Settling, event: Event) -> None:
    match event:
        case CandidateComputed():
            _on_computed(turn, event)
        case CandidateRefused():
            if change := _computing(turn, event):
                turn.reject(change, event.stage, event.reason, event.problems)
        case PinsWritten():
            landing.on_written(turn, event)
        case PinsRefused():
            landing.on_refused(turn, event)
        case Landed():
            landing.on_landed(turn, event)
        case CandidateLost():
            landing.on_lost(turn, event)


def _computing(turn: Settling, event: CandidateComputed | CandidateRefused) -> Change | None:
    """The change that waits for exactly this answer."""
    change = turn.changes.get(event.ref)
    if change is None or change.step is not Step.COMPUTING:
        return None
    asked = (change.change, change.head, change.base, change.purpose)
    return change if asked == (event.change, event.head, event.base, event.purpose) else None


def _on_computed(turn: Settling, event: CandidateComputed) -> None:
    change = _computing(turn, event)
    if change is None:
        return
    found = Candidate(id=event.candidate, tree=event.tree, source_tree=event.source_tree, pinned=event.pinned)
    turn.put(change, step=Step.TESTING, candidate=found)
    turn.events.append(
        CandidateCreated(
            **about(turn.repo, change),
            candidate=event.candidate,
            base=event.base,
            source_tree=event.source_tree,
            snapshot=event.snapshot,
            purpose=event.purpose,
            changed_paths=event.changed_paths,
            jobs=event.jobs,
            manifests=event.manifests,
            images_expected=event.images,
        )
    )


_STAGE_OF = {ComputeCandidate.kind: "merge", WritePins.kind: "landing", Land.kind: "landing"}


def _on_failed(turn: Settling, event: EffectFailed, now: datetime) -> None:
    """An effect that cannot be done: a reading is tried again later, a change is sent back to its author."""
    if event.kind == FetchRefs.kind:
        turn.reading = False
        turn.timers[READ_AGAIN] = now + READ_AGAIN_AFTER
        return
    change = turn.changes.get(str(event.payload.get("ref")))
    if change is None or not _asked_for(change, event):
        return
    reason = f"An error of the infrastructure, not of the change: {event.reason}. Push another head to try again."
    turn.reject(change, _STAGE_OF.get(event.kind, "merge"), reason)
    if event.kind == Land.kind:
        landing.forget_tip(turn, change.target)


def _asked_for(change: Change, event: EffectFailed) -> bool:
    asked = event.payload
    if event.kind == ComputeCandidate.kind:
        same = (change.head, change.base, change.purpose) == (
            asked.get("head"),
            asked.get("base"),
            Purpose(str(asked.get("purpose"))),
        )
        return change.step is Step.COMPUTING and same
    if event.kind == WritePins.kind:
        at = change.candidate
        return change.step is Step.PINNING and at is not None and at.id == asked.get("candidate")
    return change.step is Step.LANDING and change.landing is not None and change.landing.id == asked.get("new")

"""From a passed candidate to a moved branch. Pure.

Rules: what lands is the candidate plus pinned fields; the intent stands in state before the push begins; "landed"
means an ancestor of the branch, also when the answer was lost.
"""

from __future__ import annotations

from towline.events import CandidateCreated, CandidateSuperseded, Purpose
from towline_git_watcher.gate.settle import Settling, about
from towline_git_watcher.messages import CandidateLost, Land, Landed, PinsRefused, PinsWritten, WritePins
from towline_git_watcher.state import Branch, Candidate, Change, Landing, Step


def begin(turn: Settling, change: Change, candidate: Candidate) -> None:
    """Both verdicts are good. Without pins the gate has checked the very tree that lands, and nothing is left to do."""
    if not candidate.pinned:
        land(turn, change, Landing(id=candidate.id, tree=candidate.tree))
        return
    turn.put(change, step=Step.PINNING)
    turn.effects.append(
        WritePins(
            repo=turn.repo,
            change=change.change,
            ref=change.ref,
            head=change.head,
            base=change.base,
            candidate=candidate.id,
            tree=candidate.tree,
            source_tree=candidate.source_tree,
            images=candidate.images,
        )
    )


def on_written(turn: Settling, event: PinsWritten) -> None:
    change = _pinning(turn, event)
    if change is None:
        return
    at = Landing(id=event.landing, tree=event.tree, images=event.images)
    turn.put(change, step=Step.CHECKING, landing=at)
    turn.events.append(
        CandidateCreated(
            **about(turn.repo, change),
            candidate=event.landing,
            base=change.base,
            source_tree=event.tree,
            snapshot=event.snapshot,
            purpose=Purpose.LANDING,
            manifests=event.manifests,
        )
    )


def on_refused(turn: Settling, event: PinsRefused) -> None:
    if change := _pinning(turn, event):
        turn.reject(change, "landing", event.reason, event.problems)


def land(turn: Settling, change: Change, at: Landing) -> None:
    turn.put(change, step=Step.LANDING, landing=at)
    turn.effects.append(
        Land(
            repo=turn.repo,
            host=turn.host,
            change=change.change,
            ref=change.ref,
            target=change.target,
            head=change.head,
            old=change.base,
            new=at.id,
        )
    )


def on_landed(turn: Settling, event: Landed) -> None:
    change = _landing(turn, event.ref, event.commit)
    if change is None:
        return
    turn.epoch += 1
    branch = turn.branches.get(change.target, Branch())
    turn.branches[change.target] = branch.model_copy(update={"tip": event.tip})
    turn.merge(change)
    if turn.again:
        turn.read_refs()


def on_lost(turn: Settling, event: CandidateLost) -> None:
    """Nothing has landed. Where the branch stands is not known until it is read; then all is computed anew."""
    change = turn.changes.get(event.ref)
    if change is None or change.step not in (Step.PINNING, Step.LANDING) or event.commit not in _commits(change):
        return
    for id in dict.fromkeys(_commits(change)):
        turn.events.append(CandidateSuperseded(**about(turn.repo, change), candidate=id, reason=event.reason))
    turn.put(change, step=Step.QUEUED, purpose=None, base="", candidate=None, landing=None)
    forget_tip(turn, change.target)


def forget_tip(turn: Settling, target: str) -> None:
    """After a landing that did not end well: refs may have moved, and a reading from before may not say so."""
    turn.epoch += 1
    branch = turn.branches.get(target, Branch())
    turn.branches[target] = branch.model_copy(update={"tip": None})
    turn.read_refs()


def _commits(change: Change) -> list[str]:
    return [each.id for each in (change.candidate, change.landing) if each is not None]


def _pinning(turn: Settling, event: PinsWritten | PinsRefused) -> Change | None:
    change = turn.changes.get(event.ref)
    if change is None or change.step is not Step.PINNING or change.candidate is None:
        return None
    return change if change.candidate.id == event.candidate else None


def _landing(turn: Settling, ref: str, commit: str) -> Change | None:
    change = turn.changes.get(ref)
    if change is None or change.step is not Step.LANDING or change.landing is None:
        return None
    return change if change.landing.id == commit else None

"""One decision in the making: what is changed, said and asked for, until every queue is as the gate plans it. Pure.

Owns the few moves that all decisions are made of: start a candidate, replace it, reject, abandon, merge. Each keeps
the rules of `towline_git_watcher.state` and of the facts: a candidate that was told and is not needed any more is
superseded, and a change ends once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from towline.delivery.model import Decision, Effect
from towline.events import (
    CandidateRejected,
    CandidateSuperseded,
    ChangeAbandoned,
    ChangeMerged,
    Event,
    Problem,
    Purpose,
    within_bounds,
)
from towline_git_watcher.gate.queue import Place, joined, left, plan
from towline_git_watcher.messages import ComputeCandidate, FetchRefs
from towline_git_watcher.state import Branch, Change, Owed, Step, WatcherState

MOST_OWED = 200


@dataclass
class Settling:
    """Mutable for the length of one turn; `decision` closes it."""

    repo: str
    host: str
    before: WatcherState
    changes: dict[str, Change] = field(default_factory=dict)
    branches: dict[str, Branch] = field(default_factory=dict)
    owed: dict[str, Owed] = field(default_factory=dict)
    reading: bool = False
    again: bool = False
    epoch: int = 0
    events: list[Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    timers: dict[str, datetime | None] = field(default_factory=dict)

    @classmethod
    def of(cls, repo: str, host: str, state: WatcherState) -> Settling:
        tables = dict(state.changes), dict(state.branches), dict(state.owed)
        return cls(repo, host, state, *tables, state.reading, state.again, state.epoch)

    def decision(self) -> Decision[WatcherState]:
        for name in list(self.branches):
            self._settle(name)
        after = WatcherState(
            changes=self.changes,
            branches=self.branches,
            owed=dict(list(self.owed.items())[-MOST_OWED:]),
            reading=self.reading,
            again=self.again,
            epoch=self.epoch,
        )
        state = self.before if after == self.before else after
        return Decision(state, tuple(self.events), tuple(self.effects), self.timers)

    # -- refs -----------------------------------------------------------------------------------------------------

    def read_refs(self) -> None:
        """Have the refs read; while a reading is under way, once more after it."""
        if self.reading:
            self.again = True
            return
        self.reading, self.again = True, False
        self.effects.append(FetchRefs(repo=self.repo, host=self.host, epoch=self.epoch))

    # -- changes --------------------------------------------------------------------------------------------------

    def put(self, change: Change, **update: object) -> Change:
        after = change.model_copy(update=update)
        self.changes[after.ref] = after
        return after

    def enqueue(self, change: Change) -> None:
        """A new head: whatever was done for the one before counts no more."""
        self.put(change, step=Step.QUEUED, purpose=None, base="", candidate=None, landing=None)
        branch = self.branches.get(change.target, Branch())
        self.branches[change.target] = branch.model_copy(update={"queue": joined(branch.queue, change.ref)})

    def supersede(self, change: Change, reason: str) -> None:
        """Tell that the candidates of a change are not needed any more; those that ran to their end were of use."""
        self._give_up(change)
        stale = []
        if change.candidate and (change.candidate.pending or change.purpose is Purpose.GATE):
            stale.append(change.candidate.id)
        if change.landing and change.landing.id not in stale:
            stale.append(change.landing.id)
        for id in stale:
            self.events.append(CandidateSuperseded(**about(self.repo, change), candidate=id, reason=reason))

    def reject(self, change: Change, stage: str, reason: str, problems: Sequence[Problem] = ()) -> None:
        candidate = change.landing or change.candidate
        self.events.append(
            CandidateRejected(
                **about(self.repo, change),
                candidate=change.candidate.id if change.candidate else None,
                stage=stage,
                reason=reason[:600],
                problems=within_bounds(problems),
            )
        )
        waits = change.step in (Step.TESTING, Step.CHECKING)
        if waits and candidate and (candidate.pipeline is None or candidate.build is None):
            told = CandidateSuperseded(
                **about(self.repo, change), candidate=candidate.id, reason="The change was rejected."
            )
            self.events.append(told)
        self._give_up(change)
        self._dequeue(change)
        self.put(change, step=Step.REJECTED, candidate=None, landing=None)

    def abandon(self, change: Change, reason: str) -> None:
        self.supersede(change, "The change was abandoned.")
        if change.step is not Step.REJECTED:  # a rejected one has ended
            self.events.append(ChangeAbandoned(**about(self.repo, change), reason=reason))
        self._forget(change)

    def merge(self, change: Change) -> None:
        assert change.candidate is not None
        assert change.landing is not None
        self.events.append(
            ChangeMerged(
                **about(self.repo, change),
                candidate=change.candidate.id,
                landed=change.landing.id,
                previous=change.base,
                source_tree=change.candidate.source_tree,
                images=change.landing.images,
            )
        )
        self._forget(change)

    # -- the plan -------------------------------------------------------------------------------------------------

    def _settle(self, name: str) -> None:
        branch = self.branches[name]
        if branch.tip is None or any(self.changes[ref].step is Step.LANDING for ref in branch.queue):
            return
        places = [Place(ref, self.changes[ref].purpose, self.changes[ref].base) for ref in branch.queue]
        for has, wants in zip(places, plan(places, branch.tip), strict=True):
            if has != wants and wants.purpose is not None:
                self._start(self.changes[has.ref], wants.purpose, wants.base)

    def _start(self, change: Change, purpose: Purpose, base: str) -> None:
        promoted = change.purpose is Purpose.CHECK and change.base == base  # the same commit, now for the gate
        if promoted:
            self._give_up(change)
        else:
            self.supersede(change, f"{change.target} moved.")
        self.put(change, step=Step.COMPUTING, purpose=purpose, base=base, candidate=None, landing=None)
        self.effects.append(
            ComputeCandidate(
                repo=self.repo,
                change=change.change,
                ref=change.ref,
                target=change.target,
                head=change.head,
                base=base,
                purpose=purpose,
            )
        )

    def _give_up(self, change: Change) -> None:
        """Note the ends that still come: they must not be taken for those of the same candidate, asked for again."""
        held = ((change.candidate, change.purpose), (change.landing, Purpose.LANDING))
        for each, purpose in held:
            if each is None or change.step not in (Step.TESTING, Step.CHECKING):
                continue
            name = f"{purpose} {each.id}"
            owed = self.owed.get(name, Owed())
            more = Owed(pipeline=owed.pipeline + (each.pipeline is None), build=owed.build + (each.build is None))
            if more != owed:
                self.owed[name] = more

    def owes(self, name: str, what: str) -> bool:
        """True when an end belongs to a candidate that was given up; it is then counted off."""
        owed = self.owed.get(name)
        if owed is None or getattr(owed, what) == 0:
            return False
        left = owed.model_copy(update={what: getattr(owed, what) - 1})
        if left == Owed():
            del self.owed[name]
        else:
            self.owed[name] = left
        return True

    def _dequeue(self, change: Change) -> None:
        branch = self.branches.get(change.target)
        if branch is not None:
            self.branches[change.target] = branch.model_copy(update={"queue": left(branch.queue, change.ref)})

    def _forget(self, change: Change) -> None:
        self._dequeue(change)
        del self.changes[change.ref]


def about(repo: str, change: Change) -> dict[str, str]:
    return {"repo": repo, "change": change.change, "target": change.target, "head": change.head}

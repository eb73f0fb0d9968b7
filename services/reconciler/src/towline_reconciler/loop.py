"""One application, from its spec to its objects, again and again: fetch, render, plan, apply, watch.

Woken by a hint, by a change of its spec, by the interval or by a retry. What must hold:

- Only the tip of the branch is applied; a tip whose folders are as they were costs one fetch and nothing else.
- A revision that fails is told with its problems and tried again quietly and ever more rarely, because the cluster may
  have changed; the agent never goes back to an older one by itself.
- What cannot be trusted to be complete (a failed render, a kind that cannot be listed) deletes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from towline.delivery.retry import backoff
from towline.errors import BadInput, Retryable, TowlineError
from towline.events.base import Outcome
from towline.events.deployment import Applied
from towline.project.model import seconds_of
from towline_reconciler import lifetime
from towline_reconciler import status as states
from towline_reconciler import sync as syncing
from towline_reconciler.api.application import SYNC_ANNOTATION, Application
from towline_reconciler.cluster.client import Absent
from towline_reconciler.cluster.kinds import Resource
from towline_reconciler.drift import DriftWatch, Wanted
from towline_reconciler.manifest import GroupKind, ObjectId
from towline_reconciler.plan import Plan, plan_for
from towline_reconciler.report import Report, stamp, sync_key
from towline_reconciler.revision import Prepared, Revision, Revisions
from towline_reconciler.source import NoBranch
from towline_reconciler.standing import Standing
from towline_reconciler.tools import Tools

log = logging.getLogger(__name__)
_LONGEST_RETRY = 3600.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a sync was made of; the same again gives the same."""

    key: str
    generation: int
    request: str | None


class ApplicationLoop:
    """Follows one Application until cancelled, or until it is gone."""

    def __init__(
        self, application: Application, tools: Tools, revisions: Callable[[Application], Revisions], report: Report
    ) -> None:
        """`revisions` makes the way to the source; called anew when the spec names another one."""
        self.application = application
        self.report = report
        self.trouble: str | None = None
        """Why the source or the cluster is not heard at the moment."""
        self._tools = tools
        self._make_revisions = revisions
        self._revisions: Revisions | None = None
        self._drift = DriftWatch(tools.live, tools.syncer, report)
        self._standing = Standing(tools.cluster, tools.live, report, application)
        self._wake = asyncio.Event()
        self._attempted: Attempt | None = None
        self._failed = 0
        """Syncs of this attempt that the cluster refused, in a row."""
        self._silences = 0
        """Times that the source or the cluster did not answer, in a row."""
        self._wanted: Wanted | None = None
        self._open: tuple[str, float] | None = None
        """The sync that was told to have begun and not yet ended, and when it did by the steady clock."""
        self._resources: dict[ObjectId, Resource] = {}
        self._running: set[asyncio.Future[object]] = set()

    @property
    def resources(self) -> Iterable[Resource]:
        """Kinds this application needs to be watched."""
        return self._resources.values()

    def update(self, application: Application) -> None:
        """A newer version of the resource; our own writes of its status change nothing here."""
        before, self.application = self.application, application
        self._standing.of(application)
        if before.spec.source != application.spec.source:
            self._revisions = None
        if (before.generation, before.deleting) != (application.generation, application.deleting) or (
            before.annotations.get(SYNC_ANNOTATION) != application.annotations.get(SYNC_ANNOTATION)
        ):
            self._failed = 0
            self._wake.set()

    def hint(self) -> None:
        """The source has probably moved."""
        self._wake.set()

    async def run(self) -> None:
        """Returns when the Application is gone from the cluster."""
        while True:
            self._wake.clear()
            after = await self._pass()
            if after is None:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(after):
                    await self._wake.wait()

    async def close(self) -> None:
        await self._drift.pause()
        await self._standing.close()
        await self.report.close()

    # -- one pass -----------------------------------------------------------------------------------------------

    async def _pass(self) -> float | None:
        """Seconds until the next one; None when there is nothing left to follow."""
        application = self.application
        noticed = time.monotonic()
        try:
            if application.deleting:
                await self._finalize(application)
                return None
            await lifetime.claim(self._tools, application)
            if application.spec.suspend:
                await self._suspended(application)
            else:
                await self._follow(application, noticed)
        except Retryable as error:
            return self._down(application, error)
        except Absent:
            return None
        except TowlineError as error:
            self._cannot(application, error)
            return self._interval(application)
        self.trouble, self._silences = None, 0
        return self._retry_after(application)

    async def _follow(self, application: Application, noticed: float) -> None:
        if self._revisions is None:
            self._revisions = self._make_revisions(application)
        revision = await self._revisions.tip(application)
        attempt = Attempt(revision.folders.key, application.generation, application.annotations.get(SYNC_ANNOTATION))
        if attempt == self._attempted and self._failed == 0:
            self._recovered(application)
            return
        async with self._tools.slots:
            await self._sync(application, revision, attempt, noticed)

    async def _sync(self, application: Application, revision: Revision, attempt: Attempt, noticed: float) -> None:
        assert self._revisions is not None
        await self._drift.pause()
        before = states.inventory_of(self.report.status)
        prepared = await self._revisions.prepare(application, revision)
        attempt = Attempt(prepared.key, attempt.generation, attempt.request)
        news = self._is_news(application, prepared)
        if prepared.problems:
            outcome = syncing.Outcome(applied=Applied(failed=len(prepared.problems)), problems=list(prepared.problems))
            if news:
                self._begin(application, revision, prepared, noticed)
            self._end(application, revision, prepared, outcome, before, noticed, news=news)
        else:
            await self._apply(application, revision, prepared, before, noticed, news=news)
        self._attempted = attempt
        if prepared.problems and prepared.lasting:
            self._failed = 0  # the same again would fail again
        self._after_sync(application, prepared)

    async def _apply(
        self,
        application: Application,
        revision: Revision,
        prepared: Prepared,
        before: Mapping[ObjectId, str],
        noticed: float,
        *,
        news: bool,
    ) -> None:
        resources = {**await lifetime.served(self._tools.kinds, before), **prepared.resources}
        self._resources = resources
        desired = {each.id: each for each in prepared.desired}
        live = self._tools.live
        unreadable = await self._watch()
        live.listen(desired, self._changed)
        plan = plan_for(
            application.key,
            prepared.desired,
            live.seen({**desired, **before}, desired),
            before.keys(),
            prune=application.spec.prune and not prepared.refused,
            unreadable=unreadable,
        )
        for each in plan.unchanged:
            live.adopted(each)
        if news:
            self._begin(application, revision, prepared, noticed)
        if any(id not in before for id in desired) and plan.waves:
            await self._write_inventory(prepared, before)
        if application.spec.drift == "report" and not news:
            for step in (step for wave in plan.waves for step in wave):
                self._drift.reported(step.desired.id)
            plan = Plan((), plan.unchanged, plan.conflicts, (), plan.kept)
        outcome = await self._tools.syncer.carry_out(plan, resources)
        outcome.problems += prepared.refused
        if outcome.down is not None:
            raise outcome.down
        outcome.applied = outcome.applied.model_copy(update={"failed": outcome.applied.failed + len(prepared.refused)})
        if not news and self.report.status.last_sync and self.report.status.last_sync.outcome == Outcome.SUCCESS:
            for id in outcome.changed:
                self._drift.corrected(id, time.monotonic() - noticed)
        self._end(
            application, revision, prepared, outcome, _inventory(before, prepared, plan, outcome), noticed, news=news
        )

    async def _watch(self) -> dict[GroupKind, str]:
        """Kinds that the revision itself defines are not served yet; they are watched once they are applied."""
        kinds = self._tools.kinds
        served = [
            each for each in set(self._resources.values()) if await kinds.find(each.group, each.version, each.kind)
        ]
        return await self._tools.live.ensure(served)

    async def _write_inventory(self, prepared: Prepared, before: Mapping[ObjectId, str]) -> None:
        """Before anything is made: whatever an agent that dies leaves behind can be found and pruned."""
        self._note_inventory({**before, **{each.id: each.version for each in prepared.desired}})
        await self.report.write()

    # -- how a sync begins and ends -----------------------------------------------------------------------------

    def _is_news(self, application: Application, prepared: Prepared) -> bool:
        """False for a repetition: after a restart, or of a failure that was told."""
        last = self.report.status.last_sync
        return last is None or last.tree != prepared.key or last.generation != application.generation

    def _begin(self, application: Application, revision: Revision, prepared: Prepared, noticed: float) -> None:
        if self._open is None:
            last = self.report.status.last_sync
            self._open = (stamp(last.started_at if last else None), noticed)
            key = sync_key(prepared.key, application.generation)
            self.report.began(self._open[0], key, revision.tip.commit, revision.tip.change)

    def _end(
        self,
        application: Application,
        revision: Revision,
        prepared: Prepared,
        outcome: syncing.Outcome,
        inventory: Mapping[ObjectId, str],
        noticed: float,
        *,
        news: bool,
    ) -> None:
        outcome.problems = [syncing.bounded(each) for each in outcome.problems]
        result = Outcome.FAILURE if outcome.problems else Outcome.SUCCESS
        last = self.report.status.last_sync
        self._failed = self._failed + 1 if outcome.problems else 0
        if not news and self._open is None and last is not None and last.outcome == result:
            self._note_inventory(inventory)
            return
        self._begin(application, revision, prepared, noticed)
        assert self._open is not None
        sync, began = self._open
        self._open = None
        seconds = time.monotonic() - began
        made = states.last_sync(
            revision.tip.commit,
            revision.tip.change,
            prepared.key,
            result,
            generation=application.generation,
            started=sync,
            seconds=seconds,
            applied=outcome.applied,
            problems=outcome.problems,
        )
        now, generation = stamp(), application.generation
        self.report.change(
            lambda status: states.with_ready(
                states.with_sync(status, made, inventory=inventory, now=now, generation=generation),
                now=now,
                generation=generation,
            )
        )
        tip = revision.tip
        if outcome.problems:
            log.warning(
                "a revision cannot be applied",
                extra={
                    "application": application.key,
                    "revision": revision.tip.commit,
                    "problem": str(outcome.problems[0]),
                },
            )
        key, problems = sync_key(prepared.key, application.generation), tuple(outcome.problems)
        self.report.ended(sync, key, tip.commit, tip.change, result, outcome.applied, problems, seconds)

    def _note_inventory(self, inventory: Mapping[ObjectId, str]) -> None:
        self.report.change(lambda status: states.with_inventory(status, inventory))

    def _after_sync(self, application: Application, prepared: Prepared) -> None:
        """Watch what was applied, also where a part of it was refused."""
        if prepared.problems:  # nothing was touched: what was applied before is still what is wanted
            self._drift.want(self._wanted)
            if self._wanted is None and self.report.status.revision is not None:
                self._standing.follow(states.inventory_of(self.report.status), anew=False)
            return
        desired = {each.id: each for each in prepared.desired}
        self._tools.live.ignore([id for id in self._resources if id not in desired])
        inventory = states.inventory_of(self.report.status)
        self._resources = {id: each for id, each in self._resources.items() if id in inventory}
        self._background(self._tools.live.ensure(set(prepared.resources.values())))
        self._standing.follow(desired, anew=True)
        self._wanted = Wanted(desired, prepared.resources, application.spec.drift == "repair")
        self._drift.want(self._wanted)

    def _background(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _changed(self, id: ObjectId) -> None:
        self._drift.changed(id, time.monotonic())
        self._standing.look()

    # -- beside syncing -----------------------------------------------------------------------------------------

    async def _finalize(self, application: Application) -> None:
        await self._drift.pause()
        await self._standing.close()
        if lifetime.is_claimed(application):
            await lifetime.prune_all(self._tools, application, states.inventory_of(self.report.status))
            self.report.gone()
            await lifetime.release(self._tools, application)

    async def _suspended(self, application: Application) -> None:
        await self._drift.pause()
        self._attempted = self._wanted = None
        inventory = states.inventory_of(self.report.status)
        self._resources = await lifetime.served(self._tools.kinds, inventory)
        await self._tools.live.ensure(set(self._resources.values()))
        self._tools.live.listen(inventory, self._changed)
        self._standing.follow(inventory, anew=False)
        self._condition(application, "Synced", "Unknown", "Suspended", "spec.suspend is true")

    def _recovered(self, application: Application) -> None:
        """The source answers again, and nothing had changed."""
        status = self.report.status
        synced = status.condition("Synced")
        if synced is not None and synced.status == "Unknown" and status.last_sync is not None:
            good = status.last_sync.outcome == Outcome.SUCCESS
            said = f"revision {status.last_sync.revision[:12]} is applied" if good else "the last sync failed"
            self._condition(
                application, "Synced", "True" if good else "False", "Applied" if good else "SyncFailed", said
            )

    def _down(self, application: Application, error: Retryable) -> float:
        """Said once, tried again for as long as it takes."""
        self._silences += 1
        if error.after is not None and self._silences == 1:
            return error.after
        if self.trouble is None:
            log.warning(
                "an application cannot be followed now", extra={"application": application.key, "error": str(error)}
            )
        self.trouble = str(error)
        self._condition(application, "Synced", "Unknown", "Unavailable", str(error))
        return max(error.after or 0.0, backoff(self._silences, application.key))

    def _cannot(self, application: Application, error: TowlineError) -> None:
        """Somebody must do something; it is looked at again after the interval."""
        if self.trouble != str(error):
            log.warning(
                "an application cannot be followed", extra={"application": application.key, "error": str(error)}
            )
        self.trouble = str(error)
        reason = "SourceInvalid" if isinstance(error, BadInput | NoBranch) else "Refused"
        self._condition(application, "Synced", "False", reason, str(error))

    def _condition(self, application: Application, kind: str, truth: states.Truth, reason: str, message: str) -> None:
        now, generation = stamp(), application.generation
        self.report.change(
            lambda status: states.with_ready(
                states.with_condition(status, kind, truth, reason, message, now=now, generation=generation),
                now=now,
                generation=generation,
            )
        )

    def _interval(self, application: Application) -> float:
        return float(seconds_of(application.spec.interval or self._tools.interval))

    def _retry_after(self, application: Application) -> float:
        """The interval, or longer and longer after failures of the same revision."""
        interval = self._interval(application)
        return min(max(_LONGEST_RETRY, interval), interval * 2.0 ** min(max(0, self._failed - 1), 10))


def _inventory(
    before: Mapping[ObjectId, str], prepared: Prepared, plan: Plan, outcome: syncing.Outcome
) -> dict[ObjectId, str]:
    """What exists decides: everything that was applied, and what was before and may still be there."""
    now = {each.id: each.version for each in prepared.desired}
    if plan.kept is not None or outcome.problems:
        return {**{id: version for id, version in before.items() if id not in outcome.gone}, **now}
    return now

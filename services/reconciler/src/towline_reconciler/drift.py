"""Repairs the objects of one application when the watch says that they changed.

Owns one task per object that is being repaired, the contests with other writers, and what is told of both. What must
hold: the repair begins with the watch event, waits for no sync and no bus, and a fight is told once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from towline.errors import DependencyDown
from towline_reconciler.cluster.client import Rejected
from towline_reconciler.cluster.kinds import Resource
from towline_reconciler.live import LiveObjects
from towline_reconciler.manifest import Desired, ObjectId
from towline_reconciler.repair import QUIET, Contest
from towline_reconciler.report import Report
from towline_reconciler.sync import Syncer

log = logging.getLogger(__name__)
_AFTER_REFUSAL = 30.0
_AFTER_SILENCE = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the application's objects shall be, and whether they may be made so."""

    desired: Mapping[ObjectId, Desired]
    resources: Mapping[ObjectId, Resource]
    repair: bool
    """False: report only."""


class DriftWatch:
    """Of one application; inactive while it has nothing wanted (a sync is at work, or it is suspended)."""

    def __init__(self, live: LiveObjects, syncer: Syncer, report: Report) -> None:
        self._live = live
        self._syncer = syncer
        self._report = report
        self._wanted: Wanted | None = None
        self._repairs: dict[ObjectId, asyncio.Task[None]] = {}
        self._refused: dict[ObjectId, asyncio.Event] = {}
        """Whose repair was refused and is tried again later; set when the object has gone, which ends the reason."""
        self._contests: dict[ObjectId, Contest] = {}
        self._open: set[ObjectId] = set()
        """Told as drift, and not yet as repaired."""

    def want(self, wanted: Wanted | None) -> None:
        """From now on; objects that differ already are seen at once."""
        self._wanted = wanted
        if wanted is None:
            return
        for id in wanted.desired:
            self.changed(id, time.monotonic())
        for id in [id for id in self._open if id not in wanted.desired]:
            self._ended(id, (), 0.0)

    async def pause(self) -> None:
        """Nothing is repaired when this returns."""
        self._wanted = None
        tasks = list(self._repairs.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def changed(self, id: ObjectId, at: float) -> None:
        """The watch told of this object; `at` is when, by the steady clock."""
        wanted = self._wanted
        if wanted is None or id not in wanted.desired:
            return
        record = self._live.record(id)
        fields = self._live.drift(id)
        if fields is None or (record is not None and record.terminating):
            if fields is None and id in self._open and id not in self._repairs and not self._fights(id):
                self._ended(id, (), 0.0)  # reported only, and somebody has put it right
            return
        if not wanted.repair:
            self._seen(id, fields)
        elif id not in self._repairs:
            task = asyncio.create_task(self._repair(id, at), name=f"repair {id}")
            self._repairs[id] = task
            task.add_done_callback(lambda _: self._repairs.pop(id, None))
        elif record is None and id in self._refused:
            self._refused[id].set()

    def reported(self, id: ObjectId) -> None:
        """It differs, and is only to be told."""
        self._seen(id, self._live.drift(id) or ())

    def corrected(self, id: ObjectId, seconds: float) -> None:
        """A pass over the whole application found and repaired it."""
        self._seen(id, ())
        self._ended(id, (), seconds)

    async def _repair(self, id: ObjectId, at: float) -> None:
        """Until the object is as wanted, or nobody wants it any more."""
        while True:
            wanted, fields = self._wanted, self._live.drift(id)
            if wanted is None or fields is None or id not in wanted.desired:
                return
            contest = self._contests.get(id, Contest())
            if wait := contest.due(time.monotonic()):
                self._fight(id, fields)
                await asyncio.sleep(wait)
                continue
            try:
                await self._syncer.apply(wanted.desired[id], wanted.resources[id])
            except DependencyDown:
                await asyncio.sleep(_AFTER_SILENCE)
                continue
            except Rejected as error:
                self._seen(id, fields)
                log.warning("a repair was refused", extra={"object": str(id), "error": str(error)})
                await self._again_later(id)
                continue
            now = time.monotonic()
            self._contests[id] = contest = contest.repaired(now)
            self._seen(id, fields)
            if contest.is_fight:
                asyncio.get_running_loop().call_later(contest.wait + QUIET, self._settle, id)
            else:
                self._ended(id, fields, now - at)
            at = time.monotonic()

    async def _again_later(self, id: ObjectId) -> None:
        gone = self._refused[id] = asyncio.Event()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_AFTER_REFUSAL):
                    await gone.wait()
        finally:
            del self._refused[id]

    def _fights(self, id: ObjectId) -> bool:
        return self._contests.get(id, Contest()).is_fight

    def _fight(self, id: ObjectId, fields: tuple[str, ...]) -> None:
        """Told once: the drift stays open until the other writer has been quiet for a while."""
        if id in self._open:
            return
        record = self._live.record(id)
        log.warning(
            "another writer changes an object again and again; it is repaired less often now",
            extra={"object": str(id), "fields": list(fields), "writer": record.by if record else None},
        )
        self._seen(id, fields)

    def _settle(self, id: ObjectId) -> None:
        contest = self._contests.get(id)
        if contest is not None and contest.is_over(time.monotonic() + 0.5) and self._live.drift(id) is None:
            del self._contests[id]
            self._ended(id, (), 0.0)

    def _seen(self, id: ObjectId, fields: tuple[str, ...]) -> None:
        if id not in self._open:
            self._open.add(id)
            self._report.drift_seen(str(id), fields)

    def _ended(self, id: ObjectId, fields: tuple[str, ...], seconds: float) -> None:
        if id in self._open:
            self._open.discard(id)
            self._report.drift_ended(str(id), fields, seconds)

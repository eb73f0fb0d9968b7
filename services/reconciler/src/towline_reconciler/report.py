"""What one application's agent says: its status to the API server, and what it saw to the bus.

The rule that must hold: neither is ever in the way of the work. Both have a task of their own that says the latest
again until it is heard; a bus that is away costs memory for a bounded number of observations, and what the status
shows as not published yet is told when it is back, also by the next agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from towline.bus.port import BusDown
from towline.delivery.model import Source
from towline.delivery.retry import backoff
from towline.errors import DependencyDown, Permanent
from towline.events.base import Outcome, Problem
from towline.events.deployment import Applied, Health
from towline.ids import digest_of
from towline.telemetry import trace
from towline_reconciler.api.application import GROUP, PLURAL, VERSION, Application, ApplicationStatus, LastPublished
from towline_reconciler.cluster.client import Cluster, Rejected
from towline_reconciler.messages import (
    ApplicationGone,
    DriftEnded,
    DriftSeen,
    HealthSeen,
    Observation,
    SyncBegan,
    SyncEnded,
)

log = logging.getLogger(__name__)
MOST_UNTOLD = 500
"""Observations kept while the bus is away; the oldest of drift go first, the status keeps syncs and health."""

StatusChange = Callable[[ApplicationStatus], ApplicationStatus]
Seen = TypeVar("Seen", bound=Observation)


def path_of(application: Application) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{application.namespace}/{PLURAL}/{application.name}"


def stamp(after: str | None = None) -> str:
    """Now, in a form that sorts by time, and always later than `after`."""
    now = datetime.now(UTC)
    if after is not None:  # a clock may be set back
        now = max(now, datetime.fromisoformat(after) + timedelta(microseconds=1))
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def sync_key(tree: str, generation: int) -> str:
    """What a sync is made of; the same again gives the same."""
    return digest_of(tree, str(generation))[:32]


class Report:
    """Of one application, as long as this agent follows it."""

    def __init__(self, cluster: Cluster, source: Source, application: Application, *, id: str, repo: str) -> None:
        self._cluster = cluster
        self._source = source
        self._path = path_of(application)
        self._uid = application.uid
        self._id = id
        self.repo = repo
        self.status = application.status
        self._written = application.status
        self._untold: deque[Observation] = deque()
        self._told = asyncio.Event()
        self._dirty = asyncio.Event()
        self._writing = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._count = 0
        self._tasks = (
            asyncio.create_task(self._tell_all(), name=f"tell {id}"),
            asyncio.create_task(self._write_all(), name=f"status {id}"),
        )
        self._tell_what_is_missing()

    # -- what happened ------------------------------------------------------------------------------------------

    def began(self, sync: str, made_of: str, revision: str, change: str | None) -> None:
        self._tell(SyncBegan, revision, change, sync=sync, made_of=made_of)

    def ended(
        self,
        sync: str,
        made_of: str,
        revision: str,
        change: str | None,
        outcome: Outcome,
        applied: Applied,
        problems: tuple[Problem, ...],
        seconds: float,
    ) -> None:
        self._tell(
            SyncEnded,
            revision,
            change,
            sync=sync,
            made_of=made_of,
            outcome=outcome,
            applied=applied,
            problems=problems[:20],
            seconds=round(seconds, 4),
        )

    def health(self, health: Health, reason: str, images: tuple[str, ...], *, failed: bool) -> None:
        """Of the revision that the status names."""
        if self.status.revision is not None:
            images = images[:50]
            self._tell(
                HealthSeen,
                self.status.revision,
                self.status.change,
                health=health,
                reason=reason,
                images=images,
                failed=failed,
            )

    def drift_seen(self, object: str, fields: tuple[str, ...]) -> None:
        self._tell(DriftSeen, self.status.revision or "", self.status.change, object=object, fields=fields[:50])

    def drift_ended(self, object: str, fields: tuple[str, ...], seconds: float) -> None:
        revision, change = self.status.revision or "", self.status.change
        self._tell(DriftEnded, revision, change, object=object, fields=fields[:50], seconds=round(seconds, 4))

    def gone(self) -> None:
        self._tell(ApplicationGone, self.status.revision or "", self.status.change)

    def change(self, how: StatusChange) -> None:
        """Apply `how` to the status; it is written soon, once for many changes."""
        after = how(self.status)
        if after != self.status:
            self.status = after
            self._dirty.set()

    # -- telling ------------------------------------------------------------------------------------------------

    def _tell(self, observation: type[Seen], revision: str, change: str | None, **fields: object) -> None:
        about = {"application": self._id, "repo": self.repo, "revision": revision, "change": change}
        self._put(observation.model_validate({**about, **fields}))

    def _put(self, seen: Observation) -> None:
        if len(self._untold) >= MOST_UNTOLD:
            drifts = [each for each in self._untold if isinstance(each, DriftSeen | DriftEnded)]
            self._untold.remove(drifts[0] if drifts else self._untold[0])
        self._untold.append(seen)
        self._idle.clear()
        self._told.set()

    def _tell_what_is_missing(self) -> None:
        """What the agent before this one could not publish, as far as the status knows it."""
        status = self.status
        published = status.last_published or LastPublished()
        sync = status.last_sync
        if sync is not None and published.sync != sync.started_at:
            problems = tuple(Problem(message=each.message, file=each.file, line=each.line) for each in sync.problems)
            applied, outcome = Applied(**sync.applied.model_dump()), Outcome(sync.outcome)
            key = sync_key(sync.tree, sync.generation)
            self.ended(sync.started_at, key, sync.revision, sync.change, outcome, applied, problems, sync.seconds)
        health = status.health
        if health is not None and published.health != _health_name(status):
            self.health(Health(health.status), health.reason, status.images, failed=health.failed)

    async def _tell_all(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            while self._untold:
                seen = self._untold[0]
                heard = await self._until_heard(seen)
                if self._untold and self._untold[0] is seen:
                    self._untold.popleft()
                if heard:
                    self._note(seen)
            self._idle.set()

    async def _until_heard(self, seen: Observation) -> bool:
        """False when the bus will never take it; the others are told all the same."""
        self._count += 1
        basis = f"{self._uid} {stamp()} {self._count}"
        if isinstance(seen, SyncBegan | SyncEnded):
            basis = f"{self._uid} {seen.sync}"  # the same one from the status after a restart
        context = trace.publish(type(seen).__name__, None, change=seen.change) if seen.change else None
        tries = 0
        while True:
            try:
                await self._source.emit(self._id, basis, seen, traceparent=context)
            except BusDown as error:
                tries += 1
                if tries == 1:
                    log.warning(
                        "the bus does not answer; the cluster is followed all the same", extra={"error": str(error)}
                    )
                await asyncio.sleep(backoff(tries, self._id))
            except Permanent as error:
                log.error(  # noqa: TRY400 - expected: it is too large
                    "an observation was refused by the bus and is not told", extra={"error": str(error)}
                )
                return False
            else:
                return True

    def _note(self, seen: Observation) -> None:
        """Remember in the status what the bus has."""
        published = self.status.last_published or LastPublished()
        if isinstance(seen, SyncEnded):
            published = published.model_copy(update={"sync": seen.sync})
        elif isinstance(seen, HealthSeen) and self.status.health and seen.health == self.status.health.status:
            published = published.model_copy(update={"health": _health_name(self.status)})
        else:
            return
        self.change(lambda status: status.model_copy(update={"last_published": published}))

    # -- the status ---------------------------------------------------------------------------------------------

    async def _write_all(self) -> None:
        tries = 0
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self.write()
                tries = 0
            except DependencyDown:
                tries += 1
                self._dirty.set()
                await asyncio.sleep(backoff(tries, self._id))
            except Rejected as error:
                if error.status != 404:
                    log.warning("a status was refused", extra={"application": self._id, "error": str(error)})

    async def write(self) -> None:
        """Write the status now. Raises DependencyDown or Rejected."""
        async with self._writing:
            status = self.status
            if status == self._written:
                return
            body = status.model_dump(mode="json", by_alias=True)
            await self._cluster.merge(f"{self._path}/status", {"status": body})
            self._written = status

    async def close(self, *, seconds: float = 2.0) -> None:
        """Say what is left, as far as it is heard in that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
                await self.write()
        except (TimeoutError, DependencyDown, Rejected):
            log.info("stopped before everything was said", extra={"application": self._id})
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _health_name(status: ApplicationStatus) -> str:
    health = status.health
    return f"{status.revision} {health.status} {health.since}" if health else ""

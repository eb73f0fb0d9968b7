"""How an application stands: the worst of its objects, since when, and whether that has lasted too long.

Waiting holds nothing: a change of an object or the end of the patience wakes the one task, which looks and sleeps
again. While a new revision is not healthy within `spec.timeout` the application is degraded, and the reason names what
blocks it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from towline.errors import DependencyDown
from towline.events.deployment import Health
from towline_reconciler import status as states
from towline_reconciler.api.application import Application, ApplicationStatus
from towline_reconciler.cluster.client import Cluster, Json, Rejected
from towline_reconciler.health import MISSING, Verdict, waiting_reason, worst
from towline_reconciler.live import LiveObjects
from towline_reconciler.manifest import ObjectId
from towline_reconciler.report import Report, stamp

log = logging.getLogger(__name__)


class Standing:
    """Of one application. `look` whenever something may have changed."""

    def __init__(self, cluster: Cluster, live: LiveObjects, report: Report, application: Application) -> None:
        self._cluster = cluster
        self._live = live
        self._report = report
        self._application = application
        self._objects: tuple[ObjectId, ...] | None = None
        self._waiting_since: float | None = None
        self._told: tuple[str | None, Health, bool] | None = None
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"health {application.key}")

    def of(self, application: Application) -> None:
        self._application = application
        self._wake.set()

    def follow(self, objects: Collection[ObjectId], *, anew: bool) -> None:
        """Judge by these. `anew`: they were applied in a new revision, which has its own time to become healthy."""
        self._objects = tuple(objects)
        if anew:
            self._waiting_since = None
            self._told = None
        self._wake.set()

    def look(self) -> None:
        self._wake.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            patience = await self._judge() if self._objects is not None else None
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._wake.wait()
            self._wake.clear()

    async def _judge(self) -> float | None:
        """Report how the application stands; returns after how many seconds to look again without being woken."""
        records = [(id, self._live.record(id)) for id in self._objects or ()]
        verdict = worst((str(id), MISSING if record is None else record.verdict) for id, record in records)
        patience, failed = None, verdict.health is Health.DEGRADED
        if verdict.health in (Health.PROGRESSING, Health.MISSING):
            now = time.monotonic()
            self._waiting_since = self._waiting_since or now
            patience = self._waiting_since + self._application.spec.timeout_seconds - now
            if patience <= 0:
                patience, failed = None, True
                verdict = await self._given_up(verdict)
        else:
            self._waiting_since = None
        await self._say(verdict, failed=failed)
        return patience

    async def _say(self, verdict: Verdict, *, failed: bool) -> None:
        news = (self._report.status.revision, verdict.health, failed)
        images = self._report.status.images
        if verdict.health is Health.HEALTHY and news != self._told:
            images = await self._images()
            if self._report.status.revision != news[0]:
                return  # a newer revision was applied meanwhile; this verdict says nothing of it
        now, generation = stamp(), self._application.generation

        def after(status: ApplicationStatus) -> ApplicationStatus:
            status = states.with_health(
                status, verdict.health, verdict.reason, failed=failed, now=now, generation=generation
            )
            status = states.with_ready(status, now=now, generation=generation)
            return status.model_copy(update={"images": images})

        self._report.change(after)
        if news != self._told:
            self._told = news
            self._report.health(verdict.health, verdict.reason, images, failed=failed)

    async def _given_up(self, verdict: Verdict) -> Verdict:
        """Not healthy in time: with the first reason that a pod gives."""
        seconds = self._application.spec.timeout_seconds
        reason = f"{verdict.reason} after {seconds} s"
        for pod in await self._pods(unhealthy=True):
            if said := waiting_reason(pod):
                reason += f"; pod {pod['metadata']['name']}: {said}"
                break
        return Verdict(Health.DEGRADED if verdict.health is Health.PROGRESSING else verdict.health, reason)

    async def _images(self) -> tuple[str, ...]:
        """References by digest of what really runs."""
        found = set()
        for pod in await self._pods():
            if pod["metadata"].get("deletionTimestamp"):
                continue
            for each in (pod.get("status") or {}).get("containerStatuses") or ():
                reference = str(each.get("imageID") or "").rpartition("://")[2]
                if "@sha256:" in reference and "running" in (each.get("state") or {}):
                    found.add(reference)
        return tuple(sorted(found))

    async def _pods(self, *, unhealthy: bool = False) -> Sequence[Json]:
        """Of this application's workloads; empty where they may not be listed."""
        pods: list[Json] = []
        for id in self._objects or ():
            record = self._live.record(id)
            if record is None or record.selector is None:
                continue
            if unhealthy and record.verdict.health is Health.HEALTHY:
                continue
            selector = ",".join(f"{name}={value}" for name, value in record.selector.items())
            path = f"/api/v1/namespaces/{id.namespace}/pods"
            try:
                answer = await self._cluster.get(path, labelSelector=selector, limit="100")
            except (Rejected, DependencyDown) as error:
                log.info("pods were not listed", extra={"object": str(id), "error": str(error)})
                continue
            pods += answer.get("items") or ()
        return pods

"""Runs effects: a pool and a circuit breaker per resource, retries by pure policy, results back by the inbox.

Rules that must hold:

- An effect stays in its lane's outbox until its result was decided on, so a crash at any point runs it again
  under the same id; handlers are idempotent or conditional.
- A slow or dead resource holds up nobody who does not need it.
- Effects with the same `latest_wins` name replace each other while they wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from towline import killpoint
from towline.delivery.lane import OutboxItem
from towline.delivery.model import Effect, EffectContext, EffectFailed, Service
from towline.delivery.retry import Breaker, GiveUp, retry
from towline.errors import DependencyDown, redact
from towline.events.base import Event
from towline.telemetry import metrics, trace

log = logging.getLogger(__name__)
DEFAULT_POOL = 4

Finished = Callable[[str, OutboxItem, Event | None, str | None], Awaitable[None]]
"""(lane key, item, result, trace context): hand the result back; None when the effect has nothing to tell."""


@dataclass
class _Resource:
    slots: asyncio.Semaphore
    breaker: Breaker
    mended: asyncio.Event


class Effects:
    def __init__(self, service: Service[Any], finished: Finished) -> None:
        self._service = service
        self._finished = finished
        self._models: dict[str, type[Effect]] = {model.kind: model for model in service.effects}
        self._resources: defaultdict[str, _Resource] = defaultdict(self._new_resource)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[tuple[str, str], str] = {}
        self._pool_of: Mapping[str, int] = service.pools
        self._made_for = ""

    def start(self, lane_key: str, item: OutboxItem) -> None:
        """Begin an effect; one that already runs under this id is left alone."""
        if item.id in self._tasks:
            return
        effect = self._models[item.kind].model_validate(item.effect, extra="ignore")
        if effect.latest_wins is not None:
            slot = (lane_key, effect.latest_wins)
            replaced = self._waiting.get(slot)
            if replaced and (task := self._tasks.get(replaced)):
                task.cancel()
            self._waiting[slot] = item.id
        task = asyncio.create_task(self._run(lane_key, item, effect), name=item.id)
        self._tasks[item.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(item.id, None))

    @property
    def running(self) -> int:
        return len(self._tasks)

    async def stop(self) -> None:
        """Cancel what runs. It is still in the outbox and runs again after the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, lane_key: str, item: OutboxItem, effect: Effect) -> None:
        try:
            result, context = await self._until_done(lane_key, item, effect)
        except asyncio.CancelledError:
            if effect.latest_wins and self._waiting.get((lane_key, effect.latest_wins)) not in (None, item.id):
                await self._finished(lane_key, item, None, None)
            raise
        await self._finished(lane_key, item, result, context)

    async def _until_done(self, lane_key: str, item: OutboxItem, effect: Effect) -> tuple[Event | None, str | None]:
        resource = self._resource(effect.resource)
        tries = 0
        while True:
            await self._admitted(resource)
            tries += 1
            async with resource.slots:
                self._started(lane_key, item, effect)
                resource.breaker = resource.breaker.called()
                with trace.span(f"{self._service.name} {effect.kind}", item.traceparent) as span:
                    try:
                        handler = self._service.effects[type(effect)]
                        killpoint.passed(self._service.name, "started", effect.kind)
                        result = await handler(effect, EffectContext(item.id, lane_key, tries))
                        killpoint.passed(self._service.name, "done", effect.kind)
                    except Exception as error:
                        again = self._after_failure(resource, item, effect, tries, error)
                    else:
                        self._mend(resource)
                        metrics.effect(self._service.name, effect.kind, "done")
                        return result, span
            if isinstance(again, GiveUp):
                metrics.effect(self._service.name, effect.kind, "failed")
                failed = EffectFailed(effect=item.id, kind=effect.kind, reason=again.reason, payload=item.effect)
                return failed, item.traceparent
            await asyncio.sleep(again.after)

    def _after_failure(
        self, resource: _Resource, item: OutboxItem, effect: Effect, tries: int, error: Exception
    ) -> Any:
        if isinstance(error, DependencyDown):
            resource.breaker = resource.breaker.failed(monotonic())
        else:
            self._mend(resource)
        decision = retry(error, tries, item.id)
        reason = decision.reason if isinstance(decision, GiveUp) else f"again in {decision.after:.1f} s"
        known = isinstance(error, DependencyDown) or hasattr(error, "after") or isinstance(decision, GiveUp)
        log.log(
            logging.WARNING if known else logging.ERROR,
            "effect %s failed",
            effect.kind,
            extra={"effect": item.id, "tries": tries, "error": redact(str(error)), "next": redact(reason)},
            exc_info=error if not _expected(error) else None,
        )
        metrics.effect(self._service.name, effect.kind, "retried")
        return decision

    def _started(self, lane_key: str, item: OutboxItem, effect: Effect) -> None:
        """From here on a newer effect of the same name waits for this one instead of replacing it."""
        if effect.latest_wins and self._waiting.get((lane_key, effect.latest_wins)) == item.id:
            del self._waiting[(lane_key, effect.latest_wins)]

    async def _admitted(self, resource: _Resource) -> None:
        while not resource.breaker.may_call(now := monotonic()):
            resource.mended.clear()
            wait = max(0.05, resource.breaker.open_until - now)
            try:
                await asyncio.wait_for(resource.mended.wait(), timeout=wait)
            except TimeoutError:
                continue

    def _mend(self, resource: _Resource) -> None:
        resource.breaker = resource.breaker.succeeded()
        resource.mended.set()

    def _resource(self, name: str) -> _Resource:
        self._made_for = name
        return self._resources[name]

    def _new_resource(self) -> _Resource:
        name = self._made_for
        size = self._pool_of.get(name, self._pool_of.get(name.partition(" ")[0], DEFAULT_POOL))
        return _Resource(asyncio.Semaphore(size), Breaker(), asyncio.Event())


def _expected(error: Exception) -> bool:
    from towline.errors import TowlineError

    return isinstance(error, TowlineError)

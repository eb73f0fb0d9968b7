"""Runs effects: a pool and a circuit breaker per resource, retries by pure policy, results back by the inbox.

Rules that must hold:

- An effect stays in its lane's outbox until its result was decided on, so a crash at any point runs it again
  under the same id; handlers are idempotent or conditional.
- A slow or dead resource holds up nobody who does not need it.
- What follows an effect at once is traced below it. What comes long after it was asked for, or after its asker is gone,
  is a span beside it that links to it: a trace that is read tomorrow shows no hours of nothing in one bar.
- Of effects with the same `latest_wins` name in a lane one runs at a time; while it runs or waits for its next try,
  only the newest of the others waits behind it, and one that would only try again gives way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from towline import killpoint
from towline.bus.port import LostAssignment
from towline.delivery.lane import OutboxItem
from towline.delivery.model import Effect, EffectContext, EffectFailed, Service
from towline.delivery.resource import Resource, Resources, kind_of
from towline.delivery.retry import OPEN_AFTER, Again, GiveUp, retry
from towline.errors import DependencyDown, TowlineError, redact
from towline.events.base import Event
from towline.telemetry import log as logs
from towline.telemetry import metrics, trace
from towline.telemetry.metrics import Use

log = logging.getLogger(__name__)
_STOPS_WITHIN = 5.0
REASON_CHARS = 2000
DELAY_CHARS = 400
LONG_SECONDS = 60.0
"""An effect, or a wait for its next try, of this length is long: what comes of it is linked to, not nested."""

Finished = Callable[[str, OutboxItem, Event | None, str | None], Coroutine[Any, Any, None]]
"""(lane key, item, result, trace context): hand the result back; None when the effect has nothing to tell."""
Admit = Callable[[str], Awaitable[None]]
"""Returns when the effects of this lane key may begin; raises LostAssignment when they are another member's."""
Ended = tuple[Event | None, str | None]


async def _admit_all(_: str) -> None:
    """For lanes that nobody else can have."""


@dataclass(eq=False, slots=True)
class _Run:
    """One effect on its way; `successor` waits for it under the same latest-wins name."""

    lane_key: str
    item: OutboxItem
    effect: Effect
    resumed: bool
    """Asked for by a process that is gone, or by a member that gave the lane away."""
    began: float
    calling: bool = False
    task: asyncio.Task[None] | None = None
    successor: _Run | None = None
    superseded: asyncio.Event = field(default_factory=asyncio.Event)


class Effects:
    def __init__(self, service: Service[Any], finished: Finished, admit: Admit = _admit_all) -> None:
        self._service = service
        self._finished = finished
        self._admit = admit
        self._models: dict[str, type[Effect]] = {model.kind: model for model in service.effects}
        self._resources = Resources(service.pools)
        self._runs: dict[str, _Run] = {}
        self._heads: dict[tuple[str, str], _Run] = {}
        """Lane and latest-wins name → the one that runs or tries."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._delays: dict[str, str] = {}
        """Effect that was tried in vain for some time → why."""
        self._stopped = False

    @property
    def running(self) -> int:
        return len(self._runs)

    @property
    def use(self) -> dict[str, Use]:
        """Kind of resource → effects whose handler runs, effects that wait, breakers that are not closed."""
        away = self._resources.away()
        kinds = Counter((kind_of(run.effect.resource), run.calling) for run in self._runs.values())
        named = {kind for kind, _ in kinds} | away.keys()
        return {kind: Use(kinds[kind, True], kinds[kind, False], away[kind]) for kind in named}

    @property
    def delays(self) -> list[str]:
        """Why effects are tried again and again, each reason once: what an operator can mend."""
        return sorted(set(self._delays.values()))

    def start(self, lane_key: str, item: OutboxItem, *, resumed: bool = False) -> None:
        """Begin an effect, or begin it again (`resumed`); one that already runs under this id is left alone.

        After `stop` it stays in the outbox.
        """
        if item.id in self._runs or self._stopped:
            return
        try:
            effect = self._models[item.kind].model_validate(item.effect)
        except (KeyError, ValidationError) as error:
            log.exception("an effect cannot be run by this version", extra={"effect": item.id, "kind": item.kind})
            reason = f"this version cannot run an effect {item.kind}: {type(error).__name__}"
            self._spawn(self._finished(lane_key, item, failed(item, reason), item.traceparent))
            return
        run = _Run(lane_key, item, effect, resumed, asyncio.get_running_loop().time())
        self._runs[item.id] = run
        if effect.latest_wins is None:
            self._begin(run)
            return
        head = self._heads.setdefault((lane_key, effect.latest_wins), run)
        if head is run:
            self._begin(run)
            return
        if head.successor is not None:
            del self._runs[head.successor.item.id]
            self._spawn(self._finished(lane_key, head.successor.item, None, None))
        head.successor = run
        head.superseded.set()

    def drop(self, keys: Collection[str]) -> list[asyncio.Task[None]]:
        """Stop what was begun for these lanes: their next owner begins it again, and may be this one, at once.

        Returns what is still ending.
        """
        ending = []
        for run in [run for run in self._runs.values() if run.lane_key in keys]:
            run.successor = None
            self._let_go(run)
            if run.task is not None:
                run.task.cancel()
                ending.append(run.task)
        return ending

    async def stop(self, within: float = _STOPS_WITHIN) -> None:
        """Cancel what runs. It is still in the outbox and runs again after the next start."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, deaf = await asyncio.wait(self._tasks, timeout=within)
            if deaf:
                log.warning("effects do not end when told to", extra={"effects": [task.get_name() for task in deaf]})

    def _begin(self, run: _Run) -> None:
        run.task = self._spawn(self._run(run), name=run.item.id)
        run.task.add_done_callback(lambda _: self._ended(run))

    def _ended(self, run: _Run) -> None:
        self._let_go(run)
        if run.effect.latest_wins is not None and run.successor is not None and not self._stopped:
            self._heads[run.lane_key, run.effect.latest_wins] = run.successor
            self._begin(run.successor)

    def _let_go(self, run: _Run) -> None:
        """From here the effect may begin anew, also while this run of it still takes its time to end."""
        if self._runs.get(run.item.id) is run:
            del self._runs[run.item.id]
            self._delays.pop(run.item.id, None)
        slot = (run.lane_key, run.effect.latest_wins or "")
        if self._heads.get(slot) is run:
            del self._heads[slot]

    def _spawn(self, work: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an effect's end could not be told", exc_info=error, extra={"effect": task.get_name()})

    # -- one effect -------------------------------------------------------------------------------------------------

    async def _run(self, run: _Run) -> None:
        item = run.item
        trace_id = trace.trace_id_in(item.traceparent, change=item.change)
        with logs.bound(
            service=self._service.name, event=item.cause, change=item.change, trace=trace_id, effect=item.id
        ):
            try:
                result, context = await self._until_done(run)
            except LostAssignment:  # its owner begins it
                return
            await self._finished(run.lane_key, item, result, context)

    async def _until_done(self, run: _Run) -> Ended:
        name, kind, tries = self._service.name, run.item.kind, 0
        while not run.superseded.is_set():
            with self._resources.using(run.effect.resource) as resource:
                async with resource.admitted():
                    await self._admit(run.lane_key)
                    if run.superseded.is_set():
                        break
                    tries += 1
                    outcome = await self._try(run, tries, resource)
                if isinstance(outcome, Again):
                    metrics.effect_retry(name, kind)
                    await self._pause(run, outcome.after)
                    continue
            if isinstance(outcome, GiveUp):
                metrics.effect(name, kind, "failed")
                return failed(run.item, outcome.reason), run.item.traceparent
            metrics.effect(name, kind, "done")
            return outcome
        metrics.effect(name, kind, "superseded")
        return None, None

    @staticmethod
    async def _pause(run: _Run, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await run.superseded.wait()

    async def _try(self, run: _Run, tries: int, resource: Resource) -> Ended | Again | GiveUp:
        name, kind, item, now = self._service.name, run.item.kind, run.item, asyncio.get_running_loop().time
        began, linked = now(), run.resumed or now() - run.began >= LONG_SECONDS
        with (
            trace.span(f"{name} {kind}", item.traceparent, change=item.change, linked=linked) as span,
            resource.called(),
        ):
            run.calling = True
            try:
                killpoint.passed(name, "started", kind)
                handler = self._service.effects[type(run.effect)]
                result = await handler(run.effect, EffectContext(item.id, run.lane_key, tries))
                killpoint.passed(name, "done", kind)
            except Exception as error:
                if isinstance(error, DependencyDown):
                    resource.failed()
                else:
                    resource.answered()
                decision = _decided(item, tries, error)
                long = tries >= OPEN_AFTER or resource.is_away
                if isinstance(decision, Again) and long and item.id in self._runs:
                    self._delays[item.id] = redact(str(error))[:DELAY_CHARS]
                return decision
            finally:
                run.calling = False
                metrics.effect_tried(name, kind, now() - began)
            resource.answered()
        if result is not None and now() - began >= LONG_SECONDS:
            return result, trace.publish(type(result).__name__, span, change=item.change, linked=True)
        return result, span


def _decided(item: OutboxItem, tries: int, error: Exception) -> Again | GiveUp:
    decision = retry(error, tries, item.id)
    following = decision.reason if isinstance(decision, GiveUp) else f"again in {decision.after:.1f} s"
    expected = isinstance(error, TowlineError)
    log.log(
        logging.WARNING if expected else logging.ERROR,
        "effect %s failed",
        item.kind,
        extra={"tries": tries, "error": redact(str(error)), "next": redact(following)},
        exc_info=None if expected else error,
    )
    return decision


def failed(item: OutboxItem, reason: str) -> EffectFailed:
    """How the lane hears that nothing came of it; always with what was asked for, or the lane could not tell whose."""
    return EffectFailed(effect=item.id, kind=item.kind, reason=reason[:REASON_CHARS], payload=item.effect)

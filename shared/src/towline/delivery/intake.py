"""From a record to a finished one: a serial queue per key, and the turn with everything it sets going.

Rules that must hold:

- Records of one key are worked off one after the other, in the order read; keys do not wait for each other.
- A turn's rows are durable before anything of it leaves, and what it publishes is out before the next turn of the
  lane begins; after a crash the outbox leaves again under the same ids.
- A record that changes nothing is finished where it is read; whatever must be waited for gets a task of its lane.
- A record is finished when its turn is applied, it changed nothing, or its bytes are among the dead letters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Generic

from towline import flow, killpoint
from towline.bus.port import Bus, LostAssignment, Record
from towline.delivery import codec
from towline.delivery.commits import Commits
from towline.delivery.dead import DeadLetters
from towline.delivery.effects import Effects
from towline.delivery.lane import Lane, OutboxItem
from towline.delivery.lanes import Lanes
from towline.delivery.letters import Kind
from towline.delivery.model import (
    Effect,
    EffectFailed,
    Envelope,
    Forward,
    ReplayRequested,
    S,
    Service,
    TimerFired,
)
from towline.delivery.outlast import outlast
from towline.delivery.progress import Progress
from towline.delivery.timers import Timers
from towline.delivery.turn import Arrival, Turn, forwarded, handled, take
from towline.errors import Undecodable
from towline.events.base import Event
from towline.telemetry import log as logs
from towline.telemetry import metrics, trace

log = logging.getLogger(__name__)

Rest = Callable[[], Awaitable[None]]
"""What is left to do with a record, and must be waited for."""


_ENDS_BY_ITSELF = 0.8
"""Share of the time to end that a turn has before it is cancelled."""
_ENDS_CANCELLED = 0.5
"""Seconds that a cancelled one has at least."""


class Intake(Generic[S]):
    def __init__(
        self,
        service: Service[S],
        bus: Bus,
        lanes: Lanes[S],
        effects: Effects,
        timers: Timers,
        commits: Commits,
        now: Callable[[], datetime],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._service = service
        self._name = service.name
        self._inbox = flow.inbox_of(service.name)
        self._bus = bus
        self._lanes = lanes
        self._effects = effects
        self._timers = timers
        self._commits = commits
        self._dead = DeadLetters(service.name, bus, lanes, self._handle)
        self._now = now
        self._fail = fail
        self._queues: dict[str, deque[tuple[Record, Progress]]] = {}
        """Key with a record in work → the records behind it."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        handles: set[type[Event]] = {
            *flow.consumed_by(service.name),
            *service.inbox,
            EffectFailed,
            TimerFired,
            ReplayRequested,
        }
        self._types = frozenset(event.type for event in handles)

    @property
    def busy(self) -> Collection[str]:
        """Keys with a record in work."""
        return self._queues.keys()

    def accept(self, record: Record) -> None:
        progress = self._commits.progress(record.position)
        progress.started(record.offset, asyncio.get_running_loop().time())
        foreign = record.topic != self._inbox and codec.type_of(record) not in self._types
        if foreign and "ce_type" in record.headers:
            self._commits.finished(record.position, progress, record.offset)
            return
        queue = self._queues.get(record.key)
        if queue is not None:
            queue.append((record, progress))
            return
        rest = self._begin(record)
        if rest is None:
            self._commits.finished(record.position, progress, record.offset)
            return
        self._queues[record.key] = deque()
        task = asyncio.create_task(self._work_off(record, progress, rest))
        self._tasks[record.key] = task
        task.add_done_callback(self._ended)

    async def take_up(self, lane: Lane[S]) -> None:
        """Go on with a lane as it was loaded: timers are set, waiting events leave, effects begin again."""
        self._timers.set(lane.key, lane.timers)
        await self._send(lane.key, [item for item in lane.outbox.values() if item.kind == "event"])
        for item in lane.outbox.values():
            if item.kind != "event":
                self._effects.start(lane.key, item, resumed=True)

    async def leave(self, partitions: Collection[int], seconds: float) -> None:
        """Let the turns under way in these partitions end, and begin no other.

        One that does not end is nobody's any more: what comes of its key when the partition is back must not wait
        behind it, and end with it.
        """
        leaving: dict[str, asyncio.Task[None]] = {}
        for key, queue in self._queues.items():
            if self._lanes.partition_of(key) in partitions:
                queue.clear()
                leaving[key] = self._tasks[key]
        await _end(list(leaving.values()), seconds)
        for key, task in leaving.items():
            if self._tasks.get(key) is task:
                log.warning("a turn does not end when told to", extra={"service": self._name, "key": key})
                del self._queues[key], self._tasks[key]

    async def drain(self, seconds: float) -> None:
        for queue in self._queues.values():
            queue.clear()
        await _end(list(self._tasks.values()), seconds)

    # -- one key ------------------------------------------------------------------------------------------------

    async def _work_off(self, record: Record, progress: Progress, rest: Rest | None) -> None:
        key, queue = record.key, self._queues[record.key]
        try:
            while True:
                if rest is not None:
                    await rest()
                self._commits.finished(record.position, progress, record.offset)
                if not queue:
                    return
                record, progress = queue.popleft()
                rest = self._begin(record)
        except LostAssignment as error:  # the lane is another member's, and these records come to it
            log.info("a turn is left to another member", extra={"key": key, "because": str(error)})
        finally:
            if self._queues.get(key) is queue:
                del self._queues[key], self._tasks[key]

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _handle(self, record: Record) -> None:
        rest = self._begin(record)
        if rest is not None:
            await rest()

    def _begin(self, record: Record) -> Rest | None:
        """Read the record and decide on it; what is left to be waited for, None when nothing is."""
        began = time.perf_counter()
        try:
            envelope = codec.decode(record)
        except Undecodable as error:
            return partial(self._dead.bury, record, str(error), Kind.UNDECODABLE)
        event = envelope.event
        if (reason := self._misplaced(record, event)) is not None:
            return partial(self._dead.bury, record, reason, Kind.UNDECODABLE)
        change = getattr(event, "change", None)
        about = logs.bound(service=self._name, event=envelope.id, change=change, traceparent=envelope.traceparent)
        with about:
            killpoint.passed(self._name, "received", type(event).__name__)
            rest = self._rest(record, envelope, change)
        if rest is None:
            metrics.event(self._name, type(event).type, time.perf_counter() - began)
            return None
        return partial(self._finish, rest, about, type(event).type, began)

    def _misplaced(self, record: Record, event: Event) -> str | None:
        """Why this is an event, and none for here."""
        if event.type not in self._types:
            return f"this version of {self._name} takes no event of type {event.type!r}"
        if record.partition != self._lanes.partition_of(record.key):  # the lane may be another member's
            return "the record stands in a partition where its key does not belong"
        return None

    def _rest(self, record: Record, envelope: Envelope, change: str | None) -> Rest | None:
        if isinstance(envelope.event, ReplayRequested):
            asked = record.topic == self._inbox and not self._dead.is_replayed(record)
            return partial(self._dead.replay, record, envelope, envelope.event) if asked else None
        forward = self._service.forwards.get(type(envelope.event)) if record.topic != self._inbox else None
        if forward is not None:
            return partial(self._forward, record, envelope, forward)
        return self._decide(record, envelope, change)

    async def _finish(self, rest: Rest, about: logs.bound, event_type: str, began: float) -> None:
        with about:
            await rest()
        metrics.event(self._name, event_type, time.perf_counter() - began)

    async def _forward(self, record: Record, envelope: Envelope, forward: Forward) -> None:
        if self._dead.is_replayed(record):  # its copies are known by their ids: later ones may have been handled
            envelope = replace(envelope, lane=None, sequence=None)
        try:
            copies = forwarded(self._name, envelope, record.topic, forward(envelope))
            records = [codec.encode(copy, self._inbox) for copy in copies]
            if records:
                await outlast(self._name, lambda: self._bus.publish(records))
        except Exception as error:
            log.exception("an event cannot be forwarded", extra={"key": record.key})
            reason = f"{type(error).__name__} while forwarding {type(envelope.event).__name__}"
            await self._dead.bury(record, reason, Kind.UNFORWARDED)

    def _decide(self, record: Record, envelope: Envelope, change: str | None) -> Rest | None:
        lane, replayed = self._lanes.get(envelope.key), self._dead.is_replayed(record)
        at = Arrival(record.topic, record.offset + 1, replayed)
        if lane.parked is not None and not replayed:
            if handled(lane, envelope, at):  # before the key was parked: it came again
                return None
            return partial(self._dead.bury, record, f"the key is parked: {lane.parked}", Kind.PARKED)
        span = trace.begin(f"{self._name} {type(envelope.event).__name__}", envelope.traceparent, change=change)
        try:
            turn = take(self._service, lane, envelope, at, self._now(), _leaves(span))
        except Exception as error:
            span.end()
            return partial(self._dead.park, record, error)
        if turn is None:
            span.end()
            return None
        return partial(self._apply, record, turn, span)

    async def _apply(self, record: Record, turn: Turn[S], span: trace.Span) -> None:
        try:
            try:
                await self._lanes.store(turn)
            except LostAssignment:
                raise
            except Exception as error:
                await self._dead.park(record, error)
                return
            await self._set_going(turn)
        finally:
            span.end()

    async def _set_going(self, turn: Turn[S]) -> None:
        key = turn.lane.key
        killpoint.passed(self._name, "stored")
        self._timers.set(key, turn.lane.timers)
        await self._send(key, [item for item in turn.leaving if item.kind == "event"])
        for item in turn.leaving:
            if item.kind != "event":
                self._effects.start(key, item)

    async def _send(self, key: str, items: Sequence[OutboxItem]) -> None:
        if not items:
            return
        records = [item.record() for item in items]

        async def send() -> None:
            await self._lanes.sure(key)
            await self._bus.publish(records)

        await outlast(self._name, send)
        for item in items:
            killpoint.passed(self._name, "published", item.headers.get("ce_type", ""))
            self._lanes.done(key, item.id)


def _leaves(span: trace.Span) -> Callable[[Event | Effect], str | None]:
    def context(leaving: Event | Effect) -> str | None:
        change = getattr(leaving, "change", None)
        return trace.publish(type(leaving).__name__, span.context, change=change)

    return context


async def _end(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    if not tasks:
        return
    await asyncio.wait(tasks, timeout=seconds * _ENDS_BY_ITSELF)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=max(_ENDS_CANCELLED, seconds * (1 - _ENDS_BY_ITSELF)))

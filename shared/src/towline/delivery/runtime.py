"""Runs one service on the bus: fetch → lane → turn → state batch → publish → effects → commit.

What it owns: a serial lane per key, the outbox, timers, the dead letters and the commits. Rules that must hold:

- The state of a partition is loaded to its end before the first event of it is decided.
- A turn's rows are durable before anything of it leaves; after a crash the outbox leaves again under the same ids.
- An offset is committed only behind the contiguous prefix of finished records.
- Only loss of the bus stops consumption; an event that cannot be read or decided goes to the dead letters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from towline import flow, killpoint
from towline.bus.partition import partition_of
from towline.bus.port import Assignment, Bus, BusDown, Consumer, LostAssignment, NewRecord, Record, TopicPartition
from towline.delivery import codec
from towline.delivery.effects import Effects
from towline.delivery.lane import OUTBOX, Lane, Loader, OutboxItem, Rows, records_of
from towline.delivery.model import Effect, EffectFailed, Envelope, S, Service, TimerFired
from towline.delivery.progress import Progress
from towline.delivery.retry import BUG_TRIES, backoff
from towline.delivery.timers import Timers
from towline.delivery.turn import Arrival, Turn, forwarded, take
from towline.errors import Undecodable
from towline.events.base import Event
from towline.telemetry import metrics, trace

log = logging.getLogger(__name__)
T = TypeVar("T")
MOST_OPEN = 1000
"""Records of one partition that may be in work before it is paused."""
COMMIT_EVERY = 1.0
DRAIN_SECONDS = 10.0

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Runtime(Generic[S]):
    """One member of a service's group. `run` returns after `stop` was called and everything drained."""

    def __init__(
        self,
        service: Service[S],
        bus: Bus,
        *,
        partitions: int = flow.PARTITIONS,
        member: str = "0",
        now: Clock = utc_now,
    ) -> None:
        self.service = service
        self._bus = bus
        self._partitions = partitions
        self._member = member
        self._now = now
        self._lanes: dict[str, Lane[S]] = {}
        self._queues: dict[str, deque[Record]] = {}
        self._lane_tasks: set[asyncio.Task[None]] = set()
        self._progress: dict[TopicPartition, Progress] = {}
        self._paused: set[TopicPartition] = set()
        self._stale_rows: dict[str, Rows] = {}
        handles: set[type[Event]] = {*flow.consumed_by(service.name), *service.inbox, EffectFailed, TimerFired}
        self._types = frozenset(event.type for event in handles)
        self._effects = Effects(service, self._effect_finished)
        self._timers = Timers(self._ring, now)
        self._stopping = asyncio.Event()
        self.started = asyncio.Event()
        """Set once the state of the first assignment is loaded."""
        self._consumer: Consumer | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        topics = (*flow.topics_consumed_by(self.service.name), flow.inbox_of(self.service.name))
        consumer = await self._until_bus_answers(
            lambda: self._bus.consumer(self.service.name, topics, member=self._member, on_assigned=self._assigned)
        )
        self._consumer = consumer
        background = [asyncio.create_task(self._commit_regularly(consumer)), asyncio.create_task(self._timers.run())]
        sources = [asyncio.create_task(self._run_source(source)) for source in self.service.sources]
        try:
            await self._consume(consumer)
        finally:
            await self._drain(consumer, background, sources)

    def stop(self) -> None:
        """Begin to drain; `run` returns when it is done."""
        self._stopping.set()

    async def _consume(self, consumer: Consumer) -> None:
        while not self._stopping.is_set():
            try:
                records = await _first(consumer.fetch(timeout=1.0), self._stopping)
            except LostAssignment:
                log.warning("assignment lost; rejoining", extra={"service": self.service.name})
                continue
            except BusDown as error:
                log.warning("the bus does not answer", extra={"service": self.service.name, "error": str(error)})
                await _first(asyncio.sleep(1.0), self._stopping)
                continue
            for record in records or ():
                self._accept(record)
            self._apply_backpressure(consumer)

    async def _drain(
        self, consumer: Consumer, background: Sequence[asyncio.Task[None]], sources: Sequence[asyncio.Task[None]]
    ) -> None:
        """Sources first, so that nothing new comes in; lanes finish their turn; effects run again after a start."""
        await asyncio.wait(sources, timeout=DRAIN_SECONDS / 2) if sources else None
        for task in (*sources, *background):
            task.cancel()
        await asyncio.gather(*sources, *background, return_exceptions=True)
        await self._effects.stop()
        if self._lane_tasks:
            await asyncio.wait(self._lane_tasks, timeout=DRAIN_SECONDS / 2)
        for lane_task in list(self._lane_tasks):
            lane_task.cancel()
        await asyncio.gather(*self._lane_tasks, return_exceptions=True)
        try:
            await self._flush_stale_rows()
            await self._commit(consumer)
        except BusDown as error:
            log.warning("drained without a last commit", extra={"service": self.service.name, "error": str(error)})
        await consumer.close()
        if self.service.close is not None:
            await self.service.close()

    async def _run_source(self, source: Any) -> None:
        """A source that ends by a bug is started again, with back-off: without it the service would be deaf."""
        tries = 0
        while not self._stopping.is_set():
            try:
                await source(self, self._stopping)
                return
            except Exception:
                tries += 1
                log.exception("a source ended by a bug", extra={"service": self.service.name, "tries": tries})
                await _first(asyncio.sleep(backoff(tries, self.service.name)), self._stopping)

    # -- the way in ---------------------------------------------------------------------------------------------

    async def emit(self, key: str, id_basis: str, event: Event, *, traceparent: str | None = None) -> str:
        """`Source.emit`: durable in the inbox on return. Raises BusDown."""
        id = codec.derive(self.service.name, id_basis, event, 0)
        await self._to_inbox(
            Envelope(event, id, codec.source_of(self.service.name), self._now(), key, None, traceparent)
        )
        return id

    async def _to_inbox(self, envelope: Envelope) -> None:
        await self._bus.publish([codec.encode(envelope, flow.inbox_of(self.service.name))])

    async def _ring(self, lane_key: str, name: str, due: datetime) -> None:
        fired = TimerFired(name=name, due=due)
        await self._until_bus_answers(lambda: self.emit(lane_key, f"{lane_key} {name} {due.isoformat()}", fired))

    async def _effect_finished(
        self, lane_key: str, item: OutboxItem, result: Event | None, context: str | None
    ) -> None:
        if result is None:
            self._forget(lane_key, item.id)
            return
        id = codec.derive(self.service.name, item.id, result, 0)
        source = codec.source_of(self.service.name)
        envelope = Envelope(result, id, source, self._now(), lane_key, item.id, context)
        await self._until_bus_answers(lambda: self._to_inbox(envelope))
        killpoint.passed(self.service.name, "told", item.kind)

    # -- lanes --------------------------------------------------------------------------------------------------

    async def _assigned(self, gained: Assignment) -> None:
        for partition in sorted({at.partition for at in gained}):
            await self._load(partition)
        self.started.set()

    async def _load(self, partition: int) -> None:
        loader = Loader(self.service.state)
        at = TopicPartition(flow.state_of(self.service.name), partition)
        end, start = await self._bus.end(at), 0
        while start < end:
            records = await self._bus.read(at, start=start)
            if not records:
                break
            for record in records:
                loader.feed(record.key, record.value)
            start = records[-1].offset + 1
        for key, lane in loader.lanes().items():
            self._lanes[key] = lane
            self._timers.set(key, lane.timers)
            await self._send(key, [item for item in lane.outbox.values() if item.kind == "event"])
            for item in self._lanes[key].outbox.values():
                self._effects.start(key, item)

    def _accept(self, record: Record) -> None:
        progress = self._progress.setdefault(record.position, Progress())
        progress.started(record.offset)
        if codec.type_of(record) not in self._types and "ce_type" in record.headers:
            progress.finished(record.offset)
            return
        queue = self._queues.get(record.key)
        if queue is not None:
            queue.append(record)
            return
        self._queues[record.key] = deque((record,))
        task = asyncio.create_task(self._work_off(record.key))
        self._lane_tasks.add(task)
        task.add_done_callback(self._lane_tasks.discard)

    async def _work_off(self, key: str) -> None:
        queue = self._queues[key]
        try:
            while queue:
                record = queue[0]
                await self._handle(record)
                self._progress[record.position].finished(record.offset)
                queue.popleft()
        finally:
            if not queue:
                del self._queues[key]

    async def _handle(self, record: Record) -> None:
        started = time.perf_counter()
        try:
            envelope = codec.decode(record)
            killpoint.passed(self.service.name, "received", type(envelope.event).__name__)
        except Undecodable as error:
            await self._bury(record, str(error))
            return
        forward = self.service.forwards.get(type(envelope.event))
        if forward is not None and record.topic != flow.inbox_of(self.service.name):
            for key, event in forward(envelope):
                copy = forwarded(self.service.name, envelope, key, event)
                await self._until_bus_answers(lambda copy=copy: self._to_inbox(copy))  # type: ignore[misc]
        else:
            await self._decide(record, envelope)
        metrics.event(self.service.name, type(envelope.event).type, time.perf_counter() - started)

    async def _decide(self, record: Record, envelope: Envelope) -> None:
        key = envelope.key
        lane = self._lanes.get(key) or Lane(key, self.service.state())
        if lane.parked is not None:
            await self._bury(record, f"the key is parked: {lane.parked}")
            return
        change = getattr(envelope.event, "change", None)
        with trace.span(
            f"{self.service.name} {type(envelope.event).__name__}", envelope.traceparent, change=change
        ) as span:
            try:
                turn = take(
                    self.service, lane, envelope, Arrival(record.topic, record.offset + 1), self._now(), _leaves(span)
                )
            except Exception as error:
                log.exception("decide failed", extra={"service": self.service.name, "event": envelope.id, "key": key})
                await self._park(lane, record, error)
                return
            if turn is not None:
                await self._apply(turn)

    async def _apply(self, turn: Turn[S]) -> None:
        key = turn.lane.key
        rows = {**self._stale_rows.pop(key, {}), **turn.rows}
        await self._store(key, rows)
        killpoint.passed(self.service.name, "stored")
        # An effect with nothing to tell may have ended while the turn was decided or stored.
        ended = [row for row, value in {**rows, **self._stale_rows.get(key, {})}.items() if value is None]
        self._lanes[key] = turn.lane.done(row.removeprefix(OUTBOX) for row in ended)
        self._timers.set(key, turn.lane.timers)
        await self._send(key, [item for item in turn.leaving if item.kind == "event"])
        for item in turn.leaving:
            if item.kind != "event":
                self._effects.start(key, item)

    async def _store(self, key: str, rows: Rows) -> None:
        partition = partition_of(key, self._partitions)
        at = TopicPartition(flow.state_of(self.service.name), partition)
        records = records_of(at.topic, partition, key, rows)
        if records:
            await self._until_bus_answers(lambda: self._bus.append(at, records))

    async def _send(self, key: str, items: Sequence[OutboxItem]) -> None:
        if not items:
            return
        await self._until_bus_answers(lambda: self._bus.publish([item.record() for item in items]))
        for item in items:
            killpoint.passed(self.service.name, "published", item.headers.get("ce_type", ""))
        for item in items:
            self._forget(key, item.id)

    def _forget(self, key: str, id: str) -> None:
        """An outbox row is done. Its tombstone goes with the lane's next batch: losing it only repeats a send."""
        self._lanes[key] = self._lanes[key].done((id,))
        self._stale_rows.setdefault(key, {})[OUTBOX + id] = None

    # -- failures -----------------------------------------------------------------------------------------------

    async def _park(self, lane: Lane[S], record: Record, error: Exception) -> None:
        reason = f"{type(error).__name__} while deciding on {codec.type_of(record)}"
        await self._store(lane.key, {"parked": reason.encode()})
        self._lanes[lane.key] = replace(lane, parked=reason)
        await self._bury(record, reason)

    async def _bury(self, record: Record, reason: str) -> None:
        """Raw bytes and reason to the dead letters, before the offset may advance."""
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        headers = {**record.headers, "tl_reason": reason.encode(), "tl_origin": origin.encode()}
        dead = NewRecord(flow.dead_of(self.service.name), record.key, record.value, headers)
        await self._until_bus_answers(lambda: self._bus.publish([dead]))
        metrics.dead_letter(self.service.name)
        log.error("dead letter", extra={"service": self.service.name, "origin": origin, "reason": reason})

    async def _until_bus_answers(self, call: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        while True:
            try:
                return await call()
            except BusDown as error:
                tries += 1
                if tries == 1:
                    log.warning("the bus does not answer", extra={"service": self.service.name, "error": str(error)})
                await asyncio.sleep(backoff(min(tries, BUG_TRIES), self.service.name))

    # -- commits ------------------------------------------------------------------------------------------------

    def _apply_backpressure(self, consumer: Consumer) -> None:
        for at, progress in self._progress.items():
            if progress.gap >= MOST_OPEN and at not in self._paused:
                consumer.pause(at)
                self._paused.add(at)
            elif progress.gap < MOST_OPEN // 2 and at in self._paused:
                consumer.resume(at)
                self._paused.discard(at)
        metrics.gap(self.service.name, sum(progress.gap for progress in self._progress.values()))

    async def _commit_regularly(self, consumer: Consumer) -> None:
        while True:
            await asyncio.sleep(COMMIT_EVERY)
            try:
                await self._flush_stale_rows()
                await self._commit(consumer)
            except BusDown as error:
                log.warning("commit failed", extra={"service": self.service.name, "error": str(error)})

    async def _commit(self, consumer: Consumer) -> None:
        ready = {at: offset for at, p in self._progress.items() if (offset := p.to_commit()) is not None}
        if ready:
            await consumer.commit(ready)
            killpoint.passed(self.service.name, "committed")
            for at, offset in ready.items():
                self._progress[at].committed(offset)

    async def _flush_stale_rows(self) -> None:
        for key in [key for key in self._stale_rows if key not in self._queues]:
            rows = self._stale_rows.pop(key)
            await self._store(key, rows)


def _leaves(span: str) -> Callable[[Event | Effect], str | None]:
    def context(leaving: Event | Effect) -> str | None:
        change = getattr(leaving, "change", None)
        return trace.publish(type(leaving).__name__, span, change=change)

    return context


async def _first(work: Awaitable[T], stopping: asyncio.Event) -> T | None:
    """The result of `work`, or None when the stop comes first; `work` is then cancelled."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, stop):
            each.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)

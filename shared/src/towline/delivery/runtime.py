"""Runs one service on the bus: fetch → lane → turn → state batch → publish → effects → commit.

What it owns: membership of the group, the parts' life and the sources. Rules that must hold:

- The state of a partition is loaded to its end, and what waited in its outboxes is published, before the first event
  of it is decided; so what a lane says is always read in the order decided.
- Only loss of the bus stops consumption; an event that cannot be read or decided goes to the dead letters.
- A part that ends by a bug ends the service, loudly: a half-working one would be deaf and look healthy.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic

from towline import flow, killpoint
from towline.bus.port import Assignment, Bus, BusDown, Consumer, LostAssignment, TopicPartition
from towline.delivery import codec
from towline.delivery.commits import Commits
from towline.delivery.effects import Effects, failed
from towline.delivery.intake import Intake
from towline.delivery.lane import OutboxItem
from towline.delivery.lanes import FORGOTTEN_STAYS, Lanes
from towline.delivery.model import Envelope, S, Service, SourceRun, TimerFired
from towline.delivery.outlast import outlast
from towline.delivery.retry import backoff
from towline.delivery.timers import Timers
from towline.errors import Permanent, Retryable
from towline.events.base import Event

log = logging.getLogger(__name__)
FETCH_SECONDS = 5.0
"""How long a fetch waits for a record: a wake-up each, and how soon a silent cluster is noticed."""
COMMIT_EVERY = 1.0
SWEEP_EVERY = 60.0
PAUSE_SECONDS = 1.0
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
        forgotten_stays: float = FORGOTTEN_STAYS,
    ) -> None:
        self.service = service
        self._bus = bus
        self._member = member
        self._now = now
        self._lanes = Lanes(service, bus, partitions, forgotten_stays=forgotten_stays)
        self._effects = Effects(service, self._effect_finished)
        self._timers = Timers(self._ring, now)
        self._commits = Commits()
        self._intake = Intake(service, bus, self._lanes, self._effects, self._timers, self._commits, now, self._fail)
        self._consumer: Consumer | None = None
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self.started = asyncio.Event()
        """Set once the state of the first assignment is loaded."""

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        name = self.service.name
        topics = (*flow.topics_consumed_by(name), flow.inbox_of(name))
        consumer = await outlast(
            name,
            lambda: self._bus.consumer(
                name, topics, member=self._member, on_assigned=self._assigned, on_revoked=self._revoked
            ),
        )
        self._consumer = consumer
        self._commits.follow(consumer)
        parts = [self._part(self._consume(consumer)), self._part(self._commit_regularly()), self._part(self._ringing())]
        sources = [self._part(self._run_source(source)) for source in self.service.sources]
        try:
            await self._stopping.wait()
        finally:
            await self._drain(consumer, parts, sources)
        if self._failure is not None:
            raise self._failure

    @property
    def delays(self) -> list[str]:
        """Why effects are tried again and again."""
        return self._effects.delays

    def stop(self) -> None:
        """Begin to drain; `run` returns when it is done."""
        self._stopping.set()

    def _fail(self, error: BaseException) -> None:
        """End the service by a bug, or by something no retry can help."""
        self._failure = self._failure or error
        self._stopping.set()

    def _part(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._fail(error)

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        return task

    async def _consume(self, consumer: Consumer) -> None:
        while True:
            try:
                records = await consumer.fetch(timeout=FETCH_SECONDS)
            except (LostAssignment, BusDown) as error:
                log.warning("nothing can be fetched", extra={"service": self.service.name, "error": str(error)})
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            for record in records:
                self._intake.accept(record)
            self._commits.hold_back()

    async def _drain(
        self, consumer: Consumer, parts: Sequence[asyncio.Task[None]], sources: Sequence[asyncio.Task[None]]
    ) -> None:
        """Sources first, so that nothing new comes in; lanes finish their turn; effects run again after a start."""
        try:
            for part in parts:
                part.cancel()
            if sources:
                await asyncio.wait(sources, timeout=DRAIN_SECONDS / 2)
            for source in sources:
                source.cancel()
            await asyncio.gather(*parts, *sources, return_exceptions=True)
            await self._effects.stop()
            await self._intake.drain(DRAIN_SECONDS / 2)
            try:
                async with asyncio.timeout(DRAIN_SECONDS / 4):
                    await self._lanes.flush(())
                    await self._commits.commit()
                    killpoint.passed(self.service.name, "committed")
            except (BusDown, LostAssignment, TimeoutError) as error:
                log.warning("drained without a last commit", extra={"service": self.service.name, "error": str(error)})
            with suppress(BusDown):
                await consumer.close()
        finally:
            if self.service.close is not None:
                await self.service.close()

    async def _run_source(self, source: SourceRun) -> None:
        """A source that ends by an error is begun again, with back-off: without it the service would be deaf."""
        tries = 0
        while not self._stopping.is_set():
            try:
                await source(self, self._stopping)
                return
            except Exception as error:
                tries += 1
                extra = {"service": self.service.name, "tries": tries, "error": str(error)}
                if isinstance(error, Retryable):
                    log.warning("a source begins again", extra=extra)
                else:
                    log.exception("a source ended by a bug", extra=extra)
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff(tries, self.service.name)):
                        await self._stopping.wait()

    # -- membership ---------------------------------------------------------------------------------------------

    async def _assigned(self, gained: Assignment) -> None:
        for partition in sorted({at.partition for at in gained}):
            for lane in await self._lanes.load(partition):
                await self._intake.take_up(lane)
        self.started.set()

    async def _revoked(self, lost: Assignment) -> None:
        """Turns under way end, what is finished is committed, and nothing of these lanes goes on here."""
        partitions = {at.partition for at in lost}
        await self._intake.leave(partitions, DRAIN_SECONDS / 2)
        with suppress(BusDown, LostAssignment):
            await self._commits.commit()
        self._commits.drop(lost)
        keys = self._lanes.drop(partitions)
        self._effects.drop(frozenset(keys))
        self._timers.drop(keys)

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

    async def _ringing(self) -> None:
        await self._timers.run()

    async def _ring(self, lane_key: str, name: str, due: datetime) -> None:
        fired = TimerFired(name=name, due=due)
        basis = f"{lane_key} {name} {due.isoformat()}"
        await outlast(self.service.name, lambda: self.emit(lane_key, basis, fired))

    async def _effect_finished(
        self, lane_key: str, item: OutboxItem, result: Event | None, context: str | None
    ) -> None:
        if result is None:
            self._lanes.done(lane_key, item.id)
            self._commits.stir()
            return
        try:
            await self._tell(lane_key, item, result, context)
        except Permanent as error:  # what it returned does not fit a record
            await self._tell(lane_key, item, failed(item, str(error)), context)
        killpoint.passed(self.service.name, "told", item.kind)

    async def _tell(self, lane_key: str, item: OutboxItem, result: Event, context: str | None) -> None:
        id = codec.derive(self.service.name, item.id, result, 0)
        source = codec.source_of(self.service.name)
        envelope = Envelope(result, id, source, self._now(), lane_key, item.id, context)
        await outlast(self.service.name, lambda: self._to_inbox(envelope))

    # -- commits ------------------------------------------------------------------------------------------------

    async def _commit_regularly(self) -> None:
        """A second after something was finished, and once a minute for what was forgotten; asleep otherwise."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + SWEEP_EVERY
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_EVERY):
                    await self._commits.stirred()
            await asyncio.sleep(COMMIT_EVERY)
            try:
                await self._lanes.flush(self._intake.busy)
                await self._commits.commit()
                killpoint.passed(self.service.name, "committed")
                if loop.time() >= sweep_at:
                    sweep_at = loop.time() + SWEEP_EVERY
                    await self._lanes.sweep(self._intake.busy, self._committed)
            except (BusDown, LostAssignment) as error:
                log.warning("commit failed", extra={"service": self.service.name, "error": str(error)})

    async def _committed(self, at: TopicPartition) -> int:
        return await self._commits.committed(at)

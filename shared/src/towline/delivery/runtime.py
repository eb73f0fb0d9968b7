"""Runs one service on the bus: fetch → lane → turn → state batch → publish → effects → commit.

What it owns: the parts' life, and their end. Rules that must hold:

- Only loss of the bus stops consumption; an event that cannot be read or decided goes to the dead letters.
- A part that ends by a bug ends the service, loudly: a half-working one would be deaf and look healthy.
- From `stop` to the end of `run` it takes DRAIN_SECONDS in all, whatever hangs, and CLOSE_SECONDS for the service.

Membership of the group is in `membership`, sources are in `sources`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic

from towline import flow, killpoint
from towline.bus.port import Bus, BusDown, Consumer, LostAssignment, TopicPartition
from towline.delivery import codec, outage
from towline.delivery.commits import Commits
from towline.delivery.effects import Effects, failed
from towline.delivery.forgotten import FORGOTTEN_STAYS
from towline.delivery.intake import Intake
from towline.delivery.lane import OutboxItem
from towline.delivery.lanes import Lanes
from towline.delivery.membership import Membership
from towline.delivery.model import Envelope, S, Service, TimerFired
from towline.delivery.outlast import outlast
from towline.delivery.sources import Runs, cancelled
from towline.delivery.standing import Observer
from towline.delivery.stranded import Stranded
from towline.delivery.timers import Timers
from towline.delivery.watchdog import Signs
from towline.errors import Permanent
from towline.events.base import Event

log = logging.getLogger(__name__)
FETCH_SECONDS = 5.0
"""How long a fetch waits for a record: a wake-up each, and how soon a silent cluster is noticed."""
COMMIT_EVERY = 1.0
SWEEP_EVERY = 60.0
FOLLOW_EVERY = 5.0
PAUSE_SECONDS = 1.0
AWAY_SECONDS = 10.0
"""The bus may be away for this long before the service says that it is not ready: a broker's restart."""
DRAIN_SECONDS = 10.0
CLOSE_SECONDS = 5.0
_SOURCES_UNTIL, _TURNS_UNTIL, _COMMIT_UNTIL = 0.3, 0.7, 0.9
"""Shares of DRAIN_SECONDS after which the next step begins, whether or not the one before has ended."""

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
        name = service.name
        self._topics = (*flow.topics_consumed_by(name), flow.inbox_of(name))
        self._lanes = Lanes(
            service, bus, partitions, forgotten_stays=forgotten_stays, member=member, on_fenced=self._fenced
        )
        self._effects = Effects(service, self._effect_finished, self._lanes.sure)
        self._timers = Timers(self._ring, now)
        self._commits = Commits()
        self._intake = Intake(service, bus, self._lanes, self._effects, self._timers, self._commits, now, self._fail)
        self._receivers = Runs(name, self, service.sources, self._fail)
        self._watches = Runs(name, self, service.watches, self._fail)
        self._membership = Membership(
            name,
            self._topics,
            self._lanes,
            self._intake,
            self._effects,
            self._timers,
            self._commits,
            self._watches,
            self._fail,
        )
        self.observer = Observer(name, bus, self._lanes, self._intake, self._effects, self._commits)
        self._stranded = Stranded(bus, self._topics, partitions)
        self._polls: int | None = None
        """Fetches that ended; None while nothing is fetched."""
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self.started = self._membership.started
        """Set once the state of the first assignment is loaded."""

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        joining = asyncio.create_task(outlast(self.service.name, self._join))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((joining, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not joining.done():
            await cancelled([joining])
            return
        consumer = joining.result()
        self._commits.follow(consumer)
        self._membership.follow(consumer)
        parts = [
            self._part(work)
            for work in (
                self._consume(consumer),
                self._commit_regularly(),
                self._timers.run(),
                self._follow(),
                self._stranded.look_on(consumer),
            )
        ]
        self._receivers.begin()
        try:
            await self._stopping.wait()
        finally:
            await self._drain(consumer, parts)
        if self._failure is not None:
            raise self._failure

    def waits(self) -> str | None:
        """What keeps it from working, in one sentence."""
        if not self.started.is_set():
            return "loads its state" if self._commits.assignment else "has no partitions yet"
        if (away := outage.seconds(self.service.name)) >= AWAY_SECONDS:
            return f"the bus has not answered for {away:.0f} s"
        return self.service.ready()

    def delays(self) -> list[str]:
        """What of it does not go on: why effects are tried again and again, keys that are parked."""
        parked = self._lanes.parked
        said = f"keys that are parked: {parked}; their events wait among the dead letters (`towline dead list`)"
        return [*self._effects.delays, *([said] if parked else [])]

    @property
    def name(self) -> str:
        return self.service.name

    def signs(self) -> Signs | None:
        """For the watchdog, from its thread."""
        if self._polls is None:
            return None
        return Signs(self._polls, self._membership.changing, outage.is_on(self.name), self._stranded.is_stranded)

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

    async def _join(self) -> Consumer:
        return await self._bus.consumer(
            self.service.name,
            self._topics,
            member=self._member,
            on_assigned=self._membership.assigned,
            on_revoked=self._membership.revoked,
        )

    async def _consume(self, consumer: Consumer) -> None:
        self._polls = 0
        while True:
            self._polls += 1
            try:
                records = await consumer.fetch(timeout=FETCH_SECONDS)
            except (LostAssignment, BusDown) as error:
                log.warning("nothing can be fetched", extra={"service": self.service.name, "error": str(error)})
                if isinstance(error, BusDown):
                    outage.failed(self.service.name)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            outage.answered(self.service.name)
            for record in records:
                if self._lanes.holds(record.partition):  # else it is read again when its partition is taken again
                    self._intake.accept(record)
            self._commits.hold_back()

    async def _drain(self, consumer: Consumer, parts: list[asyncio.Task[None]]) -> None:
        """Sources first, so that nothing new comes in; lanes finish their turn; effects run again after a start."""
        began = asyncio.get_running_loop().time()

        def left(until: float) -> float:
            return max(0.0, began + until * DRAIN_SECONDS - asyncio.get_running_loop().time())

        try:
            await cancelled(parts, left(_SOURCES_UNTIL))
            await asyncio.gather(
                self._receivers.stop(left(_SOURCES_UNTIL)),
                self._watches.stop(left(_SOURCES_UNTIL)),
                self._membership.close(),
            )
            await asyncio.gather(self._effects.stop(left(_TURNS_UNTIL)), self._intake.drain(left(_TURNS_UNTIL)))
            try:
                async with asyncio.timeout(left(_COMMIT_UNTIL)):
                    await self._lanes.flush(())
                    await self._commits.commit()
                    killpoint.passed(self.service.name, "committed")
            except (BusDown, LostAssignment, TimeoutError) as error:
                log.warning("drained without a last commit", extra={"service": self.service.name, "error": str(error)})
            with suppress(BusDown, TimeoutError):
                async with asyncio.timeout(left(1.0)):
                    await consumer.close()
        finally:
            await self._close()

    async def _close(self) -> None:
        if self.service.close is None:
            return
        closing = asyncio.ensure_future(self.service.close())
        done, _ = await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if done:
            closing.result()
        else:
            closing.cancel()
            log.warning("a service did not close in time", extra={"service": self.service.name})

    def _fenced(self, partition: int) -> None:
        self._membership.fenced(partition)

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
                if loop.time() >= sweep_at or self._lanes.crowded:
                    sweep_at = loop.time() + SWEEP_EVERY
                    await self._lanes.sweep(self._intake.busy, self._committed)
            except (BusDown, LostAssignment) as error:
                log.warning("commit failed", extra={"service": self.service.name, "error": str(error)})

    async def _follow(self) -> None:
        """See whether another member wrote where this one believes to be alone."""
        while True:
            await asyncio.sleep(FOLLOW_EVERY)
            try:
                await self._lanes.follow()
            except BusDown as error:
                log.warning("not known who owns what", extra={"service": self.service.name, "error": str(error)})
            if self._lanes.must_write:
                self._commits.stir()

    async def _committed(self, at: TopicPartition) -> int:
        return await self._commits.committed(at)

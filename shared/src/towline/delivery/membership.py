"""What a member does when partitions come and go: load, take up, leave, and give up what another has claimed.

Rules that must hold:

- The state of a partition is loaded to its end, and what waited in its outboxes is published, before the first event
  of it is decided; so what a lane says is always read in the order decided.
- A loss is told within LEAVE_SECONDS, whatever hangs: turns under way end, what is finished is committed, effects end.
- A partition that another member has claimed is given up at once, whatever the group says; while the group still gives
  it to this member, it is taken again after a pause in which a member that is none any more would have found out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Generic

from towline.bus.port import Assignment, BusDown, Consumer, LostAssignment, TopicPartition
from towline.delivery.commits import Commits
from towline.delivery.effects import Effects
from towline.delivery.intake import Intake
from towline.delivery.lanes import Lanes
from towline.delivery.model import S
from towline.delivery.outlast import outlast
from towline.delivery.sources import WATCHES_FROM, Runs, cancelled
from towline.delivery.timers import Timers
from towline.telemetry import metrics

log = logging.getLogger(__name__)
LEAVE_SECONDS = 10.0
"""For everything that a loss takes; the session timeouts of the groups are longer."""
TAKE_AGAIN_AFTER = 4.0
"""Longer than the heartbeats of the groups are apart on Kafka: a member that is none any more finds out meanwhile."""


class Membership(Generic[S]):
    def __init__(
        self,
        service: str,
        topics: Sequence[str],
        lanes: Lanes[S],
        intake: Intake[S],
        effects: Effects,
        timers: Timers,
        commits: Commits,
        watches: Runs,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._service = service
        self._topics = topics
        self._lanes = lanes
        self._intake = intake
        self._effects = effects
        self._timers = timers
        self._commits = commits
        self._watches = watches
        self._fail = fail
        self._consumer: Consumer | None = None
        self._giving_up: dict[int, asyncio.Task[None]] = {}
        self.changing = False
        """Partitions are coming or going just now."""
        self.started = asyncio.Event()
        """Set once the state of the first assignment is loaded."""

    def follow(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def assigned(self, gained: Assignment) -> None:
        """Raises LostAssignment, BusDown; then the bus tells it again.

        A partition that is being given up is taken here, and here alone: two takers would claim against each other.
        """
        partitions = sorted({at.partition for at in gained})
        again = [partition for partition in partitions if partition in self._giving_up]
        await cancelled([self._giving_up[partition] for partition in again])
        taking = (self._take(partition) for partition in partitions)
        with self._change():
            for result in await asyncio.gather(*taking, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        await self._read_again([at for at in gained if at.partition in again])
        # One that was claimed meanwhile stays stopped: what came of it would be passed over, and committed past.
        self._commits.go(frozenset(at for at in gained if at.partition not in self._giving_up))
        if self._lanes.holds(WATCHES_FROM):
            self._watches.begin()
        self.started.set()
        metrics.rebalance(self._service)

    async def revoked(self, lost: Assignment) -> None:
        with self._change():
            await self._leave(lost)

    @contextmanager
    def _change(self) -> Iterator[None]:
        self.changing = True
        try:
            yield
        finally:
            self.changing = False

    async def _leave(self, lost: Assignment) -> None:
        partitions = {at.partition for at in lost}
        deadline = asyncio.get_running_loop().time() + LEAVE_SECONDS
        await cancelled([task for partition, task in self._giving_up.items() if partition in partitions])
        if WATCHES_FROM in partitions:
            await self._watches.stop(_share(deadline, 0.3))
        await self._intake.leave(partitions, _share(deadline, 0.5))
        with suppress(BusDown, LostAssignment, TimeoutError):
            async with asyncio.timeout(_share(deadline, 0.5)):
                await self._lanes.flush(())
                await self._commits.commit()
        await self._drop(partitions, lost, deadline)

    def fenced(self, partition: int) -> None:
        """Another member has claimed it: from this moment on nothing of it is accepted here."""
        if partition not in self._giving_up:
            task = asyncio.create_task(self._give_up(partition), name=f"give up {self._service}/{partition}")
            self._giving_up[partition] = task
            task.add_done_callback(lambda done: self._gave_up(partition, done))

    async def close(self) -> None:
        await cancelled(list(self._giving_up.values()))

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _take(self, partition: int) -> None:
        if self._lanes.holds(partition):  # told again, since another of them could not be loaded
            return
        try:
            for lane in await self._lanes.load(partition):
                await self._intake.take_up(lane)
        except BaseException:  # with half of it going on here, nobody would take up the rest
            self._drop_lanes({partition})
            raise

    async def _read_again(self, partitions: Collection[TopicPartition]) -> None:
        """What was read while they were given up was accepted by nobody."""
        for at in partitions:
            if self._consumer is not None:
                self._consumer.seek(at, await outlast(self._service, lambda: self._commits.committed(at)))  # noqa: B023

    async def _drop(self, partitions: Collection[int], lost: Assignment, deadline: float) -> None:
        self._commits.drop(lost)
        ending = self._drop_lanes(partitions)
        if ending:
            _, deaf = await asyncio.wait(ending, timeout=_share(deadline, 0.9))
            if deaf:
                names = [task.get_name() for task in deaf]
                log.warning("effects do not end when told to", extra={"service": self._service, "effects": names})

    def _drop_lanes(self, partitions: Collection[int]) -> list[asyncio.Task[None]]:
        keys = self._lanes.drop(partitions)
        self._timers.drop(keys)
        return self._effects.drop(frozenset(keys))

    async def _give_up(self, partition: int) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        deadline = asyncio.get_running_loop().time() + LEAVE_SECONDS
        everywhere = frozenset(TopicPartition(topic, partition) for topic in self._topics)
        self._commits.stop(everywhere)
        if partition == WATCHES_FROM:  # another member watches by now
            await self._watches.stop(_share(deadline, 0.3))
        await self._intake.leave({partition}, _share(deadline, 0.5))
        await self._drop({partition}, everywhere, deadline)
        self._commits.stop(everywhere)
        while True:
            await asyncio.sleep(TAKE_AGAIN_AFTER)
            given = everywhere & consumer.assignment
            if not given:
                self._commits.go(everywhere)
                return
            try:
                await self._take(partition)
                await self._read_again(given)
            except LostAssignment as error:
                log.warning(
                    "a partition could not be taken again",
                    extra={"service": self._service, "partition": partition, "error": str(error)},
                )
                self._drop_lanes({partition})
                continue
            if not self._lanes.holds(partition):  # claimed again meanwhile
                self._drop_lanes({partition})
                continue
            self._commits.go(everywhere)
            if partition == WATCHES_FROM:
                self._watches.begin()
            return

    def _gave_up(self, partition: int, task: asyncio.Task[None]) -> None:
        if self._giving_up.get(partition) is task:
            del self._giving_up[partition]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a partition could not be given up in order", exc_info=error, extra={"service": self._service})
            self._fail(error)  # it would give nothing for ever


def _share(deadline: float, of: float) -> float:
    """That share of the seconds that are left."""
    return max(0.0, deadline - asyncio.get_running_loop().time()) * of

"""One member of a Kafka group: eager range assignment, manual commits, and a member that always comes back.

It keeps its name over restarts (`peers`), and what it holds is whole (`alignment`). A client that finds no way back, to
the brokers or into its group, is thrown away, and another one joins: the client itself knows only brokers that were
there when it last asked, never looks at the addresses it was given again, and may wait for ever to rejoin.

The client calls its rebalance listener from a task of its own. A loss is told there, before the group goes on; a gain
is told in `fetch`, with every new partition paused until then, so that no record comes before its `on_assigned`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import aiokafka
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, errors
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from towline.bus.kafka import internals
from towline.bus.kafka import peers as peers_of
from towline.bus.kafka.alignment import whole
from towline.bus.kafka.connection import NOT_ALLOWED, Connection
from towline.bus.kafka.peers import Peers
from towline.bus.kafka.reader import record_of
from towline.bus.port import Assignment, BusDown, LostAssignment, OnAssignment, Record, TopicPartition
from towline.errors import Permanent, TowlineError

log = logging.getLogger(__name__)

SESSION_TIMEOUT_MS = 15_000
REBALANCE_TIMEOUT_MS = 60_000
MAX_POLL_INTERVAL_MS = 900_000
REJOIN_S = 90.0
"""A member that has had no assignment for longer, though the cluster answers, joins anew with another client: the
longest rebalance is over by then."""
_FETCH_MAX_WAIT_MS = 100
"""A partition that was resumed or sought waits for the request under way, at most this long."""
_SURE_FOR_S = 5.0
"""How long an empty fetch counts as empty before the cluster is asked whether it is there at all."""
_LOOKS = 10
_LOOK_AGAIN_S = 1.0
_LEAVE_S = 3.0


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, _revoked: object) -> None:
        await self._consumer._revoke()
        await self._consumer._look_for_a_namesake()
        if self._consumer.fenced:
            raise asyncio.CancelledError  # nothing else keeps the client from joining again

    async def on_partitions_assigned(self, assigned: set[aiokafka.TopicPartition]) -> None:
        self._consumer._gain(frozenset(TopicPartition(*partition) for partition in assigned))


class KafkaConsumer:
    """Made by `KafkaBus.consumer`."""

    def __init__(
        self,
        connection: Connection,
        group: str,
        topics: Sequence[str],
        member: str,
        on_assigned: OnAssignment | None,
        on_revoked: OnAssignment | None,
        *,
        counts: Mapping[str, int] | None = None,
        peers: Peers | None = None,
    ) -> None:
        """`counts` are the partitions of each topic; `peers` says who is in a group, and makes the member static."""
        self.group = group
        self._connection = connection
        self._topics = list(topics)
        self._member = member
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._client: AIOKafkaConsumer | None = None
        self._assignment: Assignment = frozenset()
        self._gained: Assignment | None = None
        self._leaving = False
        """A loss is being told: what the client still has of it is nobody's."""
        self._paused: set[TopicPartition] = set()
        self._sought: dict[TopicPartition, int] = {}
        """Where to, since the fetch under way began: what it brings of them may be from before or from behind."""
        self._membership = asyncio.Lock()
        self._woken = asyncio.Event()
        self._sure_at = time.monotonic()
        self._closed = False
        self._counts = dict(counts or {})
        self._peers = peers
        self._id = ""
        """What the coordinator called this member when it last gave partitions; empty before that."""
        self._fenced: Permanent | None = None
        self.waiting_since: float | None = self._sure_at
        """Since when it waits for the group to give it partitions, on the monotonic clock; None: it has been given."""

    @property
    def fenced(self) -> bool:
        """Whether another process has taken this member's name."""
        return self._fenced is not None

    @property
    def assignment(self) -> Assignment:
        return self._assignment

    async def join(self) -> None:
        """Connect and ask for membership; the assignment itself comes with a later `fetch`. Raises BusDown."""
        client = AIOKafkaConsumer(
            **self._connection.client(f"{self.group}-{self._member}"),
            group_id=self.group,
            group_instance_id=None if self._peers is None else peers_of.check_name(self._member),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=SESSION_TIMEOUT_MS,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
        )
        try:
            async with self._connection.answering():
                await client.start()
                client.subscribe(self._topics, listener=_Listener(self))
        except BaseException:
            await internals.end_consumer(client)
            raise
        self._client = client
        self._sure_at = time.monotonic()

    async def fetch(self, *, limit: int = 500, timeout: float = 1.0) -> Sequence[Record]:
        deadline = time.monotonic() + timeout
        while not self._closed:
            if self._fenced is not None:
                raise self._fenced
            if self._client is None:
                await self.join()
            await self._take_over()
            if records := await self._poll(limit, max(0.0, deadline - time.monotonic())):
                self._sure_at = time.monotonic()
                return records
            if time.monotonic() >= deadline:
                await self._make_sure()
                return []
        return []

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self._closed:
            raise BusDown(f"the consumer of group {self.group} is closed")
        if not offsets:
            return
        if self._client is None or set(offsets) - self._assignment:
            raise LostAssignment(f"group {self.group} has not assigned {min(offsets)} to this member")
        if self._client._coordinator.generation < 0:  # from nobody: while the group is empty, a broker takes that
            raise LostAssignment(f"group {self.group} goes on without member {self._member}")
        async with self._connection.answering():
            await self._client.commit({aiokafka.TopicPartition(*at): next_ for at, next_ in offsets.items()})

    async def committed(self, partition: TopicPartition) -> int | None:
        if self._client is None:
            raise BusDown(f"the consumer of group {self.group} is not connected")
        async with self._connection.answering():
            found = await self._client.committed(aiokafka.TopicPartition(*partition))
            return None if found is None else int(found)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if self._client is None or partition not in self._assignment:
            raise LostAssignment(f"group {self.group} has not assigned {partition} to this member")
        self._sought[partition] = offset
        self._client.seek(aiokafka.TopicPartition(*partition), offset)

    def pause(self, *partitions: TopicPartition) -> None:
        self._paused.update(partitions)
        self._apply(paused=True, partitions=self._assignment.intersection(partitions))

    def resume(self, *partitions: TopicPartition) -> None:
        self._paused.difference_update(partitions)
        if self._gained is None:  # else `_take_over` resumes when the gain was told
            self._apply(paused=False, partitions=self._assignment.intersection(partitions))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._assignment = frozenset()
        self._woken.set()
        client, self._client = self._client, None
        if client is None:
            return
        me = internals.member_id(client)
        await internals.end_consumer(client)
        if me and self._peers is not None and not self.fenced and not self._connection.settings.stay_on_stop:
            with suppress(errors.KafkaError, TowlineError, TimeoutError, OSError):
                async with asyncio.timeout(_LEAVE_S):
                    await peers_of.leave(self._connection, self.group, me)

    # -- membership ------------------------------------------------------------------------------------------------

    def _gain(self, gained: Assignment) -> None:
        self._id = "" if self._client is None else internals.member_id(self._client)
        self.waiting_since = None
        self._gained = whole(gained, self._counts)
        self._apply(paused=True, partitions=gained)
        if parts := gained - self._gained:
            log.warning(
                "the group gave parts of partitions; nobody reads them until all its members read the same topics",
                extra={"group": self.group, "parts": sorted(f"{at.topic}/{at.partition}" for at in parts)},
            )
        self._woken.set()

    async def _revoke(self) -> None:
        async with self._membership:
            self._gained = None
            if self.waiting_since is None:
                self.waiting_since = time.monotonic()
            lost, self._leaving = self._assignment, True
            try:
                if lost and self._on_revoked is not None:
                    await self._on_revoked(lost)
            finally:
                self._assignment, self._leaving = frozenset(), False

    async def _look_for_a_namesake(self) -> None:
        """Whether the group has another process under this name. The newcomer wins: it replaced us, and will again."""
        if self._peers is None or not self._id:
            return
        for _ in range(_LOOKS):
            if self._closed:
                return
            try:
                found = await self._peers(self.group)
            except TowlineError:
                await asyncio.sleep(_LOOK_AGAIN_S)
                continue
            others = [peer for peer in found if peer.has_name(self._member) and peer.id != self._id]
            if others:
                self._fenced = Permanent(
                    f"another process runs as member {self._member!r} of group {self.group}, so this one ends: give "
                    f"each process a `member` name of its own"
                )
                self._woken.set()
            return

    async def _take_over(self) -> None:
        async with self._membership:
            gained = self._gained
            if gained is None:
                return
            self._assignment = gained
            try:
                if gained and self._on_assigned is not None:
                    await self._on_assigned(gained)
            except BaseException:
                self._assignment = frozenset()
                raise
            self._gained = None
            self._apply(paused=False, partitions=gained - self._paused)

    def _apply(self, *, paused: bool, partitions: Assignment) -> None:
        """The client forgets what was paused with every new assignment, so this object remembers it."""
        if self._client is None:
            return
        change = self._client.pause if paused else self._client.resume
        with suppress(errors.IllegalStateError, AssertionError):  # lost a moment ago: the listener comes next
            change(*(aiokafka.TopicPartition(*at) for at in partitions))

    # -- records ---------------------------------------------------------------------------------------------------

    async def _poll(self, limit: int, timeout: float) -> list[Record]:
        """What the client has, or gets in time; woken early by a gain or by `close`."""
        client = self._client
        if client is None or limit < 1:
            return []
        self._woken.clear()
        self._sought.clear()
        if self._gained is not None:
            return []
        getting = asyncio.ensure_future(client.getmany(timeout_ms=int(timeout * 1000), max_records=limit))
        waking = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait((getting, waking), timeout=timeout + 0.05, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                return []
            return self._accept(client, getting.result())
        except asyncio.CancelledError:
            if getting.done() and not getting.cancelled() and getting.exception() is None:
                for partition, found in getting.result().items():
                    self._give_back(client, partition, found)
            raise
        except errors.ConsumerStoppedError:
            return []
        except errors.KafkaError as error:
            if not isinstance(error, NOT_ALLOWED):  # a new client may do no more, and would stir the group
                await self._start_over(str(error))
            raise self._connection.explain(error) from error
        finally:
            waking.cancel()
            await _cancelled(getting)

    def _accept(
        self,
        client: AIOKafkaConsumer,
        found: Mapping[aiokafka.TopicPartition, list[aiokafka.ConsumerRecord]],
    ) -> list[Record]:
        """Drop what was paused, moved or lost in the moment between the client's answer and ours."""
        accepted: list[Record] = []
        if self._leaving:
            return accepted
        for partition, records in found.items():
            at = TopicPartition(*partition)
            if at in self._paused or at in self._sought:
                self._give_back(client, partition, records)
            elif at in self._assignment:
                accepted += map(record_of, records)
        return accepted

    def _give_back(
        self, client: AIOKafkaConsumer, partition: aiokafka.TopicPartition, records: list[aiokafka.ConsumerRecord]
    ) -> None:
        """The next fetch gets them again, from where was sought if that was."""
        if records:
            with suppress(errors.IllegalStateError, AssertionError):
                client.seek(partition, self._sought.get(TopicPartition(*partition), records[0].offset))

    async def _make_sure(self) -> None:
        """The client says nothing when the cluster is gone, so an empty fetch asks from time to time."""
        client = self._client
        if client is None or time.monotonic() - self._sure_at < _SURE_FOR_S:
            return
        try:
            async with self._connection.answering(3.0):
                await client.topics()
        except BusDown:
            if time.monotonic() - self._sure_at > SESSION_TIMEOUT_MS / 1000:
                await self._start_over("the cluster has been away for longer than a session")
            raise
        self._sure_at = time.monotonic()
        if self.waiting_since is not None and self._sure_at - self.waiting_since > REJOIN_S:
            await self._start_over("the client does not find back into its group")

    async def _start_over(self, why: str) -> None:
        """The client's membership broke for good: leave it, tell the loss, and join again with the next fetch."""
        log.warning("joins the group anew", extra={"group": self.group, "why": why})
        client, self._client = self._client, None
        if client is not None:
            await internals.end_consumer(client)
        self.waiting_since = self._sure_at = time.monotonic()
        with suppress(TowlineError):
            await self._revoke()
        self._id = ""


async def _cancelled(task: asyncio.Future[object]) -> None:
    """Wait for the task's end, so that its client is free again."""
    if task.done():
        return
    task.cancel()
    with suppress(asyncio.CancelledError, errors.KafkaError, errors.ConsumerStoppedError):
        await task

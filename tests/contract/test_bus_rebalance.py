"""A rebalance in the middle of work: who is told what, who may still commit, and what comes again; on each bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.contract.places import KafkaPlace, MemoryPlace, Place, SqlitePlace

from towline.bus.port import LostAssignment, NewRecord, Topic, TopicPartition

if TYPE_CHECKING:
    from towline.bus.port import Assignment, Bus, Consumer, Record

PATIENCE_S = 40.0


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    loop = asyncio.new_event_loop()
    place: Place = MemoryPlace() if request.param == "memory" else SqlitePlace()
    if request.param == "kafka":
        place.end()
        place = KafkaPlace(request.getfixturevalue("kafka_address"), loop)
    yield place
    place.end()
    loop.close()


@dataclass(eq=False)
class Worker:
    """A member whose handlers take long: it fetches, and commits only when it is told to."""

    name: str
    told: list[str]
    when_revoked: Callable[[Worker], Awaitable[None]] | None = None
    records: list[Record] = field(default_factory=list)
    consumer: Consumer = field(init=False)

    async def join(self, bus: Bus, topic: Topic) -> Worker:
        self.consumer = await bus.consumer(
            f"{topic.name}.group", [topic.name], member=self.name, on_assigned=self._gain, on_revoked=self._lose
        )
        return self

    async def _gain(self, gained: Assignment) -> None:
        self.told += [f"{self.name} gained {at.partition}" for at in sorted(gained)]

    async def _lose(self, lost: Assignment) -> None:
        self.told += [f"{self.name} loses {at.partition}" for at in sorted(lost)]
        if self.when_revoked is not None:
            await self.when_revoked(self)
        self.told += [f"{self.name} lost {at.partition}" for at in sorted(lost)]

    def values(self, at: TopicPartition) -> list[int]:
        return [int(record.value or b"") for record in self.records if record.position == at]


async def until(done: Callable[[], bool], *workers: Worker) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not done():
        assert loop.time() < deadline, [worker.told for worker in workers[:1]]
        for worker in workers:
            worker.records += await worker.consumer.fetch(timeout=0.05)


async def opened(place: Place, partitions: int, count: int) -> tuple[Bus, Bus, Topic, list[TopicPartition]]:
    """Two connections, and a topic with `count` records in each partition."""
    first, second = await place.open(), await place.open()
    topic = Topic(f"{place.prefix}.work", partitions)
    await first.ensure([topic])
    ats = [TopicPartition(topic.name, number) for number in range(partitions)]
    await first.publish(
        [NewRecord(topic.name, "k", str(number).encode(), {}, at.partition) for at in ats for number in range(count)]
    )
    return first, second, topic, ats


def test_pending_work_is_committed_as_far_as_it_is_done_before_the_next_owner_begins(place: Place) -> None:
    async def scene() -> None:
        here, there, topic, (stays, goes) = await opened(place, 2, 10)
        told: list[str] = []

        async def commit_what_is_done(worker: Worker) -> None:
            await asyncio.sleep(0.01)  # the handler that runs ends
            await worker.consumer.commit({stays: 7, goes: 4})

        old = await Worker("a", told, commit_what_is_done).join(here, topic)
        await until(lambda: len(old.records) == 20, old)
        new = await Worker("b", told).join(there, topic)
        await until(lambda: new.consumer.assignment == {goes} and old.consumer.assignment == {stays}, old, new)
        await until(lambda: len(new.records) >= 6 and len(old.records) >= 23, old, new)

        assert new.values(goes) == list(range(4, 10))
        assert old.values(stays) == [*range(10), *range(7, 10)]
        assert told.index("a lost 1") < told.index("b gained 1")
        with pytest.raises(LostAssignment):
            await old.consumer.commit({goes: 10})
        await new.consumer.commit({goes: 5})
        assert await new.consumer.committed(goes) == 5

    place.run(scene())


def test_a_member_that_was_taken_for_dead_moves_no_offset_also_of_an_empty_group(place: Place) -> None:
    """It once did, on Kafka: its commit while it was told the loss named no generation, which an empty group takes."""

    async def scene() -> None:
        here, there, topic, (at,) = await opened(place, 1, 10)
        told: list[str] = []
        refused: list[BaseException] = []

        async def commit_late(worker: Worker) -> None:
            try:
                await worker.consumer.commit({at: 9})
            except LostAssignment as error:
                refused.append(error)

        zombie = await Worker("a", told, commit_late).join(here, topic)
        await until(lambda: len(zombie.records) == 10, zombie)
        await zombie.consumer.commit({at: 2})
        assert await zombie.consumer.committed(at) == 2

        await place.expel(zombie.consumer)
        await until(lambda: told.count("a gained 0") == 2, zombie)

        assert refused or place.defers_commits
        assert await zombie.consumer.committed(at) == 2
        await until(lambda: len(zombie.records) >= 18, zombie)
        assert zombie.values(at)[10:] == list(range(2, 10))

        await place.expel(zombie.consumer)
        heir = await Worker("b", told).join(there, topic)
        await until(lambda: bool(heir.consumer.assignment or told.count("a gained 0") == 3), zombie, heir)
        assert await heir.consumer.committed(at) == 2

    place.run(scene())


def test_what_a_dead_member_had_in_hand_comes_again_to_another(place: Place) -> None:
    async def scene() -> None:
        here, there, topic, ats = await opened(place, 3, 6)
        told: list[str] = []
        dying = await Worker("a", told).join(here, topic)
        await until(lambda: len(dying.records) == 18, dying)
        for number, at in enumerate(ats):
            await dying.consumer.commit({at: number * 3})
            assert await dying.consumer.committed(at) == number * 3
        await place.kill(here)

        heir = await Worker("b", told).join(there, topic)
        await until(lambda: len(heir.records) == 9, heir)

        assert [heir.values(at) for at in ats] == [list(range(6)), [3, 4, 5], []]
        assert "a loses 0" not in told, "the dead are told nothing"

    place.run(scene())

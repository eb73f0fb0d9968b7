"""Groups: where a member starts, what it may skip, and what comes again."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from towline.bus.port import Cleanup, LostAssignment, NewRecord, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.contract.conftest import Ground

    from towline.bus.port import Assignment, Bus, Record, Topic


def numbers(records: Iterable[Record]) -> list[int]:
    return [int(record.value or b"") for record in records]


def count_up(topic: Topic, count: int, *, start: int = 0, partition: int | None = None) -> Sequence[NewRecord]:
    """Records of one key, so of one partition, unless it is named."""
    return [
        NewRecord(topic.name, "one", str(number).encode(), partition=partition)
        for number in range(start, start + count)
    ]


async def test_a_new_group_starts_at_the_first_record(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 10))

    consumer = await bus.consumer(ground.group(), [topic.name], member="0")

    assert numbers(await ground.collect(consumer, 10)) == list(range(10))


async def test_each_partition_is_in_order_over_many_small_fetches(ground: Ground, bus: Bus) -> None:
    topics = [ground.topic("a"), ground.topic("b")]
    await bus.ensure(topics)
    await bus.publish([record for topic in topics for p in range(3) for record in count_up(topic, 30, partition=p)])
    consumer = await bus.consumer(ground.group(), [topic.name for topic in topics], member="0")

    by_partition: dict[TopicPartition, list[int]] = defaultdict(list)
    got = 0
    while got < 180:
        records = await consumer.fetch(limit=7)
        assert len(records) <= 7
        got += len(records)
        for record in records:
            by_partition[record.position].append(int(record.value or b""))

    assert list(by_partition.values()) == [list(range(30))] * 6


async def test_restart_continues_at_the_committed_offset(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 10))
    first = await bus.consumer(ground.group(), [topic.name], member="0")
    records = await ground.collect(first, 10)
    await first.commit({records[0].position: records[5].offset + 1})
    await bus.close()

    again = await ground.open()
    second = await again.consumer(ground.group(), [topic.name], member="0")
    came_again = await ground.collect(second, 4)

    assert numbers(came_again) == [6, 7, 8, 9]
    assert await second.committed(records[0].position) == records[5].offset + 1


async def test_what_was_not_committed_comes_again(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 5))
    first = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.collect(first, 5)
    await first.close()

    second = await bus.consumer(ground.group(), [topic.name], member="1")

    assert numbers(await ground.collect(second, 5)) == list(range(5))
    assert await second.committed(min(second.assignment)) is None


async def test_what_was_committed_does_not_come_again(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 5))
    first = await bus.consumer(ground.group(), [topic.name], member="0")
    records = await ground.collect(first, 5)
    await first.commit({records[0].position: records[-1].offset + 1})
    await first.close()

    second = await bus.consumer(ground.group(), [topic.name], member="1")
    came = await ground.joined(second)
    await bus.publish(count_up(topic, 1, start=5))
    came += await ground.collect(second, 1)

    assert numbers(came) == [5]


async def test_groups_do_not_disturb_each_other(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 5))
    one = await bus.consumer(ground.group("one"), [topic.name], member="0")
    records = await ground.collect(one, 5)
    await one.commit({records[0].position: 5})

    two = await bus.consumer(ground.group("two"), [topic.name], member="0")

    assert numbers(await ground.collect(two, 5)) == list(range(5))


async def test_seeking_back_replays_from_the_beginning(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 8))
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    first = await ground.collect(consumer, 8)

    consumer.seek(first[0].position, 0)

    assert await ground.collect(consumer, 8) == first
    consumer.seek(first[0].position, first[6].offset)
    assert numbers(await ground.collect(consumer, 2)) == [6, 7]


async def test_a_paused_partition_gives_nothing_while_others_go_on(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.joined(consumer)
    paused = TopicPartition(topic.name, 1)

    consumer.pause(paused)
    await bus.publish([record for partition in range(3) for record in count_up(topic, 5, partition=partition)])
    others = await ground.collect(consumer, 10)
    assert {record.partition for record in others} == {0, 2}
    assert await consumer.fetch(timeout=0.2) == []

    consumer.resume(paused)
    assert numbers(await ground.collect(consumer, 5)) == list(range(5))


async def test_pausing_between_fetches_loses_and_repeats_nothing(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 60))
    at = TopicPartition(topic.name, 0)
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")

    seen: list[int] = []
    while len(seen) < 60:
        seen += numbers(await consumer.fetch(limit=9))
        if consumer.assignment:
            consumer.pause(at)
            assert await consumer.fetch(timeout=0) == []
            consumer.resume(at)

    assert seen == list(range(60))


async def test_assignment_is_told_before_the_first_record(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 3))
    told: list[Assignment] = []

    async def on_assigned(gained: Assignment) -> None:
        told.append(gained)

    consumer = await bus.consumer(ground.group(), [topic.name], member="0", on_assigned=on_assigned)
    records = await ground.collect(consumer, 1)

    assert told == [frozenset(TopicPartition(topic.name, partition) for partition in range(3))]
    assert consumer.assignment == told[0]
    assert records


async def test_a_failing_assignment_callback_is_told_again_and_hides_the_records_until_then(
    ground: Ground, bus: Bus
) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 3))
    calls: list[int] = []

    async def on_assigned(gained: Assignment) -> None:
        calls.append(len(gained))
        if len(calls) == 1:
            raise ConnectionError("the state cannot be loaded now")

    consumer = await bus.consumer(ground.group(), [topic.name], member="0", on_assigned=on_assigned)
    with pytest.raises(ConnectionError):
        await ground.collect(consumer, 1)

    assert numbers(await ground.collect(consumer, 3)) == [0, 1, 2]
    assert calls == [3, 3]


async def test_a_position_sought_when_assigned_is_where_reading_starts(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 6))
    at = TopicPartition(topic.name, 0)

    async def on_assigned(gained: Assignment) -> None:
        assert gained == {at}
        consumer.seek(at, 4)

    consumer = await bus.consumer(ground.group(), [topic.name], member="0", on_assigned=on_assigned)

    assert numbers(await ground.collect(consumer, 2)) == [4, 5]


async def test_a_waiting_fetch_gets_what_is_published(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.joined(consumer)

    waiting = asyncio.create_task(consumer.fetch(timeout=10))
    await bus.publish(count_up(topic, 1))

    assert numbers(await asyncio.wait_for(waiting, 5)) == [0]


async def test_a_publish_of_another_connection_wakes_a_waiting_fetch(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    other = await ground.open()
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.joined(consumer)

    waiting = asyncio.create_task(consumer.fetch(timeout=10))
    await other.publish(count_up(topic, 1))

    assert numbers(await asyncio.wait_for(waiting, 5)) == [0]


async def test_a_seek_under_a_waiting_fetch_loses_nothing(ground: Ground, bus: Bus) -> None:
    """It once did, on Kafka: what the waiting fetch brought from the new position was taken for what it had before."""
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    await bus.publish(count_up(topic, 10))
    at = TopicPartition(topic.name, 0)
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.collect(consumer, 10)

    waiting = asyncio.create_task(consumer.fetch(timeout=1))
    for _ in range(20):
        await asyncio.sleep(0)
    consumer.seek(at, 3)
    records = [*await waiting]
    records += await ground.collect(consumer, 7 - len(records))

    assert numbers(records) == list(range(3, 10))


async def test_closing_wakes_a_waiting_fetch(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.joined(consumer)
    waiting = asyncio.create_task(consumer.fetch(timeout=60))
    await asyncio.sleep(0)

    await consumer.close()

    assert await asyncio.wait_for(waiting, 5) == []
    assert await consumer.fetch(timeout=60) == []
    assert consumer.assignment == frozenset()


async def test_a_cancelled_fetch_loses_nothing(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.joined(consumer)
    seen: list[int] = []

    for number in range(40):
        fetching = asyncio.create_task(consumer.fetch(timeout=5))
        publishing = asyncio.create_task(bus.publish(count_up(topic, 1, start=number)))
        await (publishing if number % 2 else asyncio.sleep(0))
        fetching.cancel()
        with suppress(asyncio.CancelledError):
            seen += numbers(await fetching)
        await publishing
    seen += numbers(await ground.collect(consumer, 40 - len(seen)))

    assert seen == list(range(40))


async def test_a_commit_of_a_partition_of_others_is_refused(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.joined(consumer)

    with pytest.raises(LostAssignment, match="has not assigned"):
        await consumer.commit({TopicPartition(ground.topic("other").name, 0): 1})
    with pytest.raises(LostAssignment, match="has not assigned"):
        consumer.seek(TopicPartition(topic.name, 9), 0)


async def test_what_compaction_took_away_is_not_lost_to_a_group(
    ground: Ground, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """It once was: the SQLite bus told an error, and moved the group's offset, as for what retention takes away."""
    topic = ground.topic("state", 1, Cleanup.COMPACT)
    at = TopicPartition(topic.name, 0)
    await bus.ensure([topic])
    await bus.publish([NewRecord(topic.name, "key", b"old"), NewRecord(topic.name, "key", b"new")])
    first = await bus.consumer(ground.group(), [topic.name], member="0")
    await ground.joined(first)
    await first.commit({at: 0})
    await first.close()

    second = await bus.consumer(ground.group(), [topic.name], member="1")

    assert (await ground.collect(second, 1))[-1].value == b"new"
    assert await second.committed(at) == 0
    assert "lost" not in caplog.text

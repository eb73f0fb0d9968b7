"""The log itself: publish, append, read. Nothing here needs a group."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from towline.bus.partition import partition_of
from towline.bus.port import MAX_APPEND_BYTES, MAX_RECORD_BYTES, Cleanup, NewRecord, TooLarge, TopicPartition
from towline.errors import Permanent

if TYPE_CHECKING:
    from tests.contract.conftest import Ground

    from towline.bus.port import Bus


async def test_records_of_one_key_keep_their_order_across_calls(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    keys = [f"repo-{number}" for number in range(10)]

    async def write(key: str) -> None:
        for number in range(0, 20, 4):
            await bus.publish([NewRecord(topic.name, key, str(number + step).encode()) for step in range(4)])

    await asyncio.gather(*map(write, keys))

    by_key: dict[str, list[int]] = defaultdict(list)
    for records in (await ground.everything(bus, topic)).values():
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        for record in records:
            by_key[record.key].append(int(record.value or b""))
    assert by_key == {key: list(range(20)) for key in keys}


async def test_publish_returns_the_offsets_in_the_order_given(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    records = [NewRecord(topic.name, f"k{number}", str(number).encode()) for number in range(30)]

    offsets = await bus.publish(records)

    stored = {
        (record.partition, record.offset): record.value
        for found in (await ground.everything(bus, topic)).values()
        for record in found
    }
    for record, offset in zip(records, offsets, strict=True):
        assert stored[partition_of(record.key, topic.partitions), offset] == record.value


async def test_a_record_without_a_partition_goes_where_its_key_says(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=12)
    await bus.ensure([topic])
    keys = ["git.example/team/app", "", "größe/ü", "a", "k" * 500, *(f"r{number}" for number in range(40))]
    await bus.publish([NewRecord(topic.name, key, b"") for key in keys])

    found = await ground.everything(bus, topic)

    places = {record.key: record.partition for records in found.values() for record in records}
    assert places == {key: partition_of(key, 12) for key in keys}


async def test_the_ends_of_many_partitions_are_what_each_alone_says(ground: Ground, bus: Bus) -> None:
    topic, other = ground.topic(), ground.topic("other", partitions=2)
    await bus.ensure([topic, other])
    await bus.publish([NewRecord(topic.name, "k", b"", partition=1)] * 3)
    everywhere = [TopicPartition(each.name, at) for each in (topic, other) for at in range(each.partitions)]

    ends = await bus.ends(everywhere)

    assert ends == {at: await bus.end(at) for at in everywhere}
    assert ends[everywhere[1]] == ends[everywhere[0]] + 3
    assert await bus.ends([]) == {}
    with pytest.raises(Permanent, match="partitions 0 to 2"):
        await bus.ends([*everywhere, TopicPartition(topic.name, 3)])


async def test_a_record_with_a_partition_goes_there_whatever_its_key(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])
    await bus.publish([NewRecord(topic.name, "same", b"", partition=partition) for partition in range(3)])

    found = await ground.everything(bus, topic)

    assert [len(records) for records in found.values()] == [1, 1, 1]


async def test_unknown_headers_and_binary_garbage_survive_unchanged(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    garbage = bytes(range(256)) + b"\x00\xff\xfe" * 100
    headers = {"ce_future": garbage, "empty": b"", "käse": "日本".encode(), "x" * 300: b"1"}
    written = NewRecord(topic.name, "nul\x00 and ünicode", garbage, headers)

    await bus.publish([written])

    (record,) = await bus.read(TopicPartition(topic.name, 0))
    assert (record.key, record.value, dict(record.headers)) == (written.key, garbage, headers)
    assert record.timestamp_ms > 1_700_000_000_000


async def test_a_null_value_and_an_empty_value_stay_apart(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    await bus.publish([NewRecord(topic.name, "null", None), NewRecord(topic.name, "empty", b"")])

    records = await bus.read(TopicPartition(topic.name, 0))

    assert {record.key: record.value for record in records} == {"null": None, "empty": b""}


async def test_a_record_over_the_limit_is_refused_before_anything_is_written(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    small, large = NewRecord(topic.name, "k", b"small"), NewRecord(topic.name, "k", b"x" * MAX_RECORD_BYTES)

    with pytest.raises(TooLarge, match="artifact store"):
        await bus.publish([small, large])
    with pytest.raises(TooLarge, match=str(MAX_RECORD_BYTES)):
        await bus.append(TopicPartition(topic.name, 0), [small, large])
    headers = {"h": b"x" * (MAX_RECORD_BYTES - 1)}
    with pytest.raises(TooLarge):
        await bus.publish([NewRecord(topic.name, "k", None, headers)])

    assert await bus.end(TopicPartition(topic.name, 0)) == 0


async def test_a_record_of_exactly_the_limit_is_accepted(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    value = b"\x00\x9f" * ((MAX_RECORD_BYTES - 10) // 2)
    largest = NewRecord(topic.name, "key", value, {"head": b"rs!"})

    await bus.publish([largest])

    (record,) = await bus.read(TopicPartition(topic.name, 0))
    assert record.value == value


async def test_an_append_of_the_largest_size_is_one_and_a_larger_one_is_refused(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)
    records = [NewRecord(topic.name, str(number), b"x" * (MAX_RECORD_BYTES - 10)) for number in range(16)]
    assert sum(len(record.value or b"") for record in records) > MAX_APPEND_BYTES - 1000

    await bus.append(at, records)
    with pytest.raises(TooLarge, match=str(MAX_APPEND_BYTES)):
        await bus.append(at, [*records, records[0]])

    assert await bus.end(at) == 16


async def test_an_append_puts_its_records_next_to_each_other(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)

    firsts = await asyncio.gather(
        *(
            bus.append(at, [NewRecord(topic.name, f"key-{part}", str(turn).encode()) for part in range(5)])
            for turn in range(40)
        )
    )

    records = {record.offset: record for record in await bus.read(at)}
    for turn, first in enumerate(firsts):
        together = [records[first + part] for part in range(5)]
        assert [record.value for record in together] == [str(turn).encode()] * 5
        assert [record.key for record in together] == [f"key-{part}" for part in range(5)]


async def test_a_reader_never_sees_a_part_of_an_append(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)
    other = await ground.open()
    seen: list[int] = []

    async def write() -> None:
        for turn in range(30):
            await bus.append(at, [NewRecord(topic.name, str(turn), b"x" * 2000) for _ in range(7)])

    writing = asyncio.create_task(write())
    while not writing.done():
        seen.append(len(await other.read(at)))
    await writing

    assert {count % 7 for count in seen} == {0}
    assert len(await other.read(at)) == 210


async def test_a_record_for_elsewhere_in_an_append_is_a_bug(ground: Ground, bus: Bus) -> None:
    topic, other = ground.topic(), ground.topic("other")
    await bus.ensure([topic, other])
    at = TopicPartition(topic.name, 0)

    with pytest.raises(ValueError, match="in an append to"):
        await bus.append(at, [NewRecord(topic.name, "k", b""), NewRecord(other.name, "k", b"")])
    with pytest.raises(ValueError, match="in an append to"):
        await bus.append(at, [NewRecord(topic.name, "k", b"", partition=1)])

    assert await bus.end(at) == 0


async def test_a_missing_topic_or_partition_is_named_and_never_made(ground: Ground, bus: Bus) -> None:
    topic = ground.topic()
    await bus.ensure([topic])

    with pytest.raises(Permanent, match="missing does not exist"):
        await bus.publish([NewRecord(ground.topic("missing").name, "k", b"")])
    with pytest.raises(Permanent, match="partitions 0 to 2, not 3"):
        await bus.publish([NewRecord(topic.name, "k", b"", partition=3)])
    with pytest.raises(Permanent, match="partitions 0 to 2, not 7"):
        await bus.read(TopicPartition(topic.name, 7))

    assert ground.topic("missing").name not in await bus.topics()


async def test_reading_pages_through_the_log_and_ends_empty(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)
    await bus.append(at, [NewRecord(topic.name, "k", str(number).encode()) for number in range(25)])

    pages = [await bus.read(at, start=start, limit=10) for start in (0, 10, 20, 25)]

    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert [int(record.value or b"") for page in pages for record in page] == list(range(25))
    assert await bus.end(at) == 25


async def test_ensuring_twice_changes_nothing_and_a_difference_is_named(ground: Ground, bus: Bus) -> None:
    week = timedelta(days=7)
    topics = [ground.topic("facts"), ground.topic("inbox", retention=week), ground.topic("state", 3, Cleanup.COMPACT)]
    await bus.ensure(topics)
    await bus.ensure(topics)

    with pytest.raises(Permanent, match=r"facts exists with partitions 3, wanted is 4"):
        await bus.ensure([ground.topic("facts", partitions=4)])
    with pytest.raises(Permanent, match=r"facts exists with cleanup\S* delete, wanted is compact"):
        await bus.ensure([ground.topic("facts", 3, Cleanup.COMPACT)])
    with pytest.raises(Permanent, match=r"inbox exists with retention"):
        await bus.ensure([ground.topic("inbox", retention=timedelta(days=1))])
    assert {topic.name for topic in topics} <= set(await bus.topics())


async def test_a_compact_topic_keeps_the_last_record_of_each_key(ground: Ground, bus: Bus) -> None:
    topic = ground.topic("state", 1, Cleanup.COMPACT)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)
    for turn in range(5):
        await bus.append(at, [NewRecord(topic.name, f"key-{part}", f"{turn}".encode()) for part in range(4)])
    await bus.append(at, [NewRecord(topic.name, "key-0", None)])

    records = await bus.read(at)

    assert {record.key: record.value for record in records} == {
        "key-0": None,
        **{f"key-{part}": b"4" for part in range(1, 4)},
    }
    assert [record.offset for record in records] == sorted(record.offset for record in records)
    assert await bus.end(at) == 21


async def test_what_was_published_is_there_after_the_bus_is_opened_again(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)
    await bus.publish([NewRecord(topic.name, "k", b"before")])
    await bus.close()

    again = await ground.open()
    (offset,) = await again.publish([NewRecord(topic.name, "k", b"after")])

    assert [record.value for record in await again.read(at)] == [b"before", b"after"]
    assert offset == 1


async def test_a_record_keeps_the_time_that_it_is_given(ground: Ground, bus: Bus) -> None:
    topic = ground.topic(partitions=1)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)
    await bus.publish([NewRecord(topic.name, "k", b"1", timestamp_ms=1_500_000_000_001)])
    await bus.append(
        at, [NewRecord(topic.name, "k", b"2", timestamp_ms=1_500_000_000_002), NewRecord(topic.name, "k", b"3")]
    )

    times = [record.timestamp_ms for record in (await ground.everything(bus, topic))[at]]

    assert times[:2] == [1_500_000_000_001, 1_500_000_000_002]
    assert times[2] > 1_700_000_000_000

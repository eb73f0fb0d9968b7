"""What ownership of a state partition stands on: offsets without gaps, and what is superseded stays for a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from towline.bus.port import Cleanup, LostAssignment, NewRecord, TopicPartition

if TYPE_CHECKING:
    from tests.contract.conftest import Ground

    from towline.bus.port import Bus


async def test_an_append_begins_where_the_one_before_it_ended(ground: Ground, bus: Bus) -> None:
    topic = ground.topic("state", 2, Cleanup.COMPACT)
    await bus.ensure([topic])
    other = await ground.open()
    at = TopicPartition(topic.name, 1)
    expected = 0
    for turn in range(12):
        writer = (bus, other)[turn % 2]
        records = [NewRecord(topic.name, f"key-{n}", b"v" if n else None) for n in range(1 + turn % 3)]
        await bus.publish([NewRecord(topic.name, "elsewhere", b"v", partition=0)])
        assert await writer.append(at, records) == expected
        expected += len(records)
        assert await other.end(at) == expected


async def test_appends_at_once_leave_no_gap_between_them(ground: Ground, bus: Bus) -> None:
    topic = ground.topic("state", 1, Cleanup.COMPACT)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)
    sizes = [1 + n % 4 for n in range(30)]

    firsts = await asyncio.gather(
        *(
            bus.append(at, [NewRecord(topic.name, f"{n} {part}", b"v") for part in range(size)])
            for n, size in enumerate(sizes)
        )
    )

    taken = sorted(zip(firsts, sizes, strict=True))
    assert [first for first, _ in taken] == [sum(size for _, size in taken[:n]) for n in range(len(taken))]
    assert await bus.end(at) == sum(sizes)


async def test_a_lower_generation_is_refused_or_seen_by_its_offset(ground: Ground, bus: Bus) -> None:
    topic = ground.topic("state", 1, Cleanup.COMPACT)
    await bus.ensure([topic])
    other = await ground.open()
    at = TopicPartition(topic.name, 0)
    first = await bus.append(at, [NewRecord(topic.name, "key", b"1")], generation=1)
    await other.append(at, [NewRecord(topic.name, "claim", b"2"), NewRecord(topic.name, "key", b"2")], generation=2)

    try:
        late = await bus.append(at, [NewRecord(topic.name, "key", b"late")], generation=1)
    except LostAssignment:
        assert [record.value for record in await bus.read(at) if record.key == "key"][-1] == b"2"
    else:
        assert late > first + 1
        values = [record.value for record in await other.read(at) if record.key == "key"]
        assert values[-2:] == [b"2", b"late"], "what was written over can still be read"
    await other.append(at, [NewRecord(topic.name, "key", b"3")], generation=2)


async def test_the_same_generation_and_none_at_all_are_never_refused(ground: Ground, bus: Bus) -> None:
    topic = ground.topic("state", 1, Cleanup.COMPACT)
    await bus.ensure([topic])
    at = TopicPartition(topic.name, 0)
    for generation in (3, 3, None, 4, None):
        await bus.append(at, [NewRecord(topic.name, "key", b"v")], generation=generation)
    if not (await bus.read(at))[0].offset:  # a bus that compares has compacted by now
        return
    with pytest.raises(LostAssignment, match="generation 4"):
        await bus.append(at, [NewRecord(topic.name, "key", b"v")], generation=3)

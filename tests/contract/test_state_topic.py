"""What the owner of a state partition stands on: offsets without gaps of its own, and nothing unseen in a gap."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from towline.bus.port import Cleanup, LostAssignment, NewRecord, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.contract.conftest import Ground

    from towline.bus.port import Bus, Topic


@pytest.fixture
async def state(ground: Ground, bus: Bus) -> Topic:
    topic = ground.topic("state", 2, Cleanup.COMPACT)
    await bus.ensure([topic])
    return topic


def rows(topic: Topic, keys: Sequence[str], turn: int) -> list[NewRecord]:
    return [NewRecord(topic.name, key, f"{turn}".encode()) for key in keys]


async def test_a_lone_writer_sees_no_gap_whatever_it_writes_over(ground: Ground, bus: Bus, state: Topic) -> None:
    at = TopicPartition(state.name, 1)
    expected = await bus.end(at)
    for turn in range(30):
        batch = rows(state, [f"key-{(turn + part) % 4}" for part in range(turn % 5 + 1)], turn)

        assert await bus.append(at, batch) == expected

        expected += len(batch)
        if turn % 10 == 3:  # what goes elsewhere leaves no trace here
            await bus.append(TopicPartition(state.name, 0), batch)
            await bus.publish([NewRecord(state.name, "else", b"", partition=0)])
        if turn % 10 == 7:  # another life of the writer
            await bus.close()
            bus = await ground.open()
    assert await bus.end(at) == expected


async def test_a_lone_writer_sees_no_gap_from_what_was_refused(bus: Bus, state: Topic) -> None:
    at = TopicPartition(state.name, 0)
    first = await bus.append(at, rows(state, ["a"], 0))
    with pytest.raises(ValueError, match="in an append to"):
        await bus.append(at, [NewRecord(state.name, "a", b"", partition=1)])
    assert await bus.append(at, rows(state, ["b"], 1)) == first + 1


async def test_an_append_whose_answer_was_lost_is_found_whole_in_the_gap_or_never_there(bus: Bus, state: Topic) -> None:
    at = TopicPartition(state.name, 0)
    expected = await bus.append(at, rows(state, ["first"], 0)) + 1
    for turn in range(12):
        batch = rows(state, [f"turn-{turn}-{part}" for part in range(3)], turn)
        appending = asyncio.ensure_future(bus.append(at, batch))
        for _ in range(turn):
            await asyncio.sleep(0)
        appending.cancel()
        with suppress(asyncio.CancelledError):
            await appending

        found = await bus.append(at, rows(state, ["next"], turn))

        gap = [record.key for record in await bus.read(at, start=expected) if record.offset < found]
        assert gap in ([], [record.key for record in batch])
        assert found == expected + len(gap)
        expected = found + 1


async def test_a_gap_says_that_somebody_else_wrote_and_holds_what(ground: Ground, bus: Bus, state: Topic) -> None:
    at = TopicPartition(state.name, 0)
    other = await ground.open()
    expected = await bus.append(at, rows(state, ["a", "b"], 0)) + 2

    await other.append(at, rows(state, ["b", "c"], 1))
    found = await bus.append(at, rows(state, ["d"], 2))

    assert found == expected + 2
    gap = [record for record in await bus.read(at, start=expected) if record.offset < found]
    assert [(record.offset, record.key, record.value) for record in gap] == [
        (expected, "b", b"1"),
        (expected + 1, "c", b"1"),
    ]


async def test_a_zombies_late_write_is_refused_or_stands_behind_the_claim_where_the_owner_finds_it(
    ground: Ground, bus: Bus, state: Topic
) -> None:
    """Either way nothing of it can count: the bus compares generations, or the owner sees a gap with the late row in
    it, also when it has written over that row since."""
    at = TopicPartition(state.name, 0)
    zombie = await ground.open()
    await zombie.append(at, rows(state, ["row"], 0), generation=4)
    claimed = await bus.append(at, rows(state, ["claim"], 1), generation=5)

    try:
        await zombie.append(at, rows(state, ["row"], 2), generation=4)
    except LostAssignment:
        late: list[bytes | None] = []
    else:
        late = [b"2"]
    found = await bus.append(at, rows(state, ["row"], 3), generation=5)

    assert found == claimed + 1 + len(late)
    gap = [record.value for record in await bus.read(at, start=claimed + 1) if record.offset < found]
    assert gap == late


async def test_ids_and_times_of_a_record_survive(ground: Ground, bus: Bus, state: Topic) -> None:
    written = int(datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC).timestamp() * 1000)
    headers = {
        "ce_id": b"0123456789abcdef",
        "ce_source": b"/git-watcher",
        "ce_sequence": b"7",
        "traceparent": b"00-1-2-03",
    }
    await bus.publish([NewRecord(state.name, "key", b"{}", headers, 0, written)])
    await bus.append(TopicPartition(state.name, 0), [NewRecord(state.name, "other", None, headers)])
    await bus.close()

    first, second = (await ground.everything(await ground.open(), state))[TopicPartition(state.name, 0)]

    assert dict(first.headers) == dict(second.headers) == headers
    assert first.timestamp_ms == written
    age = datetime.now(UTC) - datetime.fromtimestamp(second.timestamp_ms / 1000, UTC)
    assert timedelta(minutes=-5) < age < timedelta(minutes=5)

"""Several members of one group on one file: who gets what, who is put out, and what a late one can still do."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from towline.bus.port import Assignment, BusDown, LostAssignment, NewRecord, Topic, TopicPartition
from towline.bus.sqlite import SqliteBus, lease
from towline.bus.sqlite.consumer import SqliteConsumer
from towline.errors import Permanent

TOPICS = [Topic("a", 4), Topic("b", 4)]
NAMES = [topic.name for topic in TOPICS]
PATIENCE = 20.0


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[SqliteBus]:
    opened = await SqliteBus.open(tmp_path / "bus.db")
    await opened.ensure(TOPICS)
    yield opened
    await opened.close()


@pytest.fixture
async def other(bus: SqliteBus) -> AsyncIterator[SqliteBus]:
    opened = await SqliteBus.open(bus.path)
    yield opened
    await opened.close()


def share(*partitions: int) -> Assignment:
    return frozenset(TopicPartition(name, partition) for name in NAMES for partition in partitions)


async def until(consumer: SqliteConsumer, assignment: Assignment) -> None:
    async with asyncio.timeout(PATIENCE):
        while consumer.assignment != assignment:
            await consumer.fetch(timeout=0.05)


async def together(*wanted: tuple[SqliteConsumer, Assignment]) -> None:
    """Every member fetches on until all have their share: none may rest while others wait for it."""
    async with asyncio.timeout(PATIENCE):
        while any(consumer.assignment != assignment for consumer, assignment in wanted):
            await asyncio.gather(*(consumer.fetch(timeout=0.05) for consumer, _ in wanted))


async def test_partition_n_of_all_topics_goes_to_one_member(bus: SqliteBus, other: SqliteBus) -> None:
    first = await bus.consumer("g", NAMES, member="m1")
    await until(first, share(0, 1, 2, 3))
    second = await other.consumer("g", NAMES, member="m0")
    await together((first, share(2, 3)), (second, share(0, 1)))
    third = await other.consumer("g", NAMES, member="m2")
    await together((first, share(2)), (second, share(0, 1)), (third, share(3)))


async def test_nobody_gets_a_partition_before_its_holder_has_given_it_up(bus: SqliteBus, other: SqliteBus) -> None:
    order: list[str] = []
    may_leave = asyncio.Event()

    async def leaving(_: Assignment) -> None:
        order.append("revoked")
        await may_leave.wait()
        order.append("given up")

    async def gained(_: Assignment) -> None:
        order.append("assigned")

    first = await bus.consumer("g", NAMES, member="m0", on_revoked=leaving)
    await until(first, share(0, 1, 2, 3))
    second = await other.consumer("g", NAMES, member="m1", on_assigned=gained)
    going = asyncio.create_task(together((first, share(0, 1)), (second, share(2, 3))))
    while not order:  # noqa: ASYNC110 - the fetch of another task fills it
        await asyncio.sleep(0.01)
    assert await second.fetch(timeout=0.2) == []
    assert order == ["revoked"]
    may_leave.set()
    await going
    assert order == ["revoked", "given up", "assigned"]


async def test_what_is_committed_while_leaving_counts_for_the_next_owner(bus: SqliteBus, other: SqliteBus) -> None:
    at = TopicPartition("a", 3)

    async def leaving(_: Assignment) -> None:
        await first.commit({at: 4})

    first = await bus.consumer("g", NAMES, member="m0", on_revoked=leaving)
    await until(first, share(0, 1, 2, 3))
    await bus.publish([NewRecord("a", "k", str(n).encode(), partition=3) for n in range(6)])
    assert len(await first.fetch()) == 6
    second = await other.consumer("g", NAMES, member="m1")
    got: list[bytes | None] = []
    async with asyncio.timeout(PATIENCE):
        while len(got) < 2:
            await first.fetch(timeout=0.02)
            got += [record.value for record in await second.fetch(timeout=0.02)]
    assert got == [b"4", b"5"]


async def test_a_member_that_leaves_hands_over_at_once(bus: SqliteBus, other: SqliteBus) -> None:
    first = await bus.consumer("g", NAMES, member="m0")
    second = await other.consumer("g", NAMES, member="m1")
    await together((first, share(0, 1)), (second, share(2, 3)))
    await second.close()
    await until(first, share(0, 1, 2, 3))


async def test_more_members_than_partitions_leave_the_last_without_and_it_steps_in(
    bus: SqliteBus, other: SqliteBus
) -> None:
    members = [await (bus, other)[n % 2].consumer("g", NAMES, member=f"m{n}") for n in range(5)]
    await together(*((member, share(n) if n < 4 else share()) for n, member in enumerate(members)))
    await members[0].close()
    await together(*((member, share(n)) for n, member in enumerate(members[1:])))


async def test_a_silent_member_is_put_out_and_can_commit_nothing(
    bus: SqliteBus, other: SqliteBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await bus.consumer("g", NAMES, member="m0")
    second = await other.consumer("g", NAMES, member="m1")
    await together((first, share(0, 1)), (second, share(2, 3)))
    monkeypatch.setattr(lease, "EXPIRES_MS", -1)
    await first.beat()
    await first.beat()
    monkeypatch.undo()
    await until(first, share(0, 1, 2, 3))

    with suppress(LostAssignment):
        await second.commit({TopicPartition("a", 3): 77})
    async with asyncio.timeout(PATIENCE):
        while not second._lost:  # noqa: ASYNC110 - told by the writer's thread
            await asyncio.sleep(0.01)
    assert await bus.writer.submit(lambda ledger: ledger.committed("g", TopicPartition("a", 3))) is None
    with pytest.raises(LostAssignment, match="goes on without member m1"):
        await second.commit({TopicPartition("a", 3): 77})
    await together((first, share(0, 1)), (second, share(2, 3)))


async def test_one_that_was_itself_asleep_puts_nobody_out(
    bus: SqliteBus, other: SqliteBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await bus.consumer("g", NAMES, member="m0")
    second = await other.consumer("g", NAMES, member="m1")
    await together((first, share(0, 1)), (second, share(2, 3)))
    monkeypatch.setattr(lease, "EXPIRES_MS", -1)
    first._beaten_at -= 3600
    await first.beat()
    assert not second._lost
    assert second.assignment == share(2, 3)
    await second.commit({TopicPartition("a", 3): 0})


async def test_a_member_that_does_not_give_up_in_time_is_put_out(
    bus: SqliteBus, other: SqliteBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = await bus.consumer("g", NAMES, member="m0")
    await until(stuck, share(0, 1, 2, 3))
    second = await other.consumer("g", NAMES, member="m1")
    assert await second.fetch(timeout=0.05) == []
    monkeypatch.setattr(lease, "REBALANCE_MS", -1)
    await second.beat()
    await second.beat()
    monkeypatch.undo()
    await until(second, share(0, 1, 2, 3))


async def test_a_name_that_a_living_process_has_is_refused_with_the_way_out(bus: SqliteBus, other: SqliteBus) -> None:
    await bus.consumer("g", NAMES, member="m0")
    with pytest.raises(Permanent, match=f"m0 already, in process {os.getpid()}: stop it, or give each process"):
        await other.consumer("g", NAMES, member="m0")


async def test_a_name_that_cannot_be_seen_from_here_is_waited_for(
    bus: SqliteBus, other: SqliteBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "this_process", lambda: "pid:[1]/1/1")
    await bus.consumer("g", NAMES, member="m0")
    monkeypatch.undo()
    with pytest.raises(BusDown, match="waiting until it leaves"):
        await other.consumer("g", NAMES, member="m0")
    monkeypatch.setattr(lease, "EXPIRES_MS", -1)
    await until(await other.consumer("g", NAMES, member="m0"), share(0, 1, 2, 3))


MEMBER = """
import asyncio, sys
from towline.bus.sqlite import SqliteBus

async def main():
    bus = await SqliteBus.open(sys.argv[1])
    consumer = await bus.consumer("g", ["a", "b"], member="m1")
    while True:
        await consumer.fetch(timeout=0.05)
        if consumer.assignment:
            print(len(consumer.assignment), flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_is_noticed_at_once(bus: SqliteBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "EXPIRES_MS", 3_600_000)
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEMBER, str(bus.path), stdout=asyncio.subprocess.PIPE
    )
    assert killed.stdout is not None
    first = await bus.consumer("g", NAMES, member="m0")
    fetching = asyncio.create_task(until(first, share(0, 1)))
    try:
        while int(await killed.stdout.readline()) != 4:
            pass
        await fetching
    finally:
        killed.send_signal(signal.SIGKILL)
    await until(first, share(0, 1, 2, 3))
    await killed.wait()


RELEASED_1 = """
CREATE TABLE topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    cleanup TEXT NOT NULL,
    retention_ms INTEGER
);
CREATE TABLE heads (
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE records (
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    key TEXT NOT NULL,
    headers BLOB NOT NULL,
    value BLOB,
    PRIMARY KEY (topic, partition, offset)
) WITHOUT ROWID;
CREATE INDEX tombstones ON records (timestamp_ms) WHERE value IS NULL;
CREATE TABLE latest (
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    key TEXT NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, key)
) WITHOUT ROWID;
CREATE TABLE offsets (
    grp TEXT NOT NULL,
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (grp, topic, partition)
) WITHOUT ROWID;
CREATE TABLE leases (
    grp TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    member TEXT,
    process TEXT,
    heartbeat_ms INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO topics VALUES (1, 'a', 1, 'delete', NULL);
INSERT INTO heads VALUES (1, 0, 2);
INSERT INTO records VALUES (1, 0, 0, 1, 'k', x'', x'30'), (1, 0, 1, 1, 'k', x'', x'31');
INSERT INTO offsets VALUES ('g', 1, 0, 1);
INSERT INTO leases VALUES ('g', 7, NULL, NULL, 1);
PRAGMA user_version=1;
"""


async def test_a_file_of_the_first_release_goes_on_where_it_was(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "bus.db")
    connection.executescript(RELEASED_1)
    connection.close()
    bus = await SqliteBus.open(tmp_path / "bus.db")
    consumer = await bus.consumer("g", ["a"], member="m0")
    assert [record.value for record in await consumer.fetch()] == [b"1"]
    assert bus.groups["g"] == (8, 8)
    await bus.close()
    again = await SqliteBus.open(tmp_path / "bus.db")
    assert await again.topics() == ["a"]
    await again.close()

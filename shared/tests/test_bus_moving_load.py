"""A log that is written to a bus: whole, once, and only to one that has none."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from towline.bus.moving.export import items_of
from towline.bus.moving.items import End, Item
from towline.bus.moving.load import Moved, load
from towline.bus.moving.offsets import Offsets
from towline.bus.port import Cleanup, NewRecord, Record, Topic, TopicPartition
from towline.bus.sqlite import SqliteBus
from towline.bus.sqlite.snapshot import Snapshot
from towline.errors import BadInput

pytestmark = pytest.mark.whole_service

FACTS, STATE = Topic("a.facts", 2, retention=timedelta(days=1)), Topic("b.state", 2, Cleanup.COMPACT)
AT = TopicPartition("a.facts", 1)
NOW_MS = time.time_ns() // 1_000_000


async def source(file: Path) -> SqliteBus:
    """Holes in the state, a swept front, a tombstone, garbage, and groups in the middle of it."""
    bus = await SqliteBus.open(file)
    await bus.ensure([FACTS, STATE])
    long_ago = 1_600_000_000_000
    await bus.publish([NewRecord("a.facts", "k", b"", {}, n % 2, long_ago) for n in range(20)])
    await bus.publish([NewRecord("a.facts", f"k{n}", b"\xff%d" % n, {"h": b"\xfe"}, n % 2) for n in range(1300)])
    await bus.publish(
        [NewRecord("b.state", f"k{n % 7}", None if n % 7 == 3 else b"%d" % n, {}, n % 2) for n in range(99)]
    )
    await bus.commit_for("readers", {AT: 10 + 600})
    await bus.sweep()
    return bus


async def items(file: Path, cut_after: int | None = None) -> AsyncIterator[Item]:
    snapshot = Snapshot(file, NOW_MS)
    number = 0
    async for item in items_of(snapshot, [FACTS, STATE], ["readers", "others"]):
        if number == cut_after:
            raise BadInput("cut")
        number += 1
        yield item
    snapshot.close()


def same(record: Record, _: Offsets) -> NewRecord:
    return NewRecord(record.topic, record.key, record.value, record.headers, record.partition, record.timestamp_ms)


async def whole(bus: SqliteBus, topic: Topic) -> list[tuple[object, ...]]:
    found = [await bus.read(TopicPartition(topic.name, n), limit=5000) for n in range(topic.partitions)]
    return [(r.partition, r.key, r.value, dict(r.headers), r.timestamp_ms) for each in found for r in each]


async def test_a_log_moves_with_times_bytes_and_groups_into_new_offsets(tmp_path: Path) -> None:
    old = await source(tmp_path / "old.db")
    new = await SqliteBus.open(tmp_path / "new.db")

    done = await load(new, items(tmp_path / "old.db"), same)

    for topic in (FACTS, STATE):
        assert await whole(new, topic) == await whole(old, topic)
    assert done == Moved(records=1314, written=1314)
    assert (await new.read(AT))[0].offset == 0
    assert await new.offsets("readers") == {AT: 600}
    assert await new.offsets("others") == {}
    await old.close()
    await new.close()


@pytest.mark.parametrize("cut", [1, 2, 400, 700, 1310, 1324])
async def test_a_second_try_goes_on_where_the_first_was_cut(tmp_path: Path, cut: int) -> None:
    old = await source(tmp_path / "old.db")
    new = await SqliteBus.open(tmp_path / "new.db")
    with pytest.raises(BadInput, match="cut"):
        await load(new, items(tmp_path / "old.db", cut), same)
    assert await new.offsets("readers") == {}, "no group begins before all is there"
    half = sum((await new.ends([TopicPartition("a.facts", n) for n in range(2)])).values())

    done = await load(new, items(tmp_path / "old.db"), same)

    assert done.written < 1314 or half == 0
    for topic in (FACTS, STATE):
        assert await whole(new, topic) == await whole(old, topic)
    assert await new.offsets("readers") == {AT: 600}
    again = await load(new, items(tmp_path / "old.db"), same)
    assert again.written == 0
    await old.close()
    await new.close()


async def test_a_bus_that_has_other_records_or_members_is_refused(tmp_path: Path) -> None:
    old = await source(tmp_path / "old.db")
    new = await SqliteBus.open(tmp_path / "new.db")
    await new.ensure([FACTS, STATE])
    member = await new.consumer("readers", ["a.facts"], member="7")
    with pytest.raises(BadInput, match=r"group readers of the bus to be written has a member \(7 in process \d+\)"):
        await load(new, items(tmp_path / "old.db"), same)
    await member.close()

    await new.publish([NewRecord("a.facts", "own", b"", {}, 1)])
    with pytest.raises(BadInput, match=r"a\.facts/1 .* has records that are not from this log \(offset 0\)"):
        await load(new, items(tmp_path / "old.db"), same)
    await old.close()
    await new.close()


async def test_a_bus_where_services_have_run_since_is_refused(tmp_path: Path) -> None:
    old = await source(tmp_path / "old.db")
    for name in ("more", "ahead"):
        new = await SqliteBus.open(tmp_path / f"{name}.db")
        await load(new, items(tmp_path / "old.db"), same)
        if name == "more":
            await new.publish([NewRecord("a.facts", "later", b"", {}, 1)])
        else:
            await new.commit_for("readers", {AT: 650})
        said = r"not from this log \(offset 650\)" if name == "more" else "has committed 650 .* where the log says 600"
        with pytest.raises(BadInput, match=said):
            await load(new, items(tmp_path / "old.db"), same)
        await new.close()
    await old.close()


async def test_a_copy_of_a_running_bus_says_so_and_is_taken_only_when_asked_to(tmp_path: Path) -> None:
    old = await source(tmp_path / "old.db")
    member = await old.consumer("readers", ["a.facts"], member="7")
    new = await SqliteBus.open(tmp_path / "new.db")
    with pytest.raises(BadInput, match="readers ran while this log was exported"):
        await load(new, items(tmp_path / "old.db"), same)
    assert await new.topics() == [], "nothing was written"

    await load(new, items(tmp_path / "old.db"), same, although_running=True)
    assert await whole(new, FACTS) == await whole(old, FACTS)
    await member.close()
    await old.close()
    await new.close()


async def test_a_snapshot_is_of_one_moment_however_the_log_goes_on(tmp_path: Path) -> None:
    bus = await source(tmp_path / "old.db")
    before = [item async for item in items(tmp_path / "old.db")]
    snapshot = Snapshot(tmp_path / "old.db", NOW_MS)
    exported: list[Item] = []
    async for item in items_of(snapshot, [FACTS, STATE], ["readers", "others"]):
        if len(exported) in (1, 500):
            await bus.publish([NewRecord("b.state", f"k{n % 7}", b"new", {}, n % 2) for n in range(99)])
            await bus.publish([NewRecord("a.facts", "k", b"new", {}, 1)])
        exported.append(item)
    snapshot.close()
    await bus.close()

    assert exported[1:] == before[1:]


async def test_what_is_left_of_a_damaged_file_is_saved_and_what_is_lost_is_named(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    bus = await source(file)
    kept = await whole(bus, FACTS)
    await bus.close()
    pages = [file.read_bytes()[start : start + 4096] for start in range(0, file.stat().st_size, 4096)]
    leaf = next(number for number, page in enumerate(pages) if page[0] == 0x0A and page.count(b"\xff6") > 20)
    with file.open("r+b") as opened_file:
        opened_file.seek(leaf * 4096)
        opened_file.write(b"\xa5" * 4096)

    snapshot = Snapshot(file, NOW_MS, damaged=True)
    found = [item async for item in items_of(snapshot, [FACTS, STATE], ["readers"], damaged=True)]
    snapshot.close()

    records = [item for item in found if isinstance(item, Record) and item.topic == "a.facts"]
    lost = {item.at: item.lost for item in found if isinstance(item, End) and item.lost}
    missing = sum(end - first for ranges in lost.values() for first, end in ranges)
    assert 0 < missing < 200
    assert len(records) == len(kept) - missing
    assert {(r.partition, r.key, r.value) for r in records} < {(row[0], row[1], row[2]) for row in kept}

    async def again() -> AsyncIterator[Item]:
        for item in found:
            yield item

    new = await SqliteBus.open(tmp_path / "new.db")
    with pytest.raises(BadInput, match="from a damaged file and may lack records"):
        await load(new, again(), same)
    done = await load(new, again(), same, although_damaged=True)
    assert done.lost == lost
    assert len(await whole(new, FACTS)) == len(records)
    await new.close()


async def test_a_file_that_is_no_log_of_this_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no bus file"):
        Snapshot(tmp_path / "none.db", NOW_MS)
    assert not (tmp_path / "none.db").exists()

"""State batches written together: order, wholeness, and whose failure it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.bus.port import BusDown, NewRecord, TooLarge
from towline.delivery.grouped import MOST_BYTES, MOST_RECORDS, GroupedAppends
from towline.testing.virtual import run


class Log:
    """Takes an append after a moment, and refuses a record that says so."""

    def __init__(self) -> None:
        self.appends: list[tuple[int, list[str]]] = []
        self.away = False

    async def append(self, partition: int, records: Sequence[NewRecord]) -> None:
        await asyncio.sleep(0.01)
        if self.away:
            raise BusDown("away")
        if any(record.key == "too large" for record in records):
            raise TooLarge("one record is over the limit")
        self.appends.append((partition, [record.key for record in records]))


def batch(*keys: str, size: int = 10) -> list[NewRecord]:
    return [NewRecord("t", key, b"x" * size) for key in keys]


async def test_what_comes_while_an_append_is_on_its_way_goes_with_the_next_one() -> None:
    log = Log()
    grouped = GroupedAppends(log.append)
    first = asyncio.create_task(grouped.append(0, batch("a")))
    await asyncio.sleep(0.001)
    await asyncio.gather(first, *(grouped.append(0, batch(f"{n}", f"{n}+")) for n in range(3)))
    assert log.appends == [(0, ["a"]), (0, ["0", "0+", "1", "1+", "2", "2+"])]


async def test_a_partition_does_not_wait_for_another() -> None:
    log = Log()
    grouped = GroupedAppends(log.append)
    await asyncio.gather(grouped.append(0, batch("a")), grouped.append(1, batch("b")))
    assert sorted(log.appends) == [(0, ["a"]), (1, ["b"])]


async def test_a_batch_that_cannot_be_written_fails_alone() -> None:
    log = Log()
    grouped = GroupedAppends(log.append)
    given = [batch("a"), batch("b", "too large"), batch("c")]
    results = await asyncio.gather(*(grouped.append(0, each) for each in given), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), TooLarge, type(None)]
    assert [keys for _, keys in log.appends] == [["a"], ["c"]]


async def test_all_of_a_group_hear_that_the_bus_is_away_and_the_next_ones_are_written() -> None:
    log = Log()
    grouped = GroupedAppends(log.append)
    log.away = True
    results = await asyncio.gather(*(grouped.append(0, batch("a")) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [BusDown] * 3
    log.away = False
    await grouped.append(0, batch("b"))
    assert log.appends == [(0, ["b"])]


async def test_a_caller_that_is_cancelled_takes_nobody_along() -> None:
    log = Log()
    grouped = GroupedAppends(log.append)
    tasks = [asyncio.create_task(grouped.append(0, batch(name))) for name in "abc"]
    await asyncio.sleep(0.001)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None)]
    await grouped.append(0, batch("d"))
    assert log.appends[-1] == (0, ["d"])


async def test_what_nobody_waits_for_any_more_keeps_no_task_going() -> None:
    """A drain that gives up on a bus that is away must not leave a writer behind."""
    going: set[int] = set()

    async def hangs(partition: int, _: Sequence[NewRecord]) -> None:
        going.add(partition)
        try:
            await asyncio.Event().wait()
        finally:
            going.discard(partition)

    grouped = GroupedAppends(hangs)
    tasks = [asyncio.create_task(grouped.append(0, batch(name))) for name in "abc"]
    await asyncio.sleep(0.001)
    assert going == {0}
    for task in tasks[:2]:
        task.cancel()
    await asyncio.sleep(0.001)
    assert going == {0}
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert going == set()
    assert not grouped._lines


async def test_a_batch_whose_caller_left_before_its_turn_is_not_written() -> None:
    log = Log()
    grouped = GroupedAppends(log.append)
    tasks = [asyncio.create_task(grouped.append(0, batch(name))) for name in "abc"]
    await asyncio.sleep(0)
    first = asyncio.create_task(grouped.append(0, batch("d")))
    await asyncio.sleep(0.001)
    first.cancel()
    await asyncio.gather(*tasks, first, return_exceptions=True)
    assert "d" not in [key for _, keys in log.appends for key in keys]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 5),
            st.integers(1, 40),
            st.sampled_from((10, MOST_BYTES // 3, MOST_BYTES)),
        ),
        max_size=12,
    )
)
def test_batches_stay_whole_and_in_order_however_they_are_grouped(given: list[tuple[int, int, int, int]]) -> None:
    """(partition, when, records, bytes of the whole): nothing is split, lost, doubled or overtaken."""
    log = Log()

    async def write() -> None:
        grouped = GroupedAppends(log.append)

        async def one(number: int, partition: int, after: int, records: int, size: int) -> None:
            await asyncio.sleep(after * 0.004)
            keys = [f"{number} {n}" for n in range(records)]
            given_at[partition].append(keys)
            await grouped.append(partition, batch(*keys, size=max(1, size // records)))

        await asyncio.gather(*(one(number, *each) for number, each in enumerate(given)))

    given_at: dict[int, list[list[str]]] = {0: [], 1: [], 2: []}
    run(write())
    for partition, batches in given_at.items():
        appends = [keys for at, keys in log.appends if at == partition]
        assert [key for keys in appends for key in keys] == [key for keys in batches for key in keys]
        for keys in batches:
            assert sum(1 for append in appends if set(keys) & set(append)) == 1
        assert all(len(append) <= MOST_RECORDS for append in appends)


@pytest.mark.parametrize("count", [1, 100])
async def test_nothing_is_kept_of_a_partition_that_is_written(count: int) -> None:
    grouped = GroupedAppends(Log().append)
    await asyncio.gather(*(grouped.append(n, batch("a")) for n in range(count)))
    await asyncio.sleep(0)
    assert not grouped._lines

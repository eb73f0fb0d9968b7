"""Seeded histories of the whole delivery: whatever is killed, lost, delayed or reordered, all is done, none twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from tests.simulation.faults import Faults, FaultyBus, World
from tests.simulation.stages import Book, Ledger, expected, expected_effects, stages

from towline import flow, killpoint
from towline.bus.port import TopicPartition
from towline.delivery.lane import Lane, Loader
from towline.delivery.runtime import Runtime
from towline.testing import virtual
from towline.testing.memory import MemoryBus, MemoryLog

SEEDS = 2000 if os.environ.get("TOWLINE_PROFILE") == "nightly" else 200
PER_TEST = 20
PATIENCE_S = 3600.0
"""In virtual time; a history that needs longer is stuck."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _restore_killpoint() -> Iterator[None]:
    before = killpoint.passed
    yield
    killpoint.passed = before


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_every_effect_is_done_and_nothing_is_taken_twice(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        try:
            virtual.run(history(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


async def history(seed: int) -> None:
    chance = random.Random(seed)
    heads = {
        f"r{repo}": [f"r{repo}h{number}" for number in range(chance.randint(1, 3))]
        for repo in range(chance.randint(2, 3))
    }
    log, ledger = MemoryLog(), Ledger()
    for topic in flow.topics():
        log.ensure(topic)
    for _ in range(chance.randint(0, 4)):
        await _lives_until_killed(Faults(chance, kill_at=chance.randint(1, 700)), log, ledger, heads)
    await _lives_until_done(Faults(chance, kill_at=None), log, ledger, heads)
    _check(log, ledger, heads)


def _process(faults: Faults, log: MemoryLog, ledger: Ledger, heads: dict[str, list[str]]) -> list[Runtime[Book]]:
    loop = asyncio.get_running_loop()
    log.members.clear()
    killpoint.passed = lambda service, step, detail="": faults.passed(f"{service} {step} {detail}")
    bus, world = FaultyBus(log, faults), World(faults, ledger)
    return [
        Runtime(stage, bus, now=lambda: EPOCH + timedelta(seconds=loop.time())) for stage in stages(world.do, heads)
    ]


async def _lives_until_killed(faults: Faults, log: MemoryLog, ledger: Ledger, heads: dict[str, list[str]]) -> None:
    runtimes = _process(faults, log, ledger, heads)
    tasks = [asyncio.create_task(runtime.run()) for runtime in runtimes]
    losing = asyncio.create_task(_loses_groups(faults, log))
    dying = asyncio.create_task(faults.died.wait())
    done = asyncio.create_task(_all_done(log, ledger, heads))
    await asyncio.wait((dying, done), return_when=asyncio.FIRST_COMPLETED)
    faults.dead = True
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, losing, return_exceptions=True)
    assert all(task.cancelled() for task in tasks), [task.exception() for task in tasks if not task.cancelled()]


async def _lives_until_done(faults: Faults, log: MemoryLog, ledger: Ledger, heads: dict[str, list[str]]) -> None:
    runtimes = _process(faults, log, ledger, heads)
    tasks = [asyncio.create_task(runtime.run()) for runtime in runtimes]
    losing = asyncio.create_task(_loses_groups(faults, log))
    try:
        async with asyncio.timeout(PATIENCE_S):
            done = asyncio.create_task(_all_done(log, ledger, heads))
            await asyncio.wait((done, *tasks), return_when=asyncio.FIRST_COMPLETED)
            await done
            faults.trouble = 0.0
            losing.cancel()
            await asyncio.sleep(60)
    except TimeoutError:
        raise AssertionError(_missing(log, heads)) from None
    for runtime in runtimes:
        runtime.stop()
    await asyncio.gather(*tasks)


async def _loses_groups(faults: Faults, log: MemoryLog) -> None:
    """Now and then a member is taken for dead: it must leave its lanes, and load them again."""
    while faults.trouble:
        await asyncio.sleep(faults.chance.random() * 60)
        if member := log.members.get(faults.chance.choice(flow.SERVICES)):
            member.lose()


async def _all_done(log: MemoryLog, ledger: Ledger, heads: dict[str, list[str]]) -> None:
    """Looks whenever the log grew and the effects, which are cheap to look at, are all there."""
    effects = expected_effects(heads)
    while not (effects <= ledger.ids.keys() and not _missing(log, heads)):
        await log.changed.wait()


def _lanes(log: MemoryLog, service: str) -> dict[str, Lane[Book]]:
    found: dict[str, Lane[Book]] = {}
    for partition in range(flow.PARTITIONS):
        loader = Loader(Book)
        for record in log.records.get(TopicPartition(flow.state_of(service), partition), ()):
            loader.read(record)
        found |= loader.lanes()
    return found


def _books(log: MemoryLog) -> dict[str, dict[str, dict[str, int]]]:
    return {
        service: {
            f"{key} {thing}": entry.counts
            for key, lane in _lanes(log, service).items()
            for thing, entry in lane.state.things.items()
        }
        for service in flow.SERVICES
    }


def _missing(log: MemoryLog, heads: dict[str, list[str]]) -> list[str]:
    books, wanted = _books(log), expected(heads)
    return [
        f"{service}: {thing} is {books[service].get(thing)}, wanted is {counts}"
        for service, things in wanted.items()
        for thing, counts in things.items()
        if books[service].get(thing) != counts
    ]


def _check(log: MemoryLog, ledger: Ledger, heads: dict[str, list[str]]) -> None:
    assert _books(log) == expected(heads)
    assert ledger.ids.keys() == expected_effects(heads)
    assert {work: len(ids) for work, ids in ledger.ids.items() if len(ids) != 1} == {}, "one id for one effect"
    for service in flow.SERVICES:
        for key, lane in _lanes(log, service).items():
            assert not lane.outbox, f"{service} {key}"
            assert not lane.timers, f"{service} {key}"
            assert lane.parked is None, f"{service} {key}"
        for partition in range(flow.PARTITIONS):
            assert not log.records.get(TopicPartition(flow.dead_of(service), partition))
        for topic in (*flow.topics_consumed_by(service), flow.inbox_of(service)):
            for partition in range(flow.PARTITIONS):
                at = TopicPartition(topic, partition)
                assert log.offsets.get((service, at), 0) == log.heads.get(at, 0), f"{service} committed {at}"
    _check_order(log, heads)


def _check_order(log: MemoryLog, heads: dict[str, list[str]]) -> None:
    """What one lane says is first read in the order it was said, and its copies carry the same ids."""
    sequences: dict[tuple[str, str, str], list[int]] = {}
    copies: Counter[tuple[str, str, int]] = Counter()
    ids: dict[tuple[str, str, int], set[bytes]] = {}
    for at, records in log.records.items():
        if at.topic not in {stream.topic for stream in flow.STREAMS}:
            continue
        for record in records:
            lane, sequence = record.headers["ce_towlinelane"].decode(), int(record.headers["ce_sequence"])
            copies[at.topic, lane, sequence] += 1
            ids.setdefault((at.topic, lane, sequence), set()).add(record.headers["ce_id"])
            if copies[at.topic, lane, sequence] == 1:
                sequences.setdefault((at.topic, record.key, lane), []).append(sequence)
    assert all(len(same) == 1 for same in ids.values())
    for read in sequences.values():
        assert all(earlier < later for earlier, later in pairwise(read)), read
    for repo, pushed in heads.items():
        things = _lanes(log, flow.WATCHER)[repo].state.things
        assert sorted(pushed, key=lambda head: things[head].order) == pushed


def test_the_simulation_sees_an_event_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with one sequence over all topics, as it once was, a history like these loses events."""
    monkeypatch.setattr("towline.delivery.turn._way", lambda lane, _at: lane.partition(" via ")[0])

    def lost() -> Iterator[bool]:
        for seed in range(10):
            try:
                virtual.run(history(seed))
            except AssertionError:
                yield True

    assert any(lost())


def test_the_simulation_sees_what_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the check for what was handled, copies are taken for new events."""
    monkeypatch.setattr("towline.delivery.turn.handled", lambda *_: False)

    def doubled() -> Iterator[bool]:
        for seed in range(20):
            try:
                virtual.run(history(seed))
            except AssertionError:
                yield True

    assert any(doubled())


def test_a_bus_in_memory_tells_when_everything_is_stuck() -> None:
    async def waits() -> None:
        await MemoryBus(MemoryLog()).log.changed.wait()

    with pytest.raises(virtual.Stuck):
        virtual.run(waits())

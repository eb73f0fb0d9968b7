"""Seeded histories of the whole delivery: whatever is killed, lost, delayed or reordered, all is done, none twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from datetime import timedelta

import pytest
from tests.simulation.faults import Faults, FaultyBus, World
from tests.simulation.stages import Book, Ledger, stages
from tests.simulation.verdict import EPOCH, PATIENCE_S, all_done, check, go_through, missing

from towline import flow, killpoint
from towline.delivery.runtime import Runtime
from towline.testing import virtual
from towline.testing.memory import MemoryBus, MemoryLog

SEEDS = 2000 if os.environ.get("TOWLINE_PROFILE") == "nightly" else 200
PER_TEST = 20


@pytest.fixture(autouse=True)
def _restore_killpoint() -> Iterator[None]:
    before = killpoint.passed
    yield
    killpoint.passed = before


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_every_effect_is_done_and_nothing_is_taken_twice(first: int) -> None:
    go_through(range(first, first + PER_TEST), history)


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
    check(log, ledger, heads)


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
    done = asyncio.create_task(all_done(log, ledger, heads))
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
            done = asyncio.create_task(all_done(log, ledger, heads))
            await asyncio.wait((done, *tasks), return_when=asyncio.FIRST_COMPLETED)
            await done
            faults.trouble = 0.0
            losing.cancel()
            await asyncio.sleep(60)
    except TimeoutError:
        raise AssertionError(missing(log, heads)) from None
    for runtime in runtimes:
        runtime.stop()
    await asyncio.gather(*tasks)


async def _loses_groups(faults: Faults, log: MemoryLog) -> None:
    """Now and then a member is taken for dead: it must leave its lanes, and load them again."""
    while faults.trouble:
        await asyncio.sleep(faults.chance.random() * 60)
        if member := log.members.get(faults.chance.choice(flow.SERVICES)):
            member.lose()


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

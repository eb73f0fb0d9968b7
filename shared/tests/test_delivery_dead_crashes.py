"""A process that replays a stuck key is killed at each step of it, in memory and in virtual time.

A killed process is a connection that answers nobody any more, as after `kill -9`; the next one starts from the log.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from shared.tests.test_delivery_dead import HOT, Stage

from towline import flow
from towline.delivery.runtime import Runtime
from towline.testing import virtual
from towline.testing.memory import MemoryBus, MemoryLog

pytestmark = pytest.mark.whole_service
NAME = "dead-crashes"
SAID = ("a", "poison", "b", "c")
STEPS = 120
"""More than a replay of these letters takes; the test of the last step sees to it."""


class Mortal(MemoryBus):
    """Dies at the `life`-th step of an operation that changes the log or reads it."""

    def __init__(self, log: MemoryLog, life: int | None) -> None:
        super().__init__(log)
        self.life = life
        self.steps = 0
        self.died = asyncio.Event()

    async def reach(self, operation: str, *, done: bool) -> None:
        if operation in ("fetch", "join", "ensure"):
            await super().reach(operation, done=done)
            return
        self.steps += 1
        if self.life is not None and self.steps >= self.life:
            self.died.set()
        if self.died.is_set():
            raise asyncio.CancelledError
        await super().reach(operation, done=done)


def copied(log: MemoryLog) -> MemoryLog:
    records = {at: list(some) for at, some in log.records.items()}
    return MemoryLog(topics=dict(log.topics), records=records, heads=dict(log.heads), offsets=dict(log.offsets))


async def lived(bus: Mortal, stage: Stage, *, old: bool, until: int, asked: str | None = None) -> None:
    """One process from its start until so many letters are open and nothing more is to do, or until it died."""
    runtime = Runtime(stage.old if old else stage.new, bus)
    task = asyncio.create_task(runtime.run())
    died = asyncio.create_task(bus.died.wait())
    while len(await stage.open()) != until and not died.done():
        await asyncio.wait({died}, timeout=0.05)
    if asked is not None and not died.done():
        await stage.say(asked)
        while (await stage.words())[-1:] != (asked,) and not died.done():
            await asyncio.wait({died}, timeout=0.05)
    if died.done():
        task.cancel()
    runtime.stop()
    died.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def stuck() -> MemoryLog:
    log = MemoryLog()
    for topic in flow.topics((NAME,)):
        log.ensure(topic)
    stage = Stage(MemoryBus(log), NAME)
    await stage.say(*SAID)
    await lived(Mortal(log, None), stage, old=True, until=3)
    await stage.ask()
    return log


async def killed_at(life: int) -> bool:
    """Whether there was such a step; what stands in the log at the end is right in any case."""
    log = await stuck()
    stage = Stage(MemoryBus(log), NAME, len(SAID))
    first = Mortal(log, life)
    await lived(first, stage, old=False, until=0, asked="d")
    if first.died.is_set():
        log = copied(log)
        stage = Stage(MemoryBus(log), NAME, stage._said)
        await lived(Mortal(log, None), stage, old=False, until=0, asked="e")
    said = await stage.words()
    assert said[: len(SAID)] == SAID
    assert sorted(set(said)) == sorted(said)
    assert not await stage.parked(HOT)
    return first.died.is_set()


@pytest.mark.parametrize("life", range(1, STEPS))
def test_a_replay_killed_at_any_step_is_done_once_and_in_order(life: int) -> None:
    virtual.run(killed_at(life))


def test_no_step_of_a_replay_is_left_out() -> None:
    assert not virtual.run(killed_at(STEPS))

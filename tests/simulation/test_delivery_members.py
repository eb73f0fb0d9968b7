"""Seeded histories of two processes that share all services: killed, paused past their session, woken as zombies.

A paused process is one whose every step waits: what it had in hand is written when it wakes, after another member has
claimed its partitions. In the end all is done, under one id each, and nothing is taken twice.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine, Iterator, Mapping
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from tests.simulation.faults import Faults, FaultyBus, World
from tests.simulation.stages import Book, Ledger, stages
from tests.simulation.verdict import EPOCH, PATIENCE_S, all_done, check, go_through, lanes, missing

from towline import flow, killpoint
from towline.delivery.lane import Lane
from towline.delivery.runtime import Runtime
from towline.testing import virtual
from towline.testing.memory import MemoryLog

pytestmark = pytest.mark.whole_service
SEEDS = 1000 if os.environ.get("TOWLINE_PROFILE") == "nightly" else 60
PER_TEST = 10
SESSION_S = 15.0
_here: ContextVar[Member | None] = ContextVar("member", default=None)


class PausedFaults(Faults):
    """Faults of a process that may be stopped, as by SIGSTOP."""

    awake: asyncio.Event

    async def wait(self) -> None:
        await self.awake.wait()
        self.passed("awake")

    async def delay(self, most: float) -> None:
        await super().delay(most)
        await self.wait()


class PausedBus(FaultyBus):
    async def reach(self, operation: str, *, done: bool) -> None:
        await super().reach(operation, done=done)
        await self._faults.wait()  # type: ignore[attr-defined]


@dataclass(eq=False)
class Member:
    """One process with all services."""

    name: str
    log: MemoryLog
    ledger: Ledger
    chance: random.Random
    heads: Mapping[str, list[str]]
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    runtimes: list[Runtime[Book]] = field(default_factory=list)

    def start(self) -> None:
        self.faults = PausedFaults(self.chance, kill_at=None)
        self.faults.awake = asyncio.Event()
        self.faults.awake.set()
        self.bus = PausedBus(self.log, self.faults)
        loop, world = asyncio.get_running_loop(), World(self.faults, self.ledger)
        self.runtimes = [
            Runtime(stage, self.bus, member=self.name, now=lambda: EPOCH + timedelta(seconds=loop.time()))
            for stage in stages(world.do, dict(self.heads))
        ]
        context = copy_context()
        context.run(_here.set, self)
        self.running = [loop.create_task(runtime.run(), context=context) for runtime in self.runtimes]

    def lose(self) -> None:
        """The groups take it for dead."""
        for consumer in self.bus._consumers:
            consumer.lose()

    async def kill(self) -> None:
        self.faults.dead = True
        self.faults.awake.set()
        while gone := {task for task in self.tasks if not task.done()}:
            for task in gone:
                task.cancel()
            await asyncio.wait(gone)
        self.tasks.clear()
        await asyncio.sleep(self.chance.random() * SESSION_S)
        self.lose()

    async def pause(self, seconds: float) -> None:
        self.faults.awake.clear()
        await asyncio.sleep(min(seconds, SESSION_S))
        if seconds > SESSION_S:
            self.lose()
            await asyncio.sleep(seconds - SESSION_S)
        self.faults.awake.set()

    async def stop(self) -> None:
        for runtime in self.runtimes:
            runtime.stop()
        await asyncio.gather(*self.running)


def _belonging(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    context = options.get("context")
    member = _here.get() if context is None else context.run(_here.get)
    if member is not None:
        member.tasks.add(task)
        task.add_done_callback(member.tasks.discard)
    return task


def _passed(service: str, step: str, detail: str = "") -> None:
    member = _here.get()
    if member is not None:
        member.faults.passed(f"{service} {step} {detail}")


@pytest.fixture(autouse=True)
def _restore_killpoint() -> Iterator[None]:
    before = killpoint.passed
    killpoint.passed = _passed
    yield
    killpoint.passed = before


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_two_members_do_every_effect_and_take_nothing_twice(first: int) -> None:
    go_through(range(first, first + PER_TEST), history)


async def history(seed: int) -> None:
    asyncio.get_running_loop().set_task_factory(_belonging)  # type: ignore[arg-type]
    chance = random.Random(seed)
    heads = {f"r{repo}": [f"r{repo}h{number}" for number in range(chance.randint(1, 3))] for repo in range(3)}
    log, ledger = MemoryLog(), Ledger()
    for topic in flow.topics():
        log.ensure(topic)
    members = [Member(name, log, ledger, chance, heads) for name in ("a", "b")]
    for member in members:
        member.start()
    await _trouble(chance, members)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await all_done(log, ledger, heads)
            for member in members:
                member.faults.trouble = 0.0
            await asyncio.sleep(60)
    except TimeoutError:
        raise AssertionError(missing(log, heads)) from None
    known = {service: _in_memory(members, service) for service in flow.SERVICES}
    for member in members:
        await member.stop()
    check(log, ledger, heads)
    for service in flow.SERVICES:
        assert lanes(log, service) == known[service], "what is rebuilt from the log alone is what the owners knew"


async def _trouble(chance: random.Random, members: list[Member]) -> None:
    for _ in range(chance.randint(2, 6)):
        await asyncio.sleep(chance.random() ** 2 * 20)
        member = chance.choice(members)
        match chance.choice(("kill", "pause", "pause", "lose")):
            case "kill":
                await member.kill()
                await asyncio.sleep(chance.random() * 20)
                member.start()
            case "pause":
                await member.pause(chance.random() * 60)
            case "lose":
                member.lose()


def _in_memory(members: list[Member], service: str) -> dict[str, Lane[Book]]:
    found: dict[str, Lane[Book]] = {}
    for member in members:
        for runtime in member.runtimes:
            if runtime.service.name == service:
                held = dict(runtime._lanes._lanes)
                assert not found.keys() & held.keys(), "no lane has two owners"
                found |= held
    return found


def test_the_simulation_sees_a_zombie_that_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where every generation counts alike, what zombies write late stands in the state."""
    monkeypatch.setattr("towline.delivery.ownership.generation_of", lambda _: 1 << 40)

    def believed() -> Iterator[bool]:
        for seed in range(40):
            try:
                virtual.run(history(seed))
            except AssertionError:
                yield True

    assert any(believed())

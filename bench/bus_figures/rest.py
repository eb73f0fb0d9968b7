"""What a turn costs from a source's `emit` to the published event, and what a process costs that has nothing to do."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from bench.bus_figures.said import median, say
from bench.bus_figures.service import Seen

from towline import flow
from towline.bus.sqlite import SqliteBus
from towline.delivery.model import Decision, Envelope, Service
from towline.delivery.runtime import Runtime
from towline.events import ChangeCreated, Event
from towline.service import Process


class Hint(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-bench-hint.seen.0.1.0"
    number: int

    @property
    def subject(self) -> str:
        return str(self.number)


def tells(state: Seen, envelope: Envelope, _: datetime) -> Decision[Seen]:
    after = state.model_copy(update={"count": state.count + 1})
    match envelope.event:
        case Hint(number=number):
            made = ChangeCreated(repo=envelope.key, change=f"{envelope.key}!{number}", target="main", head=str(number))
            return Decision(after, (made,))
    return Decision(after)


async def turned(folder: Path, rounds: int) -> bool:
    """Inbox record, state batch and published event, one after the other; floor: three rows of bare sqlite3."""
    bare = sqlite3.connect(folder / "three-rows.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute("CREATE TABLE records (value BLOB)")
    bus = await SqliteBus.open(folder / "turn.db")
    await bus.ensure(flow.topics((flow.WATCHER,)))
    runtime = Runtime(Service(flow.WATCHER, Seen, tells, inbox=(Hint,)), bus)
    task = asyncio.create_task(runtime.run())
    await runtime.started.wait()
    facts = await bus.consumer("bench", [flow.CHANGES.topic], member="0")
    await facts.fetch(timeout=0)
    ours, floors = [], []
    for number in range(rounds):
        waiting = asyncio.create_task(facts.fetch(timeout=30))
        await asyncio.sleep(0.002)
        began = time.perf_counter()
        await runtime.emit("local/app", str(number), Hint(number=number))
        await waiting
        ours.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        for _ in range(3):
            bare.execute("INSERT INTO records VALUES (?)", (b"x" * 500,))
        floors.append((time.perf_counter() - began) * 1000)
    runtime.stop()
    await task
    await bus.close()
    bare.close()
    return say("delivery.turn.sqlite", median(ours), "ms", most=20, floor=median(floors))


async def idle(folder: Path, seconds: float) -> bool:
    """Five services on one bus that have nothing to do: their share of a core, and how often their loop wakes."""
    bus = await SqliteBus.open(folder / "idle.db")
    process = Process([Service(name, Seen, tells) for name in flow.SERVICES], bus)
    task = asyncio.create_task(process.run(signals=False))
    await process.started()
    await asyncio.sleep(3)
    selector, wakeups = getattr(asyncio.get_running_loop(), "_selector"), 0  # noqa: B009 it is private
    select: Any = selector.select

    def counted(timeout: float | None = None) -> object:
        nonlocal wakeups
        wakeups += timeout is None or timeout > 0
        return select(timeout)

    selector.select = counted
    began = time.process_time()
    await asyncio.sleep(seconds)
    used = (time.process_time() - began) / seconds * 100
    selector.select = select
    process.stop()
    await task
    await bus.close()
    return all(
        (say("delivery.idle.cpu", used, "%", most=2), say("delivery.idle.wakeups", wakeups / seconds, "1/s", most=10))
    )

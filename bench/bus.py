"""Figures of the bus and the delivery: `python bench/bus.py [--quick]` prints one JSON object per line.

    bus.publish_to_handle.sqlite   from `publish` until a waiting `fetch` of the same process has the record (median)
    delivery.turn.sqlite           from `emit` until the decided event can be read: inbox, state batch and publish
    delivery.events.sqlite         events per second through `decide` over many keys, state batch and commit included
    delivery.idle.cpu              share of one core that five idle services use
    delivery.idle.wakeups          how often their event loop wakes

Floor: one row in a WAL file of bare sqlite3 with synchronous=FULL, in the same rounds: what durability costs here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from towline import flow
from towline.bus.port import NewRecord, Topic
from towline.bus.sqlite import SqliteBus
from towline.delivery.model import Decision, Envelope, Service, State
from towline.delivery.runtime import Runtime
from towline.events import ChangeCreated, Event
from towline.service import Process

MS = 1000.0


class Seen(State):
    count: int = 0


class Hint(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-bench-hint.seen.0.1.0"
    number: int

    @property
    def subject(self) -> str:
        return str(self.number)


def decide(state: Seen, envelope: Envelope, _: datetime) -> Decision[Seen]:
    after = state.model_copy(update={"count": state.count + 1})
    match envelope.event:
        case Hint(number=number) if number >= 0:
            made = ChangeCreated(repo=envelope.key, change=f"{envelope.key}!{number}", target="main", head=str(number))
            return Decision(after, (made,))
    return Decision(after)


def say(figure: str, value: float, unit: str, limit: float, *, most: bool = True, floor: float | None = None) -> bool:
    """`most`: the limit is the most allowed; else the least."""
    line: dict[str, object] = {"figure": figure, "value": round(value, 2), "unit": unit}
    if floor is not None:
        line |= {"floor": round(floor, 2), "ratio": round(value / floor, 2)}
    ok = value <= limit if most else value >= limit
    print(json.dumps({**line, "limit": limit, "ok": ok}), flush=True)
    return ok


def bare(folder: Path) -> Callable[[], None]:
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE records (value BLOB)")

    def insert() -> None:
        connection.execute("INSERT INTO records VALUES (?)", (b"x" * 500,))

    return insert


async def handed_over(folder: Path, rounds: int) -> bool:
    floor, bus = bare(folder), await SqliteBus.open(folder / "bus.db")
    await bus.ensure([Topic("t", 12)])
    consumer = await bus.consumer("g", ["t"], member="0")
    await consumer.fetch(timeout=0)
    ours, floors = [], []
    for number in range(rounds):
        waiting = asyncio.create_task(consumer.fetch(timeout=30))
        await asyncio.sleep(0.002)
        began = time.perf_counter()
        await bus.publish([NewRecord("t", f"k{number}", b"x" * 500)])
        await waiting
        ours.append((time.perf_counter() - began) * MS)
        began = time.perf_counter()
        floor()
        floors.append((time.perf_counter() - began) * MS)
    await bus.close()
    return say("bus.publish_to_handle.sqlite", statistics.median(ours), "ms", 5, floor=statistics.median(floors))


async def turned(folder: Path, rounds: int, events: int) -> bool:
    floor, bus = bare(folder), await SqliteBus.open(folder / "bus.db")
    await bus.ensure(flow.topics((flow.WATCHER,)))
    service = Service(flow.WATCHER, Seen, decide, inbox=(Hint,))
    runtime = Runtime(service, bus)
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
        ours.append((time.perf_counter() - began) * MS)
        began = time.perf_counter()
        for _ in range(3):
            floor()
        floors.append((time.perf_counter() - began) * MS)
    fine = say("delivery.turn.sqlite", statistics.median(ours), "ms", 20, floor=statistics.median(floors))
    began = time.perf_counter()
    emitting = (runtime.emit(f"local/{n % 200}", f"many {n}", Hint(number=-1 - n)) for n in range(events))
    await asyncio.gather(*emitting)
    while sum(runtime._lanes.get(f"local/{n}").state.count for n in range(200)) < events:  # noqa: ASYNC110
        await asyncio.sleep(0.005)  # what is measured takes seconds
    rate = events / (time.perf_counter() - began)
    runtime.stop()
    await task
    await bus.close()
    return say("delivery.events.sqlite", rate, "1/s", 500, most=False) and fine


async def idle(folder: Path, seconds: float) -> bool:
    bus = await SqliteBus.open(folder / "bus.db")
    process = Process([Service(name, Seen, decide) for name in flow.SERVICES], bus)
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
    return all((say("delivery.idle.cpu", used, "%", 2), say("delivery.idle.wakeups", wakeups / seconds, "1/s", 10)))


async def measure(quick: bool) -> bool:
    rounds = 100 if quick else 500
    results = []
    figures: tuple[Callable[[Path], Awaitable[bool]], ...] = (
        lambda folder: handed_over(folder, rounds),
        lambda folder: turned(folder, rounds, 2000 if quick else 20_000),
        lambda folder: idle(folder, 10 if quick else 30),
    )
    for figure in figures:
        with tempfile.TemporaryDirectory(prefix="towline-bench-") as folder:
            results.append(await figure(Path(folder)))
    return all(results)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    logging.disable(logging.INFO)
    return 0 if asyncio.run(measure(parser.parse_args().quick)) else 1


if __name__ == "__main__":
    sys.exit(main())

"""From `publish` until the handler is called with the event: fetched, decoded and traced, on the way in between.

One after the other, with a pause, gives the median of a quiet bus; the 99th percentile is of an open loop of 500
events/s, where each event counts from when it was due, whatever the bus and the publisher were busy with.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

from bench.bus_figures.said import median, percentile, say
from bench.bus_figures.service import NAME, Seen, at_work, fact

from towline import flow
from towline.bus.open import open_bus
from towline.bus.port import Bus
from towline.delivery.model import Decision, Envelope
from towline.events import ChangeCreated

MS = 1e-6
"""Marks are nanoseconds of the monotonic clock, which all processes share."""
PAUSE_S = 0.005
RATE = 500
ROOT = Path(__file__).resolve().parents[2]

Seconds = Callable[[], Awaitable[None]]


class Clocked:
    """A `decide` that notes how old each event's mark is."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self._called = asyncio.Event()

    def __call__(self, state: Seen, envelope: Envelope, _: datetime) -> Decision[Seen]:
        event = envelope.event
        if isinstance(event, ChangeCreated):
            mark = int(event.change.rpartition("!")[2])
            self.taken.append((time.monotonic_ns() - mark) * MS)
            self._called.set()
        return Decision(state)

    async def reached(self, count: int) -> None:
        async with asyncio.timeout(120):
            while len(self.taken) < count:
                self._called.clear()
                await self._called.wait()


async def one_by_one(bus: Bus, events: int, key: str = "one") -> None:
    for number in range(events):
        await bus.publish([fact(f"local/{key}{number % 50}", number // 50 + 1, str(time.monotonic_ns()))])
        await asyncio.sleep(PAUSE_S)


async def paced(bus: Bus, events: int, key: str = "paced") -> None:
    """An open loop: nothing waits for what was sent before."""
    began, sent = time.monotonic_ns(), []
    for number in range(events):
        due = began + number * 1_000_000_000 // RATE
        if (ahead := due - time.monotonic_ns()) > 0:
            await asyncio.sleep(ahead / 1e9)
        record = fact(f"local/{key}{number % 50}", number // 50 + 1, str(due))
        sent.append(asyncio.create_task(bus.publish([record])))
    await asyncio.gather(*sent)


async def elsewhere(url: str, way: str, events: int) -> None:
    """Publish from another process."""
    command = [sys.executable, "-c", "from bench.bus_figures.latency import publisher; publisher()", url, way]
    process = await asyncio.create_subprocess_exec(*command, str(events), cwd=ROOT)
    if await process.wait() != 0:
        raise RuntimeError(f"the publishing process ended with {process.returncode}")


def publisher() -> None:
    url, way, events = sys.argv[1:]

    async def run() -> None:
        bus = await open_bus(url)
        await {"one_by_one": one_by_one, "paced": paced}[way](bus, int(events), f"{way}-elsewhere")
        await bus.close()

    asyncio.run(run())


def one_row(folder: Path) -> float:
    """Milliseconds until one row is durable in bare sqlite3: what a bus in a file cannot be below."""
    connection = sqlite3.connect(folder / "one-row.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS records (value BLOB)")
    taken = []
    for _ in range(30):
        began = time.perf_counter()
        connection.execute("INSERT INTO records VALUES (?)", (b"x" * 500,))
        taken.append((time.perf_counter() - began) * 1000)
    connection.close()
    return median(taken)


async def measured(url: str, rounds: int, events: int, *, inside: bool, each: Callable[[], None]) -> list[list[float]]:
    """All times of quiet rounds, and of the open loop; `each` runs between the rounds."""
    bus = await open_bus(url)
    await bus.ensure(flow.topics((NAME,)))
    clock, quiet = Clocked(), 0
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(at_work(bus, clock))
        for number in range(rounds):
            quiet += events // rounds
            if inside:
                await one_by_one(bus, events // rounds, f"one{number}-")
            else:
                await elsewhere(url, "one_by_one", events // rounds)
            await clock.reached(quiet)
            each()
        many = max(2 * events, RATE * 2)
        await (paced(bus, many) if inside else elsewhere(url, "paced", many))
        await clock.reached(quiet + many)
    await bus.close()
    return [clock.taken[:quiet], clock.taken[quiet:]]


async def sqlite(folder: Path, rounds: int, events: int) -> bool:
    fine = True
    for name, inside, most in (("sqlite", True, 5.0), ("processes", False, 20.0)):
        floors: list[float] = []
        url = f"sqlite:///{folder / f'{name}.db'}"
        quiet, busy = await measured(
            url,
            rounds,
            events,
            inside=inside,
            each=lambda floors=floors: floors.append(one_row(folder)),  # type: ignore[misc]
        )
        fine &= _say(name, quiet, busy, most, median(floors))
    return fine


async def kafka(address: str, rounds: int, events: int) -> bool:
    quiet, busy = await measured(f"kafka://{address}", rounds, events, inside=True, each=lambda: None)
    return _say("kafka", quiet, busy, 15.0, None)


def _say(name: str, quiet: list[float], busy: list[float], most: float, floor: float | None) -> bool:
    return all(
        (
            say(f"bus.publish_to_handle.{name}", median(quiet), "ms", most=most, floor=floor, events=len(quiet)),
            say(
                f"bus.publish_to_handle_p99.{name}",
                percentile(busy, 0.99),
                "ms",
                most=50,
                events=len(busy),
                p50=round(median(busy), 2),
                at="500 events/s",
            ),
        )
    )

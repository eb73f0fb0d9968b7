"""Resident memory after the first tenth of the events, and after all: what keys leave behind that are done.

Each key comes, has ten events that each decide on a new state, and is forgotten by the last; a thousand are under way
at any time. A lane, a queue, a task, an offset or a metric that stayed would grow with the number of keys.
`keys_stay` keeps them all: what a key costs must not depend on how many events it has had.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

import psutil
from bench.bus_figures.said import say
from bench.bus_figures.service import NAME, Seen, Waited, at_work, count, fact

from towline import flow
from towline.bus.port import NewRecord
from towline.bus.sqlite import SqliteBus
from towline.delivery.model import Decision, Envelope

PER_KEY = 10
UNDER_WAY = 1000
CHUNK = 1000
MIB = 1 << 20


def comes_and_goes(state: Seen, envelope: Envelope, now: datetime) -> Decision[Seen]:
    return Decision(None) if state.count + 1 == PER_KEY else count(state, envelope, now)


def coming_and_going(events: int) -> Iterator[NewRecord]:
    for number in range(events):
        block, within = divmod(number, UNDER_WAY * PER_KEY)
        yield fact(f"local/app{block * UNDER_WAY + within % UNDER_WAY}", within // UNDER_WAY + 1)


def staying(events: int, keys: int) -> Iterator[NewRecord]:
    for number in range(events):
        yield fact(f"local/app{number % keys}", number // keys + 1)


def resident() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss) / MIB


async def sqlite(folder: Path, events: int) -> bool:
    keys = events // PER_KEY
    ways = (
        ("keys_go", comes_and_goes, coming_and_going(events), 20.0),
        ("keys_stay", count, staying(events, keys), 20.0),
    )
    fine = True
    for name, decide, records, most in ways:
        bus = await SqliteBus.open(folder / f"{name}.db")
        await bus.ensure(flow.topics((NAME,)))
        waited, done, before = Waited(decide, 0), 0, 0.0
        async with at_work(bus, waited):
            while chunk := list(islice(records, CHUNK)):
                waited.more(len(chunk))
                await bus.publish(chunk)
                await waited.done()
                done += len(chunk)
                if done == keys:
                    before = resident()
            after = resident()
        await bus.close()
        (folder / f"{name}.db").unlink()  # over a gigabyte in a whole run
        grown = after - before
        more = {"from_events": keys, "to_events": events, "keys": keys, "resident": round(after, 1)}
        fine &= say(f"delivery.memory.{name}", grown, "MiB", most=most, **more)
    return fine

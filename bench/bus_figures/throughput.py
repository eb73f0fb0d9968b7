"""Events per second: published in batches, and through a handler.

Handled means the whole way of a consumer: fetched, decoded into its model, traced with sampling off, decided, and its
offset committed behind it; `counts` decides on a new state each time, so a state batch is durable for each event, while
`nothing` decides nothing. The clock runs from when the member reads its first event to when it was called for the last;
what the consumer did before (joining the group) is in neither figure.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import orjson
from aiokafka import AIOKafkaConsumer
from bench.bus_figures.said import median, say
from bench.bus_figures.service import NAME, TOPIC, Decide, Waited, at_work, count, facts, nothing

from towline import flow
from towline.bus.open import open_bus
from towline.bus.port import Bus, NewRecord
from towline.bus.sqlite import SqliteBus
from towline.events.base import EVENT_TYPES

BATCH = 500
KEYS = 1000


async def publish(bus: Bus, records: Sequence[NewRecord]) -> float:
    """Seconds to publish them all, one batch after the other."""
    began = time.perf_counter()
    for start in range(0, len(records), BATCH):
        await bus.publish(records[start : start + BATCH])
    return time.perf_counter() - began


def bare_rows(folder: Path, records: Sequence[NewRecord]) -> float:
    """Seconds of bare sqlite3 for the same bytes: one row each, as many per transaction, as durable."""
    connection = sqlite3.connect(folder / f"bare-{secrets.token_hex(4)}.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE records (offset INTEGER PRIMARY KEY, key TEXT, headers BLOB, value BLOB)")
    rows = [(record.key, b"".join(record.headers.values()), record.value) for record in records]
    began = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO records (key, headers, value) VALUES (?, ?, ?)", rows[start : start + BATCH]
        )
        connection.execute("COMMIT")
    seconds = time.perf_counter() - began
    connection.close()
    return seconds


async def handled(bus: Bus, decide: Decide, events: int) -> float:
    """Seconds from the first event to the last of those that wait for the service."""
    waited = Waited(decide, events)
    async with at_work(bus, waited, started=False):
        return await waited.done()


async def sqlite(folder: Path, rounds: int, events: int) -> bool:
    published, floors, counted, idle = [], [], [], []
    for number in range(rounds):
        bus = await SqliteBus.open(folder / f"throughput-{number}.db")
        await bus.ensure(flow.topics((NAME,)))
        records = list(facts(events, KEYS))
        published.append(events / await publish(bus, records))
        floors.append(events / bare_rows(folder, records))
        counted.append(events / await handled(bus, count, events))
        await publish(bus, list(facts(events, KEYS, first=events)))
        idle.append(events / await handled(bus, nothing, events))
        await bus.close()
    return all(
        (
            say("bus.publish.sqlite", median(published), "1/s", least=10_000, floor=median(floors), batch=BATCH),
            say("delivery.events.sqlite", median(counted), "1/s", least=3000, handler="counts: a state batch each"),
            say("delivery.read.sqlite", median(idle), "1/s", handler="decides nothing"),
        )
    )


async def bare_kafka(address: str, events: int) -> float:
    """Seconds of aiokafka alone for as many events: pydantic model from the value, a commit per batch, nothing else."""
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=address,
        group_id=f"bare-{secrets.token_hex(4)}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        began, done = 0.0, 0
        while done < events:
            for found in (await consumer.getmany(timeout_ms=5000, max_records=BATCH)).values():
                began = began or time.perf_counter()
                for record in found:
                    headers = dict(record.headers)
                    model = EVENT_TYPES[headers["ce_type"].decode()]
                    model.model_validate(orjson.loads(record.value)["customData"])
                done += len(found)
            await consumer.commit()
        return time.perf_counter() - began
    finally:
        await consumer.stop()


async def kafka(address: str, rounds: int, events: int) -> bool:
    """Each round publishes anew; the bare consumer reads as many, from the beginning of the same topic."""
    bus = await open_bus(f"kafka://{address}")
    await bus.ensure(flow.topics((NAME,)))
    published, ours, peers, counted = [], [], [], []
    source = facts(rounds * events * 2, KEYS)
    for _ in range(rounds):
        published.append(events / await publish(bus, list(islice(source, events))))
        ours.append(events / await handled(bus, nothing, events))
        peers.append(events / await bare_kafka(address, events))
        some = events // 5
        await publish(bus, list(islice(source, some)))
        counted.append(some / await handled(bus, count, some))
    await bus.close()
    return all(
        (
            say("bus.publish.kafka", median(published), "1/s", batch=BATCH),
            say(
                "delivery.events.kafka",
                median(ours),
                "1/s",
                least=5000,
                peer=median(peers),
                least_ratio=1 / 3,
                handler="decides nothing",
                beside="bare aiokafka: pydantic and a commit per batch",
            ),
            say("delivery.turns.kafka", median(counted), "1/s", handler="counts: a state batch each"),
        )
    )

"""A log goes from SQLite to a real Kafka and back while its services are in the middle of everything.

They go on where they were: no event is taken twice, none is missed, and every effect is done under one id. The history
has effects that were cut off, timers that wait, a parked key, dead letters, binary garbage and tombstones in it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.simulation.stages import Book, Ledger, Work, expected, expected_effects, stages

from towline import flow
from towline.bus.open import open_bus
from towline.bus.pages import records_from
from towline.bus.port import Bus, NewRecord, Record, TopicPartition
from towline.bus.settings import BusSettings
from towline.bus.sqlite import SqliteBus
from towline.delivery.dead import request
from towline.delivery.lane import Lane
from towline.delivery.letters import Fold, Letter
from towline.delivery.model import Decision, EffectContext, Envelope, ReplayRequested, Service
from towline.testing import running
from towline.testing.rebuilt import rebuilt
from towline_cli.move import copy_log, export_log, import_log

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

REPOS = ("r0", "r1", "r2")
PARKED = "r2"
HEADS = {repo: [f"{repo}h{number}" for number in range(6)] for repo in REPOS}
OUTLIVED = 50
LONG_AGO_MS = 1_600_000_000_000
GARBAGE = b"\xff\x00 no event \xfe"


class World:
    """What effects do outside. Those of a head that is not let through wait, and are cut off by the end of the run."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.through = 0
        self.bug = True

    async def do(self, effect: Work, context: EffectContext) -> None:
        number = int(effect.thing.split(" ")[1 if " " in effect.thing else 0].rpartition("h")[2])
        if number >= self.through and effect.kind in ("land", "apply", "send"):
            await asyncio.Event().wait()
        self.ledger.write(effect, context.id)

    def services(self) -> list[Service[Book]]:
        first, *others = stages(self.do, HEADS)

        def decide(state: Book, envelope: Envelope, now: datetime) -> Decision[Book]:
            if self.bug and envelope.key == PARKED and state.things:
                raise RuntimeError("a bug that the second event of this key brings out")
            return first.decide(state, envelope, now)

        pools = dict.fromkeys(("run", "land", "apply", "send"), 100)  # those that wait stop no other
        return [replace(service, pools=pools) for service in (replace(first, decide=decide), *others)]


async def everything(bus: Bus, topic: str) -> list[Record]:
    places = [TopicPartition(topic, partition) for partition in range(flow.PARTITIONS)]
    return [record for at in places async for record in records_from(bus, at)]


async def lanes(bus: Bus, service: str) -> dict[str, Lane[Book]]:
    return rebuilt(Book, await everything(bus, flow.state_of(service)))


async def book(bus: Bus) -> dict[str, dict[str, dict[str, int]]]:
    return {
        service: {
            f"{key} {thing}": entry.counts
            for key, lane in (await lanes(bus, service)).items()
            for thing, entry in lane.state.things.items()
        }
        for service in flow.SERVICES
    }


async def letters(bus: Bus, service: str) -> dict[str, Letter]:
    folding = Fold(service)
    for record in await everything(bus, flow.dead_of(service)):
        folding.feed(record)
    assert folding.folded().unreadable == 0
    return folding.letters


async def run_until(url: str, world: World, done: Callable[[Bus], object]) -> None:
    bus = await open_bus(url)
    try:
        await bus.ensure(flow.topics())
        async with running(bus, *world.services()), asyncio.timeout(90):
            while not await done(bus):  # type: ignore[misc]  # noqa: ASYNC110 a log has no event for what was written
                await asyncio.sleep(0.1)
    finally:
        await bus.close()


def effects_done(world: World, count: int) -> Callable[[Bus], object]:
    async def done(_: Bus) -> bool:
        return len(world.ledger.ids) >= count

    return done


async def first_life(url: str, world: World) -> None:
    """Some heads arrive, others wait in an effect; one key is parked, and there is garbage in a topic.

    Retention has been at work, so that no inbox and no dead letters begin at offset 0, as they do after the move.
    """
    bus = await SqliteBus.open(url.removeprefix("sqlite:///"))
    await bus.ensure(flow.topics())
    for topic in [named(service) for service in flow.SERVICES for named in (flow.inbox_of, flow.dead_of)]:
        places = [partition for partition in range(flow.PARTITIONS) for _ in range(OUTLIVED)]
        await bus.publish([NewRecord(topic, "", b"", {"ce_type": b"old"}, n, LONG_AGO_MS) for n in places])
    await bus.sweep()
    await bus.publish([NewRecord(flow.CHANGES.topic, "r0", GARBAGE, {"x": b"\xff"}, timestamp_ms=LONG_AGO_MS)])
    await bus.close()
    world.through = 2

    async def done(bus: Bus) -> bool:
        waits = [item.kind for lane in (await lanes(bus, flow.WATCHER)).values() for item in lane.outbox.values()]
        dead = await letters(bus, flow.WATCHER)
        return Counter(waits)["land"] == 8 and len(dead) == 7 and len(world.ledger.ids) == 13 + 4 + 2 * 12

    await run_until(url, world, done)


async def check_origins(bus: Bus, service: str) -> None:
    """Every dead letter still names the record that it was."""
    for letter in (await letters(bus, service)).values():
        topic, partition, offset = letter.origin.rsplit("/", 2)
        (origin, *_) = await bus.read(TopicPartition(topic, int(partition)), start=int(offset), limit=1)
        (dead, *_) = await bus.read(
            TopicPartition(flow.dead_of(service), letter.partition), start=letter.offsets[0], limit=1
        )
        assert (origin.offset, origin.key, origin.value) == (int(offset), dead.key, dead.value)


def said(records: Sequence[Record]) -> list[tuple[object, ...]]:
    return [(r.partition, r.key, r.value, dict(r.headers), r.timestamp_ms) for r in records]


async def test_services_go_on_where_they_were_from_sqlite_to_kafka_and_back(own_kafka: str, tmp_path: Path) -> None:
    world = World()
    first, kafka, last = f"sqlite:///{tmp_path}/first.db", f"kafka://{own_kafka}", f"sqlite:///{tmp_path}/last.db"
    log = str(tmp_path / "log.gz")
    await first_life(first, world)
    old = await open_bus(first)
    before, dead_before = await book(old), {name: set(await letters(old, name)) for name in flow.SERVICES}
    facts = {stream.topic: said(await everything(old, stream.topic)) for stream in flow.STREAMS}
    await old.close()
    assert [len(dead_before[name]) for name in flow.SERVICES] == [7, 1, 1, 1, 1], "a parked key's, and the garbage's"

    await export_log(BusSettings(bus=first), log, ())
    await import_log(BusSettings(bus=kafka), log, although_running=False, although_damaged=False)

    there = await open_bus(kafka)
    assert await book(there) == before
    assert {name: set(await letters(there, name)) for name in flow.SERVICES} == dead_before
    assert {stream.topic: said(await everything(there, stream.topic)) for stream in flow.STREAMS} == facts
    for service in flow.SERVICES:
        await check_origins(there, service)
    await there.close()

    done = len(world.ledger.ids)
    world.through = 4
    await run_until(kafka, world, effects_done(world, done + 4 + 2 * 12))

    await copy_log(BusSettings(bus=kafka), BusSettings(bus=last), ())

    world.through, world.bug = 99, False
    back = await open_bus(last)
    for service in flow.SERVICES:
        await check_origins(back, service)
    asked = ReplayRequested(by="operator", reason="mended")
    await back.publish([request(flow.WATCHER, PARKED, asked, cause="mended", now=datetime.now(UTC))])
    await back.close()

    async def whole(bus: Bus) -> bool:
        return await book(bus) == expected(HEADS) and set(world.ledger.ids) == expected_effects(HEADS)

    try:
        await run_until(last, world, whole)
    except TimeoutError:
        bus = await open_bus(last)
        found = await book(bus)
        await bus.close()
        for service, things in expected(HEADS).items():
            for thing in things.keys() | found[service].keys():
                if things.get(thing) != found[service].get(thing):
                    print(service, thing, things.get(thing), found[service].get(thing))
        raise

    assert all(len(ids) == 1 for ids in world.ledger.ids.values()), "an effect was asked for twice"
    assert set(world.ledger.times.values()) == {1}, "an effect was done twice"

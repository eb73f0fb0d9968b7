"""What is left after a fault, read from outside: the log, the committed offsets and the ledger.

Nothing here asks the runtime: state is folded from the state topic by its written rules (a row of a generation below
the highest claim before it is a zombie's), offsets are asked from the broker or read from the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import orjson
from aiokafka.admin import AIOKafkaAdminClient
from tests.chaos.ledger import Attempt
from tests.chaos.tally import Said, facts_of, results_of, thing_in

from towline import flow
from towline.bus.pages import records_from
from towline.bus.port import Bus, Record, TopicPartition
from towline.delivery import codec
from towline.delivery.lane import SEPARATOR

GENERATION = "tl_generation"


@dataclass(frozen=True, slots=True)
class Arrived:
    """A record that the service reads."""

    at: TopicPartition
    offset: int
    key: str
    thing: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """A result as it stands in the log."""

    id: str
    key: str
    thing: str
    lane: str
    sequence: int


@dataclass(frozen=True)
class Evidence:
    arrived: Sequence[Arrived]
    told: Mapping[str, Sequence[str]]
    """Key → what its state says was handled, in order."""
    waiting: Mapping[str, Sequence[str]]
    """Key → ids in its outbox."""
    spoken: Sequence[Spoken]
    dead: frozenset[tuple[TopicPartition, int]]
    """Where each dead letter was read."""
    committed: Mapping[TopicPartition, int]
    attempts: Sequence[Attempt] = ()


@dataclass
class _Fold:
    """One state partition."""

    rows: dict[str, dict[str, bytes]] = field(default_factory=dict)
    claimed: int = -1

    def feed(self, record: Record) -> None:
        generation = record.headers.get(GENERATION)
        if generation is not None:
            if int(generation) < self.claimed:
                return
            self.claimed = int(generation)
        key, separator, row = record.key.partition(SEPARATOR)
        if not separator:
            return
        if record.value is None:
            self.rows.get(key, {}).pop(row, None)
        else:
            self.rows.setdefault(key, {})[row] = record.value


async def gather(bus: Bus, url: str, service: str, attempts: Sequence[Attempt]) -> Evidence:
    committed = await committed_offsets(url, service)
    records = {name: await _everything(bus, name) for name in (flow.state_of(service), flow.dead_of(service))}
    arrived = [
        Arrived(record.position, record.offset, record.key, thing)
        for topic in (facts_of(service), flow.inbox_of(service))
        for record in await _everything(bus, topic)
        if (thing := thing_in(codec.decode(record).event)) is not None
    ]
    folds = [_Fold() for _ in range(flow.PARTITIONS)]
    for record in records[flow.state_of(service)]:
        folds[record.partition].feed(record)
    rows = {key: own for fold in folds for key, own in fold.rows.items()}
    return Evidence(
        arrived=arrived,
        told={key: tuple(orjson.loads(own.get("state", b"{}")).get("told", ())) for key, own in rows.items()},
        waiting={key: [row for row in own if row.startswith("outbox")] for key, own in rows.items()},
        spoken=list(_spoken(await _everything(bus, results_of(service)))),
        dead=frozenset(_origin(record) for record in records[flow.dead_of(service)] if "tl_origin" in record.headers),
        committed=committed,
        attempts=tuple(attempts),
    )


def _spoken(records: Iterable[Record]) -> Iterable[Spoken]:
    for record in records:
        envelope = codec.decode(record)
        assert isinstance(envelope.event, Said)
        yield Spoken(envelope.id, envelope.event.key, envelope.event.thing, envelope.lane or "", envelope.sequence or 0)


def _origin(record: Record) -> tuple[TopicPartition, int]:
    topic, partition, offset = record.headers["tl_origin"].decode().rsplit("/", 2)
    return TopicPartition(topic, int(partition)), int(offset)


async def _everything(bus: Bus, topic: str) -> list[Record]:
    places = [TopicPartition(topic, partition) for partition in range(flow.PARTITIONS)]
    return [record for at in places async for record in records_from(bus, at)]


async def committed_offsets(url: str, group: str) -> dict[TopicPartition, int]:
    """The group's offsets as the bus has them, asked by nobody of the group."""
    if url.startswith("sqlite:"):
        return _offsets_in_file(url.partition("?")[0].removeprefix("sqlite:///"), group)
    servers = url.removeprefix("kafka://").partition("?")[0]
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {TopicPartition(*at): each.offset for at, each in found.items() if each.offset >= 0}


def _offsets_in_file(path: str, group: str) -> dict[TopicPartition, int]:
    query = "SELECT name, partition, next FROM offsets JOIN topics ON topics.id = offsets.topic WHERE grp = ?"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(query, (group,)).fetchall()
    return {TopicPartition(name, partition): next_ for name, partition, next_ in rows}

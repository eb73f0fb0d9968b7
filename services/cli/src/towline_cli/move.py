"""`towline bus export`, `import` and `copy`: a log to a file, from a file, and from bus to bus."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

from towline import flow
from towline.bus.moving.export import items_of
from towline.bus.moving.items import Item, Origin, Tail
from towline.bus.moving.lines import AlreadyThere, LineWriter, opened, read_lines
from towline.bus.moving.load import Moved, load
from towline.bus.open import open_bus, sqlite_file
from towline.bus.port import Record, Topic
from towline.bus.settings import BusSettings
from towline.delivery.places import Places
from towline.errors import BadInput
from towline_cli.instances import bus_of, config_of, kafka_of

if TYPE_CHECKING:
    from towline.bus.kafka import KafkaBus
    from towline.bus.sqlite import SqliteBus

_READ_AT_ONCE = 500
_TOLD_EVERY_S = 2.0


def bus_told(bus: str | None, config: Path | None, name: str | None) -> BusSettings:
    """The bus of the settings, or another with what they say of reaching a Kafka. Raises BadInput."""
    try:
        file = config_of(config, name)
    except BadInput:
        if bus is None or config is not None or name is not None:
            raise
        return BusSettings(bus=bus)
    return BusSettings(bus=bus or bus_of(file), kafka=kafka_of(file))


async def export_log(of: BusSettings, file: str, topics: Sequence[str], *, damaged: bool = False) -> None:
    """Raises BadInput, Permanent, BusDown; then no file is left."""
    try:
        with opened(file, "xb") as out:
            lines = LineWriter(out)
            async with _origin(of, damaged=damaged) as origin:
                counted = _Counted("read")
                async for item in items_of(origin, chosen(topics), flow.SERVICES, damaged=damaged):
                    lines.write(item)
                    counted.item(item)
                running = [group for group in flow.SERVICES if await origin.members(group)]
                lost = getattr(origin, "lost", {})
        counted.end(f"exported {counted.records} records to {'standard output' if file == '-' else file}")
    except BaseException as error:
        if file != "-" and not isinstance(error, AlreadyThere):
            with suppress(OSError):
                Path(file).unlink()
        raise
    if running:
        _say(f"{', '.join(running)} ran meanwhile: this is a copy of one moment to keep, not a log to move")
    for at, ranges in lost.items():
        said = ", ".join(f"{first} to {end - 1}" for first, end in ranges)
        _say(f"lost: {at.topic}/{at.partition} offsets {said}")


async def import_log(to: BusSettings, file: str, *, although_running: bool, although_damaged: bool) -> None:
    """A file is read to its end before anything is written. Raises BadInput, Permanent, BusDown."""
    if file != "-":
        with opened(file, "rb") as packed:
            for _ in read_lines(packed, file):
                pass
    with opened(file, "rb") as packed:
        items = _items(packed, "standard input" if file == "-" else file)
        await _load(to, items, although_running=although_running, although_damaged=although_damaged)


async def copy_log(of: BusSettings, to: BusSettings, topics: Sequence[str]) -> None:
    """From bus to bus without a file. Raises BadInput, Permanent, BusDown."""
    if of.bus == to.bus:
        raise BadInput("both are the same bus: nothing was copied")
    async with _origin(of) as origin:
        items = items_of(origin, chosen(topics), flow.SERVICES)
        await _load(to, items, although_running=False, although_damaged=False)


def chosen(names: Sequence[str]) -> list[Topic]:
    """The topics of these names; all of them by default. Raises BadInput for a choice that could not be read alone."""
    every = {topic.name: topic for topic in flow.topics()}
    if not names:
        return list(every.values())
    if unknown := sorted(set(names) - every.keys()):
        raise BadInput(f"there is no topic {unknown[0]!r}; there are: {', '.join(every)}")
    for service in flow.SERVICES:
        needed = {*flow.topics_consumed_by(service), flow.inbox_of(service)}
        if flow.state_of(service) in names and (missing := sorted(needed - set(names))):
            raise BadInput(
                f"the state of {service} says how far it has read {', '.join(missing)}: choose these too, or leave "
                f"its state out"
            )
    return [every[name] for name in every if name in names]


async def _load(to: BusSettings, items: AsyncIterator[Item], *, although_running: bool, although_damaged: bool) -> None:
    bus = await open_bus(to.bus, partitions=flow.PARTITIONS, kafka=to.kafka)
    counted = _Counted("written")

    def progress(moved: Moved) -> None:
        counted.told(moved.records)

    try:
        moved = await load(
            _movable(bus),
            items,
            Places(),
            although_running=although_running,
            although_damaged=although_damaged,
            progress=progress,
        )
    finally:
        await bus.close()
    before = (
        "" if moved.written == moved.records else f", {moved.records - moved.written} of them were there or not needed"
    )
    counted.end(f"imported {moved.records} records{before}; services go on from where they were")
    for at, ranges in moved.lost.items():
        _say(f"lost before: {at.topic}/{at.partition} offsets {', '.join(f'{a} to {b - 1}' for a, b in ranges)}")


@asynccontextmanager
async def _origin(of: BusSettings, *, damaged: bool = False) -> AsyncIterator[Origin]:
    """The bus to read from; a SQLite file is not written to."""
    if of.bus.startswith("sqlite:"):
        from towline.bus.sqlite.snapshot import Snapshot

        snapshot = Snapshot(sqlite_file(of.bus)[0], time.time_ns() // 1_000_000, damaged=damaged)
        try:
            yield snapshot
        finally:
            snapshot.close()
        return
    if damaged:
        raise BadInput("--damaged is for a SQLite file; a Kafka log is Kafka's to repair")
    bus = await open_bus(of.bus, partitions=flow.PARTITIONS, kafka=of.kafka)
    try:
        yield _movable(bus)
    finally:
        await bus.close()


def _movable(bus: object) -> SqliteBus | KafkaBus:
    """What `open_bus` gives is one of these two, and both can be written a log to."""
    return bus  # type: ignore[return-value]


async def _items(file: IO[bytes], name: str) -> AsyncIterator[Item]:
    """In small lots from a thread: a file or a pipe may keep us waiting."""
    lines = read_lines(file, name)

    def some() -> list[Item]:
        return list(islice(lines, _READ_AT_ONCE))

    while items := await asyncio.to_thread(some):
        for item in items:
            yield item


class _Counted:
    """Says on a terminal now and then how far it is."""

    def __init__(self, verb: str) -> None:
        self.records = 0
        self._verb = verb
        self._next = time.monotonic() + _TOLD_EVERY_S
        self._shown = False

    def item(self, item: Item) -> None:
        if isinstance(item, Record):
            self.records += 1
            if self.records % 1000 == 0:
                self.told(self.records)
        elif isinstance(item, Tail):
            self.told(self.records)

    def told(self, records: int) -> None:
        if sys.stderr.isatty() and time.monotonic() >= self._next:
            self._next = time.monotonic() + _TOLD_EVERY_S
            self._shown = True
            sys.stderr.write(f"\r{records} records {self._verb}")
            sys.stderr.flush()

    def end(self, line: str) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
        _say(line)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")

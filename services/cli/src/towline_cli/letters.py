"""The dead letters of a log, read without a group: looking changes nothing, and needs no service to run.

Which services there are is read off the topics' names, so that `towline status` need not load the map of events.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from towline.bus.pages import records_from
from towline.bus.port import Bus, Record, TopicPartition
from towline.delivery.letters import Fold, Letter, record_of
from towline_cli.view.letters import Key

_DEAD = re.compile(r"towline\.([a-z0-9-]+)\.dead")
_PARKED = "\x1fparked"
"""How the row of a parked key ends in a state topic (`delivery.lane`); a test compares the two."""


@dataclass(frozen=True, slots=True)
class Found:
    letters: Sequence[Letter] = ()
    services: Collection[str] = ()
    """Whose topics there are."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Service → records of its topic that are neither a letter nor say anything of one."""


async def read_letters(bus: Bus, partitions: int) -> Found:
    """Every letter that the log still has, by service, partition and order. Raises BusDown."""
    folds: dict[str, Fold] = {}
    names = {found[1]: topic for topic in await bus.topics() if (found := _DEAD.fullmatch(topic))}
    places = [TopicPartition(topic, partition) for topic in names.values() for partition in range(partitions)]
    ends = await bus.ends(places) if places else {}
    for service, topic in sorted(names.items()):
        folding = folds.setdefault(service, Fold(service))
        for partition in range(partitions):
            at = TopicPartition(topic, partition)
            if ends.get(at):
                async for record in records_from(bus, at):
                    folding.feed(record)
    folded = {service: folding.folded() for service, folding in folds.items()}
    letters = [letter for each in folded.values() for letter in each.letters]
    return Found(
        letters, sorted(names), {service: each.unreadable for service, each in folded.items() if each.unreadable}
    )


async def read_parked(bus: Bus, places: Iterable[tuple[str, int]]) -> dict[Key, str]:
    """The parked keys of these partitions of services, and why they are."""
    parked: dict[Key, str] = {}
    there = set(await bus.topics())
    for service, partition in sorted(set(places)):
        topic = f"towline.{service}.state"
        if topic not in there:
            continue
        async for record in records_from(bus, TopicPartition(topic, partition)):
            if not record.key.endswith(_PARKED):
                continue
            key = (service, record.key.removesuffix(_PARKED))
            if record.value is None:
                parked.pop(key, None)
            else:
                parked[key] = record.value.decode(errors="replace")
    return parked


def places_of(letters: Collection[Letter]) -> set[tuple[str, int]]:
    return {(letter.service, letter.partition) for letter in letters if letter.open}


async def bytes_of(bus: Bus, letter: Letter) -> Record | None:
    """The record as it was; None where retention has taken it since."""
    at = TopicPartition(f"towline.{letter.service}.dead", letter.partition)
    records = [record for offset in letter.offsets for record in await bus.read(at, start=offset, limit=1)]
    try:
        return record_of(letter, records)
    except ValueError:
        return None

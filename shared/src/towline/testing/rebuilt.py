"""Lanes from the log alone, as a process finds them whose every file was destroyed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from towline.bus.port import Record
from towline.delivery import ownership
from towline.delivery.lane import Lane, lanes_of
from towline.delivery.model import S


def rebuilt(model: type[S], records: Iterable[Record]) -> dict[str, Lane[S]]:
    """By key, of a state topic's records, those of each partition in their order."""
    partitions: defaultdict[int, ownership.Rows] = defaultdict(ownership.Rows)
    for record in records:
        generation = ownership.generation_of(record.headers)
        partitions[record.partition].feed(record.key, record.value, generation)
    return {key: lane for rows in partitions.values() for key, lane in lanes_of(model, rows).items()}

"""What records say about offsets, and how to say it of a log that was moved.

Everything in a log that names a place in it is listed here, or a moved log would repeat or drop events:

- the cursor row of a lane: per topic the next offset of the lane's partition, by which redeliveries are known;
- a dead letter's origin, `topic/partition/offset`;
- a request to replay letters since an offset of the dead letters.

What a zombie wrote into a state partition does not move: it never counts, and the new log may compact at once, which
would let it hide what does count (see `ownership`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import orjson
from pydantic import ValidationError

from towline.bus.moving.offsets import Offsets
from towline.bus.port import NewRecord, Record, TopicPartition
from towline.delivery import ownership
from towline.delivery.lane import SEPARATOR, Cursor
from towline.delivery.letters import ORIGIN
from towline.delivery.model import ReplayRequested
from towline.delivery.ownership import Generations
from towline.errors import BadInput

CURSOR = SEPARATOR + "cursor"
STATE, DEAD, INBOX = ".state", ".dead", ".inbox"
GONE = "gone"
"""Stands for the offset of a record that retention took away before the log moved."""


class Places:
    """Fed with every record of a log, each partition in its order."""

    def __init__(self) -> None:
        self._generations: defaultdict[TopicPartition, Generations] = defaultdict(Generations)
        """By state partition."""

    def __call__(self, record: Record, offsets: Offsets) -> NewRecord | None:
        """The record as the new log must have it; None when it does not move. Raises BadInput."""
        try:
            if record.topic.endswith(STATE):
                return _of_state(record, offsets) if self._moves(record) else None
            if record.topic.endswith(DEAD):
                return _new(record, headers=_with_origin(record, offsets))
            if record.topic.endswith(INBOX) and record.headers.get("ce_type") == ReplayRequested.type.encode():
                return _new(record, value=_since_the_beginning(record.value))
        except (ValueError, ValidationError) as error:
            place = f"{record.topic}/{record.partition}/{record.offset}"
            raise BadInput(f"the record {record.key!r} at {place} cannot be read: {error}") from None
        return _new(record)

    def _moves(self, record: Record) -> bool:
        generation = ownership.generation_of(record.headers)
        counts = self._generations[record.position].counts(record.key, record.value, generation)
        return counts or record.key.startswith(ownership.CLAIM)


def _of_state(record: Record, offsets: Offsets) -> NewRecord:
    """Positions in topics that did not move along are dropped: nobody reads those any more."""
    if record.value is None or not record.key.endswith(CURSOR):
        return _new(record)
    cursor = Cursor.model_validate_json(record.value)
    positions = {
        topic: offsets.next_of(TopicPartition(topic, record.partition), next_)
        for topic, next_ in cursor.positions.items()
        if offsets.knows(topic)
    }
    moved = cursor.model_copy(update={"positions": positions})
    return _new(record, value=moved.model_dump_json(exclude_defaults=True).encode())


def _with_origin(record: Record, offsets: Offsets) -> Mapping[str, bytes]:
    """What names no place of this log stays as it is."""
    topic, _, rest = record.headers.get(ORIGIN, b"").decode(errors="replace").partition("/")
    partition, _, offset = rest.partition("/")
    if not (offsets.knows(topic) and partition.isdecimal() and offset.isdecimal()):
        return record.headers
    found = offsets.record_of(TopicPartition(topic, int(partition)), int(offset))
    return {**record.headers, ORIGIN: f"{topic}/{partition}/{GONE if found is None else found}".encode()}


def _since_the_beginning(value: bytes | None) -> bytes | None:
    """Dead letters come behind the inbox, so it is not known yet where they will be; who is resolved is passed over."""
    said = orjson.loads(value or b"null")
    if not isinstance(said, dict) or not isinstance(said.get("customData"), dict):
        return value
    return orjson.dumps({**said, "customData": {**said["customData"], "since": 0}})


def _new(record: Record, **changed: object) -> NewRecord:
    new = NewRecord(record.topic, record.key, record.value, record.headers, record.partition, record.timestamp_ms)
    return replace(new, **changed) if changed else new  # type: ignore[arg-type]

"""How large a record or an append may be: counted the same way on every adapter, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from towline.bus.port import MAX_APPEND_BYTES, MAX_RECORD_BYTES, NewRecord, TooLarge, TopicPartition
from towline.errors import Permanent


def record_bytes(record: NewRecord) -> int:
    """Key, value, header names and header values; the few bytes of framing are not counted."""
    try:
        size = len(record.key.encode()) + len(record.value or b"")
        return size + sum(len(name.encode()) + len(value) for name, value in record.headers.items())
    except UnicodeEncodeError as error:
        raise Permanent(f"a record for {record.topic} has a key or header name that is not Unicode: {error}") from error


def check_sizes(records: Sequence[NewRecord]) -> int:
    """All their bytes together. Raises TooLarge for the first record over its limit."""
    total = 0
    for record in records:
        size = record_bytes(record)
        total += size
        if size > MAX_RECORD_BYTES:
            raise TooLarge(
                f"a record of {size} bytes for {record.topic} (key {record.key[:200]!r}) is over the limit of "
                f"{MAX_RECORD_BYTES}: put what is large into the artifact store and point to it"
            )
    return total


def check_append(at: TopicPartition, records: Sequence[NewRecord]) -> None:
    """Raises TooLarge for one record or all together, ValueError for a record that belongs elsewhere."""
    for record in records:
        if record.topic != at.topic or record.partition not in (None, at.partition):
            raise ValueError(f"a record for {record.topic} partition {record.partition} in an append to {at}")
    if (total := check_sizes(records)) > MAX_APPEND_BYTES:
        raise TooLarge(
            f"{len(records)} records of {total} bytes for {at.topic} are over the limit of "
            f"{MAX_APPEND_BYTES} for one atomic append"
        )

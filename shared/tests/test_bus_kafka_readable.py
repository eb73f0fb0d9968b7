"""What a stranger may write must not raise in the client's fetch: nobody behind it would be read any more."""

from __future__ import annotations

import struct

import pytest
from aiokafka import TopicPartition as At
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from towline.bus.kafka.readable import ReadableRecords
from towline.bus.kafka.reader import record_of

_CRC_AT, _COUNTED_FROM = 17, 21


def batch(*names: bytes, offset: int = 0) -> bytes:
    """One record for each name, which its only header has."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for number, name in enumerate(names):
        builder.append(number, timestamp=7, key=b"k", value=b"v", headers=[("x" * len(name), b"h")])
    data = bytearray(builder.build())
    for name in names:
        data = data.replace(b"x" * len(name), name, 1)
    data[:8] = struct.pack(">q", offset)
    data[_CRC_AT:_COUNTED_FROM] = struct.pack(">I", calc_crc32c(bytes(data[_COUNTED_FROM:])))
    return bytes(data)


def fetched(data: bytes, records: type = ReadableRecords) -> list[tuple[int, list[str]]]:
    """As the client's fetcher reads it."""
    found = fetcher.PartitionRecords(At("t", 0), records(data), None, 0, None, None, True, 0)
    return [(each.offset, list(each.headers)) for each in map(record_of, found)]


def test_a_header_name_that_is_no_utf_8_blocks_its_partition_no_more() -> None:
    data = batch(b"before") + batch(b"one", b"\xff\xfe\xfd", b"two", offset=1) + batch(b"behind", offset=4)

    with pytest.raises(UnicodeDecodeError):
        fetched(data, MemoryRecords)  # the client by itself
    assert fetched(data) == [
        (0, ["before"]),
        (1, ["one"]),
        (2, ["\ufffd\ufffd\ufffd", "tl_raw_headers"]),
        (3, ["two"]),
        (4, ["behind"]),
    ]


def test_the_installed_client_reads_every_fetch_through_it() -> None:
    """A new version of the client that takes its batches from elsewhere would stop at such a record again."""
    assert fetcher.MemoryRecords is ReadableRecords
    assert "MemoryRecords" in fetcher.Fetcher._proc_fetch_request.__code__.co_names

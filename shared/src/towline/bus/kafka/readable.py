"""Record batches as the client reads them, but for one thing: a header's name that is no UTF-8 is no error.

A broker takes such a record from any producer, and other clients read it. Ours raises in the middle of a fetch, each
time again, so its partition would be blocked for ever, by somebody who may write one record.

Rule: the name comes out with surrogates in the place of its odd bytes (PEP 383), so none is lost; `bus.foreign` makes a
text of it. Like `internals` this reaches into the client's inside, and a test holds it to what is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH_AT, _BATCH_AT = 8, 12
"""Where a batch has the length of what comes behind it, and where that begins, in every version of the format."""


class ReadableRecords:
    """In the place of the client's `MemoryRecords`: what one fetch has brought of one partition."""

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._data = memoryview(data)
        self._at = 0

    def size_in_bytes(self) -> int:
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _Batch | None:
        batch = self._records.next_batch()
        if batch is None:
            return None
        start = self._at
        self._at += _BATCH_AT + int.from_bytes(self._data[start + _LENGTH_AT : start + _BATCH_AT], "big")
        return _Batch(batch, self._data[start : self._at])


class _Batch:
    """A batch of the client's, which is read a second time, and slower, where it cannot be read."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            slow = iter(_DefaultRecordBatchPy(self._data))
            slow._buffer = _Lenient(slow._buffer)
            return slow  # type: ignore[no-any-return]


class _Lenient(bytearray):
    """Bytes whose pieces are read as text without fail; the header names are the only text of a record."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Lenient(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, errors)


def read_every_name() -> None:
    """From now on, in this process."""
    fetcher.MemoryRecords = ReadableRecords

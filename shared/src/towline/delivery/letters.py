"""Dead letters as data: how a record is kept in `towline.<service>.dead`, and what the records of that topic say.

Three kinds of record stand there, in the partition of the letter's key, told apart by their headers:

    a letter     the record as it was, value and headers untouched, and beside them reason, origin, id, kind, version.
                 One that would be over the limit with these is cut into parts that say so.
    failed       a replay that failed again: id, kind, reason, version
    resolved     replayed or dropped: id, by whom, why. Nothing is ever taken out of the topic but by its retention

Rules that must hold:

- `letter_records` and `record_of` are each other's inverse: no byte of key, value or headers is lost, whatever they
  are called; a header of the record that is called as one of ours is kept under another name.
- A letter's id derives from the service, from where the record was read and from what it says: given up twice, for a
  crash came before its offset was committed, it is one letter.
- The first record that resolves a letter counts. What cannot be read is counted and changes nothing.
- Light to import: `towline status` counts letters before the models of events could load.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from towline.bus.port import MAX_RECORD_BYTES, NewRecord, Record
from towline.bus.size import record_bytes
from towline.ids import digest_of

PREFIX = "tl_dead_"
REASON, ORIGIN = "tl_reason", "tl_origin"
ID, KIND, VERSION = "tl_dead_id", "tl_dead_kind", "tl_dead_version"
WRITTEN, PART = "tl_dead_written", "tl_dead_part"
SAID, BY = "tl_dead_said", "tl_dead_by"
_KEPT = "tl_dead_kept_"
_CUT_KEY = "tl_dead_key"
REASON_BYTES = 2000
LONGEST_KEY = 4096
"""Bytes; a longer one stands with the record's bytes in the parts, and the letter is filed under its beginning."""
_PART_BYTES = MAX_RECORD_BYTES - 2 * LONGEST_KEY - 2 * REASON_BYTES
ID_CHARS = 16
_MOST = 2**63 - 1


class Kind(StrEnum):
    """Where a record got stuck."""

    UNDECODABLE = "undecodable"
    """Its bytes are no event that this version can read, or takes."""
    UNFORWARDED = "unforwarded"
    """It could not be given to the lanes that it concerns."""
    UNDECIDED = "undecided"
    """Its decision failed, and its key is parked for it."""
    PARKED = "parked"
    """It came while its key was parked: nothing is wrong with it."""


class Said(StrEnum):
    FAILED = "failed"
    REPLAYED = "replayed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Resolution:
    how: Said
    by: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Letter:
    service: str
    id: str
    key: str
    kind: str
    reason: str
    """Of the last time that it failed."""
    version: str
    """Of the service that gave it up last."""
    origin: str
    """`topic/partition/offset` where the service read it."""
    written_ms: int
    """When it was written there."""
    first_ms: int
    """When it was given up first."""
    last_ms: int
    times: int
    """How often it was given up."""
    type: str
    """Its CloudEvents type; empty where it has none."""
    event: str
    trace: str | None
    bytes: int
    """Of its value."""
    partition: int
    offsets: tuple[int, ...]
    """Where its bytes are in the `.dead` topic: one record, or its parts in order."""
    whole_key: bool = True
    resolution: Resolution | None = None

    @property
    def open(self) -> bool:
        return self.resolution is None


def letter_id(service: str, record: Record) -> str:
    """The same for the same record read at the same place."""
    return digest_of(service, origin_of(record), record.key, record.value or b"")[:ID_CHARS]


def origin_of(record: Record) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


# -- written ---------------------------------------------------------------------------------------------------------


def letter_records(
    topic: str, partition: int, service: str, record: Record, *, kind: Kind, reason: str, version: str
) -> list[NewRecord]:
    """The record with why it is here; more than one only when it does not fit together with that."""
    said = {
        ID: letter_id(service, record).encode(),
        KIND: kind.value.encode(),
        REASON: shortened(reason),
        ORIGIN: origin_of(record).encode(),
        WRITTEN: str(record.timestamp_ms).encode(),
        VERSION: version.encode(),
    }
    if len(record.key.encode()) <= LONGEST_KEY:
        whole = NewRecord(topic, record.key, record.value, {**_escaped(record.headers), **said}, partition)
        if record_bytes(whole) <= MAX_RECORD_BYTES:
            return [whole]
        key = record.key
    else:
        key = record.key.encode()[:LONGEST_KEY].decode(errors="ignore")
        said[_CUT_KEY] = b"cut"
    packed = _pack(record.key, record.value, record.headers)
    parts = [packed[start : start + _PART_BYTES] for start in range(0, len(packed), _PART_BYTES)]
    return [
        NewRecord(topic, key, part, {**said, PART: f"{number}/{len(parts)}".encode()}, partition)
        for number, part in enumerate(parts, 1)
    ]


def failed_record(topic: str, letter: Letter, *, kind: Kind, reason: str, version: str) -> NewRecord:
    """A replay of the letter failed again."""
    said = {SAID: Said.FAILED.value, ID: letter.id, KIND: kind.value, VERSION: version}
    headers = {name: value.encode() for name, value in said.items()}
    return NewRecord(topic, letter.key, b"", {**headers, REASON: shortened(reason)}, letter.partition)


def resolved_record(topic: str, letter: Letter, how: Said, *, by: str, reason: str) -> NewRecord:
    headers = {SAID: how.value.encode(), ID: letter.id.encode(), BY: shortened(by), REASON: shortened(reason)}
    return NewRecord(topic, letter.key, b"", headers, letter.partition)


def shortened(text: str) -> bytes:
    """As much of a text as a header takes, in whole characters; one that is no Unicode loses what is none."""
    return text.encode(errors="replace")[:REASON_BYTES].decode(errors="ignore").encode()


# -- read ------------------------------------------------------------------------------------------------------------


def record_of(letter: Letter, records: Sequence[Record]) -> Record:
    """The record that was given up, from the ones at `letter.offsets`. Raises ValueError when they are not it."""
    if [record.offset for record in records] != list(letter.offsets):
        raise ValueError(f"the bytes of dead letter {letter.id} are no longer there")
    first = records[0]
    topic, partition, offset = _split_origin(letter.origin)
    if PART in first.headers:
        key, value, headers = _unpack(b"".join(record.value or b"" for record in records))
    else:
        key, value, headers = first.key, first.value, _unescaped(first.headers)
    return Record(topic, partition, offset, key, value, headers, letter.written_ms)


class Fold:
    """What the records of one service's `.dead` topic say, each partition fed in its order."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.letters: dict[str, Letter] = {}
        """By id, in the order of their first record within a partition."""
        self.unreadable = 0
        self._parts: dict[str, dict[int, Record]] = {}

    def feed(self, record: Record) -> None:
        try:
            if SAID in record.headers:
                self._said(record)
            elif PART in record.headers:
                self._part(record)
            else:
                self._letter(record, (record.offset,), record.value, _unescaped(record.headers))
        except (KeyError, ValueError, struct.error):
            self.unreadable += 1

    def open(self) -> Iterator[Letter]:
        return (letter for letter in self.letters.values() if letter.open)

    def folded(self) -> Folded:
        """Parts whose others are not there count among what cannot be read."""
        alone = sum(len(parts) for parts in self._parts.values())
        return Folded(tuple(self.letters.values()), self.unreadable + alone)

    def _letter(
        self, record: Record, offsets: tuple[int, ...], value: bytes | None, headers: Mapping[str, bytes]
    ) -> None:
        said = record.headers
        id = said[ID].decode()
        origin = said[ORIGIN].decode()
        _, *numbers = _split_origin(origin)  # or it is no letter
        written = int(said[WRITTEN])
        if not id or any(abs(number) > _MOST for number in (*numbers, written)):
            raise ValueError("no service writes such a letter")
        if id in self.letters:
            return
        self.letters[id] = Letter(
            service=self.service,
            id=id,
            key=record.key,
            kind=_text(said, KIND),
            reason=_text(said, REASON),
            version=_text(said, VERSION),
            origin=origin,
            written_ms=written,
            first_ms=record.timestamp_ms,
            last_ms=record.timestamp_ms,
            times=1,
            type=_text(headers, "ce_type"),
            event=_text(headers, "ce_id"),
            trace=_trace_id(_text(headers, "ce_traceparent")),
            bytes=len(value or b""),
            partition=record.partition,
            offsets=offsets,
            whole_key=_CUT_KEY not in said,
        )

    def _part(self, record: Record) -> None:
        id = record.headers[ID].decode()
        number, _, count = record.headers[PART].decode().partition("/")
        if id in self.letters:
            return
        parts = self._parts.setdefault(id, {})
        parts.setdefault(int(number), record)
        if len(parts) == int(count):
            in_order = [parts[number] for number in range(1, int(count) + 1)]
            del self._parts[id]
            _, value, headers = _unpack(b"".join(part.value or b"" for part in in_order))
            self._letter(in_order[0], tuple(part.offset for part in in_order), value, headers)

    def _said(self, record: Record) -> None:
        how = Said(record.headers[SAID].decode())
        letter = self.letters.get(record.headers[ID].decode())
        if letter is None or not letter.open:
            return  # it has outlived its letter, or came second
        reason = _text(record.headers, REASON)
        if how is Said.FAILED:
            kind, version = _text(record.headers, KIND), _text(record.headers, VERSION)
            letter = replace(letter, kind=kind, reason=reason, version=version)
            letter = replace(letter, last_ms=record.timestamp_ms, times=letter.times + 1)
        else:
            by = _text(record.headers, BY)
            letter = replace(letter, resolution=Resolution(how, by, reason, record.timestamp_ms))
        self.letters[letter.id] = letter


@dataclass(frozen=True, slots=True)
class Folded:
    letters: tuple[Letter, ...] = ()
    unreadable: int = 0
    """Records of the topic that are neither a letter nor say anything of one."""


def fold(service: str, records: Iterable[Record]) -> Folded:
    folding = Fold(service)
    for record in records:
        folding.feed(record)
    return folding.folded()


# -- inside ----------------------------------------------------------------------------------------------------------


def _escaped(headers: Mapping[str, bytes]) -> dict[str, bytes]:
    return {_KEPT + name if _is_ours(name) else name: value for name, value in headers.items()}


def _unescaped(headers: Mapping[str, bytes]) -> dict[str, bytes]:
    return {
        name.removeprefix(_KEPT): value
        for name, value in headers.items()
        if name.startswith(_KEPT) or not _is_ours(name)
    }


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) or name in (REASON, ORIGIN)


def _pack(key: str, value: bytes | None, headers: Mapping[str, bytes]) -> bytes:
    """Key, value and then names and values of the headers, each behind its length; a null value has length -1."""
    parts: list[bytes] = []
    fields: list[bytes | None] = [key.encode(), value]
    for name, content in headers.items():
        fields += [name.encode(), content]
    for each in fields:
        parts += [struct.pack(">i", -1 if each is None else len(each)), each or b""]
    return b"".join(parts)


def _unpack(packed: bytes) -> tuple[str, bytes | None, dict[str, bytes]]:
    fields: list[bytes | None] = []
    at = 0
    while at < len(packed):
        (size,) = struct.unpack_from(">i", packed, at)
        at += 4
        fields.append(None if size < 0 else packed[at : at + size])
        at += max(0, size)
    if at != len(packed) or len(fields) < 2 or len(fields) % 2:
        raise ValueError("the parts of a dead letter do not fit together")
    names, values = fields[2::2], fields[3::2]
    headers = {(name or b"").decode(): value or b"" for name, value in zip(names, values, strict=True)}
    return (fields[0] or b"").decode(), fields[1], headers


def _split_origin(origin: str) -> tuple[str, int, int]:
    """The offset is -1 where a log was moved that had it no more."""
    topic, partition, offset = origin.rsplit("/", 2)
    return topic, int(partition), int(offset) if offset.isdecimal() else -1


def _text(headers: Mapping[str, bytes], name: str) -> str:
    return headers.get(name, b"").decode(errors="replace")


def _trace_id(traceparent: str) -> str | None:
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else None

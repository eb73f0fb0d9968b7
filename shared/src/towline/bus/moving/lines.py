"""The file of a moved log: one JSON object per line, each with a checksum over itself and all lines before it.

    {"crc":"8d0b1f0c","head":{"format":1,"made":…,"source":"sqlite","topics":[…],"groups":[…],"running":[],"damaged":false}}
    {"crc":"…","begin":["towline.changes",3]}
    {"crc":"…","o":17,"t":1767323045000,"k":"key","h":{"ce_id":"…"},"v":"the value as text"}
    {"crc":"…","o":18,"t":1767323045001,"k":"key","b64":{"tl_x":"//8="},"b":"AAH/"}
    {"crc":"…","o":19,"t":1767323045002,"k":"key","v":null}
    {"crc":"…","end":["towline.changes",3],"records":3,"next":20}
    {"crc":"…","committed":["ci-runner","towline.changes",3,19]}
    {"crc":"…","tail":{"records":3}}

`o` offset, `t` milliseconds since 1970, `k` key, `h` headers that are UTF-8, `b64` those that are not, `v` a value that
is UTF-8 or null, `b` one that is not, in base64. `crc` is CRC-32 of the line from behind `"crc":"…",` to its end,
without the line break, begun with the value of the line before: a line that is changed, missing, twice or elsewhere
shows where it is. `.gz` and `.xz` are packed.
"""

from __future__ import annotations

import base64
import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, cast

import orjson

from towline.bus.moving.grammar import Grammar
from towline.bus.moving.items import FORMAT, Begin, Committed, End, Head, Item, Tail
from towline.bus.port import Cleanup, Record, Topic, TopicPartition
from towline.errors import BadInput, Location

_START = b'{"crc":"'
_BODY_AT = len(_START) + 8 + 2
_LONGEST_LINE = 4 * 1024 * 1024
_CUT = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)


class LineWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._crc = 0

    def write(self, item: Item) -> None:
        body = orjson.dumps(_said(item))[1:]
        self._crc = zlib.crc32(body, self._crc)
        self._file.write(b'%s%08x",%s\n' % (_START, self._crc, body))


def read_lines(file: IO[bytes], name: str) -> Iterator[Item]:
    """Every item in order. Raises BadInput naming the line that is not what it should be, and a file that is cut."""
    crc, number, at, grammar = 0, 0, None, Grammar()
    while True:
        number += 1
        where = Location(name, number)
        line = _read(file, _LONGEST_LINE, where)
        if not line.endswith(b"\n"):
            raise BadInput(_cut_message(line, number), at=where)
        body = line[_BODY_AT:-1]
        crc = zlib.crc32(body, crc)
        if line[:_BODY_AT] != b'%s%08x",' % (_START, crc):
            raise BadInput(_crc_message(line, crc, number), at=where)
        item = _item(b"{" + body, at, where)
        try:
            grammar.take(item)
        except ValueError as error:
            raise BadInput(f"this is no exported log: {error}", at=where) from None
        at = item.at if isinstance(item, Begin) else None if isinstance(item, End) else at
        yield item
        if isinstance(item, Tail):
            if _read(file, 1, where):
                raise BadInput("something follows behind the tail: expected the end of the file", at=where)
            return


def _read(file: IO[bytes], most: int, where: Location) -> bytes:
    try:
        return file.readline(most)
    except _CUT as error:
        raise BadInput(f"the packed file is cut or damaged here ({error}): fetch it again", at=where) from None
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror or error}", at=where) from None


class AlreadyThere(BadInput):
    """A file of that name is somebody's, and nothing was made."""


@contextmanager
def opened(name: str, mode: str) -> Iterator[IO[bytes]]:
    """The file to read (`rb`) or to make (`xb`), packed by its suffix; `-` is standard input or output."""
    reads = mode == "rb"
    if name == "-":
        stream = sys.stdin.buffer if reads else sys.stdout.buffer
        yield stream
        stream.flush() if not reads else None
        return
    try:
        # Events tell of private repositories: the file is its owner's.
        raw = open(name, mode, opener=None if reads else _private)  # noqa: SIM115 closed below, around what packs
    except FileExistsError:
        raise AlreadyThere(f"{name} is there already: name another file, or remove it") from None
    except OSError as error:
        raise BadInput(f"{name} cannot be opened: {error.strerror}") from None
    with raw:
        suffix = Path(name).suffix
        if suffix == ".gz":
            with gzip.GzipFile(fileobj=raw, mode="rb" if reads else "wb", compresslevel=6) as packed:
                yield cast("IO[bytes]", packed)
        elif suffix == ".xz":
            with lzma.LZMAFile(raw, mode="rb" if reads else "wb", preset=None if reads else 1) as packed:
                yield cast("IO[bytes]", packed)
        elif suffix in (".zst", ".zstd", ".bz2", ".zip"):
            raise BadInput(f"{name}: {suffix} is not known here: expected .gz, .xz, or a name without such a suffix")
        else:
            yield raw


def _private(path: str, flags: int) -> int:
    import os

    return os.open(path, flags, 0o600)


def _cut_message(line: bytes, number: int) -> str:
    if len(line) == _LONGEST_LINE:
        return f"the line is longer than {_LONGEST_LINE} bytes: this is no exported log"
    if number == 1 and not line:
        return "the file is empty: expected an exported log"
    return "the log is cut here: expected more lines, the last one with its tail; export or fetch it again"


def _crc_message(line: bytes, crc: int, number: int) -> str:
    if not line.startswith(_START):
        return f'expected a line of an exported log, beginning with {{"crc":"…", not {line[:40]!r}'
    found = line[len(_START) : len(_START) + 8].decode(errors="replace")
    before = "" if number == 1 else ", or a line before it is missing, twice or elsewhere"
    return f"the line is damaged{before}: its checksum is {found!r}, expected is {crc:08x}; export or fetch it again"


def _said(item: Item) -> dict[str, Any]:
    match item:
        case Record():
            return _said_record(item)
        case Head():
            topics = [
                {
                    "name": t.name,
                    "partitions": t.partitions,
                    "cleanup": t.cleanup.value,
                    "retention_ms": _ms(t.retention),
                }
                for t in item.topics
            ]
            head = {"format": item.format, "made": item.made, "source": item.source, "topics": topics}
            return {"head": {**head, "groups": item.groups, "running": item.running, "damaged": item.damaged}}
        case Begin():
            return {"begin": list(item.at)}
        case End():
            lost = {"lost": item.lost} if item.lost else {}
            return {"end": list(item.at), "records": item.records, "next": item.next, **lost}
        case Committed():
            return {"committed": [item.group, *item.at, item.next]}
        case Tail():
            return {"tail": {"records": item.records}}


def _said_record(record: Record) -> dict[str, Any]:
    said: dict[str, Any] = {"o": record.offset, "t": record.timestamp_ms, "k": record.key}
    text, binary = {}, {}
    for name, raw in record.headers.items():
        try:
            text[name] = raw.decode()
        except UnicodeDecodeError:
            binary[name] = base64.b64encode(raw).decode()
    if text:
        said["h"] = text
    if binary:
        said["b64"] = binary
    if record.value is None:
        said["v"] = None
        return said
    try:
        said["v"] = record.value.decode()
    except UnicodeDecodeError:
        said["b"] = base64.b64encode(record.value).decode()
    return said


def _item(body: bytes, at: TopicPartition | None, where: Location) -> Item:
    """The checksum held, so whatever is wrong here was written so: by a newer version, or by hand."""
    try:
        said = orjson.loads(body)
        if "o" in said:
            return _record(said, at)
        if "head" in said:
            return _head(said["head"])
        if "begin" in said:
            return Begin(_at(said["begin"]))
        if "end" in said:
            lost = tuple((int(first), int(end)) for first, end in said.get("lost", ()))
            return End(_at(said["end"]), int(said["records"]), int(said["next"]), lost)
        if "committed" in said:
            group, *place, next_ = said["committed"]
            return Committed(str(group), _at(place), int(next_))
        return Tail(int(said["tail"]["records"]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise BadInput(f"the line is no item of an exported log ({type(error).__name__}: {error})", at=where) from None


def _record(said: dict[str, Any], at: TopicPartition | None) -> Record:
    if at is None:
        raise ValueError("a record outside of a partition")
    headers = {name: text.encode() for name, text in said.get("h", {}).items()}
    headers.update((name, base64.b64decode(text, validate=True)) for name, text in said.get("b64", {}).items())
    if "b" in said:
        value: bytes | None = base64.b64decode(said["b"], validate=True)
    else:
        value = None if said["v"] is None else said["v"].encode()
    return Record(*at, int(said["o"]), str(said["k"]), value, headers, int(said["t"]))


def _head(said: dict[str, Any]) -> Head:
    if said["format"] != FORMAT:
        raise ValueError(f"the log has format {said['format']}, this version reads {FORMAT}: upgrade Towline")
    topics = tuple(
        Topic(t["name"], int(t["partitions"]), Cleanup(t["cleanup"]), _retention(t["retention_ms"]))
        for t in said["topics"]
    )
    running, damaged = tuple(said["running"]), bool(said["damaged"])
    return Head(str(said["made"]), str(said["source"]), topics, tuple(said["groups"]), running, damaged)


def _at(said: list[Any]) -> TopicPartition:
    topic, partition = said
    return TopicPartition(str(topic), int(partition))


def _ms(retention: timedelta | None) -> int | None:
    return None if retention is None else int(retention.total_seconds() * 1000)


def _retention(ms: int | None) -> timedelta | None:
    return None if ms is None else timedelta(milliseconds=ms)

"""The file: its tables, how it is opened, and what its errors mean.

`heads` alone decides the next offset, so an offset is never reused, whatever retention or compaction removed.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from towline.bus.port import BusDown
from towline.errors import Permanent

SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 5.0

_DDL = """
CREATE TABLE topics (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    partitions INTEGER NOT NULL,
    cleanup TEXT NOT NULL,
    retention_ms INTEGER
);
CREATE TABLE heads (
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    next INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE records (
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    key TEXT NOT NULL,
    headers BLOB NOT NULL,
    value BLOB,
    PRIMARY KEY (topic, partition, offset)
) WITHOUT ROWID;
CREATE INDEX tombstones ON records (timestamp_ms) WHERE value IS NULL;
CREATE TABLE latest (
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    key TEXT NOT NULL,
    offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, key)
) WITHOUT ROWID;
CREATE TABLE offsets (
    grp TEXT NOT NULL,
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (grp, topic, partition)
) WITHOUT ROWID;
"""

_GROUPS = """
CREATE TABLE groups (
    grp TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    since_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE members (
    grp TEXT NOT NULL,
    member TEXT NOT NULL,
    process TEXT NOT NULL,
    topics TEXT NOT NULL,
    heartbeat_ms INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL,
    PRIMARY KEY (grp, member)
) WITHOUT ROWID;
"""
"""`groups` and `members` belong to `lease`."""

_TO_MEMBERS = """
INSERT INTO groups SELECT grp, generation, generation, 0 FROM leases;
DROP TABLE leases;
ALTER TABLE heads ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
"""

_MIGRATIONS = {1: (_GROUPS, _TO_MEMBERS)}
"""Version → what makes the next one of it. A process of the older version that still runs loses its groups."""


def create_file(path: Path) -> None:
    """Make the file readable by its owner alone; SQLite gives its WAL the same mode.

    A file that is there is not opened here: closing it again would take this process's own locks away from whoever in
    it has the file open, and others would then write over them (sqlite.org/howtocorrupt.html, section 2.2).
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Permanent(f"the bus file {path} cannot be opened: {error.strerror}") from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, free of thread checks: its one user at a time is the caller's promise."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def connect_writer(path: Path) -> sqlite3.Connection:
    """The writing connection, with the schema made or checked. Raises BusDown, Permanent."""
    create_file(path)
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        _make_or_check(connection, path, version)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.close()
        raise explain(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _make_or_check(connection: sqlite3.Connection, path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise Permanent(
            f"the bus file {path} has schema {version}, written by a newer Towline; this one knows up to "
            f"{SCHEMA_VERSION}: upgrade Towline, or name another file"
        )
    if version == SCHEMA_VERSION:
        return
    if version:
        for older in range(version, SCHEMA_VERSION):
            _execute(connection, *_MIGRATIONS[older])
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        return
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables:
        raise Permanent(f"{path} is a database of something else, not a Towline bus: name another file")
    _execute(connection, _DDL, _GROUPS)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _execute(connection: sqlite3.Connection, *scripts: str) -> None:
    """One statement after the other: `executescript` would commit what is under way."""
    for script in scripts:
        for statement in script.split(";"):
            connection.execute(statement)


def explain(path: Path, error: Exception) -> Exception:
    """What an error of SQLite means for the caller: BusDown when it may pass, Permanent when it cannot."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BusDown(f"the bus file {path} has been locked by another process for over {BUSY_TIMEOUT_S:.0f} s")
    if code == sqlite3.SQLITE_FULL:
        return BusDown(f"the disk of the bus file {path} is full: nothing can be published until there is room")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return Permanent(f"{path} is not a Towline bus, or is damaged ({error}): restore it, or name another file")
    return BusDown(f"the bus file {path} does not answer: {error}")


def pack_headers(headers: Mapping[str, bytes]) -> bytes:
    """Name and value of each header, each behind its length."""
    parts = []
    for name, value in headers.items():
        raw = name.encode()
        parts += [struct.pack(">II", len(raw), len(value)), raw, value]
    return b"".join(parts)


def unpack_headers(packed: bytes) -> dict[str, bytes]:
    headers = {}
    at = 0
    while at < len(packed):
        name, value = struct.unpack_from(">II", packed, at)
        at += 8
        headers[packed[at : at + name].decode()] = packed[at + name : at + name + value]
        at += name + value
    return headers

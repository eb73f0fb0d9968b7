"""The file: its tables, and what its errors mean.

`heads` alone decides the next offset, so an offset is never reused, whatever retention or compaction removed.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping
from pathlib import Path

from towline.bus.port import BusDown
from towline.bus.sqlite.whole import damaged
from towline.errors import Permanent

APPLICATION_ID = 0x546F776C
"""`Towl`, at byte 68 of the file: what tools that know a file by its beginning can go by."""
SCHEMA_VERSION = 2
_VERSION_WITHOUT_ID = 1
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

_USERS = """
CREATE TABLE identity (id TEXT NOT NULL, log INTEGER NOT NULL);
INSERT INTO identity VALUES (lower(hex(randomblob(16))), 0);
CREATE TABLE users (process TEXT PRIMARY KEY, file TEXT NOT NULL, boot TEXT NOT NULL) WITHOUT ROWID;
"""
"""Who has the file open, and which file that is; belongs to `opening`."""

_TO_MEMBERS = """
INSERT INTO groups SELECT grp, generation, generation, 0 FROM leases;
DROP TABLE leases;
ALTER TABLE heads ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
"""

_MIGRATIONS = {1: (_GROUPS, _TO_MEMBERS, _USERS)}
"""Version → what makes the next one of it. A process of the older version that still runs loses its groups."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, free of thread checks: its one user at a time is the caller's promise."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def make_or_check(connection: sqlite3.Connection, path: Path) -> None:
    """Inside a transaction: the tables of a new file, or those that an older one lacks. Raises Permanent."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    ours = version == _VERSION_WITHOUT_ID if application == 0 else application == APPLICATION_ID
    if tables and not ours:
        raise Permanent(f"{path} is a database of something else, not a Towline bus: name another file")
    if version > SCHEMA_VERSION:
        raise Permanent(
            f"the bus file {path} has schema {version}, written by a newer Towline; this one knows up to "
            f"{SCHEMA_VERSION}: upgrade Towline, or name another file"
        )
    if not tables:
        _execute(connection, _DDL, _GROUPS, _USERS)
    for older in range(version, SCHEMA_VERSION) if tables else ():
        _execute(connection, *_MIGRATIONS[older])
    if version < SCHEMA_VERSION:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
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
        return BusDown(f"the bus file {path} has been locked by another process for over {BUSY_TIMEOUT_S:g} s")
    if code == sqlite3.SQLITE_FULL:
        return BusDown(f"the disk of the bus file {path} is full: nothing can be published until there is room")
    if code == sqlite3.SQLITE_NOTADB:
        return Permanent(f"{path} is no Towline bus, or its beginning is damaged: restore it, or name another file")
    if code == sqlite3.SQLITE_CORRUPT:
        return damaged(path, str(error))
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

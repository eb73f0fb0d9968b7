"""The bus file as an operator meets it: damaged, copied, in the wrong place, of another owner, on a full disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from towline.bus.port import Cleanup, NewRecord, Topic, TopicPartition
from towline.bus.sqlite import SqliteBus, opening
from towline.bus.sqlite.schema import SCHEMA_VERSION
from towline.bus.sqlite.snapshot import Snapshot
from towline.errors import Permanent

pytestmark = pytest.mark.whole_service

FACTS, STATE = Topic("facts", 3), Topic("state", 3, Cleanup.COMPACT)

WRITES_AND_IS_KILLED = """
import asyncio, os, signal, sys
from towline.bus.port import Cleanup, NewRecord, Topic
from towline.bus.sqlite import SqliteBus

async def main():
    bus = await SqliteBus.open(sys.argv[1])
    await bus.ensure([Topic("facts", 3), Topic("state", 3, Cleanup.COMPACT)])
    for number in range(int(sys.argv[2])):
        await bus.publish([NewRecord(name, f"k{number % 40}", b"v" * 700) for name in ("facts", "state")])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def written(file: Path, records: int = 200) -> Path:
    """A file that was closed in order."""
    bus = await SqliteBus.open(file)
    await bus.ensure([FACTS, STATE])
    for name in ("facts", "state"):
        await bus.publish([NewRecord(name, f"k{number % 40}", b"v" * 700) for number in range(records)])
    await bus.close()
    return file


def killed(file: Path, records: int = 30) -> Path:
    """A file whose process was killed, its write-ahead log beside it."""
    subprocess.run([sys.executable, "-c", WRITES_AND_IS_KILLED, str(file), str(records)], check=False)
    assert wal(file).stat().st_size > 0
    return file


def wal(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


async def refused(file: Path) -> str:
    with pytest.raises(Permanent) as caught:
        await (await SqliteBus.open(file)).close()
    assert str(file) in str(caught.value)
    return str(caught.value)


async def count(file: Path, topic: str = "facts") -> int:
    bus = await SqliteBus.open(file)
    found = [await bus.read(TopicPartition(topic, partition), limit=10_000) for partition in range(3)]
    await bus.close()
    return sum(map(len, found))


def flip(file: Path, page: int, content: bytes = b"\xa5" * 64, at: int = 0) -> None:
    with file.open("r+b") as opened:
        opened.seek(4096 * page + at)
        opened.write(content)


# -- as it was left ---------------------------------------------------------------------------------------------------


async def test_the_last_to_close_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    file = await written(tmp_path / "bus.db")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["bus.db", "bus.db-wake"]
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
    connection.close()
    assert await count(file) == 200


async def test_a_killed_process_loses_nothing_and_the_next_one_checks_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = killed(tmp_path / "bus.db")

    with caplog.at_level("INFO"):
        assert await count(file) == 30

    assert "was not closed: all of it is checked" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        assert await count(file) == 30
    assert "is checked" not in caplog.text


@pytest.mark.parametrize(("boot", "checked"), [("this", False), ("another", True)])
async def test_a_large_file_is_read_whole_only_when_the_machine_ended(
    tmp_path: Path, boot: str, checked: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "SMALL_BYTES", 0)
    file = killed(tmp_path / "bus.db")
    if boot == "another":
        monkeypatch.setattr(opening, "_boot", lambda: "another")

    with caplog.at_level("INFO"):
        assert await count(file) == 30

    assert ("all of it is checked" in caplog.text) is checked


async def test_who_opens_it_beside_a_living_process_checks_nothing_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = await SqliteBus.open(tmp_path / "bus.db")
    with caplog.at_level("INFO"):
        second = await SqliteBus.open(tmp_path / "bus.db")
    await first.close()
    await second.close()

    assert "is checked" not in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bus.db", "bus.db-wake"]


async def test_a_file_of_the_first_schema_is_taken_over_with_all_that_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "bus.db"
    old = sqlite3.connect(file, isolation_level=None)
    old.executescript(FIRST_SCHEMA)
    old.close()

    bus = await SqliteBus.open(file)
    (record,) = await bus.read(TopicPartition("facts", 0))
    assert (record.offset, record.value) == (6, b"v")
    assert await bus.publish([NewRecord("facts", "k", b"w")]) == [7]
    assert await bus.offsets("readers") == {TopicPartition("facts", 0): 7}
    await bus.close()


# -- damaged ----------------------------------------------------------------------------------------------------------


async def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    file = await written(tmp_path / "bus.db")
    os.truncate(file, file.stat().st_size // 2)

    said = await refused(file)

    assert "is damaged" in said
    assert f"towline bus export --damaged --bus sqlite:///{file} saved.gz" in said


async def test_pages_that_were_overwritten_are_found_after_a_kill(tmp_path: Path) -> None:
    file = await written(tmp_path / "bus.db", records=600)
    killed(file)
    pages = file.stat().st_size // 4096
    for page in range(pages // 2, pages // 2 + 5):
        flip(file, page)

    assert "is damaged" in await refused(file)


async def test_an_overwritten_header_is_no_bus(tmp_path: Path) -> None:
    file = await written(tmp_path / "bus.db")
    flip(file, 0)

    assert "its beginning is damaged" in await refused(file)


async def test_a_record_ahead_of_its_partition_is_found_at_every_opening(tmp_path: Path) -> None:
    """Its offset would be given to another record."""
    file = await written(tmp_path / "bus.db")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE heads SET next = 5 WHERE partition = 1")
    connection.close()

    assert "facts/1 has a record at offset" in await refused(file)


async def test_a_group_ahead_of_its_partition_is_found_at_every_opening(tmp_path: Path) -> None:
    file = await written(tmp_path / "bus.db")
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO offsets SELECT 'readers', id, 0, 999 FROM topics WHERE name = 'facts'")
    connection.close()

    assert "group readers has committed 999 in facts/0" in await refused(file)


async def test_an_index_of_compaction_that_names_no_record_is_found_after_a_kill(tmp_path: Path) -> None:
    file = killed(tmp_path / "bus.db")
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("DELETE FROM records WHERE key = 'k3' AND topic = (SELECT id FROM topics WHERE name = 'state')")

    assert "lacks the last record of key 'k3'" in await refused(file)
    connection.close()


async def test_a_file_without_the_log_of_a_killed_process_is_checked_and_said_to_lack_something(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = killed(tmp_path / "bus.db")
    copy = tmp_path / "copy.db"
    shutil.copy(file, copy)

    bus = await SqliteBus.open(copy)
    assert await bus.topics() == []
    await bus.close()
    assert "copy.db was not closed and has no write-ahead log: if it is a copy" in caplog.text
    assert await count(file) == 30


async def test_a_copy_without_its_log_is_refused_while_the_process_it_was_copied_from_lives(
    tmp_path: Path,
) -> None:
    """The bug: the copy's rows were taken for living users of it, and an export of it lacked the last events."""
    bus = await SqliteBus.open(tmp_path / "bus.db")
    await bus.ensure([FACTS])
    await bus.publish([NewRecord("facts", "k", b"v")])
    copy = tmp_path / "copy.db"
    shutil.copy(tmp_path / "bus.db", copy)

    assert "copy.db-wal is missing" in await refused(copy)
    with pytest.raises(Permanent, match=r"copy\.db-wal is missing"):
        Snapshot(copy, 0)
    Snapshot(copy, 0, damaged=True).close()
    await bus.close()


async def test_who_opens_a_file_while_others_do_is_not_taken_for_one_with_a_copy(tmp_path: Path) -> None:
    file = await written(tmp_path / "bus.db")
    for _ in range(10):
        opened = await asyncio.gather(*(SqliteBus.open(file) for _ in range(6)))
        await asyncio.gather(*(bus.close() for bus in opened))
    assert await count(file) == 200


async def test_the_write_ahead_log_of_another_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, other = await written(tmp_path / "bus.db", records=900), killed(tmp_path / "other.db", records=5)
    shutil.copy(wal(other), wal(file))

    with suppress(Permanent):
        await (await SqliteBus.open(file)).close()

    assert "bus.db-wal looks like another file's" in caplog.text


async def test_an_empty_file_where_a_bus_was_is_refused(tmp_path: Path) -> None:
    file = await written(tmp_path / "bus.db")
    os.truncate(file, 0)

    said = await refused(file)

    assert "is empty, though a bus was there before" in said
    assert "(bus.db-*)" in said


async def test_a_write_ahead_log_without_its_file_is_refused(tmp_path: Path) -> None:
    file = killed(tmp_path / "bus.db")
    file.unlink()

    assert "is missing, but its write-ahead log bus.db-wal is there" in await refused(file)


async def test_a_newer_schema_and_a_foreign_database_are_told_apart(tmp_path: Path) -> None:
    file, foreign = await written(tmp_path / "bus.db"), tmp_path / "foreign.db"
    for path, statement in ((file, f"PRAGMA user_version={SCHEMA_VERSION + 1}"), (foreign, "CREATE TABLE t (a)")):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(statement)
        connection.close()

    assert "written by a newer Towline" in await refused(file)
    assert "is a database of something else" in await refused(foreign)
    foreign.write_text("no database at all " * 500)
    assert "is no Towline bus" in await refused(foreign)


# -- where it lies ----------------------------------------------------------------------------------------------------


async def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    folder, link, pipe = tmp_path / "folder", tmp_path / "link", tmp_path / "pipe"
    folder.mkdir()
    link.symlink_to(tmp_path / "elsewhere.db")
    os.mkfifo(pipe)

    assert "is a folder" in await refused(folder)
    assert f"is a link to {tmp_path / 'elsewhere.db'}: name the file itself" in await refused(link)
    assert "is no file" in await refused(pipe)
    assert not (tmp_path / "elsewhere.db").exists()


async def test_everything_beside_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    bus = await SqliteBus.open(tmp_path / "made" / "bus.db")
    await bus.ensure([FACTS])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "made").iterdir()}
    await bus.close()

    assert modes == {"bus.db": 0o600, "bus.db-wal": 0o600, "bus.db-shm": 0o600, "bus.db-wake": 0o700}
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700


@pytest.mark.parametrize("spoil", [lambda folder: folder.chmod(0o777), lambda folder: _linked(folder)])
async def test_a_wake_folder_that_others_could_enter_is_not_used(
    tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "bus.db-wake"
    folder.mkdir(mode=0o700)
    spoil(folder)

    with caplog.at_level("INFO"):
        bus = await SqliteBus.open(tmp_path / "bus.db")
    await bus.close()

    assert "other processes are noticed by looking at the file" in caplog.text
    assert list(folder.iterdir()) == []


def _linked(folder: Path) -> None:
    folder.rmdir()
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)


async def test_a_follower_that_ended_is_not_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug: what other processes published was not heard of any more, and nobody was told."""
    bus = await SqliteBus.open(tmp_path / "bus.db")
    await bus.ensure([FACTS])
    consumer = await bus.consumer("readers", ["facts"], member="0")
    await consumer.fetch(timeout=0)

    def broken() -> int:
        raise Permanent("the file is damaged")

    monkeypatch.setattr(bus.reader, "version", broken)
    waiting = asyncio.create_task(consumer.fetch(timeout=60))
    await asyncio.sleep(0)
    bus._told.set()

    with pytest.raises(Permanent, match="is not followed any more: the file is damaged"):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(Permanent, match="is not followed any more"):
        await bus.publish([NewRecord("facts", "k", b"v")])
    await bus.close()


FIRST_SCHEMA = """
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL,
    cleanup TEXT NOT NULL, retention_ms INTEGER);
CREATE TABLE heads (topic INTEGER NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE records (topic INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL, key TEXT NOT NULL, headers BLOB NOT NULL, value BLOB,
    PRIMARY KEY (topic, partition, offset)) WITHOUT ROWID;
CREATE INDEX tombstones ON records (timestamp_ms) WHERE value IS NULL;
CREATE TABLE latest (topic INTEGER NOT NULL, partition INTEGER NOT NULL, key TEXT NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, key)) WITHOUT ROWID;
CREATE TABLE offsets (grp TEXT NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (grp, topic, partition)) WITHOUT ROWID;
CREATE TABLE leases (grp TEXT PRIMARY KEY, generation INTEGER NOT NULL, member TEXT, process TEXT,
    heartbeat_ms INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO topics VALUES (1, 'facts', 1, 'delete', NULL);
INSERT INTO heads VALUES (1, 0, 7);
INSERT INTO records VALUES (1, 0, 6, 1, 'k', x'', x'76');
INSERT INTO offsets VALUES ('readers', 1, 0, 7);
PRAGMA user_version=1;
"""

"""The bus file under load and in need: a full disk, readers that never rest, several processes, one that is stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest

from towline.bus.port import BusDown, NewRecord, Topic, TopicPartition
from towline.bus.sqlite import SqliteBus, opening, schema, writer
from towline.telemetry import metrics

pytestmark = pytest.mark.whole_service

FACTS = Topic("facts", 3)

FILLS_THE_DISK = """
import asyncio, os, subprocess, sys
from towline.bus.port import BusDown, NewRecord, Topic, TopicPartition
from towline.bus.sqlite import SqliteBus

async def main(folder):
    bus = await SqliteBus.open(folder + "/bus.db")
    await bus.ensure([Topic("facts", 1)])
    consumer = await bus.consumer("readers", ["facts"], member="0")
    at, kept = TopicPartition("facts", 0), []
    for number in range(4000):
        some = [NewRecord("facts", "k", b"%d " % (number * 10 + each) + os.urandom(400)) for each in range(10)]
        try:
            kept += await bus.publish(some)
        except BusDown as error:
            print(error)
            break
    else:
        sys.exit("the disk was never full")
    try:
        await bus.append(at, some * 20)
        sys.exit("an append fits a full disk")
    except BusDown:
        pass
    read = []
    while len(read) < len(kept):
        read += await consumer.fetch(timeout=10)
    assert [record.offset for record in read] == kept == list(range(len(kept)))
    assert [int(record.value.split(b" ")[0]) for record in read] == kept
    assert await bus.end(at) == len(kept)
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    (next_,) = await bus.publish([NewRecord("facts", "k", b"again")])
    assert next_ == len(kept)
    await consumer.commit({at: next_ + 1})
    await bus.close()
    again = await SqliteBus.open(folder + "/bus.db")
    assert (await again.read(at, start=next_))[0].value == b"again"
    assert await again.offsets("readers") == {at: next_ + 1}
    await again.close()
    print("went on")

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = 'mount -t tmpfs -o size=4m,mode=700 none "$1"; exec "$2" -c "$3" "$1"'

    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-ec", mount, "-", str(folder), sys.executable, FILLS_THE_DISK],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    said, went_on = done.stdout.splitlines()
    assert said == f"the disk of the bus file {folder}/bus.db is full: nothing can be published until there is room"
    assert went_on == "went on"


class RestlessReaders:
    """Two connections that are in the file by turns, each longer than a commit takes: somebody always needs the log."""

    HOLD_S = 0.01

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        readers = [sqlite3.connect(self._file, isolation_level=None) for _ in range(2)]
        turn = 0
        while not self._ended.is_set():
            readers[turn].execute("BEGIN")
            readers[turn].execute("SELECT count(*) FROM topics").fetchone()
            turn = 1 - turn
            if readers[turn].in_transaction:
                readers[turn].execute("COMMIT")
            self._ended.wait(self.HOLD_S)
        for reader in readers:
            reader.close()


async def grown(file: Path) -> int:
    """Bytes of the write-ahead log after 20 MB were written beside readers that never rest."""
    bus = await SqliteBus.open(file)
    await bus.ensure([FACTS])
    largest = 0
    with RestlessReaders(file):
        for _ in range(100):
            await bus.publish([NewRecord("facts", f"k{number}", os.urandom(20_000)) for number in range(10)])
            largest = max(largest, file.with_name("bus.db-wal").stat().st_size)
    await bus.close()
    return largest


async def test_the_write_ahead_log_stays_small_although_readers_never_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "WAL_BYTES", 1024 * 1024)
    monkeypatch.setattr(writer, "_CUT_EVERY_S", 0.0)
    (tmp_path / "cut").mkdir()
    (tmp_path / "left").mkdir()

    assert await grown(tmp_path / "cut" / "bus.db") < 12 * 1024 * 1024

    monkeypatch.setattr(opening.OpenFile, "cut_log", lambda _: None)
    assert await grown(tmp_path / "left" / "bus.db") > 15 * 1024 * 1024, "control: without the cut it only grows"


async def test_an_export_that_holds_the_log_does_not_hold_up_who_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot keeps the log from being cut; it is cut afterwards."""
    monkeypatch.setattr(opening, "WAL_BYTES", 256 * 1024)
    monkeypatch.setattr(writer, "_CUT_EVERY_S", 0.0)
    file = tmp_path / "bus.db"
    bus = await SqliteBus.open(file)
    await bus.ensure([FACTS])
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM topics").fetchone()
    for _ in range(10):
        await asyncio.wait_for(bus.publish([NewRecord("facts", "k", os.urandom(200_000))]), 5)
    assert file.with_name("bus.db-wal").stat().st_size > 10 * 200_000
    reader.close()
    await bus.publish([NewRecord("facts", "k", b"")])
    await bus.publish([NewRecord("facts", "k", b"")])
    assert file.with_name("bus.db-wal").stat().st_size <= 256 * 1024 + 100_000
    await bus.close()


STOPS_IN_A_TRANSACTION = """
import asyncio, os, signal, sys
from towline.bus.port import NewRecord
from towline.bus.sqlite import SqliteBus

def stop(ledger):
    ledger.add(NewRecord("facts", "k", b"half"))
    os.kill(os.getpid(), signal.SIGSTOP)

async def main():
    bus = await SqliteBus.open(sys.argv[1])
    await bus.writer.submit(stop)
    await bus.close()

asyncio.run(main())
"""


async def test_a_process_stopped_within_a_transaction_holds_others_up_no_longer_than_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.5)
    file = tmp_path / "bus.db"
    bus = await SqliteBus.open(file)
    await bus.ensure([FACTS])
    await bus.publish([NewRecord("facts", "k", b"before")])
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", STOPS_IN_A_TRANSACTION, str(file))
    try:
        await asyncio.to_thread(os.waitid, os.P_PID, other.pid, os.WSTOPPED)

        with pytest.raises(BusDown, match=r"has been locked by another process for over 0\.5 s"):
            await asyncio.wait_for(bus.publish([NewRecord("facts", "k", b"refused")]), 30)
        found = await asyncio.gather(*(bus.read(TopicPartition("facts", n)) for n in range(3)))
        assert [record.value for records in found for record in records] == [b"before"], "readers are not held up"

        other.send_signal(signal.SIGCONT)
        assert await other.wait() == 0
    finally:
        if other.returncode is None:
            other.kill()
    await bus.publish([NewRecord("facts", "k", b"after")])
    found = await asyncio.gather(*(bus.read(TopicPartition("facts", n)) for n in range(3)))
    assert [record.value for records in found for record in records] == [b"before", b"half", b"after"]
    await bus.close()


PUBLISHES_AND_CONSUMES = """
import asyncio, json, sys
from towline.bus.port import BusDown, NewRecord, TopicPartition
from towline.bus.sqlite import SqliteBus

RECORDS, KEYS = 600, 20

async def main(file, name):
    bus = await SqliteBus.open(file)
    consumer = await bus.consumer(f"group-{name}", ["facts"], member="0")
    seen = []

    async def publish():
        for number in range(0, RECORDS, 5):
            some = [NewRecord("facts", f"{name}-{(number + n) % KEYS}", b"%d" % (number + n)) for n in range(5)]
            while True:
                try:
                    await bus.publish(some)
                    break
                except BusDown:
                    pass

    async def consume():
        while len(seen) < 3 * RECORDS:
            records = await consumer.fetch(timeout=5)
            seen.extend((record.key, int(record.value)) for record in records)
            if records:
                last = {record.position: record.offset + 1 for record in records}
                await consumer.commit(last)

    await asyncio.gather(publish(), consume())
    await consumer.close()
    await bus.close()
    print(json.dumps(seen))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_three_processes_publish_and_consume_at_once_and_nothing_is_lost_or_reordered(tmp_path: Path) -> None:
    file = tmp_path / "bus.db"
    bus = await SqliteBus.open(file)
    await bus.ensure([FACTS])
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PUBLISHES_AND_CONSUMES,
            str(file),
            name,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name in ("a", "b", "c")
    ]
    try:
        async with asyncio.timeout(90):
            ended = await asyncio.gather(*(process.communicate() for process in started))
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()

    for out, error in ended:
        assert out, error.decode()
        by_key: dict[str, list[int]] = defaultdict(list)
        for key, number in json.loads(out):
            by_key[key].append(number)
        assert by_key == {f"{name}-{key}": list(range(key, 600, 20)) for name in "abc" for key in range(20)}
    ends = await bus.ends([TopicPartition("facts", n) for n in range(3)])
    assert sum(ends.values()) == 3 * 600
    assert {name: await bus.offsets(f"group-{name}") for name in "abc"} == dict.fromkeys("abc", ends)
    await bus.close()


async def test_what_retention_took_from_a_group_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    topic = Topic("short", 1, retention=timedelta(hours=1))
    at = TopicPartition("short", 0)
    bus = await SqliteBus.open(tmp_path / "bus.db")
    await bus.ensure([topic])
    await bus.publish([NewRecord("short", "k", b"%d" % n, timestamp_ms=1_600_000_000_000) for n in range(5)])
    await bus.commit_for("behind", {at: 2})
    await bus.publish([NewRecord("short", "k", b"5")])
    await bus.sweep()
    before = metrics.exposition().decode()

    for _ in range(2):
        consumer = await bus.consumer("behind", ["short"], member="0")
        assert [record.offset for record in await consumer.fetch(timeout=5)] == [5]
        await consumer.close()
    new = await bus.consumer("new", ["short"], member="0")
    assert [record.offset for record in await new.fetch(timeout=5)] == [5]
    await bus.close()

    told = [record.message for record in caplog.records if "retention" in record.message]
    assert told == ["3 records of short/0 are lost to group behind: retention took them away before it read them"]
    line = 'towline_skipped_records_total{service="behind",topic="short"} 3.0'
    assert line in metrics.exposition().decode()
    assert line not in before


IS_KILLED_WITHIN_A_PUBLISH = """
import asyncio, os, signal, sys
from towline.bus.open import open_bus
from towline.bus.port import NewRecord, Topic
from towline.bus.sqlite.ledger import Ledger

add = Ledger.add

def killed(self, record, partition=None):
    if record.value == b"2":
        os.kill(os.getpid(), signal.SIGKILL)
    return add(self, record, partition)

Ledger.add = killed

async def main():
    bus = await open_bus(sys.argv[1])
    await bus.ensure([Topic("facts", 3)])
    consumer = await bus.consumer("readers", ["facts"], member="0")
    await consumer.fetch(timeout=0)
    await consumer.commit({min(consumer.assignment): 0})
    await bus.publish([NewRecord("facts", f"k{number}", b"%d" % number) for number in range(4)])

asyncio.run(main())
"""


@pytest.mark.parametrize(("option", "left"), [("?transactions=single", 2), ("", 0)])
async def test_a_kill_falls_between_records_where_each_has_its_own_transaction(
    tmp_path: Path, option: str, left: int
) -> None:
    """As on Kafka, where a publish may be half done; one transaction would hide what that breaks."""
    file = tmp_path / "bus.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", IS_KILLED_WITHIN_A_PUBLISH, f"sqlite:///{file}{option}"
    )
    assert await process.wait() == -signal.SIGKILL

    bus = await SqliteBus.open(file)
    found = await asyncio.gather(*(bus.read(TopicPartition("facts", n)) for n in range(3)))
    committed = await bus.offsets("readers")
    await bus.close()

    assert sorted(record.value or b"" for records in found for record in records) == [b"0", b"1"][:left]
    assert bool(committed) == bool(option), "a commit does not wait for a transaction to travel with"

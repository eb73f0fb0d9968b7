"""The writer's thread: whatever an operation does, those that come after it are answered."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from towline.bus.port import BusDown, TopicPartition
from towline.bus.sqlite import SqliteBus
from towline.bus.sqlite.ledger import Ledger
from towline.bus.sqlite.place import Place
from towline.bus.sqlite.writer import Writer


async def test_a_transaction_that_fails_by_a_bug_is_answered_and_so_is_the_next(tmp_path: Path) -> None:
    """The thread ended without a word, and everybody waited for it for ever."""
    writer = Writer(Place(tmp_path / "bus.db"), lambda _: None)
    await writer.open()

    def spoils(ledger: Ledger) -> None:
        ledger.heads[TopicPartition("nobody made it", 0)] = 1

    with pytest.raises(BusDown):
        await writer.submit(spoils)
    assert await writer.submit(lambda _: 7) == 7
    await writer.close()


LOCKED_BY_ANOTHER = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # SQLite's bytes of shared locks
    except BlockingIOError:
        sys.exit(0)
sys.exit("nobody holds a lock")
"""


async def test_opening_the_file_again_leaves_the_locks_of_who_has_it_open(tmp_path: Path) -> None:
    """The bug: a second bus on the file closed a descriptor of it, and with that the process lost all of its locks.

    Another process then took itself for the last one, removed the log that was in use, and the file was damaged.
    """
    file = tmp_path / "bus.db"
    first = await SqliteBus.open(file)
    second = await SqliteBus.open(file)
    await second.close()
    asked = await asyncio.create_subprocess_exec(sys.executable, "-c", LOCKED_BY_ANOTHER, str(file))
    assert await asked.wait() == 0
    await first.close()
    asked = await asyncio.create_subprocess_exec(sys.executable, "-c", LOCKED_BY_ANOTHER, str(file))
    assert await asked.wait() != 0, "control: who closed it holds none"

"""The writer's thread: whatever an operation does, those that come after it are answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from towline.bus.port import BusDown, TopicPartition
from towline.bus.sqlite.ledger import Ledger
from towline.bus.sqlite.writer import Writer


async def test_a_transaction_that_fails_by_a_bug_is_answered_and_so_is_the_next(tmp_path: Path) -> None:
    """The thread ended without a word, and everybody waited for it for ever."""
    writer = Writer(tmp_path / "bus.db", lambda _: None)
    await writer.open()

    def spoils(ledger: Ledger) -> None:
        ledger.heads[TopicPartition("nobody made it", 0)] = 1

    with pytest.raises(BusDown):
        await writer.submit(spoils)
    assert await writer.submit(lambda _: 7) == 7
    await writer.close()

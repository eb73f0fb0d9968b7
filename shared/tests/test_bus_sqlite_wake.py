"""Several processes on one SQLite file: who is woken, and what a killed one leaves behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from towline.bus.port import NewRecord, Topic
from towline.bus.sqlite import SqliteBus
from towline.bus.sqlite.wake import Wake


async def test_a_datagram_wakes_another_connection_however_long_the_path(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 25)
    folder.mkdir()
    heard = asyncio.Event()
    one, other = Wake(folder / "bus.db", lambda: None), Wake(folder / "bus.db", heard.set)
    one.tell()
    await asyncio.wait_for(heard.wait(), 5)
    one.close()
    other.close()
    assert list((folder / "bus.db-wake").iterdir()) == []


async def test_the_socket_of_a_killed_process_is_taken_away(tmp_path: Path) -> None:
    gone, here = Wake(tmp_path / "bus.db", lambda: None), Wake(tmp_path / "bus.db", lambda: None)
    gone._socket.close()
    here.tell()
    assert len(list((tmp_path / "bus.db-wake").iterdir())) == 1
    here.close()


async def test_a_publish_of_another_process_comes_without_waiting_for_a_look_at_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towline.bus.sqlite.bus._LOOK_EVERY_S", 3600.0)
    one, other = await SqliteBus.open(tmp_path / "bus.db"), await SqliteBus.open(tmp_path / "bus.db")
    await one.ensure([Topic("t", 1)])
    consumer = await one.consumer("g", ["t"], member="0")
    assert await consumer.fetch(timeout=0) == []
    waiting = asyncio.create_task(consumer.fetch(timeout=60))
    await other.publish([NewRecord("t", "k", b"v")])
    assert [record.value for record in await asyncio.wait_for(waiting, 10)] == [b"v"]
    await one.close()
    await other.close()


async def test_without_such_sockets_the_file_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> Wake:
        raise PermissionError("no sockets here")

    monkeypatch.setattr("towline.bus.sqlite.bus.Wake", refused)
    one, other = await SqliteBus.open(tmp_path / "bus.db"), await SqliteBus.open(tmp_path / "bus.db")
    await one.ensure([Topic("t", 1)])
    consumer = await one.consumer("g", ["t"], member="0")
    await consumer.fetch(timeout=0)
    waiting = asyncio.create_task(consumer.fetch(timeout=60))
    await other.publish([NewRecord("t", "k", b"v")])
    assert len(await asyncio.wait_for(waiting, 10)) == 1
    await one.close()
    await other.close()

"""A process of services: what it says of itself, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from shared.tests.conftest import Tally

from towline.bus.sqlite import SqliteBus
from towline.delivery.model import Service, Source
from towline.errors import BadInput
from towline.service import Process


async def get(process: Process, path: str) -> tuple[int, str]:
    assert process.address is not None
    host, port = process.address
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_it_is_ready_once_its_services_can_work_and_says_why_not_before(
    tmp_path: Path, tally: Service[Tally]
) -> None:
    waits: list[str | None] = ["cannot reach git.example"]
    bus = await SqliteBus.open(tmp_path / "bus.db")
    process = Process([replace(tally, ready=lambda: waits[-1])], bus, listen=("127.0.0.1", 0))
    task = asyncio.create_task(process.run(signals=False))
    await process.started()
    assert await get(process, "/healthz") == (200, "ok\n")
    assert await get(process, "/readyz") == (503, "notifier: cannot reach git.example\n")
    waits.append(None)
    assert await get(process, "/readyz") == (200, "ok\n")
    status, metrics = await get(process, "/metrics")
    assert status == 200
    assert "towline_events_total" in metrics
    process.stop()
    await task
    await bus.close()


async def test_it_says_what_it_waits_for_besides_its_services(tmp_path: Path, tally: Service[Tally]) -> None:
    waits: list[str | None] = ["the Application shop is not in the cluster", None]
    bus = await SqliteBus.open(tmp_path / "bus.db")
    process = Process([tally], bus, listen=("127.0.0.1", 0), ready=lambda: waits.pop(0))
    task = asyncio.create_task(process.run(signals=False))
    await process.started()
    assert await get(process, "/readyz") == (503, "the Application shop is not in the cluster\n")
    assert await get(process, "/readyz") == (200, "ok\n")
    process.stop()
    await task
    await bus.close()


async def test_an_address_that_is_taken_is_a_sentence(tmp_path: Path, tally: Service[Tally]) -> None:
    """It was a traceback."""
    bus = await SqliteBus.open(tmp_path / "bus.db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"cannot listen on 127\.0\.0\.1:{port} \(.*in use.*\); set `listen`"):
            await Process([tally], bus, listen=("127.0.0.1", port)).run(signals=False)
    await bus.close()


async def test_a_source_that_ends_by_a_bug_is_started_again(tmp_path: Path, tally: Service[Tally]) -> None:
    again = asyncio.Event()
    tries = 0

    async def source(_: Source, stopping: asyncio.Event) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RuntimeError("a bug")
        again.set()
        await stopping.wait()

    bus = await SqliteBus.open(tmp_path / "bus.db")
    process = Process([replace(tally, sources=(source,))], bus)
    task = asyncio.create_task(process.run(signals=False))
    await asyncio.wait_for(again.wait(), 10)
    process.stop()
    await task
    await bus.close()


async def test_a_topic_that_differs_is_refused_at_the_start(tmp_path: Path, tally: Service[Tally]) -> None:
    from towline.bus.port import Topic
    from towline.errors import Permanent

    bus = await SqliteBus.open(tmp_path / "bus.db")
    await bus.ensure([Topic("towline.changes", 3)])
    with pytest.raises(Permanent, match=r"towline\.changes exists with partitions 3"):
        await Process([tally], bus).run(signals=False)
    await bus.close()

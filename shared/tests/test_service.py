"""A process of services: what it says of itself, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from shared.tests.conftest import NOW, Tally, Tell, created

from towline import flow
from towline.bus.sqlite import SqliteBus
from towline.delivery import codec, outage, runtime
from towline.delivery.model import EffectContext, Envelope, Service, Source
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
    assert 'towline_partitions_assigned{service="notifier"} ' in metrics
    process.stop()
    await task
    await bus.close()


async def test_before_it_has_partitions_it_is_alive_and_not_ready(
    tmp_path: Path, tally: Service[Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, bus = asyncio.Event(), await SqliteBus.open(tmp_path / "bus.db")
    join = SqliteBus.consumer

    async def later(self: SqliteBus, *arguments: Any, **more: Any) -> Any:
        await held.wait()
        return await join(self, *arguments, **more)

    monkeypatch.setattr(SqliteBus, "consumer", later)
    process = Process([tally], bus, listen=("127.0.0.1", 0))
    task = asyncio.create_task(process.run(signals=False))
    while process.address is None:  # noqa: ASYNC110 it listens before it joins
        await asyncio.sleep(0)
    assert await get(process, "/healthz") == (200, "ok\n")
    assert await get(process, "/readyz") == (503, "notifier: has no partitions yet\n")
    held.set()
    await process.started()
    assert await get(process, "/readyz") == (200, "ok\n")
    process.stop()
    await task
    await bus.close()


async def test_a_bus_that_is_away_for_long_is_said_until_it_answers(
    tmp_path: Path, tally: Service[Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await SqliteBus.open(tmp_path / "bus.db")
    process = Process([tally], bus, listen=("127.0.0.1", 0))
    task = asyncio.create_task(process.run(signals=False))
    await process.started()
    monkeypatch.setattr(runtime, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(outage, "seconds", lambda service: 12.3 if service == "notifier" else 0.0)
    assert await get(process, "/readyz") == (503, "notifier: the bus has not answered for 12 s\n")
    assert await get(process, "/healthz") == (200, "ok\n")
    monkeypatch.undo()
    assert await get(process, "/readyz") == (200, "ok\n")
    process.stop()
    await task
    await bus.close()


async def test_metrics_say_what_is_behind_in_work_and_parked(tmp_path: Path, tally: Service[Tally]) -> None:
    bus = await SqliteBus.open(tmp_path / "bus.db")
    await bus.ensure(flow.topics(("notifier",)))
    never = asyncio.Event()

    async def tell(_: Tell, __: EffectContext) -> None:
        await never.wait()

    process = Process([replace(tally, effects={Tell: tell})], bus, listen=("127.0.0.1", 0))
    task = asyncio.create_task(process.run(signals=False))
    await process.started()
    for number, (head, repo) in enumerate((("h1", "local/a"), ("h2", "local/b"), ("poison", "local/c"))):
        arrived = Envelope(created(head, repo), f"e{number}", "/t", NOW, repo, None, None, f"w/{repo}", 1)
        await bus.publish([codec.encode(arrived, flow.CHANGES.topic)])
    expected = (
        'towline_lanes_parked{service="notifier"} 1.0',
        'towline_lanes{service="notifier"} 3.0',
        'towline_effects_running{resource="ear",service="notifier"} 2.0',
        'towline_lag_records{service="notifier",topic="towline.changes"} ',
    )
    said = ""
    async with asyncio.timeout(30):
        # Each key on its own: that the last one is parked does not say that the effects of the first two have begun.
        while not all(line in said for line in expected):
            said = (await get(process, "/metrics"))[1]
    assert "parked: 1;" in (await get(process, "/readyz"))[1]
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

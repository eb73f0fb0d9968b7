"""Health, readiness and metrics of every service, as the command line puts it together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from towline import flow
from towline.telemetry import metrics
from towline_cli import compose
from towline_cli.settings import read

pytestmark = pytest.mark.whole_service


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


@asynccontextmanager
async def up(shop: Path, names: Sequence[str]) -> AsyncIterator[str]:
    """The services in one process, as `towline up` and `towline serve` run them; yields host:port."""
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(compose.run(names, read(shop, {}), on_started=started.set_result))
    await asyncio.wait((running, started), timeout=60, return_when=asyncio.FIRST_COMPLETED)
    try:
        if running.done():
            await running
        yield started.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def ask(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.request(method, f"http://{address}{path}") as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("names", [*([name] for name in flow.SERVICES), list(flow.SERVICES)], ids=lambda n: "+".join(n))
async def test_each_service_and_all_of_them_answer_probes_and_prometheus(shop: Path, names: list[str]) -> None:
    async with up(shop, names) as address:
        assert await ask(address, "/healthz") == (200, "ok\n")
        status, said = await ask(address, "/readyz")
        assert status in (200, 503)
        assert said.endswith("\n")
        assert status == 200 or all(line.partition(": ")[0] in names for line in said.splitlines())
        status, exposed = await ask(address, "/metrics")
        assert status == 200
        for each in metrics.described():
            assert f"# TYPE {each.name} {each.kind}" in exposed
        for name in names:
            assert f'towline_partitions_assigned{{service="{name}"}}' in exposed
        assert await ask(address, "/metrics", "HEAD") == (200, "")
        assert (await ask(address, "/"))[0] == 404

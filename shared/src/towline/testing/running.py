"""Runs services on a bus for the length of a block, and stops them in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from towline.bus.port import Bus
from towline.delivery.model import Service
from towline.service import Process


@asynccontextmanager
async def running(bus: Bus, *services: Service[Any]) -> AsyncIterator[Process]:
    """A process that has loaded its state and reads its topics. An error of a service is raised at the end."""
    process = Process(services, bus)
    task = asyncio.create_task(process.run(signals=False))
    started = asyncio.create_task(process.started())
    await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    try:
        if not task.done():
            yield process
    finally:
        process.stop()
        await task

"""A Kafka of the cases' own, that may be stopped, killed and held; its log and its address outlast that."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import replace

from towline_cli import lab
from towline_cli.lab import processes, record
from towline_cli.lab.processes import Started

ENDS_WITHIN_S = 30.0


class Broker:
    """Started by `start`, taken away by `remove`; each call returns when it is so."""

    def __init__(self, name: str) -> None:
        self._instance = lab.Instance(name)

    @property
    def address(self) -> str:
        return self._instance.kafka

    async def start(self) -> None:
        await asyncio.to_thread(self._instance.start, {lab.Part.KAFKA})

    async def stop(self) -> None:
        """SIGTERM: it hands over and closes its log in order."""
        await asyncio.to_thread(processes.stop, replace(self._running(), grace=ENDS_WITHIN_S))

    async def kill(self) -> None:
        await asyncio.to_thread(processes.stop, replace(self._running(), grace=0.0))

    async def again(self) -> None:
        """Runs, on the same log and address, whatever was done to it."""
        with suppress(StopIteration):
            os.kill(self._running().pid, signal.SIGCONT)
        await asyncio.to_thread(self._instance.add, {lab.Part.KAFKA})

    def hold(self) -> None:
        """SIGSTOP: connections stay open, and nothing is answered."""
        os.kill(self._running().pid, signal.SIGSTOP)

    async def remove(self) -> None:
        with suppress(StopIteration):
            os.kill(self._running().pid, signal.SIGCONT)
        await asyncio.to_thread(self._instance.remove)

    def _running(self) -> Started:
        found = record.read(self._instance.folder)
        return next(each for each in (found.alive if found is not None else ()) if each.name == "kafka")

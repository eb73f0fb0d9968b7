"""Runs the cases of the faults ahead of their tests: most of a case is waiting, so several go on at once.

The rule that must hold: a case is run as often as it has a test, and no more; what it needs of the lab is started for
the first case that needs it. Cases that hurt the broker have a Kafka of their own, one after the other.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.chaos.broker import Broker
from tests.chaos.case import Amount, Case
from tests.chaos.disk import Disk
from tests.chaos.runs import NIGHTLY, Bus, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AT_ONCE = 4
OWN_KAFKAS = 3 if NIGHTLY else 1
"""Side by side, for the cases that hurt the broker: those mostly wait."""
PREFIX = "test-"
"""Of an instance: what a killed run left is taken away by the next, see `tests/conftest.py`."""
LONGEST_S = 240.0


class Ahead:
    """An event loop in a thread of its own, with the cases in the order of their tests."""

    def __init__(self, runs: Sequence[Run], kafka: str | None) -> None:
        self._kafka = kafka
        self._results: dict[Run, Future[None]] = {run: Future() for run in runs}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._all(runs),))
        self._tasks: list[asyncio.Task[None]] = []
        self._thread.start()

    def result(self, run: Run) -> None:
        """Raises what the case raised."""
        self._results[run].result(timeout=LONGEST_S)

    def close(self) -> None:
        def cancel() -> None:
            for task in self._tasks:
                task.cancel()

        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(cancel)
        self._thread.join()
        self._loop.close()

    async def _all(self, runs: Sequence[Run]) -> None:
        own = [run for run in runs if run.bus is Bus.OWN_KAFKA]
        many = asyncio.Semaphore(AT_ONCE)
        self._tasks = [asyncio.create_task(self._one(run, many)) for run in runs if run.bus is not Bus.OWN_KAFKA]
        lanes = [own[lane::OWN_KAFKAS] for lane in range(OWN_KAFKAS)]
        self._tasks += [asyncio.create_task(self._own_kafka(lane, some)) for lane, some in enumerate(lanes) if some]
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _own_kafka(self, lane: int, runs: Sequence[Run]) -> None:
        broker, one = Broker(f"{PREFIX}hurt-{lane}-{os.getpid()}"), asyncio.Semaphore(1)
        try:
            await broker.start()
            for run in runs:
                await self._one(run, one, broker)
        finally:
            await broker.remove()
            for run in runs:
                self._results[run].cancel()

    async def _one(self, run: Run, many: asyncio.Semaphore, broker: Broker | None = None) -> None:
        async with many:
            try:
                await asyncio.wait_for(self._case(run, broker), LONGEST_S)
            except BaseException as error:
                error.add_note(f"again with: TOWLINE_CHAOS_SEED={run.seed} make test T='{run}'")
                self._results[run].set_exception(error)
            else:
                self._results[run].set_result(None)

    async def _case(self, run: Run, broker: Broker | None) -> None:
        draw = random.Random(f"{run.fault} {run.bus.value} {run.seed}")
        # The ledger's socket has a short path, so its folder has too.
        with tempfile.TemporaryDirectory(prefix="tl-chaos-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            disk = Disk(folder / "disk") if run.bus is Bus.SMALL_DISK else None
            if disk is not None:
                disk.mount()
            try:
                url = self._url(run.bus, folder if disk is None else disk.at, broker)
                case = Case(url, folder, draw, Amount.drawn(draw), broker=broker, disk=disk, **run.setting)
                async with case:
                    await run.strike(case)
            finally:
                if disk is not None:
                    disk.unmount()

    def _url(self, bus: Bus, folder: Path, broker: Broker | None) -> str:
        match bus:
            case Bus.KAFKA:
                return f"kafka://{self._kafka}"
            case Bus.OWN_KAFKA:
                assert broker is not None
                return f"kafka://{broker.address}"
            case Bus.SQLITE | Bus.SMALL_DISK:
                return f"sqlite:///{folder}/bus.db"
            case Bus.SINGLE:
                return f"sqlite:///{folder}/bus.db?transactions=single"


@pytest.fixture(scope="session")
def ahead(request: pytest.FixtureRequest) -> Iterator[Ahead]:
    """All cases that are asked for in this run."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    runs = [each.params["run"] for each in parameters if each is not None and "run" in each.params]
    needs_kafka = any(run.bus is Bus.KAFKA for run in runs)
    running = Ahead(runs, request.getfixturevalue("kafka_address") if needs_kafka else None)
    yield running
    running.close()

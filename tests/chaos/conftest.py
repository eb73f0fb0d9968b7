"""Runs the cases of the faults ahead of their tests: most of a case is waiting, so several go on at once.

The rule that must hold: a case is run as often as it has a test, and no more; what it needs of the lab is started for
the first case that needs it. Cases that hurt the broker have a Kafka of their own, one after the other.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.chaos.case import Case
from tests.chaos.runs import Bus, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AT_ONCE = 3
LONGEST_S = 240.0


@dataclass(frozen=True)
class Grounds:
    """Addresses of what the cases stand on."""

    kafka: str | None


class Ahead:
    """An event loop in a thread of its own, with the cases in the order of their tests."""

    def __init__(self, runs: Sequence[Run], grounds: Grounds) -> None:
        self._grounds = grounds
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
        many = asyncio.Semaphore(AT_ONCE)
        self._tasks = [asyncio.create_task(self._one(run, many)) for run in runs]
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self, run: Run, many: asyncio.Semaphore) -> None:
        async with many:
            try:
                await asyncio.wait_for(self._case(run), LONGEST_S)
            except BaseException as error:
                error.add_note(f"again with: TOWLINE_CHAOS_SEED={run.seed} make test T='{run}'")
                self._results[run].set_exception(error)
            else:
                self._results[run].set_result(None)

    async def _case(self, run: Run) -> None:
        # The ledger's socket has a short path, so its folder has too.
        with tempfile.TemporaryDirectory(prefix="tl-chaos-", ignore_cleanup_errors=True) as folder:
            draw = random.Random(f"{run.fault} {run.bus.value} {run.seed}")
            url = f"kafka://{self._grounds.kafka}" if run.bus is Bus.KAFKA else f"sqlite:///{folder}/bus.db"
            async with Case(url, Path(folder), draw, run.amount(draw), **run.setting) as case:
                await run.strike(case)


@pytest.fixture(scope="session")
def ahead(request: pytest.FixtureRequest) -> Iterator[Ahead]:
    """All cases that are asked for in this run."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    runs = [each.params["run"] for each in parameters if each is not None and "run" in each.params]
    needs_kafka = any(run.bus is Bus.KAFKA for run in runs)
    grounds = Grounds(request.getfixturevalue("kafka_address") if needs_kafka else None)
    running = Ahead(runs, grounds)
    yield running
    running.close()

"""A part of the delivery ends when it is told to, whatever happens in that same moment.

Regression, found by tests/chaos: `asyncio.wait_for` of Python 3.11 gives its answer instead of the cancellation if both
come together, so the part went on, and the drain waited for it for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from towline.delivery.model import Decision, Service, State
from towline.delivery.runtime import Runtime
from towline.delivery.timers import Timers
from towline.testing.memory import MemoryBus, MemoryLog


class Nothing(State):
    pass


def _commits() -> tuple[Coroutine[Any, Any, None], Callable[[], None]]:
    service = Service(name="ends", state=Nothing, decide=lambda state, _envelope, _now: Decision(state))
    runtime = Runtime(service, MemoryBus(MemoryLog()))
    return runtime._commit_regularly(), runtime._commits.stir


def _timers() -> tuple[Coroutine[Any, Any, None], Callable[[], None]]:
    async def ring(key: str, name: str, due: datetime) -> None:
        raise AssertionError("nothing is due")

    timers = Timers(ring, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    return timers.run(), lambda: timers.set("key", {"later": datetime(2027, 1, 1, tzinfo=UTC)})


@pytest.mark.parametrize("part", [_commits, _timers])
@pytest.mark.parametrize("steps", range(4))
async def test_a_part_ends_that_was_woken_in_the_moment_it_is_cancelled(
    part: Callable[[], tuple[Coroutine[Any, Any, None], Callable[[], None]]], steps: int
) -> None:
    work, wake = part()
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    wake()
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.timeout(2):
            await asyncio.wait((task,))
    assert task.cancelled()

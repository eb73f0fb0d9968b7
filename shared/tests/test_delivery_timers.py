"""When timers ring, and that none rings twice for one due time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from towline.delivery.timers import Timers
from towline.testing import virtual

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


async def ringing(rung: list[tuple[str, float]]) -> tuple[Timers, asyncio.Task[None]]:
    loop = asyncio.get_running_loop()

    async def ring(key: str, name: str, due: datetime) -> None:
        rung.append((f"{key} {name}", loop.time()))

    timers = Timers(ring, lambda: at(loop.time()))
    return timers, asyncio.create_task(timers.run())


def test_a_lane_that_says_its_timers_again_before_it_took_up_the_ringing_hears_no_second_one() -> None:
    """A turn between the ringing and its event set the same time again, and it rang again."""

    async def scene() -> None:
        rung: list[tuple[str, float]] = []
        timers, task = await ringing(rung)
        timers.set("a", {"soon": at(5)})
        await asyncio.sleep(6)
        timers.set("a", {"soon": at(5), "later": at(20)})
        await asyncio.sleep(60)
        assert rung == [("a soon", 5.0), ("a later", 20.0)]
        timers.set("a", {})
        timers.set("a", {"soon": at(5)})
        await asyncio.sleep(1)
        assert rung[2:] == [("a soon", 66.0)]
        task.cancel()

    virtual.run(scene())


def test_a_lane_that_is_lost_and_loaded_again_hears_what_it_had_not_taken_up() -> None:
    async def scene() -> None:
        rung: list[tuple[str, float]] = []
        timers, task = await ringing(rung)
        timers.set("a", {"soon": at(5)})
        await asyncio.sleep(6)
        timers.drop(["a"])
        timers.set("a", {"soon": at(5)})
        await asyncio.sleep(1)
        assert [name for name, _ in rung] == ["a soon", "a soon"]
        task.cancel()

    virtual.run(scene())


def test_many_timers_that_were_set_anew_leave_nothing_behind() -> None:
    async def scene() -> None:
        rung: list[tuple[str, float]] = []
        timers, task = await ringing(rung)
        for number in range(1000):
            timers.set("a", {"moved": at(1000 + number)})
        assert len(timers._heap) < 100
        await asyncio.sleep(3000)
        assert rung == [("a moved", 1999.0)]
        timers.set("a", {})
        assert not timers._rung
        task.cancel()

    virtual.run(scene())

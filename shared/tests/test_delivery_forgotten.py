"""Which forgotten lanes may go: by time, and by number where keys come and go quickly."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from shared.tests.conftest import Tally
from shared.tests.test_delivery_membership import end, forgets, play, push, rows, start

from towline.delivery import forgotten
from towline.delivery.forgotten import Forgotten
from towline.delivery.model import Service
from towline.testing.memory import MemoryBus


def test_what_was_forgotten_long_ago_may_go_and_what_is_in_use_again_may_not() -> None:
    lanes = Forgotten(stays=60.0)
    for number, key in enumerate("abc"):
        lanes.note(key, idle=True, now=float(number * 30))
    lanes.note("a", idle=False, now=70.0)
    assert lanes.outlived(60.0) == []
    assert lanes.outlived(100.0) == ["b"]


def test_a_copy_that_comes_late_does_not_keep_a_lane_longer() -> None:
    lanes = Forgotten(stays=60.0)
    lanes.note("a", idle=True, now=0.0)
    lanes.note("a", idle=True, now=59.0)
    assert lanes.outlived(61.0) == ["a"]


def test_of_too_many_the_longest_forgotten_may_go_before_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgotten, "MOST_FORGOTTEN", 10)
    monkeypatch.setattr(forgotten, "CROWDED", 11)
    lanes = Forgotten(stays=3600.0)
    for number in range(11):
        lanes.note(str(number), idle=True, now=float(number))
    before = lanes.crowded
    lanes.note("11", idle=True, now=11.0)
    assert (before, lanes.crowded) == (False, True)
    assert lanes.outlived(12.0) == ["0", "1"]
    for key in lanes.outlived(12.0):
        lanes.drop(key)
    assert lanes.outlived(12.0) == []
    assert len(lanes) == 10


def test_where_keys_come_and_go_quickly_memory_does_not_wait_for_a_sweep(
    tally: Service[Tally], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgotten, "MOST_FORGOTTEN", 20)
    monkeypatch.setattr(forgotten, "CROWDED", 22)

    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, replace(tally, decide=forgets))
        for number in range(100):
            await push(bus, "h", 1, repo=f"local/{number}")
        await asyncio.sleep(5)
        assert len(runtime._lanes) <= 22
        assert len(rows(bus)) <= 22, "what left memory left the log"
        await end(runtime, task)

    play(scene)


def test_keys_that_wait_for_nothing_hold_no_task_and_no_queue(tally: Service[Tally]) -> None:
    async def scene(bus: MemoryBus) -> None:
        runtime, task = start(bus, tally)
        await push(bus, "h", 1, repo="local/first")
        await asyncio.sleep(10)
        before = len(asyncio.all_tasks())
        for number in range(200):
            await push(bus, "h", 1, repo=f"local/{number}")
        await asyncio.sleep(10)
        assert len(runtime._lanes) == 201
        assert len(asyncio.all_tasks()) == before
        assert not runtime._intake.busy
        assert runtime._effects.running == 0
        await end(runtime, task)

    play(scene)

"""When a process is ended for not working any more, and when it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from towline.delivery.watchdog import EXIT_CODE, Limits, Signs, Silence, silence, verdict

LIMITS = Limits(loop=30, polls=30, rebalance=600, stranded=120)
At = Callable[[int], Signs | None]


def watched(ticks: int, signs: At, *, beats: Callable[[int], int] = lambda tick: tick) -> tuple[int, str] | None:
    """After how many ticks the process is ended, and why."""
    silent = Silence()
    for tick in range(1, ticks + 1):
        now = {"runner": signs(tick)}
        silent = silence(silent, (beats(tick - 1), beats(tick)), {"runner": (signs(tick - 1), now["runner"])})
        if (reason := verdict(silent, now, LIMITS)) is not None:
            return tick, reason
    return None


def works(tick: int) -> Signs:
    return Signs(polls=tick // 5, rebalancing=False, away=False, stranded=False)


def test_a_service_that_polls_is_left_alone() -> None:
    assert watched(3600, works) is None


def test_a_blocked_loop_ends_the_process() -> None:
    ended = watched(3600, works, beats=lambda tick: min(tick, 10))
    assert ended is not None
    assert ended[0] == 40
    assert "event loop has not run for 30 s" in ended[1]


def test_a_fetch_that_hangs_ends_the_process() -> None:
    ended = watched(3600, lambda tick: works(min(tick, 10)))
    assert ended is not None
    assert ended[0] == 40
    assert "runner has not polled the bus for 30 s: a fetch hangs" in ended[1]


def test_a_rebalance_may_take_its_time_but_not_for_ever() -> None:
    def loads(tick: int) -> Signs:
        return Signs(1, rebalancing=True, away=False, stranded=False)

    assert watched(599, loads) is None
    ended = watched(3600, loads)
    assert ended is not None
    assert "a rebalance hangs" in ended[1]


def test_a_bus_that_does_not_answer_ends_nobody() -> None:
    assert watched(36_000, lambda _: Signs(1, rebalancing=True, away=True, stranded=False)) is None


def test_who_does_not_fetch_yet_is_not_waited_for() -> None:
    assert watched(36_000, lambda _: None) is None


def test_a_member_without_a_partition_is_ended_only_when_work_waits_for_nobody() -> None:
    def stranded(tick: int) -> Signs:
        return Signs(tick, rebalancing=False, away=False, stranded=tick > 100)

    ended = watched(3600, stranded)
    assert ended is not None
    assert ended[0] == 220
    assert "no partition for 120 s while work waits" in ended[1]


PROCESS = """
import asyncio, logging, sys, time
from towline.bus.sqlite import SqliteBus
from towline.delivery.model import Decision, Service, State
from towline.delivery.watchdog import Limits, Watchdog
from towline.service import Process

logging.basicConfig(format="%(message)s %(because)s at %(where)s", level=logging.CRITICAL)

async def main():
    bus = await SqliteBus.open(sys.argv[1])

    async def blocks(source, stopping):
        print("works", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        time.sleep(600)

    service = Service("notifier", State, lambda state, *_: Decision(state), sources=(blocks,))
    process = Process([service], bus, watchdog=True)
    process._watchdog = Watchdog(process.runtimes, limits=Limits(loop=10), tick=0.1)
    await process.run()

asyncio.run(main())
"""


@pytest.mark.whole_service
def test_a_process_whose_loop_is_blocked_ends_and_one_that_was_stopped_does_not(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(tmp_path / "bus.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "works\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(3)  # longer than the limit: that is the point
    os.kill(process.pid, signal.SIGCONT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.stdin.write("block\n")
    process.stdin.flush()
    assert process.wait(timeout=60) == EXIT_CODE
    said = process.stderr.read()
    assert "the process ends itself the event loop has not run for 10 s" in said
    assert "in blocks" in said
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()

"""Ends a process that has stopped working without ending: whoever restarts it can do what it itself cannot any more.

A thread looks at signs of life that the event loop gives. It counts its own ticks instead of asking a clock: while the
process is stopped, or its host sleeps, the thread stands still as well, and blames nobody for it. Three things end the
process, each with a line of log that says why, and the exit code EXIT_CODE:

    the event loop gives no sign         something blocks it; the line says where the main thread is
    a service does not poll              a fetch, or a rebalance, hangs
    a service has no partition           and what waits in its topics is taken up by nobody

Rule that must hold: that the bus does not answer is no reason, since a restart does not help.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

log = logging.getLogger(__name__)
EXIT_CODE = 75
"""sysexits.h calls it EX_TEMPFAIL: start it again."""
TICK = 1.0
_TELLS_WITHIN = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """In ticks, so about in seconds."""

    loop: int = 30
    """Twice the session timeout of a group: by then the partitions are another member's."""
    polls: int = 30
    rebalance: int = 600
    """While partitions come or go, state is loaded and turns end; nothing is fetched meanwhile."""
    stranded: int = 120


@dataclass(frozen=True, slots=True)
class Signs:
    """What one service says of itself; every number only grows, or is 0 again."""

    polls: int
    """Fetches that ended."""
    rebalancing: bool
    away: bool
    """The bus does not answer."""
    stranded: bool
    """It has no partition, and work waits that nobody takes up."""


@dataclass(frozen=True, slots=True)
class Silence:
    """For how many ticks there was no sign."""

    loop: int = 0
    polls: Mapping[str, int] = field(default_factory=dict)
    stranded: Mapping[str, int] = field(default_factory=dict)


def silence(before: Silence, beats: tuple[int, int], signs: Mapping[str, tuple[Signs | None, Signs | None]]) -> Silence:
    """One tick later. `beats` of the loop and `signs` of each service are those of the last tick and those of now;
    a service that does not fetch yet, or not any more, gives None."""
    polls: dict[str, int] = {}
    stranded: dict[str, int] = {}
    for name, (last, now) in signs.items():
        still = last is not None and now is not None and now.polls == last.polls and not now.away
        polls[name] = before.polls.get(name, 0) + 1 if still else 0
        stranded[name] = before.stranded.get(name, 0) + 1 if now is not None and now.stranded else 0
    return Silence(before.loop + 1 if beats[0] == beats[1] else 0, polls, stranded)


def verdict(silent: Silence, signs: Mapping[str, Signs | None], limits: Limits) -> str | None:
    """Why the process shall end, and what to do; None while it works."""
    if silent.loop >= limits.loop:
        return (
            f"the event loop has not run for {silent.loop} s: something blocks it, and the partitions are another "
            f"member's by now; see where the main thread stands, and report it"
        )
    for name, now in signs.items():
        limit = limits.rebalance if now is not None and now.rebalancing else limits.polls
        if silent.polls.get(name, 0) >= limit:
            what = "a rebalance" if now is not None and now.rebalancing else "a fetch"
            return f"{name} has not polled the bus for {silent.polls[name]} s: {what} hangs; look at the bus's own log"
        if silent.stranded.get(name, 0) >= limits.stranded:
            return (
                f"{name} has had no partition for {silent.stranded[name]} s while work waits that no member takes up: "
                f"its membership of the group is broken; look at the group on the bus"
            )
    return None


class Watched(Protocol):
    """A runtime, as the watchdog sees it; asked from the watchdog's thread."""

    @property
    def name(self) -> str: ...

    def signs(self) -> Signs | None: ...


def end(reason: str) -> None:
    """Say why, and end at once; saying it may itself be blocked."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame else "unknown"
    extra = {"because": reason, "where": where, "exit_code": EXIT_CODE}
    teller = threading.Thread(target=lambda: log.critical("the process ends itself", extra=extra), daemon=True)
    teller.start()
    teller.join(_TELLS_WITHIN)
    os._exit(EXIT_CODE)


class Watchdog:
    """Watches while `run` runs, which beats in the event loop."""

    def __init__(
        self,
        services: Sequence[Watched],
        *,
        limits: Limits | None = None,
        tick: float = TICK,
        ends: Callable[[str], None] = end,
    ) -> None:
        self._services = services
        self._limits = limits or Limits()
        self._tick = tick
        self._ends = ends
        self._beats = 0
        self._over = threading.Event()

    async def run(self) -> None:
        thread = threading.Thread(target=self._watch, name="towline-watchdog", daemon=True)
        thread.start()
        try:
            while True:
                self._beats += 1
                await asyncio.sleep(self._tick / 2)
        finally:
            self._over.set()

    def _watch(self) -> None:
        silent, beats, last = Silence(), self._beats, self._signs()
        while not self._over.wait(self._tick):
            now, beats_now = self._signs(), self._beats
            silent = silence(silent, (beats, beats_now), {name: (last.get(name), now[name]) for name in now})
            beats, last = beats_now, now
            reason = verdict(silent, now, self._limits)
            if reason is not None:
                self._ends(reason)
                return

    def _signs(self) -> dict[str, Signs | None]:
        return {service.name: service.signs() for service in self._services}

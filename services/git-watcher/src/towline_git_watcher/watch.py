"""Looks at a repository's refs: once at the start, then every so often. Owns whether the repository can be reached.

What it sees is only a hint; the refs are read again by the effect that the hint leads to. A hint's id has the ref,
its old and new value, and the number of the look: the same move can happen twice, and must not be taken for a copy.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping

from towline.delivery.model import Source
from towline.delivery.retry import backoff
from towline.errors import TowlineError
from towline.git import ZERO_ID
from towline_git_watcher.messages import RefsHinted
from towline_git_watcher.mirror import Mirror

log = logging.getLogger(__name__)
JITTER = 0.1
"""Share of the interval by which a look comes earlier or later."""
_SAID_CHARS = 400


class Watch:
    """`prepare` is run before the first look, and again until it went well: hooks, a warm worker."""

    def __init__(self, mirror: Mirror, prepare: Callable[[], Awaitable[None]]) -> None:
        self.waits: str | None = f"the repository {mirror.repo} was not looked at yet"
        """One sentence on why the repository cannot be worked with; None when it can."""
        self.runs = False
        """Whether this member watches; else another of the group does, and `waits` says nothing."""
        self._mirror = mirror
        self._prepare = prepare
        self._start = secrets.token_hex(8)
        self._looks = 0
        self._last: Mapping[str, str] | None = None

    async def run(self, source: Source, stopping: asyncio.Event) -> None:
        self.runs = True
        try:
            await self._until(source, stopping)
        finally:
            self.runs = False

    async def _until(self, source: Source, stopping: asyncio.Event) -> None:
        prepared, failures = False, 0
        while not stopping.is_set():
            try:
                if not prepared:
                    await self._prepare()
                    prepared = True
                await self._look(source)
            except TowlineError as error:
                failures += 1
                self._cannot(error)
                wait = min(backoff(failures, self._mirror.repo), float(self._mirror.settings.poll_seconds))
            else:
                self._can()
                failures = 0
                wait = self._mirror.settings.poll_seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            await stopped(stopping, wait)

    async def _look(self, source: Source) -> None:
        listing = await self._mirror.listing()
        if listing == self._last:
            return
        self._looks += 1
        by = "sweep" if self._last is None else "poll"
        moved = _moves(self._last or {}, listing)
        basis = " ".join([by, self._start, str(self._looks), *(part for move in moved[:20] for part in move)])
        await source.emit(self._mirror.repo, basis, RefsHinted(repo=self._mirror.repo, by=by))
        self._last = listing

    def _cannot(self, error: TowlineError) -> None:
        said = str(error)[:_SAID_CHARS]
        if said != self.waits:
            log.warning("cannot work with a repository; trying again", extra={"repo": self._mirror.repo, "why": said})
        self.waits = said

    def _can(self) -> None:
        if self.waits is not None:
            log.info("watching a repository", extra={"repo": self._mirror.repo})
        self.waits = None


def _moves(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    refs = sorted(before.keys() | after.keys())
    return [
        (ref, before.get(ref, ZERO_ID), after.get(ref, ZERO_ID)) for ref in refs if before.get(ref) != after.get(ref)
    ]


async def stopped(stopping: asyncio.Event, seconds: float) -> None:
    """Wait for the stop, at most this long."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return

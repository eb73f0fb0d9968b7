"""The world outside: a ledger that effects write to, kept by the test while processes die around it.

A put is conditional by its id, as the contract of an effect demands: a known id is answered `already`. Every attempt is
kept beside what was applied. Members also note here what they have come to, so that a test waits for what happened.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from aiohttp import ClientSession, ClientTimeout, UnixConnector, web


@dataclass(frozen=True, slots=True)
class Attempt:
    """One put as it arrived; `applied` says whether it changed the ledger."""

    id: str
    key: str
    thing: str
    member: str
    pid: int
    began: float
    """When the member began the effect, in seconds of the host's steady clock."""
    applied: bool


@dataclass
class Ledger:
    """Served on a Unix socket between `open` and `close`."""

    path: Path
    attempts: list[Attempt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """`<member> <what>`, such as `a ready`, in the order noted."""

    def __post_init__(self) -> None:
        self._noted_after: list[int] = []
        """For each note the attempts there were."""
        self._noted_at: list[float] = []
        self.answering = asyncio.Event()
        """While cleared, puts are applied and not answered: effects are slow."""
        self.answering.set()
        self._ids: set[str] = set()
        self._changed = asyncio.Event()
        self._held = 0
        self._runner: web.AppRunner | None = None

    @property
    def applied(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.applied]

    @property
    def held(self) -> int:
        """Puts that wait for their answer."""
        return self._held

    def begun_by(self, pid: int, since: float, *, until: str) -> list[Attempt]:
        """What this process began after a moment of the steady clock, and put here before it noted `until`.

        What it had begun before is a call under way: nobody can take that back, and its condition makes it harmless.
        """
        later = (index for index, note in enumerate(self.notes) if note == until and self._noted_at[index] > since)
        end = self._noted_after[index] if (index := next(later, None)) is not None else len(self.attempts)
        return [each for each in self.attempts[:end] if each.pid == pid and each.began > since]

    async def open(self) -> None:
        app = web.Application()
        app.router.add_post("/put", self._put)
        app.router.add_post("/note", self._note)
        # A member that was killed or stopped must not hold up the end of the test.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, self.path).start()

    async def close(self) -> None:
        self.answering.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once the condition holds; looked at whenever something was put or noted."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _put(self, request: web.Request) -> web.Response:
        asked = await request.json()
        new = asked["id"] not in self._ids or asked["unconditional"]
        self._ids.add(asked["id"])
        told = {name: asked[name] for name in ("id", "key", "thing", "member", "pid", "began")}
        self.attempts.append(Attempt(**told, applied=new))
        self._held += 1
        self._changed.set()
        await self.answering.wait()
        self._held -= 1
        return web.Response(text="applied" if new else "already")

    async def _note(self, request: web.Request) -> web.Response:
        self.notes.append(await request.text())
        self._noted_after.append(len(self.attempts))
        self._noted_at.append(time.monotonic())
        self._changed.set()
        return web.Response()


class Client:
    """A member's side of it."""

    def __init__(self, path: str, member: str, pid: int) -> None:
        self._who = {"member": member, "pid": pid}
        self._session = ClientSession(connector=UnixConnector(path), timeout=ClientTimeout(total=None))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def put(self, id: str, key: str, thing: str, *, unconditional: bool = False) -> str:
        effect = {"id": id, "key": key, "thing": thing, "unconditional": unconditional}
        asked = {**self._who, **effect, "began": time.monotonic()}
        async with self._session.post("http://ledger/put", json=asked) as answer:
            answer.raise_for_status()
            return await answer.text()

    async def note(self, what: str) -> None:
        async with self._session.post("http://ledger/note", data=f"{self._who['member']} {what}") as answer:
            answer.raise_for_status()

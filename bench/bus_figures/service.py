"""The service that is measured, and the facts it reads: a change that was created, as git-watcher would publish it.

The handler is what each figure says: one that decides nothing, one that counts, so that each event writes a state
batch, one that notes when it was called.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from opentelemetry.sdk.trace import TracerProvider

from towline import flow
from towline.bus.port import Bus, NewRecord
from towline.delivery import codec
from towline.delivery.model import Decision, Envelope, Service, State
from towline.delivery.runtime import Runtime
from towline.events import ChangeCreated
from towline.telemetry import trace

NAME = flow.NOTIFIER
TOPIC = flow.CHANGES.topic
HEAD = "5" * 40


class Seen(State):
    count: int = 0


Decide = Callable[[Seen, Envelope, datetime], Decision[Seen]]


def nothing(state: Seen, _: Envelope, __: datetime) -> Decision[Seen]:
    return Decision(state)


def count(state: Seen, _: Envelope, __: datetime) -> Decision[Seen]:
    return Decision(state.model_copy(update={"count": state.count + 1}))


class Waited:
    """A `decide` around another: when it was called first, and when often enough."""

    def __init__(self, decide: Decide, events: int) -> None:
        self._decide = decide
        self._left = events
        self._done = asyncio.Event()
        self.began: float | None = None

    def __call__(self, state: Seen, envelope: Envelope, now: datetime) -> Decision[Seen]:
        if self.began is None:
            self.began = time.perf_counter()
        self._left -= 1
        if self._left == 0:
            self._done.set()
        return self._decide(state, envelope, now)

    async def done(self, seconds: float = 600.0) -> float:
        """Seconds from the first call to the last that was waited for."""
        async with asyncio.timeout(seconds):
            await self._done.wait()
        return time.perf_counter() - (self.began or 0.0)

    def more(self, events: int) -> None:
        self._left += events
        self._done.clear()


def fact(key: str, sequence: int, mark: str = "") -> NewRecord:
    """The `sequence`-th event of a key, from 1; `mark` goes along as the change's topic."""
    event = ChangeCreated(repo=key, change=f"{key}!{mark or sequence}", target="main", head=HEAD, title="A change")
    source = codec.source_of(flow.WATCHER)
    lane = f"{flow.WATCHER}/{key}@00000000"
    id = codec.derive(flow.WATCHER, f"{key} {sequence}", event, 0)
    context = trace.publish("ChangeCreated", None, change=event.change)
    envelope = Envelope(event, id, source, datetime.now(UTC), key, HEAD[:32], context, lane, sequence)
    return codec.encode(envelope, TOPIC)


def facts(events: int, keys: int, *, first: int = 0) -> Iterator[NewRecord]:
    """Events of `keys` keys in turn, numbered from `first`."""
    for number in range(first, first + events):
        yield fact(f"local/app{number % keys}", number // keys + 1)


def sampled_off() -> None:
    """Tracing as in production with a share of none: a provider is there, and no trace is recorded."""
    trace.use(TracerProvider(), share=0.0)


@asynccontextmanager
async def at_work(bus: Bus, decide: Decide, *, started: bool = True) -> AsyncIterator[Runtime[Seen]]:
    """One member of the measured service, until the end of the block."""
    runtime = Runtime(Service(NAME, Seen, decide), bus)
    task = asyncio.create_task(runtime.run())
    try:
        if started:
            await runtime.started.wait()
        yield runtime
    finally:
        runtime.stop()
        await task

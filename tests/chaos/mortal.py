"""Makes a bus end its process at a step of the port, as `kill -9` would: before a call, or after it was done.

`towline.killpoint` does so inside the runtime; here every write, commit, load and change of membership is hit, in
whatever order the runtime makes them. It also tells the ledger of each change of membership.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from towline.bus.port import Assignment, Bus, Consumer, NewRecord, OnAssignment, TopicPartition
from towline.delivery.ownership import CLAIM

if TYPE_CHECKING:
    from tests.chaos.ledger import Client

Call = Literal["append", "publish", "commit", "read", "fetch", "assign", "revoke"]
When = Literal["before", "after"]


class Death(BaseModel):
    """At the n-th passage of this point."""

    model_config = ConfigDict(frozen=True)
    call: Call
    when: When = "before"
    n: int = 1


class Fate:
    """Wraps the methods of a bus and of its consumers; everything else is as it was."""

    def __init__(self, ledger: Client, death: Death | None, *, commits_early: bool = False) -> None:
        self._ledger = ledger
        self._death = death
        self._left = 0 if death is None else death.n
        self._commits_early = commits_early

    def take(self, bus: Bus) -> None:
        calls: tuple[Call, ...] = ("append", "publish", "read")
        for call in calls:
            setattr(bus, call, self._mortal(call, getattr(bus, call)))
        bus.consumer = partial(self._consumer, bus.consumer)  # type: ignore[method-assign]

    async def _consumer(self, made: Callable[..., Awaitable[Consumer]], *arguments: Any, **options: Any) -> Consumer:
        for call, name in (("assign", "on_assigned"), ("revoke", "on_revoked")):
            options[name] = self._told(call, options[name])  # type: ignore[arg-type]
        consumer = await made(*arguments, **options)
        if self._commits_early:
            consumer.fetch = partial(_fetch_and_commit, consumer, consumer.fetch)  # type: ignore[method-assign]
        calls: tuple[Call, ...] = ("fetch", "commit")
        for call in calls:
            setattr(consumer, call, self._mortal(call, getattr(consumer, call)))
        return consumer

    def _mortal(self, call: Call, then: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def passing(*arguments: Any, **options: Any) -> Any:
            if call == "append" and not _is_turn(*arguments):
                return await then(*arguments, **options)
            self._pass(call, "before")
            answer = await then(*arguments, **options)
            self._pass(call, "after")
            return answer

        return passing

    def _told(self, call: Literal["assign", "revoke"], then: OnAssignment) -> OnAssignment:
        mortal = self._mortal(call, then)

        async def tell(partitions: Assignment) -> None:
            await self._ledger.note(call)
            await mortal(partitions)
            await self._ledger.note(f"{call} done")

        return tell

    def _pass(self, call: Call, when: When) -> None:
        if self._death is None or (self._death.call, self._death.when) != (call, when):
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _is_turn(_at: TopicPartition, records: Sequence[NewRecord]) -> bool:
    """A state batch, and not a new owner's claim."""
    return not all(record.key.startswith(CLAIM) for record in records)


async def _fetch_and_commit(consumer: Consumer, fetch: Callable[..., Awaitable[Any]], **options: Any) -> Any:
    """The fault that the checks must find: what was only fetched is committed."""
    records = await fetch(**options)
    if records:
        await consumer.commit({record.position: record.offset + 1 for record in records})
    return records

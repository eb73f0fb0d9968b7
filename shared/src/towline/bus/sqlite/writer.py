"""One thread owns the writing connection; whatever waits is written in one transaction.

When idle an operation is flushed at once; under load the queue fills while the disk syncs, and the next
transaction takes all of it. An operation that fails is rolled back alone and never fails its neighbours.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from towline.bus.port import BusDown, TopicPartition
from towline.bus.sqlite.ledger import Ledger
from towline.bus.sqlite.opening import OpenFile
from towline.bus.sqlite.place import Place
from towline.bus.sqlite.schema import explain

_LOG = logging.getLogger(__name__)
_MAX_GROUP = 1000
DEFER_S = 0.5
"""How long a deferred operation waits for a transaction to travel with, at most."""

_CUT_EVERY_S = 2.0
"""How often the size of the write-ahead log is looked at."""

T = TypeVar("T")
Operation = Callable[[Ledger], T]
OnCommit = Callable[[Mapping[TopicPartition, int]], None]


@dataclass(slots=True)
class _Job:
    operation: Operation[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class _Deferred:
    key: Hashable
    operation: Operation[None]


class Writer:
    """Runs operations in order of arrival. `on_commit` is called on the loop with the heads that moved.

    `single` gives each operation a transaction of its own, deferred ones too, so that a kill falls between any two.
    """

    def __init__(self, place: Place, on_commit: OnCommit, *, single: bool = False) -> None:
        self._place = place
        self._path = place.path
        self._single = single
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Job | _Deferred | None] = queue.SimpleQueue()
        self._deferred: dict[Hashable, Operation[None]] = {}
        self._deferred_until = 0.0
        self._cut_at = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="towline-bus-writer", daemon=True)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def open(self) -> None:
        """Start the thread and open the file. Raises BusDown, Permanent."""
        self._thread.start()
        await self._opened

    async def submit(self, operation: Operation[T]) -> T:
        """Run the operation durably. It is done, or queued and done later, when the caller is cancelled."""
        self._refuse_when_closed()
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(operation, future))
        return await future

    def defer(self, key: Hashable, operation: Operation[None]) -> None:
        """Run the operation with the next transaction, or within DEFER_S; a later one of the same key replaces it."""
        self._refuse_when_closed()
        self._queue.put(_Deferred(key, operation))

    async def close(self) -> None:
        """Write what is queued, also what is deferred, and end the thread."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await self._ended

    def _refuse_when_closed(self) -> None:
        if self._closing:
            raise BusDown(f"the bus {self._path} is closed")

    # -- on the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            file = OpenFile(self._place)
        except Exception as error:
            self._closing = True
            self._tell(_settle, self._opened, None, error)
            return
        self._tell(_settle, self._opened, None, None)
        try:
            going = True
            while going:
                jobs, going = self._gather()
                if jobs or self._deferred:
                    self._write(file.connection, jobs)
                    if self._cut_at <= time.monotonic():
                        self._cut_at = time.monotonic() + _CUT_EVERY_S
                        file.cut_log()
        finally:
            file.close()
            self._tell(_settle, self._ended, None, None)

    def _gather(self) -> tuple[list[_Job], bool]:
        """Wait for the first job (or until the deferred are due), then take what else waits; False at the end."""
        if self._single:
            return self._gather_one()
        jobs: list[_Job] = []
        while len(jobs) < _MAX_GROUP:
            try:
                if jobs:
                    item = self._queue.get_nowait()
                else:
                    due_in = max(0.0, self._deferred_until - time.monotonic()) if self._deferred else None
                    item = self._queue.get(timeout=due_in)
            except queue.Empty:
                break
            if item is None:
                return jobs, False
            if isinstance(item, _Deferred):
                if not self._deferred:
                    self._deferred_until = time.monotonic() + DEFER_S
                self._deferred[item.key] = item.operation
            else:
                jobs.append(item)
        return jobs, True

    def _gather_one(self) -> tuple[list[_Job], bool]:
        """One operation, in the order they came; a deferred one that failed is tried again by itself first."""
        if self._deferred:
            time.sleep(max(0.0, self._deferred_until - time.monotonic()))
            return [], True
        item = self._queue.get()
        if item is None:
            return [], False
        if isinstance(item, _Deferred):
            self._deferred[item.key] = item.operation
            return [], True
        return [item], True

    def _write(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        ledger = Ledger(connection, time.time_ns() // 1_000_000)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for operation in self._deferred.values():
                if error := _attempt(ledger, _Job(operation, self._ended)).error:
                    _LOG.warning("an offset commit failed and its records will come again: %s", error)
            for job in jobs:
                _attempt(ledger, job)
            ledger.write_heads()
            connection.execute("COMMIT")
            self._deferred.clear()
        except Exception as error:
            if not isinstance(error, sqlite3.Error):
                _LOG.exception("a transaction failed by a bug; the writer goes on")
            self._give_up(connection, jobs, error)
            return
        self._tell(self._resolve, jobs, ledger.heads)

    def _give_up(self, connection: sqlite3.Connection, jobs: list[_Job], error: Exception) -> None:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        explained = explain(self._path, error)
        for job in jobs:
            job.error = job.error if job.error and not isinstance(job.error, BusDown) else explained
        self._deferred_until = time.monotonic() + DEFER_S
        if self._closing:
            self._deferred.clear()
        self._tell(self._resolve, jobs, {})

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is gone: nobody waits for the answer
            self._loop.call_soon_threadsafe(function, *arguments)

    # -- on the loop -----------------------------------------------------------------------------------------------

    def _resolve(self, jobs: list[_Job], heads: Mapping[TopicPartition, int]) -> None:
        for job in jobs:
            _settle(job.future, job.result, job.error)
        if heads:
            self._on_commit(heads)


def _attempt(ledger: Ledger, job: _Job) -> _Job:
    """Run one operation inside a savepoint. Raises sqlite3.Error when the whole transaction is lost."""
    connection = ledger.connection
    heads = dict(ledger.heads)
    connection.execute("SAVEPOINT operation")
    try:
        job.result = job.operation(ledger)
    except sqlite3.Error:
        raise
    except Exception as error:
        job.error = error
        connection.execute("ROLLBACK TO operation")
        ledger.heads = heads
    connection.execute("RELEASE operation")
    return job


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)

"""The parent's side of the jailed workers: kept warm, one repository each, ended when they misbehave.

Rules that must hold:

- A worker sees the objects of one repository, read-only, has no network, no credential and an empty environment.
- At most `workers` live at once; the one that was idle longest makes room for another repository.
- A request has a time limit here too; a worker that does not answer is killed, and the next request has a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from towline import cgroup, jail
from towline.errors import Retryable
from towline.frames import framed
from towline.ids import digest_of
from towline_git_watcher.settings import LimitSettings
from towline_git_watcher.worker import frames
from towline_git_watcher.worker.repository import MIRROR_OBJECTS

log = logging.getLogger(__name__)
WORKER_UID = jail.JAIL_UID + 500
_MODULES = (
    "towline",
    "towline_git_watcher",
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
    "yaml",
    "_yaml",
)
_GRACE = 5.0
"""Seconds beyond the worker's own limit before the parent ends it."""
_START_SECONDS = 30.0
_PROCESSES = 64


@dataclass(frozen=True, slots=True)
class Answer:
    header: dict[str, Any]
    snapshot: bytes
    objects: list[bytes]


@dataclass
class _Worker:
    process: asyncio.subprocess.Process
    group: cgroup.Group
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used: float = 0.0


class Workers:
    def __init__(self, limits: LimitSettings, instance: Path) -> None:
        self._limits = limits
        self._instance = f"towline-git-watcher-{digest_of(str(instance.resolve()))[:12]}"
        self._hierarchy: cgroup.Hierarchy | None = None
        self._workers: dict[Path, _Worker] = {}
        self._starting = asyncio.Lock()
        self._slots = asyncio.Semaphore(limits.workers)

    async def warm(self, objects: Path) -> None:
        """Have a worker for this repository ready, if there is room for one."""
        if len(self._workers) < self._limits.workers:
            await self._worker(objects)

    async def ask(self, objects: Path, request: dict[str, Any]) -> Answer:
        """Raises Retryable when the worker died or did not answer."""
        limits = self._limits
        bounds = {"seconds": limits.merge_seconds, "files": limits.tree_files, "bytes": limits.tree_bytes}
        body = json.dumps({**bounds, "output_bytes": limits.tree_bytes + (64 << 20), **request}).encode()
        async with self._slots:
            worker = await self._worker(objects)
            async with worker.lock:
                try:
                    async with asyncio.timeout(limits.merge_seconds + _GRACE):
                        return await _exchange(worker.process, body)
                except (TimeoutError, OSError, asyncio.IncompleteReadError, ValueError) as error:
                    await self._end(objects)
                    raise Retryable(f"the jailed worker ended without an answer ({type(error).__name__})") from None
                except asyncio.CancelledError:
                    await self._end(objects)  # its answer would be taken for that of the next request
                    raise
                finally:
                    worker.used = asyncio.get_running_loop().time()

    async def close(self) -> None:
        for objects in list(self._workers):
            await self._end(objects)
        if self._hierarchy is not None:
            await asyncio.to_thread(self._hierarchy.close)

    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers.values()]

    async def _worker(self, objects: Path) -> _Worker:
        async with self._starting:
            found = self._workers.get(objects)
            if found is not None and found.process.returncode is None:
                return found
            if found is not None:
                await self._end(objects)
            while len(self._workers) >= self._limits.workers:
                idle = [path for path, each in self._workers.items() if not each.lock.locked()]
                await self._end(min(idle or self._workers, key=lambda path: self._workers[path].used))
            self._workers[objects] = await self._start(objects)
            return self._workers[objects]

    async def _start(self, objects: Path) -> _Worker:
        limits = cgroup.Limits(memory_bytes=self._limits.memory_bytes, processes=_PROCESSES)
        name = f"worker-{digest_of(str(objects))[:12]}"
        group = await asyncio.to_thread(self._limited().group, name, limits)
        process = await asyncio.create_subprocess_exec(
            *group.enter(command(objects)),
            env={},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                assert process.stdout is not None
                greeting = await _read(process.stdout)
        except (TimeoutError, asyncio.IncompleteReadError):
            greeting = b""
        if greeting != frames.HELLO:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            assert process.stderr is not None
            said = (await process.stderr.read(4000)).decode("utf-8", "replace").strip()
            await process.wait()
            _close_pipes(process)
            await asyncio.to_thread(group.remove)
            raise Retryable(f"the jailed worker did not start: {said[-600:] or 'it said nothing'}")
        return _Worker(process, group)

    def _limited(self) -> cgroup.Hierarchy:
        if self._hierarchy is None:
            self._hierarchy = cgroup.hierarchy(self._instance)
            if self._hierarchy.weakness:
                log.warning("workers are limited less than they should be", extra={"why": self._hierarchy.weakness})
            self._hierarchy.sweep()
        return self._hierarchy

    async def _end(self, objects: Path) -> None:
        worker = self._workers.pop(objects, None)
        if worker is None:
            return
        with contextlib.suppress(ProcessLookupError):
            worker.process.kill()
        await worker.process.wait()
        _close_pipes(worker.process)
        await asyncio.to_thread(worker.group.remove)


def command(objects: Path) -> list[str]:
    """The jailed worker for one repository's `objects` folder."""
    python, mounts = jail.python(*_MODULES)
    mounts.append(jail.Mount(objects, MIRROR_OBJECTS))
    argv = [*python, "-m", "towline_git_watcher.worker.child"]
    return jail.jail(argv, mounts=mounts, env={"PYTHONPATH": "/modules"}, uid=WORKER_UID)


async def _exchange(process: asyncio.subprocess.Process, body: bytes) -> Answer:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(framed(body))
    await process.stdin.drain()
    header = await _read(process.stdout)
    packed = await _read(process.stdout)
    objects = await _read(process.stdout)
    return Answer(json.loads(header), packed, frames.split(objects))


async def _read(stream: asyncio.StreamReader) -> bytes:
    return await stream.readexactly(int.from_bytes(await stream.readexactly(4), "big"))


def _close_pipes(process: asyncio.subprocess.Process) -> None:
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()

"""Warm jailed workers, and the one way to ask them: `Renderer.render`.

Owns the processes and the protocol's near end. What must hold: a worker has no credential, no network and no file of
the host but programs; it gets a cgroup before it runs; one that breaks the protocol, or takes longer than it may, is
killed with everything it started, and the next render gets a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from towline import cgroup, jail, snapshot
from towline.errors import Retryable
from towline.events.base import Problem
from towline.frames import framed
from towline_reconciler.manifest import Rendered

log = logging.getLogger(__name__)
_MODULES = ("towline", "towline_reconciler", "orjson", "yaml")
_KUSTOMIZE = "/kustomize"
_FIRST_UID = jail.JAIL_UID + 300
"""Uids of this service's jails: workers do not share one, so none can signal another."""
_MOST_PROCESSES = 64
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one render."""

    seconds: float = 20.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """`needs` names folders that are referred to and were not given; then there is nothing else."""

    rendered: tuple[Rendered, ...] = ()
    problems: tuple[Problem, ...] = ()
    needs: tuple[str, ...] = ()


class WorkerDied(Retryable):
    """A worker ended without an answer; a fresh one may do better."""


@dataclass
class _Worker:
    process: asyncio.subprocess.Process
    group: cgroup.Group


class Renderer:
    """A pool of `size` workers. `start` warms them; safe for concurrent use."""

    def __init__(
        self, limits: Limits, *, size: int = 1, kustomize: str | None = "kustomize", name: str | None = None
    ) -> None:
        """`name` is the same after a restart, so that what a killed process left is found and ended."""
        self._limits = limits
        self._name = f"towline-render-{name or os.getpid()}"
        self._size = size
        self._kustomize = kustomize
        self._idle: asyncio.LifoQueue[tuple[int, _Worker | None]] = asyncio.LifoQueue()
        for number in range(size):
            self._idle.put_nowait((number, None))
        self._hierarchy: cgroup.Hierarchy | None = None

    async def start(self) -> None:
        """Warm every worker: each renders nothing. Raises NoJail or WorkerDied where containment does not work."""
        await asyncio.gather(*(self.render(".", "plain", ()) for _ in range(self._size)))

    async def render(
        self, path: str, kind: str, entries: Sequence[snapshot.Entry], *, asked: Sequence[str] = ()
    ) -> Answer:
        """Objects of the folder `path` among `entries`. `asked` are needs that were looked for already.

        Raises WorkerDied, NoJail, BadSnapshot (a tree that may not be written out).
        """
        tree = await asyncio.to_thread(snapshot.pack, entries)
        header = {
            "path": path,
            "kind": kind,
            "asked": list(asked),
            "kustomize": [_KUSTOMIZE, "build"] if self._program() else None,
            "limits": {
                "seconds": self._limits.seconds,
                "memory_bytes": self._limits.memory_bytes,
                "output_bytes": self._limits.output_bytes,
            },
        }
        number, worker = await self._idle.get()
        kept = None
        try:
            worker = worker or await self._spawn(number)
            answer = await self._ask(worker, orjson.dumps(header), tree)
            kept = worker
        finally:
            if kept is None and worker is not None:
                await self._end(worker)
            self._idle.put_nowait((number, kept))
        return _answer(answer)

    async def close(self) -> None:
        """End every idle worker; a render after this begins with fresh ones."""
        idle = [self._idle.get_nowait() for _ in range(self._idle.qsize())]
        for number, worker in idle:
            if worker is not None:
                await self._end(worker)
            self._idle.put_nowait((number, None))
        if self._hierarchy is not None:
            await asyncio.to_thread(self._hierarchy.close)
            self._hierarchy = None

    def _program(self) -> Path | None:
        found = shutil.which(self._kustomize) if self._kustomize else None
        return Path(found).resolve() if found else None

    async def _spawn(self, number: int) -> _Worker:
        if self._hierarchy is None:
            self._hierarchy = await asyncio.to_thread(cgroup.hierarchy, self._name)
            if self._hierarchy.weakness:
                log.warning("renders are limited less than they could be", extra={"reason": self._hierarchy.weakness})
        memory = self._limits.memory_bytes + (64 << 20)
        if not self._hierarchy.tops:  # then it limits address space, and Go reserves much of that
            memory += 8 << 30
        limits = cgroup.Limits(memory_bytes=memory, processes=_MOST_PROCESSES)
        group = self._hierarchy.group(f"render-{number}", limits)
        argv, mounts = jail.python(*_MODULES)
        if program := self._program():
            mounts = [*mounts, jail.Mount(program, _KUSTOMIZE)]
        command = jail.jail(
            group.inside([*argv, "-m", "towline_reconciler.render.worker"]),
            mounts=mounts,
            env={"PYTHONPATH": "/modules"},
            uid=_FIRST_UID + number,
        )
        process = await asyncio.create_subprocess_exec(
            *group.enter(command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )
        return _Worker(process, group)

    async def _ask(self, worker: _Worker, header: bytes, tree: bytes) -> dict[str, Any]:
        process = worker.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._limits.seconds + _GRACE_SECONDS):
                process.stdin.writelines(map(framed, (header, tree)))
                await process.stdin.drain()
                length = int.from_bytes(await process.stdout.readexactly(4), "big")
                if length > self._limits.output_bytes + 4096:
                    raise WorkerDied("a render worker broke its protocol and was ended")
                content = await process.stdout.readexactly(length)
        except TimeoutError:
            raise WorkerDied("a render worker did not answer in time and was ended") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            reason = worker.group.exceeded()
            raise WorkerDied(f"a render worker died{f': it ran into {reason}' if reason else ''}") from None
        try:
            parsed = orjson.loads(content)
        except orjson.JSONDecodeError:
            parsed = None
        if not isinstance(parsed, dict):
            raise WorkerDied("a render worker broke its protocol and was ended")
        return parsed

    async def _end(self, worker: _Worker) -> None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.kill()
        await asyncio.to_thread(worker.group.remove)
        await worker.process.wait()


def _answer(parsed: dict[str, Any]) -> Answer:
    """What a worker said, believed in its shape only after a look: the fork that wrote it had read hostile files."""
    try:
        return Answer(
            rendered=tuple(_rendered(each) for each in parsed.get("documents") or ()),
            problems=tuple(Problem.model_validate(each) for each in parsed.get("problems") or ())[:50],
            needs=tuple(str(each) for each in parsed.get("needs") or ())[:100],
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return Answer(problems=(Problem(message="the render gave something that cannot be read"),))


def _rendered(document: dict[str, Any]) -> Rendered:
    """Raises what `_answer` expects of a document that is no object."""
    body, line = document["body"], document["line"]
    texts = (body["apiVersion"], body["kind"], body["metadata"]["name"])
    if not all(isinstance(each, str) for each in texts) or not isinstance(line, int | None):
        raise TypeError("not an object")
    return Rendered(body, str(document["file"]), line)

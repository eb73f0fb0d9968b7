"""Runs one contained child to its end: its input, its bounded output, its time, and the end of all it started.

What must hold: when `run` returns or raises, nothing of the child lives any more; its output never takes more
memory than `output_bytes`, of which the end is kept before the beginning, because that is where the reason stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class Limits:
    """Wall time in seconds, kept output in bytes."""

    seconds: float
    output_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: `code` is negative for a signal, `timed_out` when its time was up."""

    code: int
    output: bytes
    seconds: float
    timed_out: bool = False


class Tail:
    """The first quarter of a budget from the beginning and the rest from the end of a stream."""

    def __init__(self, budget: int) -> None:
        self._head_left = budget // 4
        self._tail_budget = budget - budget // 4
        self._head: list[bytes] = []
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._dropped = 0

    def add(self, data: bytes) -> None:
        if self._head_left:
            head, data = data[: self._head_left], data[self._head_left :]
            self._head.append(head)
            self._head_left -= len(head)
        if data:
            self._tail.append(data)
            self._tail_size += len(data)
        while self._tail_size > self._tail_budget and len(self._tail) > 1:
            gone = self._tail.popleft()
            self._tail_size -= len(gone)
            self._dropped += len(gone)

    def value(self) -> bytes:
        cut = b"\n[... %d bytes left out ...]\n" % self._dropped if self._dropped else b""
        return b"".join(self._head) + cut + b"".join(self._tail)


async def run(
    argv: Sequence[str],
    *,
    limits: Limits,
    stdin: bytes = b"",
    pass_fds: Sequence[int] = (),
) -> Ended:
    """`start` and `finish` in one."""
    return await finish(await start(argv, pass_fds=pass_fds), limits=limits, stdin=stdin)


async def start(argv: Sequence[str], *, pass_fds: Sequence[int] = ()) -> asyncio.subprocess.Process:
    """Standard error goes where standard output goes. The environment is empty. Whoever starts must finish or end."""
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={},
        cwd="/",
        pass_fds=pass_fds,
        start_new_session=True,
    )


async def finish(process: asyncio.subprocess.Process, *, limits: Limits, stdin: bytes = b"") -> Ended:
    """Its input and its output, until it is over or its time is. Cancelling kills the child."""
    started = monotonic()
    kept = Tail(limits.output_bytes)
    timed_out = False
    try:
        async with asyncio.timeout(limits.seconds):
            await asyncio.gather(_feed(process, stdin), _keep(process, kept))
            await process.wait()
    except TimeoutError:
        timed_out = True
    finally:
        await end(process)
    return Ended(process.returncode or 0, kept.value(), monotonic() - started, timed_out)


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _keep(process: asyncio.subprocess.Process, kept: Tail) -> None:
    assert process.stdout is not None
    while chunk := await process.stdout.read(_CHUNK):
        kept.add(chunk)


async def end(process: asyncio.subprocess.Process) -> None:
    """Killing the outermost process ends the pid namespace, and with it everything that was ever started there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())

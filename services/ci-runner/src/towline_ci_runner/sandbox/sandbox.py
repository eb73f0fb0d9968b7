"""One sandbox, for one job, once: a jail with its own uid and its own cgroups, started ahead of its job.

What must hold, whatever the job does: it is seen to its end or ended, by its timeout, by too much output or because
nobody wants it any more; afterwards none of its processes is left, and neither is a file, because it only ever wrote
to memory that counts as its own.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

from towline import jail
from towline.cgroup import Group
from towline.frames import framed
from towline_ci_runner.child import Child
from towline_ci_runner.sandbox.launch import HOME, WORKSPACE
from towline_ci_runner.sandbox.output import Output

START_SECONDS = 20.0
"""In which a sandbox is ready, or it is broken."""
UNPACK_SECONDS = 60.0
MODULES = ("towline", "towline_ci_runner")
LAUNCH = "towline_ci_runner.sandbox.launch"


class SandboxBroken(Exception):
    """The sandbox itself failed, not the job in it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a sandbox is to run."""

    script: str
    tree: str
    archive: bytes
    env: Mapping[str, str]
    timeout: float
    """Seconds of wall time."""


@dataclass(frozen=True, slots=True)
class Bounds:
    log_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """How a job ended."""

    log: bytes = b""
    exit_code: int | None = None
    started: datetime | None = None
    seconds: float = 0.0
    refused: str | None = None
    """Why its tree was not unpacked; then nothing ran."""
    ended: str | None = None
    """Why it was ended before it ended itself: `timeout`, `output` or `cancelled`."""
    exceeded: str | None = None
    """The limit it ran into, in words."""


@dataclass
class Sandbox:
    uid: int
    bounds: Bounds
    _child: Child
    _says: asyncio.StreamReader
    _said: asyncio.BaseTransport
    _ended: bool = field(default=False)

    @classmethod
    async def start(cls, group: Group, uid: int, bounds: Bounds) -> Sandbox:
        """A sandbox that waits for its order. Raises NoJail, OSError or SandboxBroken; the group is removed then."""
        ours, theirs = os.pipe()
        says = asyncio.StreamReader()
        said, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(says), os.fdopen(ours, "rb", buffering=0)
        )
        try:
            child = await Child.start(_command(group, uid, theirs), group, {}, pass_fds=(theirs,))
        except BaseException:
            said.close()
            raise
        finally:
            os.close(theirs)
        sandbox = cls(uid, bounds, child, says, said)
        try:
            await sandbox._begin()
        except BaseException:
            await sandbox.end()
            raise
        return sandbox

    @property
    def alive(self) -> bool:
        return self._child.returncode is None and not self._says.at_eof()

    async def run(self, order: Order, cancelled: asyncio.Event) -> Done:
        """Run the one job of this sandbox; the sandbox is gone afterwards. Raises SandboxBroken."""
        try:
            return await self._run(order, cancelled)
        finally:
            await self.end()

    async def end(self) -> None:
        """Kill whatever is left and give everything back; harmless when repeated."""
        if not self._ended:
            self._ended = True
            await self._child.end()
            self._said.close()

    async def _begin(self) -> None:
        if await self._line(START_SECONDS) != "ready":
            raise SandboxBroken(f"the sandbox did not start: {await self._child.last_words()}")

    async def _run(self, order: Order, cancelled: asyncio.Event) -> Done:
        header = json.dumps({"tree": order.tree, "script": order.script, "env": dict(order.env)}).encode()
        sending = asyncio.create_task(self._child.send(framed(header) + framed(order.archive), last=True))
        try:
            said = await self._line(UNPACK_SECONDS)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if said.startswith("refused "):
            return Done(refused=said.removeprefix("refused "))
        if said != "started":
            if exceeded := self._child.group.exceeded():
                return Done(refused=f"it ran into {exceeded} while it was unpacked")
            raise SandboxBroken(f"the sandbox ended before its job began: {await self._child.last_words()}")
        return await self._watch(order, cancelled)

    async def _watch(self, order: Order, cancelled: asyncio.Event) -> Done:
        started, since = datetime.now(UTC), monotonic()
        output = Output(self.bounds.log_bytes)
        ending = asyncio.create_task(self._to_its_end(output))
        nobody_waits = asyncio.create_task(cancelled.wait())
        try:
            await asyncio.wait((ending, nobody_waits), timeout=order.timeout, return_when=asyncio.FIRST_COMPLETED)
            seconds = monotonic() - since
            if ending.done():
                ended = None if ending.result() else "output"
            else:
                ended = "cancelled" if nobody_waits.done() else "timeout"
        finally:
            for task in (ending, nobody_waits):
                task.cancel()
            await asyncio.gather(ending, nobody_waits, return_exceptions=True)
        exceeded, exit_code = self._child.group.exceeded(), self._child.returncode
        await self.end()
        return Done(
            log=output.kept(),
            exit_code=None if ended else exit_code,
            started=started,
            seconds=seconds,
            ended=ended,
            exceeded=exceeded,
        )

    async def _to_its_end(self, output: Output) -> bool:
        """True when it has ended by itself, False when it wrote too much. A job may close its output before."""
        while chunk := await self._child.output.read(1 << 16):
            output.add(chunk)
            if output.total > self.bounds.output_bytes:
                return False
        await self._child.process.wait()
        return True

    async def _line(self, seconds: float) -> str:
        """What the launcher says next; empty when it says no more or takes too long."""
        try:
            line = await asyncio.wait_for(self._says.readline(), seconds)
        except (TimeoutError, ValueError):
            return ""
        return line.decode("utf-8", "replace").rstrip("\n")


def _command(group: Group, uid: int, says: int) -> list[str]:
    prefix, mounts = jail.python(*MODULES)
    return jail.jail(
        group.inside([*prefix, "-S", "-m", LAUNCH, str(says)]),
        mounts=mounts,
        uid=uid,
        env={"PYTHONPATH": "/modules"},
        workdir=WORKSPACE,
        scratch=(WORKSPACE, HOME),
        scratch_bytes=group.limits.memory_bytes,
    )

"""A child process and its pipes, which are given back together.

`asyncio.create_subprocess_exec` leaves a pipe open when its child was killed while nobody read from it; here the
transport is at hand, so that `end` leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE, STDOUT, Process, SubprocessStreamProtocol
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from towline.cgroup import Group


@dataclass(frozen=True, slots=True)
class Child:
    """One process in its group; its own end is not the end of what it started."""

    process: Process
    group: Group
    output: asyncio.StreamReader
    _input: asyncio.StreamWriter
    _transport: asyncio.SubprocessTransport

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        group: Group,
        env: Mapping[str, str],
        *,
        pass_fds: tuple[int, ...] = (),
        separate_errors: bool = False,
    ) -> Child:
        """Starts `argv` inside of the group, which is removed if it cannot be started."""
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: SubprocessStreamProtocol(limit=1 << 16, loop=loop),
                *group.enter(argv),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE if separate_errors else STDOUT,
                pass_fds=pass_fds,
                env=dict(env),
                cwd="/",
            )
        except BaseException:
            await asyncio.shield(asyncio.to_thread(group.remove))
            raise
        process = Process(transport, protocol, loop)
        assert process.stdin is not None
        assert process.stdout is not None
        return cls(process, group, process.stdout, process.stdin, transport)

    @property
    def returncode(self) -> int | None:
        return self.process.returncode

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """That it died meanwhile is told by its other pipes, not here."""
        with contextlib.suppress(ConnectionError):
            self._input.write(data)
            await self._input.drain()
            if last:
                self._input.close()

    async def last_words(self) -> str:
        """What it wrote before it died, for the message about it; it is killed if it has not."""
        self._kill()
        said = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                said = await (self.process.stderr or self.output).read(8192)
        return said.decode("utf-8", "replace").strip()[-500:] or "it said nothing"

    async def end(self) -> None:
        """Kill it and whatever it started, and give everything back; harmless when repeated."""
        self._kill()
        await asyncio.shield(asyncio.to_thread(self.group.remove))
        await self.process.wait()
        self._transport.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

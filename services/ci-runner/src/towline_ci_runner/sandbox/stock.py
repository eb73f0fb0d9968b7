"""The stock of sandboxes: some are started ahead, so that a job waits for none.

Owns the jail uids of jobs and this runner's cgroups. What must hold: no two sandboxes share a uid, and what a runner
that died left behind is ended before the first sandbox starts.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque

from towline.cgroup import Hierarchy, Limits
from towline.jail import JAIL_UID
from towline_ci_runner.sandbox.sandbox import Bounds, Sandbox
from towline_ci_runner.settings import MIB, JobLimits

log = logging.getLogger(__name__)
UIDS = range(JAIL_UID + 100, JAIL_UID + 1000)
"""Of the 1,000 jail uids the first hundred are for jails that hold no declared job."""


class Stock:
    def __init__(self, groups: Hierarchy, limits: JobLimits, ahead: int) -> None:
        self._groups = groups
        self._limits = Limits(memory_bytes=limits.memory_mib * MIB, processes=limits.processes, cpus=limits.cpus)
        self._bounds = Bounds(limits.log_kib << 10, limits.output_mib * MIB)
        self._ahead = ahead
        self._ready: deque[Sandbox] = deque()
        self._free_uids = deque(UIDS)
        self._numbers = itertools.count(1)
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def ready(self) -> int:
        """Sandboxes that wait for a job."""
        return sum(sandbox.alive for sandbox in self._ready)

    async def take(self) -> Sandbox:
        """One that waits for its order, started now if none is ready. Give it back by `gone` after its end."""
        while self._ready:
            sandbox = self._ready.popleft()
            if sandbox.alive:
                return sandbox
            await self._end(sandbox)
        return await self._start()

    async def gone(self, sandbox: Sandbox) -> None:
        """The sandbox was used: end it, and start another one ahead of the next job."""
        await self._end(sandbox)
        self.fill()

    def fill(self) -> None:
        """Begin to start sandboxes ahead, in the background."""
        if self._closed or (self._filling is not None and not self._filling.done()):
            return
        self._filling = asyncio.create_task(self._fill())

    async def filled(self) -> None:
        """Returns when nothing is being started ahead any more."""
        if self._filling is not None:
            await asyncio.gather(self._filling, return_exceptions=True)

    async def close(self) -> None:
        self._closed = True
        if self._filling is not None:
            self._filling.cancel()
            await self.filled()
        while self._ready:
            await self._end(self._ready.popleft())

    async def _fill(self) -> None:
        while len(self._ready) < self._ahead:
            try:
                self._ready.append(await self._start())
            except Exception as error:
                # Said here once per try; the job that needs a sandbox meets the same error and tells of it.
                log.warning("no sandbox could be started ahead", extra={"error": str(error)})
                return

    async def _start(self) -> Sandbox:
        uid = self._free_uids.popleft()
        try:
            group = self._groups.group(f"job-{next(self._numbers)}", self._limits)
            return await Sandbox.start(group, uid, self._bounds)
        except BaseException:
            self._free_uids.append(uid)
            raise

    async def _end(self, sandbox: Sandbox) -> None:
        await sandbox.end()
        self._free_uids.append(sandbox.uid)

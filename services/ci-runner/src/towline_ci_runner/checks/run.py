"""Runs the effect `check`: asks a jailed process that is already there, and tells what it found.

A check that says `died` met something in the tree that it could not bear: an error, said as it is, and no use in trying
again. A process that broke is replaced, and the attempt counts as a failure of the infrastructure.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from towline.cgroup import Hierarchy, Limits
from towline.delivery.model import EffectContext
from towline.errors import Permanent
from towline.events import Problem, Verdict, within_bounds
from towline.jail import JAIL_UID
from towline.store import ArtifactStore
from towline_ci_runner.checks.process import MODULES, Parts, Worker, WorkerBroken, jailed
from towline_ci_runner.messages import RunCheck, TaskEnded
from towline_ci_runner.settings import MIB, CiRunnerSettings

log = logging.getLogger(__name__)
RULES = 1
"""Counted up when what the checks find changes, so that results of older rules are not taken for theirs."""
UIDS = {"configuration": JAIL_UID + 20, "lint": JAIL_UID + 60}
"""First of up to twenty for each check."""


class Checks:
    def __init__(self, settings: CiRunnerSettings, store: ArtifactStore, groups: Hierarchy) -> None:
        self._settings = settings
        self._store = store
        self._pools = {
            name: _Pool(name, parts_of(settings), groups, settings.check_workers, settings.check_memory_mib)
            for name in MODULES
        }

    @property
    def inputs(self) -> str:
        """What results depend on besides the tree."""
        return f"rules {RULES}, kubernetes {self._settings.kubernetes}"

    def fill(self) -> None:
        for pool in self._pools.values():
            pool.fill()

    async def filled(self) -> None:
        for pool in self._pools.values():
            await pool.filled()

    async def close(self) -> None:
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    async def run(self, effect: RunCheck, context: EffectContext) -> TaskEnded:
        del context
        started, since = datetime.now(UTC), monotonic()
        try:
            archive = await asyncio.to_thread(self._store.get, effect.snapshot)
            request = request_of(effect.source_tree, effect.manifests, self._settings)
            answer = await self._pools[effect.task].ask(request, archive)
            said = verdict_of(effect.task, answer)
        except (WorkerBroken, OSError, Permanent) as error:
            said = {"verdict": Verdict.ERROR, "reason": str(error)[:500], "infrastructure": True}
        basis = {"run": effect.run, "attempt": effect.attempt, "task": effect.task, "started": started}
        return TaskEnded.model_validate({**basis, **said, "seconds": monotonic() - since})


def parts_of(settings: CiRunnerSettings) -> Parts:
    found = settings.kustomize or (Path(path) if (path := shutil.which("kustomize")) else None)
    return Parts(settings.kubernetes, found)


def request_of(tree: str, manifests: tuple[str, ...], settings: CiRunnerSettings) -> Mapping[str, Any]:
    return {
        "tree": tree,
        "manifests": list(manifests),
        "seconds": settings.check_seconds,
        "memory_bytes": settings.check_memory_mib * MIB,
    }


def verdict_of(check: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker's answer means; nothing in it is believed to be of the right size or kind. Raises WorkerBroken."""
    if broken := answer.get("died") or answer.get("broken"):
        return {"verdict": Verdict.ERROR, "reason": str(broken)[:600]}
    try:
        told = (Problem.model_validate({**each, "check": check}) for each in answer.get("problems", ()))
        problems = within_bounds(told)
        notes = "; ".join(str(note) for note in answer.get("notes", ()))[:500]
    except (TypeError, ValueError):
        raise WorkerBroken("a checking process gave an answer that is none") from None
    return {"verdict": Verdict.INVALID if problems else Verdict.VALID, "reason": notes, "problems": problems}


class _Pool:
    """Processes for one check, each for one request at a time."""

    def __init__(self, check: str, parts: Parts, groups: Hierarchy, size: int, memory_mib: int) -> None:
        self._check = check
        self._parts = parts
        self._groups = groups
        # Twice: the process and its fork, and one more half for what a fork leaves in the page cache of its scratch.
        self._limits = Limits(memory_bytes=int(memory_mib * 2.5) * MIB, processes=128)
        self._idle: deque[Worker] = deque()
        self._slots = asyncio.Semaphore(size)
        self._numbers: deque[int] = deque(range(size))
        self._filling: asyncio.Task[None] | None = None
        self._number_of: dict[int, int] = {}

    async def ask(self, request: Mapping[str, Any], archive: bytes) -> dict[str, Any]:
        async with self._slots:
            await self.filled()
            worker = await self._take()
            try:
                return await worker.ask(request, archive)
            finally:
                await self._give_back(worker)

    def fill(self) -> None:
        if self._filling is None:
            self._filling = asyncio.create_task(self._fill())

    async def filled(self) -> None:
        if self._filling is not None:
            await asyncio.wait((self._filling,))

    async def close(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        while self._idle:
            await self._end(self._idle.popleft())

    async def _fill(self) -> None:
        try:
            self._idle.append(await self._start())
        except Exception as error:
            log.warning("no checking process could be started ahead", extra={"check": self._check, "error": str(error)})

    async def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.popleft()
            if worker.usable:
                return worker
            await self._end(worker)
        return await self._start()

    async def _give_back(self, worker: Worker) -> None:
        if worker.usable:
            self._idle.append(worker)
        else:
            await self._end(worker)
            self._filling = None
            self.fill()

    async def _start(self) -> Worker:
        number = self._numbers.popleft()
        try:
            group = self._groups.group(f"check-{self._check}-{number}", self._limits)
            command = jailed(self._check, self._parts, group, UIDS[self._check] + number)
            worker = await Worker.start(command, group, {})
        except BaseException:
            self._numbers.append(number)
            raise
        self._number_of[id(worker)] = number
        return worker

    async def _end(self, worker: Worker) -> None:
        await worker.end()
        self._numbers.append(self._number_of.pop(id(worker)))

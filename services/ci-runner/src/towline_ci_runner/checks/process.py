"""One checking process, seen from outside: started, asked, ended.

In a jail without credentials and network for the service; for a person's own work tree (`towline validate`) a child
with an empty environment does, which needs neither root nor bubblewrap.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towline import jail
from towline.cgroup import Group, Limits
from towline.frames import framed
from towline_ci_runner.checks import schema_files
from towline_ci_runner.child import Child

MODULE = "towline_ci_runner.checks.worker"
MODULES = {
    "configuration": ("yaml", "jsonschema_rs", "towline", "towline_ci_runner"),
    "lint": ("yaml", "yamllint", "pathspec", "towline", "towline_ci_runner"),
}
START_SECONDS = 30.0
GRACE_SECONDS = 5.0
"""Beyond a check's own limit, after which the process itself is held to be broken."""
MOST_USES = 500
KUSTOMIZE_INSIDE = "/parts/kustomize"
SCHEMAS_INSIDE = "/parts/schemas"


class WorkerBroken(Exception):
    """The process died or does not answer; a new one may do better."""


@dataclass(frozen=True, slots=True)
class Parts:
    kubernetes: str
    kustomize: Path | None


@dataclass
class Worker:
    child: Child
    uses: int = 0

    @classmethod
    async def start(cls, argv: Sequence[str], group: Group, env: Mapping[str, str]) -> Worker:
        """Raises WorkerBroken or OSError."""
        worker = cls(await Child.start(argv, group, env, separate_errors=True))
        try:
            await worker._answer(START_SECONDS)
        except BaseException:
            await worker.end()
            raise
        return worker

    @property
    def usable(self) -> bool:
        return self.child.returncode is None and self.uses < MOST_USES

    async def ask(self, request: Mapping[str, Any], archive: bytes) -> dict[str, Any]:
        """Raises WorkerBroken; then, and when it is cancelled, the process is of no more use."""
        self.uses += 1
        frames = framed(json.dumps(request).encode()) + framed(archive)
        sending = asyncio.create_task(self.child.send(frames))
        try:
            return _read(await self._answer(float(request["seconds"]) + GRACE_SECONDS))
        except BaseException:
            self.uses = MOST_USES
            raise
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def end(self) -> None:
        await self.child.end()

    async def _answer(self, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                head = await self.child.output.readexactly(4)
                return await self.child.output.readexactly(int.from_bytes(head, "big"))
        except TimeoutError:
            raise WorkerBroken(f"a checking process did not answer within {seconds:g} s") from None
        except asyncio.IncompleteReadError:
            raise WorkerBroken(f"a checking process died: {await self.child.last_words()}") from None


def _read(answer: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(answer))
    except (TypeError, ValueError, RecursionError):
        raise WorkerBroken("a checking process gave an answer that is none") from None


def jailed(check: str, parts: Parts, group: Group, uid: int, *, warm: bool = True) -> list[str]:
    """The command of a worker without credentials. Raises NoJail."""
    prefix, mounts = jail.python(*MODULES[check])
    options: dict[str, Any] = {"jailed": True, "warm": warm}
    if check == "configuration":
        mounts.append(jail.Mount(schema_files.folder(parts.kubernetes), SCHEMAS_INSIDE))
        options["schemas"] = SCHEMAS_INSIDE
        if parts.kustomize is not None:
            mounts.append(jail.Mount(parts.kustomize.resolve(), KUSTOMIZE_INSIDE))
            options["kustomize"] = KUSTOMIZE_INSIDE
    argv = [*prefix, "-S", "-m", MODULE, check, json.dumps(options)]
    return jail.jail(group.inside(argv), mounts=mounts, uid=uid, env={"PYTHONPATH": "/modules"})


def plain(check: str, parts: Parts) -> list[str]:
    """The same on this machine as it is."""
    import sys

    options = {"schemas": str(schema_files.folder(parts.kubernetes))}
    if parts.kustomize is not None:
        options["kustomize"] = str(parts.kustomize)
    return [sys.executable, "-P", "-m", MODULE, check, json.dumps(options)]


def no_group() -> Group:
    return Group(Limits())

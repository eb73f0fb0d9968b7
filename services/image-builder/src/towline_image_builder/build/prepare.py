"""Starts the jailed children that turn snapshots into contexts, and reads their answers with no trust in them.

Starting a jailed interpreter takes longer than its work, so after the first use the next child is started ahead and
waits for its order. Each child serves one order: what a hostile tree might do to it ends with it.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

from towline import cgroup
from towline.errors import Permanent
from towline.jail import JAIL_UID, Mount, jail, python
from towline_image_builder.build import child, scratch
from towline_image_builder.build.checkout import TREE, Answer, Order

_SECONDS = 120.0
_MEMORY_BYTES = 2 << 30
"""A snapshot is read whole: as large as it may be unpacked, beside its bytes."""
_OUTPUT_BYTES = 32 << 20
_UID = JAIL_UID + 900


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A child that waits for its order, and the folder that it will write to."""

    process: asyncio.subprocess.Process
    tree: Path
    group: cgroup.Group


class Checkouts:
    """`folder` is its own; what a killed process left there is the caller's to remove before the first use."""

    def __init__(self, folder: Path, groups: cgroup.Hierarchy) -> None:
        self._folder = folder
        self._groups = groups
        self._count = 0
        self._ahead: asyncio.Task[_Waiting] | None = None

    async def prepare(self, order: Order, snapshot: bytes, tree: Path) -> Answer:
        """Unpack into `tree`, which does not exist yet. Raises Permanent when the child did not answer."""
        waiting = await self._take()
        try:
            stdin = json.dumps(order).encode() + b"\n" + snapshot
            limits = child.Limits(_SECONDS, _OUTPUT_BYTES)
            ended = await child.finish(waiting.process, limits=limits, stdin=stdin)
            waiting.tree.rename(tree)
        finally:
            await asyncio.shield(self._remove(waiting))
        self._ahead = self._ahead or asyncio.create_task(self._start())
        return _answer_in(ended)

    async def close(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            waiting = await ahead
            await child.end(waiting.process)
            await self._remove(waiting)

    async def _take(self) -> _Waiting:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return await self._start()
        waiting = await ahead
        if waiting.process.returncode is None:
            return waiting
        await self._remove(waiting)
        return await self._start()

    async def _start(self) -> _Waiting:
        self._count += 1
        name = f"tree-{self._count}"
        tree = self._folder / name
        tree.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(tree, _UID, _UID)
        group = self._groups.group(name, cgroup.Limits(_MEMORY_BYTES, 64))
        interpreter, modules = python("towline", "towline_image_builder")
        argv = [*interpreter, "-S", "-m", "towline_image_builder.build.checkout"]
        mounts = (*modules, Mount(tree, str(TREE), writable=True))
        line = jail(group.inside(argv), mounts=mounts, env={"PYTHONPATH": "/modules"}, uid=_UID)
        return _Waiting(await child.start(group.enter(line)), tree, group)

    async def _remove(self, waiting: _Waiting) -> None:
        await asyncio.to_thread(waiting.group.remove)
        if waiting.tree.exists():
            await scratch.remove(waiting.tree)


def _answer_in(ended: child.Ended) -> Answer:
    if ended.code != 0 or ended.timed_out:
        said = ended.output.decode(errors="replace").strip()[-500:]
        raise Permanent(f"the snapshot could not be unpacked: {said or 'no answer in time'}")
    try:
        answer: Answer = json.loads(ended.output)
    except ValueError:
        raise Permanent("the snapshot could not be unpacked: the child's answer is not JSON") from None
    return answer

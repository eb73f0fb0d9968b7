"""Starts the jailed child that turns a snapshot into a context, and reads its answer with no trust in it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from towline import cgroup
from towline.errors import Permanent
from towline.jail import JAIL_UID, Mount, jail, python
from towline_image_builder.build import child
from towline_image_builder.build.checkout import TREE, Answer, Order

_SECONDS = 120.0
_MEMORY_BYTES = 2 << 30
"""A snapshot is read whole: as large as it may be unpacked, beside its bytes."""
_ANSWER_BYTES = 8 << 20
_UID = JAIL_UID + 900


async def prepare(name: str, order: Order, snapshot: bytes, tree: Path, groups: cgroup.Hierarchy) -> Answer:
    """Unpack into `tree`, a folder that does not exist yet. Raises Permanent when the child did not answer."""
    tree.mkdir()
    if os.geteuid() == 0:
        os.chown(tree, _UID, _UID)
    group = await asyncio.to_thread(groups.group, f"{name}-tree", cgroup.Limits(_MEMORY_BYTES, 64))
    try:
        interpreter, modules = python("towline", "towline_image_builder")
        argv = [*interpreter, "-m", "towline_image_builder.build.checkout"]
        mounts = (*modules, Mount(tree, str(TREE), writable=True))
        line = jail(group.inside(argv), mounts=mounts, env={"PYTHONPATH": "/modules"}, uid=_UID)
        stdin = json.dumps(order).encode() + b"\n" + snapshot
        limits = child.Limits(_SECONDS, 4 * _ANSWER_BYTES)
        ended = await child.run(group.enter(line), limits=limits, stdin=stdin)
    finally:
        await asyncio.shield(asyncio.to_thread(group.remove))
    if ended.code != 0 or ended.timed_out:
        said = ended.output.decode(errors="replace").strip()[-500:]
        raise Permanent(f"the snapshot could not be unpacked: {said or 'no answer in time'}")
    try:
        answer: Answer = json.loads(ended.output)
    except ValueError:
        raise Permanent("the snapshot could not be unpacked: the child's answer is not JSON") from None
    return answer

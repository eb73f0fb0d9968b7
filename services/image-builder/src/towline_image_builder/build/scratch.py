"""Measures and removes folders that a hostile build filled: deeper, wider and stranger than Python's walkers bear.

Neither tool follows a link, and neither is kept from its work by a tree's depth.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path

LOOK_EVERY = 0.5
"""Seconds between looks at a build's disk; what it writes in the meantime it may go over its limit by."""
_REMOVE = ("rm", "--recursive", "--force", "--one-file-system", "--")


async def remove(folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(*_REMOVE, str(folder), stderr=asyncio.subprocess.DEVNULL)
    await asyncio.shield(process.wait())


def remove_now(folder: Path) -> None:
    """As `remove`, blocking."""
    subprocess.run([*_REMOVE, str(folder)], stderr=subprocess.DEVNULL, check=False)


async def size_of(folder: Path) -> int:
    """Bytes on the disk; 0 where there is nothing to measure."""
    process = await asyncio.create_subprocess_exec(
        *("du", "--summarize", "--one-file-system", "--block-size=1", "--", str(folder)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())
        raise
    number = said.partition(b"\t")[0]
    return int(number) if number.isdigit() else 0


async def until_larger(folder: Path, limit: int) -> None:
    """Returns once the folder takes more than `limit` bytes."""
    while await size_of(folder) <= limit:  # noqa: ASYNC110 - a file system tells nobody how full a folder is
        await asyncio.sleep(LOOK_EVERY)

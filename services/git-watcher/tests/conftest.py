"""Owns the ground of the watcher's tests: a real bare repository with one commit, a clone of it, a bus."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from towline.bus.port import Bus
from towline.bus.sqlite import SqliteBus
from towline_git_watcher.testing import Clone, begin


@pytest.fixture
def top() -> Iterator[Path]:
    """A folder that other uids may enter, unlike pytest's own: the jailed worker has one."""
    with tempfile.TemporaryDirectory(prefix="towline-watcher-") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


@pytest.fixture
def clone(top: Path) -> Clone:
    """A bare repository with one commit on main, and a clone of it."""
    return begin(top)


@pytest.fixture
async def bus(top: Path) -> AsyncIterator[Bus]:
    opened = await SqliteBus.open(top / "bus.db")
    yield opened
    await opened.close()

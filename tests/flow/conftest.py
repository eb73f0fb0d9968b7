"""Owns the stage of the whole way in tests: a fresh instance folder per test, on the run's one lab instance."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from towline_cli.testing import WholeWay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from towline_cli import lab

_NUMBERS = itertools.count(1)


@pytest.fixture
def new_way(lab_instance: lab.Instance, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WholeWay]]:
    """Makes whole ways with repository, settings and clone, not running yet; they are closed at the end."""
    made: list[WholeWay] = []
    # Jailed children run under ids of their own and pass through here, so pytest's private folder will not do.
    with tempfile.TemporaryDirectory(prefix="towline-flow-", dir="/var/tmp", ignore_cleanup_errors=True) as home:
        monkeypatch.setenv("TOWLINE_HOME", f"{home}/home")

        def make(*, bus: str | None = None, webhook: str | None = None) -> WholeWay:
            way = WholeWay(f"flow-{next(_NUMBERS)}", lab_instance, bus=bus, webhook=webhook)
            way.create()
            made.append(way)
            return way

        Path(home).chmod(0o711)
        yield make
        for way in made:
            way.close()

"""The checks can fail: a service with one protection taken away is caught by the sentence that is meant for it."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

import pytest
from tests.chaos.case import Amount, Broken, Case
from tests.chaos.faults import STEPS, zombie

pytestmark = pytest.mark.timeout(180)
AT = {step.name: step for step in STEPS}


async def _killed_without(folder: Path, step: str, n: int, **order: object) -> None:
    """As the fault does: killed at a step, begun again, all checks made."""
    case = Case(f"sqlite:///{folder}/bus.db", folder, random.Random(1), Amount(4, 12), order)
    async with case:
        member = await AT[step].start(case, n)
        case.feed()
        await case.ended(member)
        await case.commits_hold()
        await case.quiet(await case.start())


async def _stopped_without(folder: Path, **order: object) -> None:
    """As the fault does, with effects in hand."""
    case = Case(f"sqlite:///{folder}/bus.db", folder, random.Random(1), Amount(6, 12), order, silent_for_s=12.0)
    async with case:
        await zombie(case, in_hand=True)


def _run(step: str, n: int, **order: object) -> None:
    with tempfile.TemporaryDirectory(prefix="tl-chaos-") as folder:
        asyncio.run(_killed_without(Path(folder), step, n, **order))


def test_nothing_is_said_of_a_service_with_all_its_protections() -> None:
    _run("done", 5)


def test_an_offset_that_is_committed_too_early_is_seen() -> None:
    with pytest.raises(Broken, match="past key-"):
        _run("before append", 5, commits_early=True)


def test_an_effect_without_its_condition_is_seen() -> None:
    with pytest.raises(Broken, match="was applied 2 times"):
        _run("done", 5, unconditional=True)


def test_a_zombie_whose_fencing_is_taken_away_is_seen() -> None:
    with tempfile.TemporaryDirectory(prefix="tl-chaos-") as folder, pytest.raises(Broken, match="a zombie began"):
        asyncio.run(_stopped_without(Path(folder), unfenced=True))

"""After each fault, on real processes and a real bus: every accepted event was handled, no effect is missing or was
applied twice, results reach a consumer once and in order, and no offset is past unfinished work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.chaos import faults
from tests.chaos.runs import Bus, Run, runs

if TYPE_CHECKING:
    from tests.chaos.conftest import Ahead

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
BOTH = (Bus.KAFKA, Bus.SQLITE)


@pytest.mark.parametrize(
    "run", [run for step in faults.STEPS for run in runs(f"kill {step.name}", faults.killed_at(step), *BOTH)], ids=str
)
def test_a_kill_at_a_step_of_a_turn(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("drain", faults.drained, *BOTH), ids=str)
def test_a_drain_while_effects_hang(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("load", faults.killed_while_loading, *BOTH, pad=20_000), ids=str)
def test_kills_while_a_big_state_is_loaded(ahead: Ahead, run: Run) -> None:
    ahead.result(run)

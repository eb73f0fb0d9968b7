"""After each fault, on real processes and a real bus: every accepted event was handled, no effect is missing or was
applied twice, results reach a consumer once and in order, and no offset is past unfinished work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.chaos import faults
from tests.chaos.runs import NIGHTLY, Bus, Run, runs

if TYPE_CHECKING:
    from tests.chaos.conftest import Ahead

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
BOTH = (Bus.KAFKA, Bus.SQLITE)
TORN = (Bus.KAFKA, Bus.SINGLE)
AWAY_S = 60.0 if NIGHTLY else 15.0


@pytest.mark.parametrize(
    "run", [run for step in faults.STEPS for run in runs(f"kill {step.name}", faults.killed_at(step), *TORN)], ids=str
)
def test_a_kill_at_a_step_of_a_turn(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("drain", faults.drained, *BOTH), ids=str)
def test_a_drain_while_effects_hang(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("load", faults.killed_while_loading, *BOTH, pad=20_000), ids=str)
def test_kills_while_a_big_state_is_loaded(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("zombie", faults.zombie, *BOTH, silent_for_s=12.0), ids=str)
def test_a_member_stopped_for_longer_than_the_session_timeout(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("stopped inside a write", faults.stopped_inside_a_write, Bus.SQLITE), ids=str)
def test_a_member_stopped_while_it_holds_the_file(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("in turn", faults.killed_in_turn, *BOTH), ids=str)
def test_two_members_killed_in_turn_during_a_rebalance(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


BROKER = [
    *runs("restart", faults.broker_away(faults.How.STOPPED), Bus.OWN_KAFKA),
    *runs("broker killed", faults.broker_away(faults.How.KILLED), Bus.OWN_KAFKA),
    *runs("broker gone", faults.broker_away(faults.How.KILLED, AWAY_S), Bus.OWN_KAFKA),
    *runs("broker held", faults.broker_away(faults.How.HELD, AWAY_S), Bus.OWN_KAFKA),
]


@pytest.mark.parametrize("run", BROKER, ids=str)
def test_a_broker_that_goes_away_and_comes_back(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("disk full", faults.disk_full, Bus.SMALL_DISK, pad=150_000), ids=str)
def test_a_disk_that_is_full_for_a_while(ahead: Ahead, run: Run) -> None:
    ahead.result(run)


@pytest.mark.parametrize("run", runs("poison", faults.poison, *BOTH, window=1000), ids=str)
def test_an_event_in_the_middle_of_a_hot_key_that_cannot_be_decided(ahead: Ahead, run: Run) -> None:
    ahead.result(run)

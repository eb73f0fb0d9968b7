"""Any history of publishes, members, deaths and restarts, on each bus: the port's promises hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.contract.machine import BusMachine
from tests.contract.places import MemoryPlace, Place


class OnMemory(BusMachine):
    def start(self) -> Place:
        return MemoryPlace()


def test_the_bus_in_memory_keeps_the_promises_of_the_port() -> None:
    examples = 5 * settings().max_examples if settings().max_examples > 25 else 25
    run_state_machine_as_test(OnMemory, settings=settings(max_examples=examples, stateful_step_count=30))

"""One run of one fault on one bus with one seed, and which of them there are.

`make test` takes one seed of each fault, the same every day; `make test-nightly` takes NIGHTLY_SEEDS of each, others
every day. TOWLINE_CHAOS_SEED is the first, or only, seed in both; a failure says how its case is run again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from tests.chaos.faults import Fault

NIGHTLY = os.environ.get("TOWLINE_PROFILE") == "nightly"
NIGHTLY_SEEDS = 50


class Bus(Enum):
    KAFKA = "kafka"
    OWN_KAFKA = "own-kafka"
    """One that the case may hurt."""
    SQLITE = "sqlite"


def _first_seed() -> int:
    if given := os.environ.get("TOWLINE_CHAOS_SEED"):
        return int(given)
    return datetime.now(UTC).date().toordinal() * 1000 if NIGHTLY else 1


FIRST_SEED = _first_seed()
SEEDS = range(FIRST_SEED, FIRST_SEED + (NIGHTLY_SEEDS if NIGHTLY and "TOWLINE_CHAOS_SEED" not in os.environ else 1))


@dataclass(frozen=True)
class Run:
    fault: str
    bus: Bus
    seed: int
    strike: Fault = field(compare=False, hash=False)
    setting: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)
    """Of the case, besides what the seed draws."""

    def __str__(self) -> str:
        return f"{self.bus.value}-{self.fault.replace(' ', '-')}-{self.seed}"


def runs(fault: str, strike: Fault, *buses: Bus, **setting: Any) -> list[Run]:
    """The fault on each of these buses, with every seed of today."""
    return [Run(fault, bus, seed, strike, setting) for bus in buses for seed in SEEDS]

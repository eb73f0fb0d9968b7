"""One run of one fault on one bus with one seed, and which of them there are.

`make test` takes one seed of each fault, the same every day; `make test-nightly` takes NIGHTLY_SEEDS of each, others
every day. TOWLINE_CHAOS_SEED says which instead; a failure says how its case is run again.
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
    SINGLE = "sqlite-single"
    """Every write in a transaction of its own: a turn can be torn at the same points as on Kafka."""
    SMALL_DISK = "sqlite-small-disk"


def _seeds() -> range:
    """`TOWLINE_CHAOS_SEED=7` is one seed, `7-56` are fifty."""
    first, _, last = os.environ.get("TOWLINE_CHAOS_SEED", "").partition("-")
    if first:
        return range(int(first), int(last or first) + 1)
    if NIGHTLY:
        today = datetime.now(UTC).date().toordinal() * 1000
        return range(today, today + NIGHTLY_SEEDS)
    return range(1, 2)


SEEDS = _seeds()


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

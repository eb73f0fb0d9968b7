"""How often an object is repaired. Pure.

What must hold: drift is repaired at once, but two writers that each insist never make a loop that spins: from the
`PATIENCE`th repair in a row on each next one waits twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 30
"""Repairs in a row at once; the next is taken for a fight with another writer."""
FIRST_WAIT = 2.0
LONGEST_WAIT = 300.0
QUIET = 60.0
"""Seconds without drift, beyond the last wait, after which the count begins anew."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Repairs of one object; times are seconds of a steady clock."""

    repairs: int = 0
    last: float = 0.0

    @property
    def is_fight(self) -> bool:
        return self.repairs > PATIENCE

    @property
    def wait(self) -> float:
        """Seconds from the last repair to the next one."""
        if self.repairs < PATIENCE:
            return 0.0
        return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self.repairs - PATIENCE, 10))

    def due(self, now: float) -> float:
        """Seconds to wait before repairing drift that is seen now."""
        return 0.0 if self.is_over(now) else max(0.0, self.last + self.wait - now)

    def is_over(self, now: float) -> bool:
        return self.repairs > 0 and now - self.last > self.wait + QUIET

    def repaired(self, now: float) -> Contest:
        return Contest(1 if self.is_over(now) else self.repairs + 1, now)

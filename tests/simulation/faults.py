"""Everything that goes wrong in a simulated run, drawn from one seed: delays, lost answers, other orders, and kills.

A killed process is a connection that answers nobody any more: whatever of it still runs can neither write to the log
nor to the ledger, as after `kill -9`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.simulation.stages import Ledger, Work

from towline.bus.port import BusDown, Record, TopicPartition
from towline.delivery.model import EffectContext
from towline.errors import DependencyDown, Retryable
from towline.testing.memory import MemoryBus, MemoryLog


@dataclass
class Faults:
    """`kill_at` counts passages of any step of one incarnation; None lets it live."""

    chance: random.Random
    kill_at: int | None
    trouble: float = 0.03
    """Share of calls that fail or lose their answer."""
    passages: int = 0
    dead: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)
    where: str = ""

    def passed(self, step: str) -> None:
        """One more step; raises CancelledError in a killed process, which nothing catches."""
        if not self.dead:
            self.passages += 1
            if self.kill_at is not None and self.passages >= self.kill_at:
                self.dead = True
                self.where = step
                self.died.set()
        if self.dead:
            raise asyncio.CancelledError

    async def delay(self, most: float) -> None:
        await asyncio.sleep(self.chance.random() * most)
        self.passed("woke")


class FaultyBus(MemoryBus):
    def __init__(self, log: MemoryLog, faults: Faults) -> None:
        super().__init__(log)
        self._faults = faults

    async def reach(self, operation: str, *, done: bool) -> None:
        faults = self._faults
        faults.passed(f"{operation} {'done' if done else 'asked'}")
        if faults.chance.random() < 0.3:
            await faults.delay(0.05)
        if operation != "ensure" and faults.chance.random() < faults.trouble:
            raise BusDown("the answer was lost" if done else "the bus is away")

    def offer(self, behind: Mapping[TopicPartition, int], limit: int) -> list[Record]:
        """A few partitions in any order, each with a few of its next records: no order between topics is kept."""
        chance = self._faults.chance
        some = [at for at in sorted(behind) if chance.random() < 0.6]
        chance.shuffle(some)
        return [record for at in some for record in self.log.after(at, behind[at], chance.randint(1, 4))]


@dataclass
class World:
    """What effects do outside: slowly, now and then in vain, and each under the id it was given."""

    faults: Faults
    ledger: Ledger

    async def do(self, effect: Work, context: EffectContext) -> None:
        chance = self.faults.chance
        await self.faults.delay(2.0)
        trouble = chance.random()
        if trouble < self.faults.trouble:
            raise Retryable("not now")
        if trouble < 2 * self.faults.trouble:
            raise DependencyDown("away", after=0.5)
        self.ledger.write(effect, context.id)
        await self.faults.delay(0.5)

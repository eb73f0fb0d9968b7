"""One member of the service's group, as a process: `python -m tests.chaos.member '<json of Order>'`.

It runs `tally` through the public `Service` and `Process` on the bus it is told. What it is ordered besides makes it
die at a step of the bus port (`mortal.py`), shortens the time after which a silent member is given up, or takes a
protection away, to prove that the checks see that.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import os
import signal
import sys

from pydantic import BaseModel, ConfigDict
from tests.chaos.ledger import Client
from tests.chaos.mortal import Death, Fate
from tests.chaos.tally import Asked, Tally, Ticked, Write, Written, answers, decide, decide_with_a_bug, put_on_map

from towline.bus.open import open_bus
from towline.delivery import holdings
from towline.delivery.model import EffectContext, Service, Source
from towline.delivery.outlast import outlast
from towline.service import Process
from towline.telemetry import log


class Order(BaseModel):
    """What a member is to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    service: str
    bus: str
    ledger: str
    member: str = "a"
    keys: tuple[str, ...] = ()
    ticks: int = 0
    """Numbers that its source emits to each key, again after every start: a source only looks at the world."""
    silent_for_s: float = 6.0
    """After so long without a sign of life the group gives a member up."""
    bug: bool = False
    death: Death | None = None
    unconditional: bool = False
    """Control: effects are done without a condition."""
    unfenced: bool = False
    """Control: what waits to be done outside is done without asking whose the partition is."""
    commits_early: bool = False
    """Control: an offset is committed when its record was only fetched."""


async def run(order: Order) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _say_where)
    put_on_map(order.service)
    _shorten_silence(order.bus, order.silent_for_s)
    if order.unfenced:
        assert hasattr(holdings, "SURE_FOR"), "the control takes nothing away any more"
        setattr(holdings, "SURE_FOR", math.inf)  # noqa: B010 a constant that is imported there
    async with Client(order.ledger, order.member, os.getpid()) as ledger:
        bus = await outlast(order.service, lambda: open_bus(order.bus))
        Fate(ledger, order.death, commits_early=order.commits_early).take(bus)
        try:
            process = Process([_service(order, ledger)], bus, member=order.member)
            running = asyncio.create_task(process.run())
            started = asyncio.create_task(process.started())
            await asyncio.wait((running, started), return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                await ledger.note("ready")
            started.cancel()
            await running
        finally:
            await bus.close()


def _service(order: Order, ledger: Client) -> Service[Tally]:
    async def write(effect: Write, context: EffectContext) -> Written | None:
        await ledger.put(context.id, effect.key, effect.thing, unconditional=order.unconditional)
        return Written(thing=effect.thing) if answers(effect.thing) else None

    async def tick(source: Source, stopping: asyncio.Event) -> None:
        for n in range(1, order.ticks + 1):
            for key in order.keys:
                await source.emit(key, f"tick {key} {n}", Ticked(n=n))
        await stopping.wait()

    return Service(
        name=order.service,
        state=Tally,
        decide=decide_with_a_bug if order.bug else decide,
        effects={Write: write},
        inbox=(Asked, Ticked, Written),
        sources=(tick,),
    )


def _say_where() -> None:
    """For the log of a member that does not end: where each of its tasks is."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


def _shorten_silence(bus: str, seconds: float) -> None:
    """Set the constant of the one adapter that is used; the other need not be loaded."""
    name, constant = (
        ("kafka.consumer", "SESSION_TIMEOUT_MS") if bus.startswith("kafka:") else ("sqlite.lease", "EXPIRES_MS")
    )
    module = importlib.import_module(f"towline.bus.{name}")
    assert hasattr(module, constant), f"{module.__name__} has no {constant} any more"
    setattr(module, constant, int(seconds * 1000))


if __name__ == "__main__":
    log.configure()
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    asyncio.run(run(Order.model_validate_json(sys.argv[1])))

"""One trace from the push to the last notice, over all five services, and logs that carry its id; on both buses."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.simulation.stages import Ledger, Work, expected_effects, stages

from towline import flow
from towline.bus.open import open_bus
from towline.bus.port import Bus
from towline.delivery.model import EffectContext
from towline.telemetry import log as logs
from towline.telemetry import trace
from towline.testing import running

HEADS = {"r0": ["r0h0", "r0h1"]}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.use(provider)
    yield exporter
    trace.use(None)


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    out = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in logs.QUIET}
    logs.configure("info", json=True, stream=out)
    yield out
    root.handlers[:], root.level = before[0], before[1]
    for name, level in before[2].items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bus]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'bus.db'}"
    else:
        url = f"kafka://{request.getfixturevalue('own_kafka')}"
    opened = await open_bus(url)
    yield opened
    await opened.close()


async def test_one_trace_goes_through_all_services_and_their_logs(
    bus: Bus, spans: InMemorySpanExporter, lines: io.StringIO
) -> None:
    ledger, told = Ledger(), asyncio.Event()

    async def do(effect: Work, context: EffectContext) -> None:
        logging.getLogger("test").info("does", extra={"kind": effect.kind, "thing": effect.thing})
        ledger.write(effect, context.id)
        if expected_effects(HEADS) <= ledger.ids.keys():
            told.set()

    async with running(bus, *stages(do, HEADS)):
        await asyncio.wait_for(told.wait(), 60)

    for head in HEADS["r0"]:
        wanted = trace.trace_id_of(f"r0!{head}")
        names = [span.name for span in spans.get_finished_spans() if span.context.trace_id == wanted]
        assert {name.partition(" ")[0] for name in names} >= set(flow.SERVICES)
        effects = ("ci-runner run", "git-watcher land", "reconciler apply", "notifier send")
        assert set(effects) <= set(names)
        for line in map(json.loads, lines.getvalue().splitlines()):
            if line["message"] == "does" and head in line["thing"]:
                assert line["trace"] == f"{wanted:032x}", line
                assert line["change"] == f"r0!{head}"
                assert len(line["event"]) == 32
                assert line["effect"].startswith("effect-")

"""Every line logged on the way of an event says which event, change and trace it is about: turn, effect, its result."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shared.tests.conftest import NOW, Tally, Tell, Told, created, decide

from towline import flow
from towline.bus.sqlite import SqliteBus
from towline.delivery import codec
from towline.delivery.model import Decision, EffectContext, Envelope, Service
from towline.errors import Retryable
from towline.telemetry import trace
from towline.telemetry.log import QUIET, configure
from towline.testing import running

REPO, OTHER = "local/app", "local/other"


def trace_of(repo: str) -> str:
    return f"{trace.trace_id_of(created('h', repo).change):032x}"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root, out = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in QUIET}
    configure("info", json=True, stream=out)
    yield out
    root.handlers[:], root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def said(lines: io.StringIO, message: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, lines.getvalue().splitlines()) if line["message"] == message]


async def test_turn_effect_and_result_say_event_change_and_trace(
    tmp_path: Path, tally: Service[Tally], lines: io.StringIO
) -> None:
    told = asyncio.Event()
    log = logging.getLogger("test")

    def deciding(state: Tally, envelope: Envelope, now: Any) -> Decision[Tally]:
        log.info("decides", extra={"type": type(envelope.event).__name__})
        if isinstance(envelope.event, Told):
            told.set()
        return decide(state, envelope, now)

    async def tell(effect: Tell, context: EffectContext) -> Told:
        log.info("tells")
        if context.tries == 1:
            raise Retryable("token=s3cret is worth another try", after=0)
        return Told(head=effect.head)

    foreign = f"00-{'ab' * 16}-{'cd' * 8}-01"
    bus = await SqliteBus.open(tmp_path / "bus.db")
    async with running(bus, replace(tally, decide=deciding, effects={Tell: tell})):
        for id, head, repo in (("e1", "h1", REPO), ("e2", "poison", OTHER)):
            arrived = Envelope(created(head, repo), id, "/t", NOW, repo, None, foreign, f"w/{repo}", 1)
            await bus.publish([codec.encode(arrived, flow.CHANGES.topic)])
        await asyncio.wait_for(told.wait(), 10)
    await bus.close()

    about = {"service": "notifier", "event": "e1", "change": f"{REPO}!t", "trace": trace_of(REPO)}
    other = {"service": "notifier", "event": "e2", "change": f"{OTHER}!t", "trace": trace_of(OTHER)}
    [turn] = (line for line in said(lines, "decides") if line.get("event") == "e1")
    assert turn.items() >= {**about, "type": "ChangeCreated"}.items()
    for line in (*said(lines, "tells"), *said(lines, "effect tell failed")):
        assert line.items() >= about.items()
        assert line["effect"].startswith("effect-")
    assert len(said(lines, "tells")) == 2
    [result] = (line for line in said(lines, "decides") if line["type"] == "Told")
    assert len(result["event"]) == 32
    assert result["trace"] == trace_of(REPO)
    for message in ("a key is parked: its decision failed", "dead letter"):
        [line] = said(lines, message)
        assert line.items() >= other.items()
    assert "s3cret" not in lines.getvalue()

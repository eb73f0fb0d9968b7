"""What tests of the command line stand on: a home of their own for instances, and a log with real events in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from towline import flow
from towline.bus.open import open_bus
from towline.delivery import codec
from towline.delivery.model import Envelope
from towline.events import Event
from towline_cli import instances

START = datetime(2026, 1, 1, tzinfo=UTC)
Write = Callable[..., Awaitable[None]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where instances live while the test runs."""
    monkeypatch.setenv("TOWLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def shop(home: Path) -> Path:
    """The settings file of an instance named `shop`; its log is not there yet."""
    folder = home / "shop"
    folder.mkdir(parents=True)
    settings = {"bus": f"sqlite:///{folder / 'bus.db'}", "data": str(folder / "data"), "listen": "127.0.0.1:0"}
    (folder / instances.CONFIG).write_text(yaml.safe_dump(settings))
    return folder / instances.CONFIG


@pytest.fixture
def log_of() -> Write:
    """Writes events to the log that a settings file names, one second apart."""

    async def write(config: Path, *events: Event) -> None:
        bus = await open_bus(instances.bus_of(config))
        try:
            await bus.ensure(flow.topics())
            for number, event in enumerate(events):
                stream = flow.stream_of(type(event))
                envelope = Envelope(
                    event=event,
                    id=f"{number:032x}",
                    source=codec.source_of(stream.producer),
                    time=START + timedelta(seconds=number),
                    key=stream.key(event),
                    traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01",
                )
                await bus.publish([codec.encode(envelope, stream.topic)])
        finally:
            await bus.close()

    return write

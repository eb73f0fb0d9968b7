"""What is seen of effects from outside: spans, metrics, what a resource holds, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import ClassVar

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from shared.tests.conftest import Tally, Told, decide

from towline.delivery.effects import LONG_SECONDS, Effects
from towline.delivery.lane import OutboxItem
from towline.delivery.model import Effect, EffectContext, Service
from towline.errors import DependencyDown, Permanent
from towline.events.base import Event
from towline.telemetry import metrics, trace
from towline.telemetry.metrics import Use
from towline.testing import virtual

CHANGE = "local/app!t"


class Call(Effect):
    kind: ClassVar[str] = "call"
    host: str
    change: str | None = None

    @property
    def resource(self) -> str:
        return f"registry {self.host}"


Handler = Callable[[Call, EffectContext], Awaitable[Event | None]]


class Run:
    """Effects of one service, and the context with which each came back."""

    def __init__(self, handler: Handler) -> None:
        self.contexts: dict[str, str | None] = {}
        self.effects = Effects(
            Service("notifier", Tally, decide, effects={Call: handler}, pools={"registry": 1}), self._finished
        )

    async def _finished(self, _lane: str, item: OutboxItem, _: Event | None, context: str | None) -> None:
        self.contexts[item.id] = context

    def start(self, id: str, host: str = "a", *, asker: str | None = None, resumed: bool = False) -> None:
        item = OutboxItem(
            id=id, order=0, kind="call", effect={"host": host}, traceparent=asker, cause="e" * 32, change=CHANGE
        )
        self.effects.start(id, item, resumed=resumed)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.use(provider)
    yield exporter
    trace.use(None)


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    [found] = [span for span in spans.get_finished_spans() if span.name == name]
    return found


def follows(spans: InMemorySpanExporter, context: str | None) -> ReadableSpan:
    """The span of a turn that decides on a result with this context."""
    with trace.span("decides", context, change=CHANGE):
        pass
    return named(spans, "decides")


def is_below(span: ReadableSpan, other: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == other.context.span_id


def links_to(span: ReadableSpan, other: ReadableSpan) -> bool:
    return [link.context.span_id for link in span.links] == [other.context.span_id]


@pytest.mark.parametrize("takes", [1.0, LONG_SECONDS + 1], ids=["short", "long"])
def test_a_result_is_traced_below_a_short_effect_and_beside_a_long_one(
    spans: InMemorySpanExporter, takes: float
) -> None:
    async def do(_: Call, __: EffectContext) -> Told:
        await asyncio.sleep(takes)
        return Told(head="x")

    async def scene() -> str | None:
        run = Run(do)
        with trace.span("asks", None, change=CHANGE) as asker:
            run.start("one", asker=asker)
        await asyncio.sleep(takes + 1)
        return run.contexts["one"]

    decided = follows(spans, virtual.run(scene()))
    asked, called = named(spans, "asks"), named(spans, "notifier call")
    assert is_below(called, asked)
    assert {span.context.trace_id for span in spans.get_finished_spans()} == {trace.trace_id_of(CHANGE)}
    if takes < LONG_SECONDS:
        assert is_below(decided, called)
        assert not decided.links
    else:
        told = named(spans, "Told")
        assert links_to(told, called)
        assert not is_below(told, called)
        assert is_below(decided, told)


def test_an_effect_that_is_begun_again_after_a_restart_links_to_its_asker(spans: InMemorySpanExporter) -> None:
    async def do(_: Call, __: EffectContext) -> Told:
        return Told(head="x")

    async def scene() -> None:
        run = Run(do)
        with trace.span("asks", None, change=CHANGE) as asker:
            run.start("one", asker=asker, resumed=True)
        await asyncio.sleep(1)

    virtual.run(scene())
    asked, called = named(spans, "asks"), named(spans, "notifier call")
    assert links_to(called, asked)
    assert not is_below(called, asked)


def test_a_try_long_after_the_first_links_to_its_asker(spans: InMemorySpanExporter) -> None:
    async def do(_: Call, context: EffectContext) -> Told:
        if context.tries == 1:
            raise DependencyDown("away", after=LONG_SECONDS * 2)
        return Told(head="x")

    async def scene() -> None:
        run = Run(do)
        with trace.span("asks", None, change=CHANGE) as asker:
            run.start("one", asker=asker)
        await asyncio.sleep(LONG_SECONDS * 3)

    virtual.run(scene())
    first, second = (span for span in spans.get_finished_spans() if span.name == "notifier call")
    asked = named(spans, "asks")
    assert is_below(first, asked)
    assert links_to(second, asked)
    assert not is_below(second, asked)


def test_a_registry_that_is_away_delays_no_other_and_is_told_apart_by_its_breaker() -> None:
    async def do(effect: Call, _: EffectContext) -> Told:
        if effect.host == "down":
            raise DependencyDown("away")
        await asyncio.sleep(1)
        return Told(head="x")

    async def scene() -> None:
        run = Run(do)
        for number in range(8):
            run.start(f"down {number}", "down")
        await asyncio.sleep(600)
        assert run.effects.use == {"registry": Use(running=0, waiting=8, open_breakers=1)}
        run.start("up 1", "up")
        run.start("up 2", "up")
        await asyncio.sleep(0.5)
        assert run.effects.use == {"registry": Use(running=1, waiting=9, open_breakers=1)}
        await asyncio.sleep(2)
        assert run.contexts.keys() == {"up 1", "up 2"}

    virtual.run(scene())


def test_nothing_is_kept_of_resources_that_are_done() -> None:
    """A repository names resources (its checks, its mirrors): each name ever heard stayed in memory."""

    async def do(_: Call, context: EffectContext) -> Told:
        if context.tries == 1:
            raise DependencyDown("away for a moment")
        return Told(head="x")

    async def scene() -> None:
        run = Run(do)
        for number in range(500):
            run.start(f"{number}", f"host{number}")
        await asyncio.sleep(60)
        assert len(run.contexts) == 500
        assert len(run.effects._resources) == 0
        assert run.effects.use == {}
        assert run.effects.running == 0

    virtual.run(scene())


def test_a_breaker_is_remembered_while_its_effects_wait() -> None:
    """Forgotten with its last caller's turn, it would be asked by every try anew."""
    asked = 0

    async def do(_: Call, __: EffectContext) -> Told:
        nonlocal asked
        asked += 1
        raise DependencyDown("away", after=1)

    async def scene() -> None:
        run = Run(do)
        run.start("one")
        await asyncio.sleep(3600)
        assert asked < 100

    virtual.run(scene())


def counted(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, {"service": "notifier", "kind": "call", **labels}) or 0.0


def test_tries_and_ends_are_counted() -> None:
    async def do(effect: Call, context: EffectContext) -> Told:
        if effect.host == "wrong":
            raise Permanent("never")
        if context.tries < 3:
            raise DependencyDown("away")
        return Told(head="x")

    async def scene() -> None:
        run = Run(do)
        run.start("right")
        run.start("wrong", "wrong")
        await asyncio.sleep(60)

    names: dict[str, tuple[str, dict[str, str]]] = {
        "retries": ("towline_effect_retries_total", {}),
        "tries": ("towline_effect_seconds_count", {}),
    }
    ends = {end: ("towline_effects_total", {"end": end}) for end in ("done", "failed")}
    before = {what: counted(name, **labels) for what, (name, labels) in {**names, **ends}.items()}
    virtual.run(scene())
    after = {what: counted(name, **labels) for what, (name, labels) in {**names, **ends}.items()}
    assert {what: after[what] - before[what] for what in after} == {"retries": 2, "tries": 4, "done": 1, "failed": 1}

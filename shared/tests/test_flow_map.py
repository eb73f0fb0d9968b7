"""The wiring: what the map says is what the services do.

Three proofs for every event on the map. Its producer makes it and no other service does; each consumer names it in
its code; and each consumer takes the example of it without an error, by its forwards or by `decide`.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from towline import flow
from towline.bus.port import Record
from towline.delivery import codec
from towline.delivery.model import Envelope, Service
from towline.docs.examples import EXAMPLE_OF, EXAMPLES, events_on_map
from towline.docs.wire import record_of
from towline.events import EVENT_TYPES, CandidateCreated, Event
from towline.host import Host
from towline.store import FolderStore

EVENTS = events_on_map()
SENT = [(service, event) for service in flow.SERVICES for event in EVENTS if event in flow.consumed_by(service)]
MADE = [(stream.producer, event) for stream in flow.STREAMS for event in stream.events]


def package(service: str) -> str:
    return f"towline_{service.replace('-', '_')}"


@cache
def sources(service: str) -> tuple[ast.Module, ...]:
    """The service's code, without what it brings for tests."""
    spec = find_spec(package(service))
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = (file for file in sorted(folder.rglob("*.py")) if "testing" not in (file.stem, file.parent.name))
    return tuple(ast.parse(file.read_text(encoding="utf-8")) for file in files)


@cache
def named(service: str) -> frozenset[str]:
    return frozenset(name for tree in sources(service) for name in names_in(tree))


def names_in(tree: ast.Module) -> Iterator[str]:
    """Names that the code uses; an import alone is no use."""
    return (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


@cache
def constructed(service: str) -> frozenset[str]:
    """Names that the service's code calls, or hands on as what is to be called."""

    def found() -> Iterator[str]:
        for tree in sources(service):
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    callee = (node.func, *node.args)
                    yield from (each.id for each in callee if isinstance(each, ast.Name))
                elif isinstance(node, ast.IfExp):
                    yield from (each.id for each in (node.body, node.orelse) if isinstance(each, ast.Name))

    return frozenset(found())


Build = Callable[[str], Service[Any]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Builds a service once, with default settings; at the end all are closed."""
    folder = tmp_path_factory.mktemp("hosts")
    made: dict[str, Service[Any]] = {}

    def build_once(name: str) -> Service[Any]:
        if name not in made:
            made[name] = _built(name, folder)
        return made[name]

    yield build_once

    async def close_all() -> None:
        for service in made.values():
            if service.close is not None:
                await service.close()

    asyncio.run(close_all())


def _built(name: str, folder: Path) -> Service[Any]:
    settings_module = importlib.import_module(f"{package(name)}.settings")
    settings = getattr(settings_module, f"{name.title().replace('-', '')}Settings")()
    own = folder / name
    own.mkdir(exist_ok=True)
    service: Service[Any] = importlib.import_module(f"{package(name)}.service").build(
        settings, Host(FolderStore(folder / "artifacts"), own)
    )
    return service


def arrived(event: Event) -> Envelope:
    written = record_of(event)
    return codec.decode(Record(written.topic, 0, 0, written.key, written.value, written.headers, 0))


def taken(service: Service[Any], envelope: Envelope) -> list[Envelope]:
    """What reaches `decide`: the event itself, or what the service forwards of it."""
    forward = service.forwards.get(type(envelope.event))
    if forward is None:
        return [envelope]
    return [replace(envelope, key=key, event=event) for key, event in forward(envelope)]


def test_every_event_on_the_map_has_an_example_and_every_example_is_on_the_map() -> None:
    assert sorted(event.__name__ for event in EVENTS) == sorted(type(example).__name__ for example in EXAMPLES)


def test_no_event_is_off_the_map() -> None:
    """Events of services' own inboxes are the services' matter; facts that all share stand in towline.events."""
    shared = {event for event in EVENT_TYPES.values() if event.__module__.startswith("towline.events.")}
    assert shared == set(EVENTS)


def test_every_event_has_a_consumer_on_the_map() -> None:
    assert [event.__name__ for stream in flow.STREAMS for event, to in stream.events.items() if not to] == []


def test_no_service_stands_outside_of_the_map() -> None:
    named_on_map = {stream.producer for stream in flow.STREAMS}
    named_on_map |= {service for stream in flow.STREAMS for to in stream.events.values() for service in to}
    assert named_on_map == set(flow.SERVICES)
    assert len({stream.producer for stream in flow.STREAMS}) == len(flow.STREAMS), "one producer, one topic"


def test_every_wait_has_its_end_on_the_map() -> None:
    for start, ends in flow.WAITS.items():
        assert ends
        assert {start, *ends} <= set(EVENTS)
        assert start not in ends


def test_whatever_starts_is_a_wait() -> None:
    beginnings = (".created.", ".queued.", ".started.", ".detected.")
    assert {event for event in EVENTS if any(word in event.type for word in beginnings)} == set(flow.WAITS)


@pytest.mark.parametrize(("start", "ends"), flow.WAITS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_whoever_waits_hears_of_the_end(start: type[Event], ends: tuple[type[Event], ...]) -> None:
    """A service that is told what ends must be told by somebody who knows: the producer of the end."""
    producers = {flow.stream_of(end).producer for end in ends}
    waiting = flow.stream_of(start).producer
    for end in ends:
        heard_by = flow.stream_of(end).events[end]
        assert waiting in heard_by or waiting in producers


def test_the_key_of_every_event_is_a_part_of_it() -> None:
    for example in EXAMPLES:
        key = flow.stream_of(type(example)).key(example)
        assert key
        assert key in example.model_dump(mode="json").values()


@pytest.mark.parametrize(("service", "event"), MADE)
def test_the_producer_on_the_map_makes_the_event(service: str, event: type[Event]) -> None:
    assert event.__name__ in constructed(service)


@pytest.mark.parametrize("service", flow.SERVICES)
def test_no_service_makes_an_event_of_another(service: str) -> None:
    foreign = {event.__name__ for producer, event in MADE if producer != service}
    assert foreign & {name for name in _called(service)} == set()


@cache
def _called(service: str) -> frozenset[str]:
    calls = (node.func for tree in sources(service) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return frozenset(func.id for func in calls if isinstance(func, ast.Name))


@pytest.mark.parametrize(("service", "event"), SENT)
def test_a_consumer_handles_what_the_map_sends_it(service: str, event: type[Event], build: Build) -> None:
    assert event.__name__ in named(service) or event in build(service).forwards


def test_an_event_that_is_only_imported_counts_as_not_handled() -> None:
    """The control of the proof above."""
    assert set(
        names_in(ast.parse("from towline.events import ChangeMerged\nmatch event:\n    case Other(): pass"))
    ) == {
        "event",
        "Other",
    }


@pytest.mark.parametrize("service", flow.CHANGES.events[CandidateCreated])
def test_a_candidate_makes_its_consumers_begin_their_work(service: str, build: Build) -> None:
    built = build(service)
    envelope = arrived(EXAMPLE_OF[CandidateCreated])
    [taken_in] = taken(built, envelope)
    decision = built.decide(built.state(), taken_in, envelope.time)
    assert decision.effects or decision.events


@pytest.mark.parametrize(("service", "event"), SENT)
def test_a_consumer_takes_the_example_without_an_error(service: str, event: type[Event], build: Build) -> None:
    built = build(service)
    envelope = arrived(EXAMPLE_OF[event])
    for each in taken(built, envelope):
        assert type(each.event) is event or type(each.event) in built.inbox
        decision = built.decide(built.state(), each, envelope.time)
        again = built.decide(built.state(), each, envelope.time)
        assert decision == again, "the same decision twice"
        assert all(type(effect) in built.effects for effect in decision.effects)
        made = {type(made) for made in decision.events if flow.on_map(type(made))}
        assert made <= set(next(s for s in flow.STREAMS if s.producer == service).events)


@pytest.mark.parametrize("service", flow.SERVICES)
def test_a_service_takes_a_whole_journey_in_order(service: str, build: Build) -> None:
    built = build(service)
    states: dict[str, Any] = {}
    for example in EXAMPLES:
        if type(example) not in flow.consumed_by(service):
            continue
        envelope = arrived(example)
        for each in taken(built, envelope):
            decision = built.decide(states.get(each.key, built.state()), each, envelope.time)
            states[each.key] = built.state() if decision.state is None else decision.state


@pytest.mark.parametrize("service", flow.SERVICES)
def test_a_service_forwards_only_what_the_map_sends_it(service: str, build: Build) -> None:
    assert set(build(service).forwards) <= flow.consumed_by(service)
    assert not any(flow.on_map(event) for event in build(service).inbox)

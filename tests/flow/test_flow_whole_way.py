"""A commit travels from a push to the cluster through all five services, in one process, on real parts."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from towline import flow
from towline.events import (
    BuildFinished,
    CandidateCreated,
    CandidateRejected,
    ChangeMerged,
    NoticeRendered,
    PipelineRunFinished,
    Purpose,
    ServiceDeployed,
    ServiceUpgraded,
    SyncFinished,
)
from towline.observe import Log
from towline.telemetry import trace
from towline.testing import running
from towline_cli import compose
from towline_cli.application import Applying, application
from towline_cli.demo.receiver import Receiver
from towline_cli.settings import read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from towline_cli.testing import WholeWay

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.use(provider)
    yield exporter
    trace.use(None)
    provider.shutdown()


@asynccontextmanager
async def all_services(way: WholeWay) -> AsyncIterator[Log]:
    """All five in this process, following the way's repository; yields its log once the first state is deployed."""
    settings = read(way.local.config, os.environ)
    bus = await way.open_bus()
    try:
        await bus.ensure(flow.topics())
        services = [compose.build(name, settings) for name in flow.SERVICES]
        async with running(bus, *services):
            await Applying(way.parts.kubeconfig, application(way.name, way.local.repository)).run()
            log = Log(bus)
            mine = way.name
            await log.wait_for(ServiceDeployed, lambda up: up.application.endswith(f"/{mine}"), timeout=60)
            yield log
    finally:
        await bus.close()


async def land(way: WholeWay, log: Log, topic: str, greeting: str) -> ChangeMerged:
    head = way.commit(f"Say {greeting}", greeting)
    way.push(topic)
    merged = await log.wait_for(ChangeMerged, lambda event: event.head == head, timeout=60)
    await log.wait_for(ServiceUpgraded, lambda event: event.revision == merged.landed, timeout=60)
    return merged


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def bus_url(request: pytest.FixtureRequest) -> str | None:
    if request.param == "sqlite":
        return None
    return f"kafka://{request.getfixturevalue('kafka_address')}"


async def test_one_trace_leads_from_the_push_through_all_five_services(
    new_way: Callable[..., WholeWay], spans: InMemorySpanExporter, bus_url: str | None
) -> None:
    with Receiver() as receiver:
        way = new_way(bus=bus_url, webhook=receiver.url)
        async with all_services(way) as log:
            merged = await land(way, log, "traced", "hello, trace")
            await log.wait_for(NoticeRendered, lambda notice: notice.kind == "change-merged", timeout=30)

    wanted = trace.trace_id_of(merged.change)
    inside = [span for span in spans.get_finished_spans() if span.context and span.context.trace_id == wanted]
    services = {span.name.partition(" ")[0] for span in inside}
    assert services >= set(flow.SERVICES)
    told = {type(envelope.event): envelope.traceparent for envelope in log.envelopes}
    for event in (CandidateCreated, PipelineRunFinished, BuildFinished, ChangeMerged, SyncFinished, ServiceUpgraded):
        assert f"{wanted:032x}" in str(told[event]), event.__name__


async def test_what_was_tested_is_what_lands_and_what_runs(new_way: Callable[..., WholeWay]) -> None:
    way = new_way()
    async with all_services(way) as log:
        merged = await land(way, log, "pinned", "hello, pins")
        gate = await log.wait_for(CandidateCreated, lambda event: event.candidate == merged.candidate)
        built = await log.wait_for(BuildFinished, lambda event: event.candidate == merged.candidate)

    assert gate.purpose is Purpose.GATE
    assert way.work.main() == merged.landed
    assert [image.reference for image in merged.images] == [image.reference for image in built.images]
    pins = way.work.git("diff", "--name-only", merged.head, merged.landed, cwd=way.work.remote)
    assert pins.split() == ["deploy/kustomization.yaml"]
    kustomization = way.work.git("show", f"{merged.landed}:deploy/kustomization.yaml", cwd=way.work.remote)
    assert built.images[0].digest in kustomization
    live = way.kubectl("get", "deployment", way.name, "--output=jsonpath={.spec.template.spec.containers[0].image}")
    assert live == merged.images[0].reference


async def test_two_changes_pushed_at_once_land_one_after_the_other(new_way: Callable[..., WholeWay]) -> None:
    way = new_way()
    async with all_services(way) as log:
        first = way.commit("Change the greeting", "hello, first")
        way.push("first")
        second = way.work.commit("Change the colour", {"deploy/settings.yaml": ("blue", "green")})
        way.push("second")
        one = await log.wait_for(ChangeMerged, lambda event: event.head == first, timeout=60)
        two = await log.wait_for(ChangeMerged, lambda event: event.head == second, timeout=60)
        await log.wait_for(ServiceUpgraded, lambda event: event.revision == two.landed, timeout=60)

    assert two.previous == one.landed
    assert way.kubectl("get", "configmap", way.name, "--output=jsonpath={.data.colour}") == "green"


@pytest.mark.parametrize(
    ("edits", "stage", "says"),
    [
        ({"greeting.txt": ("hello", "goodbye")}, "pipeline", "greeting"),
        ({"deploy/deployment.yaml": ("replicas: 0", "replicas: three")}, "pipeline", "deploy/deployment.yaml:6"),
        ({".towline.yaml": ("jobs:", "jobs: [")}, "configuration", ".towline.yaml:"),
        ({".towline.yaml": ("run:", "runs:")}, "configuration", "did you mean `run`"),
        ({"Dockerfile": ("COPY greeting.txt", "COPY missing.txt")}, "image", "missing.txt"),
    ],
    ids=["failing-test", "invalid-manifest", "not-yaml", "unknown-key", "broken-build"],
)
async def test_a_bad_change_is_refused_with_what_and_where_and_main_does_not_move(
    new_way: Callable[..., WholeWay], edits: dict[str, tuple[str, str]], stage: str, says: str
) -> None:
    way = new_way()
    async with all_services(way) as log:
        before = way.work.main()
        head = way.work.commit("Break it", edits)
        way.push("bad")
        rejected = await log.wait_for(CandidateRejected, lambda event: event.head == head, timeout=60)
        assert not [event for event in log.all(ChangeMerged) if event.head == head]

    assert rejected.stage == stage
    assert says in " ".join([rejected.reason, *map(str, rejected.problems)])
    assert way.work.main() == before

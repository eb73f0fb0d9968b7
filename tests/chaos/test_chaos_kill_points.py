"""kill -9 of the one process at any stage, and a restart: the change arrives exactly as without it.

The process kills itself where `towline.killpoint` is told to, so each stage is hit for certain and not by luck. The
change is pushed while nothing runs: every case is also a push during a restart, found by the start-up sweep.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from towline import killpoint
from towline.events import (
    BuildFinished,
    CandidateCreated,
    CandidateRejected,
    ChangeMerged,
    Event,
    PipelineRunFinished,
    ServiceDeployed,
    ServiceUpgraded,
    SyncFinished,
)
from towline.observe import Log
from towline_cli.background import DidNotStart
from towline_cli.demo.receiver import Receiver
from towline_cli.testing import WholeWay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towline_cli import lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

POINTS = [
    "git-watcher stored",
    "git-watcher published dev.cdeventsx.towline-candidate.created.0.1.0",
    "ci-runner received CandidateCreated",
    "ci-runner published dev.cdevents.pipelinerun.queued.0.3.0",
    "ci-runner published dev.cdevents.pipelinerun.finished.0.3.0",
    "image-builder received CandidateCreated",
    "image-builder published dev.cdevents.artifact.packaged.0.3.0",
    "git-watcher received BuildFinished",
    "git-watcher received PipelineRunFinished",
    "git-watcher published dev.cdevents.change.merged.0.3.0",
    "reconciler published dev.cdeventsx.towline-sync.started.0.1.0",
    "reconciler published dev.cdeventsx.towline-sync.finished.0.1.0",
    "reconciler published dev.cdevents.service.upgraded.0.3.0",
    "notifier published dev.cdeventsx.towline-notice.rendered.0.1.0",
    "notifier stored",
]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as listening:
        yield listening


@pytest.fixture(scope="module")
def way(lab_instance: lab.Instance, receiver: Receiver) -> Iterator[WholeWay]:
    """One instance for all cases, its first state deployed, not running."""
    with (
        tempfile.TemporaryDirectory(prefix="towline-chaos-", dir="/var/tmp", ignore_cleanup_errors=True) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        Path(home).chmod(0o711)
        patch.setenv("TOWLINE_HOME", f"{home}/home")
        made = WholeWay("chaos", lab_instance, webhook=receiver.url)
        made.create()
        try:
            made.start()
            asyncio.run(_see(made, ServiceDeployed))
            made.towline.stop()
            yield made
        finally:
            made.close()


async def _see(way: WholeWay, *events: type[Event], head: str = "", revision: str = "") -> Log:
    """The log, once every one of these events of this head or revision is in it."""
    bus = await way.open_bus()
    try:
        log = Log(bus)
        for event in events:
            await log.wait_for(
                event, lambda e: _is_of(e, head, revision) or isinstance(e, CandidateRejected), timeout=60
            )
        return log
    finally:
        await bus.close()


def _is_of(event: Event, head: str, revision: str) -> bool:
    return (not head or getattr(event, "head", "") == head) and (
        not revision or getattr(event, "revision", "") == revision
    )


def _run_until_killed(way: WholeWay, point: str) -> None:
    with suppress(DidNotStart):  # killed before it was ready is killed too
        way.start({killpoint.VARIABLE: point})
    assert way.towline.wait(60) == -signal.SIGKILL, f"{point} was never passed"


@pytest.mark.parametrize("point", POINTS)
def test_a_change_arrives_exactly_once_although_the_process_was_killed(
    way: WholeWay, receiver: Receiver, point: str
) -> None:
    before = way.work.main()
    topic = point.rpartition(" ")[2].replace(".", "-").lower()
    head = way.commit(f"Survive: {point}", f"hello, {point} {os.getpid()}")
    way.push(topic)

    _run_until_killed(way, point)
    way.start()
    try:
        log = asyncio.run(_see(way, ChangeMerged, head=head))
        (merged,) = {event for event in log.all(ChangeMerged) if event.head == head}
        log = asyncio.run(_see(way, SyncFinished, ServiceUpgraded, revision=merged.landed))
    except TimeoutError:
        print(way.local.log.read_text()[-8000:])
        raise
    finally:
        way.towline.stop()

    ids = {envelope.id: envelope.event for envelope in log.envelopes}.values()
    counted = Counter(type(event) for event in ids if _is_of(event, head, ""))
    assert counted[ChangeMerged] == 1
    assert counted[CandidateRejected] == 0
    assert counted[PipelineRunFinished] == counted[CandidateCreated]
    assert counted[BuildFinished] == counted[CandidateCreated]
    synced = Counter(type(event) for event in ids if getattr(event, "revision", "") == merged.landed)
    assert synced[SyncFinished] == 1
    assert synced[ServiceUpgraded] == 1
    assert merged.previous == before
    assert way.work.main() == merged.landed
    live = way.kubectl("get", "deployment", way.name, "--output=jsonpath={.spec.template.spec.containers[0].image}")
    assert live == merged.images[0].reference

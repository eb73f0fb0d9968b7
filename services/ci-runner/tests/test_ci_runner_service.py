"""The service on the SQLite bus with its real jails: a candidate comes in, one verdict goes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from towline import flow, snapshot
from towline.bus.open import open_bus
from towline.bus.port import Bus
from towline.delivery import codec
from towline.delivery.model import Envelope
from towline.delivery.runtime import utc_now
from towline.events import (
    CandidateCreated,
    Event,
    Outcome,
    PipelineRunFinished,
    Purpose,
    TaskRunFinished,
    Verdict,
)
from towline.host import Host
from towline.project.model import Job
from towline.store import FolderStore
from towline.testing import Log, running
from towline_ci_runner.service import build
from towline_ci_runner.settings import CiRunnerSettings

DEPLOYMENT = b"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: hello
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers: [{name: hello, image: hello}]
"""
TESTS = b"""\
import unittest
class GreetingTest(unittest.TestCase):
    def test_a_name_is_greeted(self):
        self.assertEqual(open("greeting").read(), "hello")
"""


class Bench:
    """A bus, a store and the facts that were published."""

    def __init__(self, bus: Bus, store: FolderStore) -> None:
        self.bus = bus
        self.store = store
        self.log = Log(bus)
        self._count = 0

    async def publish(self, event: Event) -> None:
        self._count += 1
        envelope = Envelope(
            event, f"event-{self._count}", "git-watcher", utc_now(), flow.stream_of(type(event)).key(event),
            lane="git-watcher/local/app", sequence=self._count,
        )  # fmt: skip
        await self.bus.publish([codec.fact("git-watcher", envelope)])

    def candidate(self, files: dict[str, bytes], jobs: tuple[Job, ...], **more: object) -> CandidateCreated:
        entries = [snapshot.Entry(path, snapshot.FILE, content) for path, content in files.items()]
        tree = snapshot.tree_id(entries)
        return CandidateCreated.model_validate(
            {
                "repo": "local/app",
                "change": "local/app!topic",
                "target": "main",
                "head": "b" * 40,
                "candidate": "a" * 40,
                "base": "c" * 40,
                "source_tree": tree,
                "snapshot": self.store.put(snapshot.pack(entries)),
                "purpose": Purpose.CHECK,
                "jobs": jobs,
                **more,
            }
        )

    async def finished(self, candidate: str = "a" * 40) -> PipelineRunFinished:
        return await self.log.wait_for(PipelineRunFinished, lambda event: event.candidate == candidate)


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], object]:
    @asynccontextmanager
    async def started() -> AsyncIterator[Bench]:
        store = FolderStore(tmp_path / "artifacts")
        folder = tmp_path / "ci-runner"
        folder.mkdir(exist_ok=True)
        bus = await open_bus(f"sqlite:///{tmp_path}/bus.db", partitions=flow.PARTITIONS)
        try:
            async with running(bus, build(CiRunnerSettings(), Host(store, folder))):
                yield Bench(bus, store)
        finally:
            await bus.close()

    return started


UNIT = Job(name="unit", run=("python3 -m unittest tests",))


async def test_a_good_candidate_is_valid_and_every_task_says_so(start) -> None:  # type: ignore[no-untyped-def]
    async with start() as bench:
        files = {"tests.py": TESTS, "greeting": b"hello", "deploy/app.yaml": DEPLOYMENT.replace(b"REPLICAS", b"2")}
        await bench.publish(bench.candidate(files, (UNIT,), manifests=("deploy",)))
        finished = await bench.finished()
        assert (finished.verdict, finished.outcome, finished.problems) == (Verdict.VALID, Outcome.SUCCESS, ())
        assert 0 < finished.job_seconds < 10
        tasks = {event.task: event for event in bench.log.all(TaskRunFinished)}
        assert {name: event.verdict for name, event in tasks.items()} == dict.fromkeys(
            ("configuration", "lint", "unit"), Verdict.VALID
        )
        assert tasks["unit"].log is not None
        assert b"Ran 1 test" in bench.store.get(tasks["unit"].log)

"""The service on the SQLite bus with its real jails: a candidate comes in, one verdict goes out."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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
    CandidateSuperseded,
    Event,
    Outcome,
    PipelineRunFinished,
    Purpose,
    TaskRunFinished,
    TaskRunStarted,
    Verdict,
)
from towline.host import Host
from towline.project.model import Job
from towline.store import FolderStore
from towline.testing import Log, running
from towline_ci_runner.service import build
from towline_ci_runner.settings import CiRunnerSettings

pytestmark = pytest.mark.whole_service

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


Start = Callable[[], AbstractAsyncContextManager[Bench]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the service on one bus and one folder, as often as it is asked to."""
    bus = await open_bus(f"sqlite:///{tmp_path}/bus.db", partitions=flow.PARTITIONS)
    store = FolderStore(tmp_path / "artifacts")
    (tmp_path / "ci-runner").mkdir()
    bench = Bench(bus, store)

    @asynccontextmanager
    async def started() -> AsyncIterator[Bench]:
        async with running(bus, build(CiRunnerSettings(), Host(store, tmp_path / "ci-runner"))):
            yield bench

    yield started
    await bus.close()


UNIT = Job(name="unit", run=("python3 -m unittest tests",))
SLEEP = Job(name="slow", run=("echo begun", "exec sleep 61100.5"))


def sleeping() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == b"sleep\x0061100.5\0":
                found.append(int(path.parent.name))
    return found


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(0)


async def test_a_good_candidate_is_valid_and_every_task_says_so(start: Start) -> None:
    async with start() as bench:
        files = {"tests.py": TESTS, "greeting": b"hello", "deploy/app.yaml": DEPLOYMENT.replace(b"REPLICAS", b"2")}
        await bench.publish(bench.candidate(files, (UNIT,), manifests=("deploy",)))
        finished = await bench.finished()
        assert (finished.verdict, finished.outcome, finished.problems) == (Verdict.VALID, Outcome.SUCCESS, ())
        assert 0 < finished.job_seconds < 60
        tasks = {event.task: event for event in bench.log.all(TaskRunFinished)}
        assert {name: event.verdict for name, event in tasks.items()} == dict.fromkeys(
            ("configuration", "lint", "unit"), Verdict.VALID
        )
        assert tasks["unit"].log is not None
        assert b"Ran 1 test" in bench.store.get(tasks["unit"].log)

        again = bench.candidate(files, (UNIT,), manifests=("deploy",), candidate="d" * 40)
        await bench.publish(again)
        assert (await bench.finished("d" * 40)).verdict is Verdict.VALID
        assert len(bench.log.all(TaskRunStarted)) == 3


async def test_a_bad_candidate_is_told_what_is_wrong_and_where(start: Start) -> None:
    async with start() as bench:
        files = {"tests.py": TESTS, "greeting": b"bye", "deploy/app.yaml": DEPLOYMENT.replace(b"REPLICAS", b"two")}
        ship = Job(name="ship", run=("true",), needs=("unit",))
        await bench.publish(bench.candidate(files, (UNIT, ship), manifests=("deploy",)))
        finished = await bench.finished()
        assert (finished.verdict, finished.outcome) == (Verdict.INVALID, Outcome.FAILURE)
        manifest, test = sorted(finished.problems, key=lambda problem: problem.check or "")
        assert str(manifest) == (
            "deploy/app.yaml:6: Deployment hello: spec.replicas: expected a whole number, found the text 'two'"
        )
        assert (test.check, test.file, test.line) == ("unit", "tests.py", 4)
        assert test.message.startswith("job unit failed with exit code 1\nFAIL: test_a_name_is_greeted (")
        assert "AssertionError: 'bye' != 'hello'" in test.message
        skipped = await bench.log.wait_for(TaskRunFinished, lambda event: event.task == "ship")
        assert (skipped.verdict, skipped.reason) == (Verdict.SKIPPED, "it needs unit, which did not pass")


async def test_a_superseded_candidate_is_cancelled_with_its_processes(start: Start) -> None:
    async with start() as bench:
        event = bench.candidate({"x": b""}, (SLEEP,))
        await bench.publish(event)
        await until(sleeping)
        shared = event.model_dump(include={"repo", "change", "target", "head", "candidate"})
        await bench.publish(CandidateSuperseded(**shared, reason="a new head was pushed"))
        assert (await bench.finished()).outcome is Outcome.CANCEL
        await until(lambda: not sleeping())


async def test_a_job_cut_off_by_a_restart_is_run_again_and_finishes_once(start: Start) -> None:
    async with start() as bench:
        await bench.publish(bench.candidate({"x": b""}, (SLEEP,)))
        await until(sleeping)
        first = sleeping()
    assert sleeping() == []
    async with start() as bench:
        await until(sleeping)
        assert sleeping() != first
        event = bench.candidate({"x": b""}, (SLEEP,))
        shared = event.model_dump(include={"repo", "change", "target", "head", "candidate"})
        await bench.publish(CandidateSuperseded(**shared, reason="a new head was pushed"))
        await bench.finished()
        assert len(bench.log.all(TaskRunStarted)) == 3
        assert len(bench.log.all(PipelineRunFinished)) == 1


async def test_a_snapshot_that_is_not_stored_is_the_runners_fault(start: Start) -> None:
    async with start() as bench:
        await bench.publish(bench.candidate({"x": b""}, (), snapshot="sha256:" + "9" * 64))
        told = await bench.log.wait_for(TaskRunFinished)
        assert (told.verdict, told.attempt) == (Verdict.ERROR, 1)
        assert "holds nothing under sha256:999" in told.reason


async def test_a_tree_that_leads_out_is_refused_by_every_task(start: Start) -> None:
    async with start() as bench:
        entries = [snapshot.Entry("out", snapshot.SYMLINK, b"/etc/shadow")]
        raw = b"towline-snapshot 1\n120000 3 11\nout/etc/shadow"
        bad = {"source_tree": snapshot.tree_id(entries), "snapshot": bench.store.put(zlib.compress(raw))}
        await bench.publish(bench.candidate({}, (UNIT,), **bad))
        finished = await bench.finished()
        assert finished.verdict is Verdict.INVALID
        assert {problem.check for problem in finished.problems} == {"configuration", "lint", "unit"}
        assert all("outside of the tree" in problem.message for problem in finished.problems)

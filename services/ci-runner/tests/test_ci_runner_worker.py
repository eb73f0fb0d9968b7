"""The jailed processes that check: contained, limited, and there for the next request whatever the last one did."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from towline import snapshot
from towline.cgroup import Hierarchy, Limits, hierarchy
from towline.events import Verdict
from towline.jail import JAIL_UID
from towline_ci_runner.checks.process import Parts, Worker, WorkerBroken, jailed, no_group, plain
from towline_ci_runner.checks.run import verdict_of
from towline_ci_runner.messages import TaskEnded

UID = JAIL_UID + 99
PARTS = Parts("1.37", None)
GOOD = {"deploy/a.yaml": b"apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n"}
MIB = 1 << 20


@pytest.fixture
def groups() -> Iterator[Hierarchy]:
    found = hierarchy(f"towline-test-worker-{os.getpid()}")
    yield found
    found.close()


@asynccontextmanager
async def working(groups: Hierarchy, check: str) -> AsyncIterator[Worker]:
    group = groups.group(check, Limits(memory_bytes=1024 * MIB, processes=64))
    worker = await Worker.start(jailed(check, PARTS, group, UID, warm=False), group, {})
    try:
        yield worker
    finally:
        await worker.end()


async def ask(worker: Worker, files: dict[str, bytes], *, tree: str | None = None, **limits: float) -> dict[str, Any]:
    entries = [snapshot.Entry(path, snapshot.FILE, content) for path, content in files.items()]
    request = {"tree": tree or snapshot.tree_id(entries), "manifests": ["deploy"], "seconds": 10.0}
    return await worker.ask({**request, "memory_bytes": 512 * MIB, **limits}, snapshot.pack(entries))


def confinement(pids: set[int]) -> set[tuple[str, bool]]:
    """(effective uid, whether it is in this process's network) of each Python among the processes."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text().split("\n")
            if status[0].split()[1].startswith("python"):
                uid = next(line for line in status if line.startswith("Uid:")).split()[2]
                found.add((uid, Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()))
    return found


async def test_the_service_checks_in_a_jail_and_a_person_without(groups: Hierarchy) -> None:
    async with working(groups, "lint") as worker:
        assert confinement(worker.child.group.processes()) == {(str(UID), False)}
    worker = await Worker.start(plain("lint", PARTS), no_group(), {})
    assert confinement({worker.child.process.pid}) == {("0", True)}
    await worker.end()


async def test_it_answers_one_request_after_the_other(groups: Hierarchy) -> None:
    async with working(groups, "configuration") as worker:
        for _ in range(3):
            assert await ask(worker, GOOD) == {"problems": [], "notes": [], "broken": None}
        bad = await ask(worker, {"deploy/a.yaml": b"apiVersion: v1\nkind: Namespace\nmetadata: {name: x, nam: y}\n"})
        assert bad["problems"][0]["message"].startswith("Namespace x: metadata.nam: there is no such field here")


async def test_it_checks_the_tree_that_was_asked_for_and_no_other(groups: Hierarchy) -> None:
    async with working(groups, "configuration") as worker:
        answer = await ask(worker, GOOD, tree="0" * 40)
        assert "expected " + "0" * 40 in answer["problems"][0]["message"]


async def test_what_takes_too_long_is_ended_and_the_next_is_answered(groups: Hierarchy) -> None:
    # A pattern of the repository's own that backtracks without end.
    slow = {
        ".yamllint": b"extends: default\nrules: {quoted-strings: {required: false, extra-required: ['(a+)+$']}}\n",
        "deploy/a.yaml": b"---\na: " + b"a" * 40 + b"b\n",
    }
    async with working(groups, "lint") as worker:
        assert await ask(worker, slow, seconds=0.3) == {"died": "the check took longer than 0.3 s and was ended"}
        assert (await ask(worker, GOOD))["problems"] == []
        # The worker, and at most the one yamllint that waits for the next request.
        assert len([pid for pid in worker.child.group.processes() if _is_python(pid)]) <= 2


async def test_what_needs_too_much_memory_is_ended_and_the_next_is_answered(groups: Hierarchy) -> None:
    many = {"deploy/a.yaml": b"a:\n" + b"- {b: c}\n" * 30_000}
    async with working(groups, "configuration") as worker:
        answer = await ask(worker, many, memory_bytes=40 * MIB)
        assert "memory" in answer["died"]
        assert (await ask(worker, GOOD))["problems"] == []


def test_an_answer_is_bounded_and_one_of_another_shape_is_a_broken_process() -> None:
    """A path of control characters made a result that no event could carry, and the repository's lane was parked."""
    path = "deploy/" + "\x01" * 3000
    said = verdict_of("lint", {"problems": [{"message": "m" * 600, "file": path, "line": 1}] * 50})
    assert said["verdict"] is Verdict.INVALID
    assert 0 < len(TaskEnded(run="r", attempt=1, task="lint", **said).model_dump_json()) < 100_000
    for wrong in ({"problems": [{"line": 1}]}, {"problems": 3}, {"problems": [{"message": "m", "line": "x"}]}):
        with pytest.raises(WorkerBroken):
            verdict_of("lint", wrong)


async def test_a_process_that_was_killed_is_told_from_a_finding(groups: Hierarchy) -> None:
    async with working(groups, "configuration") as worker:
        worker.child.group.kill()
        with pytest.raises(WorkerBroken, match="died"):
            await ask(worker, GOOD)
        assert not worker.usable


def _is_python(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("python")
    except OSError:
        return False

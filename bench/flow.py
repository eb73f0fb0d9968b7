"""Figures of the whole way, on real parts: `python bench/flow.py [--quick]` prints one JSON object per line.

    flow.push_to_apply.sqlite, .kafka   Towline's own time from `git push` to the last apply: the whole time less the
                                        union of the time inside declared jobs, the build and the image push
    flow.drift.repair                   from the answer to a change by hand until the cluster shows Git's value again
    flow.memory.idle                    proportional resident memory of `towline up` and its children
    flow.cli.help, .status              wall time of the commands

Floors: the bare tools in a row (git, kustomize, kubectl apply) for the way, one bare server-side apply for the drift,
an empty Python process for the commands; each round runs Towline and its floor one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from towline.events import (
    ArtifactPackaged,
    ArtifactPublished,
    CandidateRejected,
    ChangeMerged,
    Event,
    ServiceDeployed,
    SyncFinished,
    TaskRunFinished,
)
from towline.observe import Log
from towline_cli import lab
from towline_cli.testing import WholeWay

BUILT_IN = frozenset({"configuration", "lint"})
PARTS = frozenset({lab.Part.REGISTRY, lab.Part.KUBERNETES})
Interval = tuple[float, float]


def say(
    figure: str, value: float, unit: str, *, limit: float, floor: float | None = None, **more: float | int | str
) -> bool:
    line: dict[str, object] = {"figure": figure, "value": round(value, 2), "unit": unit}
    if floor is not None:
        line |= {"floor": round(floor, 2), "ratio": round(value / floor, 2)}
    ok = value <= limit
    print(json.dumps({**line, "limit": limit, "ok": ok, **more}), flush=True)
    return ok


def union(intervals: Iterable[Interval]) -> float:
    """Seconds covered by at least one interval."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered


# -- push to apply ----------------------------------------------------------------------------------------------


def _not_ours(log: Log, head: str, pushed: float, applied: float) -> float:
    """Seconds in which a declared job, a build or a push of an image of this head ran."""
    spans: list[Interval] = []
    for envelope in log.envelopes:
        event = envelope.event
        counts = isinstance(event, ArtifactPackaged | ArtifactPublished) or (
            isinstance(event, TaskRunFinished) and event.task not in BUILT_IN
        )
        if counts and getattr(event, "head", "") == head:
            seconds: float = event.seconds  # type: ignore[attr-defined]
            end = envelope.time.timestamp()
            spans.append((max(pushed, end - seconds), min(applied, end)))
    return union(span for span in spans if span[0] < span[1])


async def _one_change(way: WholeWay, log: Log, number: int) -> tuple[float, float]:
    """(Towline's own seconds, all seconds) of one change."""
    head = way.commit(f"Greet {number}", f"hello, world {number} {os.getpid()}")
    pushed = time.time()
    way.push(f"round-{number}")
    merged = await _ended(log, head)
    await log.wait_for(SyncFinished, lambda sync: sync.revision == merged.landed, timeout=60)
    applied = next(
        envelope.time.timestamp()
        for envelope in log.envelopes
        if isinstance(envelope.event, SyncFinished) and envelope.event.revision == merged.landed
    )
    return applied - pushed - _not_ours(log, head, pushed, applied), applied - pushed


async def _ended(log: Log, head: str) -> ChangeMerged:
    def ends(event: Event) -> bool:
        return isinstance(event, ChangeMerged | CandidateRejected) and event.head == head

    event = await log.wait_for(Event, ends, timeout=90)
    if not isinstance(event, ChangeMerged):
        raise SystemExit(f"the change was rejected: {event}")
    return event


def _bare_tools(way: WholeWay, folder: Path, number: int) -> float:
    """The same way with the bare tools in a row: what glue of one's own would cost at least."""
    remote, tree = folder / "bare.git", folder / "tree"
    kustomize, kubectl = str(way.parts.kustomize), str(way.parts.kubectl)
    if not remote.exists():
        _run("git", "clone", "--quiet", "--bare", str(way.local.repository), str(remote))
        _run("git", "clone", "--quiet", str(remote), str(tree))
        _run("git", "config", "user.email", "bench@example.com", cwd=tree)
        _run("git", "config", "user.name", "Bench", cwd=tree)
    (tree / "greeting.txt").write_text(f"hello, bare {number}\n")
    _run("git", "commit", "--quiet", "--all", "--message=Greet", cwd=tree)
    started = time.perf_counter()
    _run("git", "push", "--quiet", "origin", f"HEAD:refs/heads/for/main/{number}", cwd=tree)
    merged = _run("git", "merge-tree", "--write-tree", "main", f"for/main/{number}", cwd=remote).split()[0]
    commit = _run("git", "commit-tree", merged, "-p", "main", "-m", "Land", cwd=remote, **_IDENTITY)
    _run("git", "update-ref", "refs/heads/main", commit.strip(), cwd=remote)
    rendered = _run(kustomize, "build", "deploy", cwd=tree)
    command = (kubectl, "--kubeconfig", str(way.parts.kubeconfig), "apply", "--server-side", "--force-conflicts")
    _run(*command, "--namespace=bench", "--filename=-", stdin=rendered)
    spent = time.perf_counter() - started
    _run("git", "fetch", "--quiet", "origin", cwd=tree)
    _run("git", "reset", "--quiet", "--hard", "origin/main", cwd=tree)
    return spent


_IDENTITY = {f"GIT_{who}_{what}": "bench" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def _run(*command: str, cwd: Path | None = None, stdin: str | None = None, **env: str) -> str:
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, env={**os.environ, **env})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


async def push_to_apply(way: WholeWay, bus: str, rounds: int, limit_ms: float, folder: Path) -> bool:
    opened = await way.open_bus()
    try:
        log = Log(opened)
        await log.wait_for(ServiceDeployed, timeout=60)
        own, whole, floors = [], [], []
        for number in range(rounds + 1):
            mine, all_of_it = await _one_change(way, log, number)
            floor = _bare_tools(way, folder, number)
            if number:  # the first warms caches on both sides
                own.append(mine * 1000)
                whole.append(all_of_it * 1000)
                floors.append(floor * 1000)
    finally:
        await opened.close()
    return say(
        f"flow.push_to_apply.{bus}",
        statistics.median(own),
        "ms",
        limit=limit_ms,
        floor=statistics.median(floors),
        worst=round(max(own), 1),
        with_jobs_and_build=round(statistics.median(whole), 1),
        rounds=rounds,
    )


# -- drift ------------------------------------------------------------------------------------------------------


async def drift(way: WholeWay, rounds: int) -> bool:
    """A ConfigMap's value is changed by hand and watched until Git's value is back."""
    from towline_reconciler.cluster.client import Cluster
    from towline_reconciler.cluster.login import login

    cluster = Cluster(await login(way.parts.kubeconfig))
    path = f"/api/v1/namespaces/default/configmaps/{way.name}"
    bare = f"/api/v1/namespaces/default/configmaps/{way.name}-bare"
    repaired, floors = [], []
    try:
        for number in range(rounds):
            floors.append(1000 * await _timed(cluster, bare, _config_map(f"{way.name}-bare", f"bare {number}")))
            await cluster.apply(path, _config_map(way.name, f"by hand {number}"))
            started = time.perf_counter()
            while (await cluster.get(path))["data"]["colour"] != "blue":
                if time.perf_counter() - started > 10:
                    raise SystemExit("the drift was not repaired within 10 s")
                await asyncio.sleep(0.001)
            repaired.append(1000 * (time.perf_counter() - started))
            await asyncio.sleep(0.2)
    finally:
        await cluster.close()
        way.kubectl("delete", "configmap", f"{way.name}-bare", "--ignore-not-found")
    return say(
        "flow.drift.repair",
        statistics.median(repaired),
        "ms",
        limit=50,
        floor=statistics.median(floors),
        worst=round(max(repaired), 1),
        rounds=rounds,
    )


def _config_map(name: str, colour: str) -> bytes:
    metadata = {"name": name, "namespace": "default"}
    return json.dumps(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"colour": colour}}
    ).encode()


async def _timed(cluster: object, path: str, body: bytes) -> float:
    started = time.perf_counter()
    await cluster.apply(path, body)  # type: ignore[attr-defined]
    return time.perf_counter() - started


# -- memory and commands ----------------------------------------------------------------------------------------


def memory(way: WholeWay) -> bool:
    top = psutil.Process(way.towline.pid)
    tree = [top, *top.children(recursive=True)]
    shares = [process.memory_full_info().pss for process in tree]
    own = top.memory_info().rss / 1e6
    return say("flow.memory.idle", sum(shares) / 1e6, "MB", limit=250, main_rss=round(own, 1), processes=len(tree))


def command(figure: str, rounds: int, *argv: str) -> bool:
    spent, floors = [], []
    for _ in range(rounds):
        floors.append(_wall([sys.executable, "-c", "pass"]))
        spent.append(_wall([str(Path(sys.executable).parent / "towline"), *argv]))
    floor = statistics.median(floors)
    return say(figure, statistics.median(spent), "ms", limit=300, floor=floor, worst=round(max(spent), 1))


def _wall(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - started)


# -- the run ----------------------------------------------------------------------------------------------------


@contextmanager
def running(name: str, parts: lab.Instance, bus: str | None = None) -> Iterator[WholeWay]:
    way = WholeWay(name, parts, bus=bus)
    way.create()
    try:
        way.start()
        yield way
    finally:
        way.close()


def measure(rounds: int, parts: lab.Instance, folder: Path) -> list[bool]:
    told = []
    ticks = 20 if rounds > 5 else 8
    with running("bench-sqlite", parts) as way:
        way.kubectl("create", "namespace", "bench")
        told.append(asyncio.run(push_to_apply(way, "sqlite", rounds, 500, folder / "sqlite")))
        told.append(asyncio.run(drift(way, ticks)))
        time.sleep(2)  # idle means: nothing is under way any more
        told.append(memory(way))
        told.append(command("flow.cli.help", ticks, "--help"))
        told.append(command("flow.cli.status", ticks, "status", "--name", way.name))
    with running("bench-kafka", parts, f"kafka://{parts.kafka}") as way:
        told.append(asyncio.run(push_to_apply(way, "kafka", rounds, 800, folder / "kafka")))
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the whole way on real parts.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if parser.parse_args().quick else 15
    needed = PARTS | {lab.Part.KAFKA, lab.Part.BUILDER}
    lab.ensure(needed)
    parts = lab.Instance(f"bench-{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="towline-bench-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        folder.chmod(0o711)
        os.environ["TOWLINE_HOME"] = str(folder / "home")
        for name in ("sqlite", "kafka"):
            (folder / name).mkdir()
        parts.start(needed)
        try:
            return 0 if all(measure(rounds, parts, folder)) else 1
        finally:
            parts.remove()


if __name__ == "__main__":
    sys.exit(main())

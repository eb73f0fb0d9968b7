"""Figures of the git-watcher: `python bench/git_watcher.py [--quick]`, one JSON object per line.

    git_watcher.candidate   from the end of `git push` to candidate.created: hook, fetch, merge in the jail, snapshot
    git_watcher.pins        from the gate's last verdict to the landing candidate: digests written in the jail
    git_watcher.land        from the landing's last verdict to change.merged: the push with its hooks
    git_watcher.own         the three together: the watcher's part of the way from push to apply

Real Git, real hooks, the real jail, the SQLite bus; the verdicts come at once. Floor of the candidate: a bare
`git fetch` of one commit from the same repository; of the landing: a bare `git push` of one commit to it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from towline.bus.sqlite import SqliteBus
from towline.events import BuildFinished, CandidateCreated, ChangeMerged, Event, PipelineRunFinished, Purpose
from towline_git_watcher.testing import Clone, Line, Verdicts, begin, line

WARM = 2
"""Rounds that are not counted."""


def say(figure: str, value: float, floor: float | None = None) -> None:
    out: dict[str, object] = {"figure": f"git_watcher.{figure}", "value": round(value, 1), "unit": "ms"}
    if floor is not None:
        out |= {"floor": round(floor, 1), "ratio": round(value / floor, 2)}
    print(json.dumps({**out, "ok": True}), flush=True)


def seconds_at(
    running: Line, topic: str, kinds: type[Event] | tuple[type[Event], ...], purpose: Purpose | None
) -> float:
    """When the last event of these kinds was decided."""
    return max(
        each.time.timestamp()
        for each in running.log.envelopes
        if isinstance(each.event, kinds)
        and getattr(each.event, "change", "").endswith(f"!{topic}")
        and getattr(each.event, "purpose", None) == purpose
    )


async def one(running: Line, clone: Clone, number: int) -> tuple[float, float, float]:
    topic = f"change-{number}"
    head = clone.commit(topic, {"app.py": f"print({number})\n"})
    await asyncio.to_thread(clone.push, head, f"refs/heads/for/main/{topic}")
    pushed = time.time()
    await running.log.wait_for(ChangeMerged, lambda each: each.change.endswith(f"!{topic}"))
    verdicts = (PipelineRunFinished, BuildFinished)
    gate = seconds_at(running, topic, CandidateCreated, Purpose.GATE)
    passed = seconds_at(running, topic, verdicts, Purpose.GATE)
    pinned = seconds_at(running, topic, CandidateCreated, Purpose.LANDING)
    checked = seconds_at(running, topic, verdicts, Purpose.LANDING)
    merged = seconds_at(running, topic, ChangeMerged, None)
    return gate - pushed, pinned - passed, merged - checked


def floors(clone: Clone, top: Path, rounds: int) -> tuple[float, float]:
    """Seconds of one bare fetch and one bare push."""
    bare, fetches, pushes = top / "floor.git", [], []
    clone.git("init", "--quiet", "--bare", str(bare))
    for number in range(rounds):
        head = clone.commit(f"floor {number}", {"app.py": f"print(-{number})\n"})
        begun = time.perf_counter()
        clone.git("push", "--quiet", "origin", f"{head}:refs/heads/floor")
        pushes.append(time.perf_counter() - begun)
        command = ["git", f"--git-dir={bare}", "fetch", "--quiet", str(clone.remote), "+refs/heads/*:refs/heads/*"]
        begun = time.perf_counter()
        subprocess.run(command, check=True)
        fetches.append(time.perf_counter() - begun)
        clone.git("push", "--quiet", "origin", ":refs/heads/floor")
    return statistics.median(fetches), statistics.median(pushes)


async def measure(top: Path, rounds: int) -> None:
    clone, bus = begin(top), await SqliteBus.open(top / "bus.db")
    fetch, push = floors(clone, top, rounds)
    async with line(top, bus, clone.remote, Verdicts()) as running:
        await running.until_ready()
        taken = [await one(running, clone, number) for number in range(rounds + WARM)][WARM:]
    await bus.close()
    candidate, pins, land = (statistics.median(each) * 1000 for each in zip(*taken, strict=True))
    own = statistics.median(sum(each) for each in taken) * 1000
    say("candidate", candidate, floor=fetch * 1000)
    say("pins", pins)
    say("land", land, floor=push * 1000)
    say("own", own)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the git-watcher on real Git.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 8 if parser.parse_args().quick else 30
    with tempfile.TemporaryDirectory(prefix="towline-bench-") as made:
        top = Path(made)
        top.chmod(0o755)  # the jailed worker has another uid
        asyncio.run(measure(top, rounds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Runs the effects `job` and `cancel`: a declared job in a sandbox of its own, and its end when nobody wants it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from towline.delivery.model import EffectContext
from towline.errors import Permanent
from towline.events import Verdict
from towline.project.model import seconds_of
from towline.store import ArtifactStore
from towline_ci_runner.messages import CancelRun, RunJob, TaskEnded
from towline_ci_runner.sandbox import report
from towline_ci_runner.sandbox.launch import HOME
from towline_ci_runner.sandbox.sandbox import Done, Order, SandboxBroken
from towline_ci_runner.sandbox.stock import Stock

REMEMBERED = 1000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Cancellations:
    """Which runs nobody waits for any more. A job that comes late (it queued for a slot) finds it here too."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, int] = OrderedDict()
        self._running: dict[tuple[str, int, str], asyncio.Event] = {}

    def cancel(self, run: str, attempt: int) -> None:
        self._until[run] = max(attempt, self._until.get(run, 0))
        self._until.move_to_end(run)
        while len(self._until) > REMEMBERED:
            self._until.popitem(last=False)
        for (name, number, _), event in self._running.items():
            if name == run and number <= attempt:
                event.set()

    def begin(self, effect: RunJob) -> asyncio.Event:
        """Set once the job is cancelled; maybe it already is."""
        event = asyncio.Event()
        if effect.attempt <= self._until.get(effect.run, 0):
            event.set()
        self._running[effect.run, effect.attempt, effect.task] = event
        return event

    def end(self, effect: RunJob, event: asyncio.Event) -> None:
        """The same job may have begun anew meanwhile: its lane was lost and came back."""
        name = (effect.run, effect.attempt, effect.task)
        if self._running.get(name) is event:
            del self._running[name]


class Jobs:
    def __init__(self, store: ArtifactStore, stock: Stock) -> None:
        self._store = store
        self._stock = stock
        self._cancellations = Cancellations()

    async def run(self, effect: RunJob, context: EffectContext) -> TaskEnded:
        del context
        cancelled = self._cancellations.begin(effect)
        try:
            if cancelled.is_set():
                return _ended(effect, Verdict.CANCELLED)
            return await self._run(effect, cancelled)
        except (SandboxBroken, OSError, Permanent) as error:
            # The artifact store, the disk, bubblewrap: not the change's fault, so it is tried again.
            return _ended(effect, Verdict.ERROR, reason=str(error)[:500], infrastructure=True)
        finally:
            self._cancellations.end(effect, cancelled)

    async def cancel(self, effect: CancelRun, context: EffectContext) -> None:
        del context
        self._cancellations.cancel(effect.run, effect.attempt)

    async def _run(self, effect: RunJob, cancelled: asyncio.Event) -> TaskEnded:
        order = Order(
            script="\n".join(effect.job.run) + "\n",
            tree=effect.source_tree,
            archive=await asyncio.to_thread(self._store.get, effect.snapshot),
            env=environment(effect),
            timeout=seconds_of(effect.job.timeout),
        )
        sandbox = await self._stock.take()
        try:
            done = await sandbox.run(order, cancelled)
        finally:
            await self._stock.gone(sandbox)
        return await self._told(effect, done)

    async def _told(self, effect: RunJob, done: Done) -> TaskEnded:
        verdict = report.verdict_of(done)
        failed = verdict is Verdict.INVALID
        return _ended(
            effect,
            verdict,
            problems=(report.problem_of(effect.job, done),) if failed else (),
            exit_code=done.exit_code,
            log=await asyncio.to_thread(self._store.put, done.log) if done.started else None,
            started=done.started,
            seconds=done.seconds,
        )


def environment(effect: RunJob) -> Mapping[str, str]:
    """What the job declares and what Towline says of the candidate; nothing of this process."""
    return {
        "PATH": PATH,
        "HOME": HOME,
        "LANG": "C.UTF-8",
        **effect.job.env,
        "CI": "true",
        "TOWLINE": "true",
        "TOWLINE_REPO": effect.repo,
        "TOWLINE_CHANGE": effect.change,
        "TOWLINE_TARGET": effect.target,
        "TOWLINE_CANDIDATE": effect.candidate,
        "TOWLINE_HEAD": effect.head,
        "TOWLINE_RUN": effect.run,
        "TOWLINE_JOB": effect.job.name,
    }


def _ended(effect: RunJob, verdict: Verdict, **said: object) -> TaskEnded:
    return TaskEnded.model_validate(
        {"run": effect.run, "attempt": effect.attempt, "task": effect.task, "verdict": verdict, **said}
    )

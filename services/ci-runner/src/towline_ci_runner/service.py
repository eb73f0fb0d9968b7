"""Puts ci-runner together: settings and host → service."""

from __future__ import annotations

import asyncio
import logging
import shutil
from functools import partial

from towline import flow
from towline.cgroup import hierarchy
from towline.delivery.model import Service, Source
from towline.host import Host
from towline.ids import digest_of
from towline_ci_runner.checks.run import Checks
from towline_ci_runner.decide import Policy, decide
from towline_ci_runner.jobs import Jobs
from towline_ci_runner.messages import CancelRun, RunCheck, RunJob, TaskEnded
from towline_ci_runner.sandbox.stock import Stock
from towline_ci_runner.settings import CiRunnerSettings
from towline_ci_runner.state import RunnerState

log = logging.getLogger(__name__)


def build(settings: CiRunnerSettings, host: Host) -> Service[RunnerState]:
    """Ends what a runner on the same folder left behind, before this one starts anything."""
    groups = hierarchy(f"towline-ci-runner-{digest_of(str(host.folder.resolve()))[:12]}")
    groups.sweep()
    if groups.weakness is not None:
        log.warning("jobs are limited less than they should be", extra={"because": groups.weakness})
    stock = Stock(groups, settings.limits, settings.ready_sandboxes)
    jobs = Jobs(host.store, stock)
    checks = Checks(settings, host.store, groups)

    async def warm(source: Source, stopping: asyncio.Event) -> None:
        del source  # nothing is emitted: what is started here saves the first candidate's time
        stock.fill()
        checks.fill()
        await stopping.wait()

    async def close() -> None:
        await asyncio.gather(stock.close(), checks.close())
        await asyncio.to_thread(groups.close)

    return Service(
        name=flow.RUNNER,
        state=RunnerState,
        decide=partial(decide, Policy(checks.inputs)),
        effects={RunCheck: checks.run, RunJob: jobs.run, CancelRun: jobs.cancel},
        inbox=(TaskEnded,),
        sources=(warm,),
        pools={"job": settings.parallel_jobs, "check": settings.check_workers},
        ready=_ready,
        close=close,
    )


def _ready() -> str | None:
    missing = [name for name in ("bwrap", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} is not installed; nothing is run without containment"
    return None

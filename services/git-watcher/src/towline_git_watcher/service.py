"""Puts the watcher together: settings and host → service."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from towline import flow
from towline.delivery.model import Service
from towline.host import Host
from towline_git_watcher import messages, secret
from towline_git_watcher.decide import Watched, decide
from towline_git_watcher.effects import Handlers
from towline_git_watcher.hooks.install import Guard, install
from towline_git_watcher.mirror import Mirror
from towline_git_watcher.receiver import Receiver
from towline_git_watcher.settings import GitWatcherSettings, RepositorySettings
from towline_git_watcher.state import WatcherState
from towline_git_watcher.watch import Watch
from towline_git_watcher.worker.pool import Workers

_RECEIVER_SECONDS = 5.0
"""How long hooks wait for the receiver's address before they are made without one."""


def build(settings: GitWatcherSettings, host: Host) -> Service[WatcherState]:
    limits = settings.limits
    host.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    key = secret.load(host.folder)
    mirrors: dict[str, Mirror] = {
        each.repo: Mirror(each, host.folder / "mirrors", seconds=limits.git_seconds, most_changes=limits.open_changes)
        for each in settings.repositories
    }
    workers = Workers(limits, host.folder)
    receiver = Receiver(settings.listen, {repo: secret.repository_key(key, repo) for repo in mirrors})
    handlers = Handlers(mirrors, workers, host.store, key, limits.tree_bytes)
    watches = [
        Watch(mirrors[each.repo], partial(_prepare, each, mirrors[each.repo], workers, receiver, key))
        for each in settings.repositories
    ]
    watched: dict[str, Watched] = {
        each.repo: Watched(host=each.remote.host, branches=each.branches) for each in settings.repositories
    }

    def ready() -> str | None:
        waits = [*(each.waits for each in watches if each.runs), receiver.waits]
        return next((each for each in waits if each is not None), None)

    return Service(
        name=flow.WATCHER,
        state=WatcherState,
        decide=partial(decide, watched),
        effects={
            messages.FetchRefs: handlers.fetch_refs,
            messages.ComputeCandidate: handlers.compute_candidate,
            messages.WritePins: handlers.write_pins,
            messages.Land: handlers.land,
        },
        inbox=(
            messages.RefsHinted,
            messages.RefsRead,
            messages.CandidateComputed,
            messages.CandidateRefused,
            messages.PinsWritten,
            messages.PinsRefused,
            messages.Landed,
            messages.CandidateLost,
        ),
        sources=(receiver.run,),
        watches=tuple(each.run for each in watches),
        ready=ready,
        close=workers.close,
    )


async def _prepare(each: RepositorySettings, mirror: Mirror, workers: Workers, receiver: Receiver, key: bytes) -> None:
    """Before the first look: hooks stand, the worker is warm. Raises BadInput."""
    if each.with_hooks:
        try:
            async with asyncio.timeout(_RECEIVER_SECONDS):
                await receiver.started.wait()
        except TimeoutError:
            pass
        own = secret.repository_key(key, each.repo)
        guard = Guard(each.repo, each.branches, own, receiver.address)
        await asyncio.to_thread(install, Path(each.remote.path), guard)
    await asyncio.to_thread(mirror.open)
    await workers.warm(mirror.objects)

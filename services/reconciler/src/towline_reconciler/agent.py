"""The agent: logs in, follows every Application of the cluster, and lets go of them in order.

It is a watch of the service, so one member of the group runs it: what it does needs no event, and what it saw enters
by `Source.emit`. A merged change is a hint that a branch has moved, for the member that reads it; losing one, when
another is the agent, costs an interval, so it is kept nowhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from towline import git
from towline.delivery.model import Envelope, Source
from towline.delivery.retry import backoff
from towline.errors import BadInput, TowlineError, redact
from towline.events import ChangeMerged, Event
from towline.ids import application_id, digest_of
from towline_reconciler.api.application import GROUP, PLURAL, VERSION, Application
from towline_reconciler.api.install import install
from towline_reconciler.cluster.client import Cluster, Json
from towline_reconciler.cluster.kinds import Kinds
from towline_reconciler.cluster.login import login
from towline_reconciler.cluster.reflector import Reflector
from towline_reconciler.live import LiveObjects
from towline_reconciler.loop import ApplicationLoop
from towline_reconciler.render.pool import Limits, Renderer
from towline_reconciler.report import Report
from towline_reconciler.revision import Revisions
from towline_reconciler.settings import ReconcilerSettings
from towline_reconciler.source import Mirror
from towline_reconciler.sync import Syncer
from towline_reconciler.tools import Tools

log = logging.getLogger(__name__)
_TIDY_SECONDS = 60.0
_MIB = 1 << 20


class Agent:
    """Of one cluster. `run` is the service's source; `ready` says what it waits for."""

    def __init__(self, settings: ReconcilerSettings, folder: Path) -> None:
        self._settings = settings
        self._mirrors_at = folder / "mirrors"
        self._mirrors: dict[str, Mirror] = {}
        limits = Limits(settings.render_seconds, settings.render_memory_mib * _MIB, settings.render_output_mib * _MIB)
        name = digest_of(str(folder.resolve()))[:12]
        self._renderer = Renderer(limits, size=settings.renderers, kustomize=settings.kustomize, name=name)
        self._following: Following | None = None
        self._runs = False
        self._trouble: str | None = None

    def ready(self) -> str | None:
        """What it waits for; nothing while another member of the group is the cluster's agent."""
        if not self._runs:
            return None
        if self._trouble is not None or self._following is None:
            return self._trouble
        return self._following.trouble()

    def hints(self, envelope: Envelope) -> Iterable[tuple[str, Event]]:
        """A merged change: the applications that follow its branch look at once. Nothing enters the inbox."""
        event = envelope.event
        if isinstance(event, ChangeMerged) and self._following is not None:
            self._following.moved(event.repo, event.target)
        return ()

    async def run(self, source: Source, stopping: asyncio.Event) -> None:
        tries = 0
        self._runs, self._trouble = True, "has not logged into the cluster yet"
        try:
            while not stopping.is_set():
                try:
                    await self._serve(source, stopping)
                except TowlineError as error:
                    tries += 1
                    if self._trouble != str(error):
                        log.warning("the cluster cannot be followed now", extra={"error": str(error)})
                    self._trouble = str(error)
                    await _until(stopping, backoff(tries, self._settings.cluster))
        finally:
            self._runs = False
            await self._renderer.close()

    async def _serve(self, source: Source, stopping: asyncio.Event) -> None:
        """Until stopping. Raises TowlineError when it cannot begin."""
        await self._renderer.start()
        cluster = Cluster(await login(self._settings.kubeconfig, self._settings.context))
        try:
            if self._settings.install_crd:
                await install(cluster)
            following = Following(self._settings, cluster, source, self._renderer, self._mirror)
            self._following, self._trouble = following, None
            try:
                await following.run(stopping)
            finally:
                self._following = None
                await following.close()
        finally:
            await cluster.close()

    def _mirror(self, url: str) -> Mirror:
        if url not in self._mirrors:
            self._mirrors[url] = Mirror(url, self._mirrors_at)
        return self._mirrors[url]


class Following:
    """One login's worth of work: the watch of Applications and a loop for each."""

    def __init__(
        self,
        settings: ReconcilerSettings,
        cluster: Cluster,
        source: Source,
        renderer: Renderer,
        mirror: Callable[[str], Mirror],
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._source = source
        self._renderer = renderer
        self._mirror = mirror
        live = LiveObjects(cluster, settings.namespaces)
        self._tools = Tools(
            cluster=cluster,
            kinds=Kinds(cluster),
            live=live,
            syncer=Syncer(cluster, live, requests=settings.requests),
            slots=asyncio.Semaphore(settings.concurrency),
            interval=settings.interval,
        )
        self._loops: dict[str, ApplicationLoop] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        base = f"/apis/{GROUP}/{VERSION}"
        paths = [f"{base}/namespaces/{each}/{PLURAL}" for each in settings.namespaces] or [f"{base}/{PLURAL}"]
        self._reflectors = [Reflector(cluster, path, self) for path in paths]

    async def run(self, stopping: asyncio.Event) -> None:
        watches = [asyncio.create_task(each.run(), name="watch Applications") for each in self._reflectors]
        try:
            while not stopping.is_set():
                await _until(stopping, _TIDY_SECONDS)
                self._tools.live.retain({each for loop in self._loops.values() for each in loop.resources})
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), *self._closing, return_exceptions=True)
        await self._tools.live.close()

    def trouble(self) -> str | None:
        for reflector in self._reflectors:
            if reflector.trouble is not None:
                return f"Applications cannot be listed: {reflector.trouble}"
        troubled = sorted(key for key, loop in self._loops.items() if loop.trouble is not None)
        if not troubled:
            return None
        more = f" (and {len(troubled) - 1} more)" if len(troubled) > 1 else ""
        return f"application {troubled[0]}{more}: {self._loops[troubled[0]].trouble}"

    def moved(self, repo: str, branch: str) -> None:
        for loop in self._loops.values():
            if loop.report.repo == repo and loop.application.spec.source.branch == branch:
                loop.hint()

    # -- what the watch of Applications tells -------------------------------------------------------------------

    def changed(self, live: Json) -> None:
        try:
            application = Application.of(live)
        except ValidationError as error:
            meta = live["metadata"]
            said = redact(str(error.errors(include_input=False, include_url=False)[0]["msg"]))
            log.error(  # noqa: TRY400 - its text could quote the resource
                "an Application cannot be read by this version",
                extra={"application": f"{meta.get('namespace')}/{meta['name']}", "error": said},
            )
            return
        loop = self._loops.get(application.key)
        if loop is None:
            self._begin(application)
        elif loop.application.uid != application.uid:
            self._end(application.key)
            self._begin(application)
        else:
            loop.report.repo = _repo_of(application)
            loop.update(application)

    def deleted(self, live: Json) -> None:
        meta = live["metadata"]
        key = f"{meta['namespace']}/{meta['name']}"
        loop = self._loops.get(key)
        if loop is not None and loop.application.uid == meta["uid"]:
            loop.report.gone()
            self._end(key)

    def listed(self) -> None:
        """Every Application was told one by one."""

    def _begin(self, application: Application) -> None:
        id = application_id(self._settings.cluster, application.namespace, application.name)
        report = Report(self._cluster, self._source, application, id=id, repo=_repo_of(application))
        loop = ApplicationLoop(application, self._tools, self._revisions, report)
        self._loops[application.key] = loop
        self._tasks[application.key] = asyncio.create_task(self._run(loop), name=f"follow {application.key}")

    def _end(self, key: str) -> None:
        self._loops.pop(key)
        task = self._tasks.pop(key)
        task.cancel()
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _run(self, loop: ApplicationLoop) -> None:
        """A loop that ends by a bug begins again, with back-off: one application must not go unwatched."""
        tries = 0
        try:
            while True:
                try:
                    await loop.run()
                    return
                except Exception:
                    tries += 1
                    log.exception("following an application ended by a bug", extra={"tries": tries})
                    await asyncio.sleep(backoff(tries, loop.application.key))
        finally:
            await loop.close()

    def _revisions(self, application: Application) -> Revisions:
        return Revisions(
            self._mirror(application.spec.source.url),
            self._renderer,
            self._tools.kinds,
            most_bytes=self._settings.source_mib * _MIB,
            namespaces=self._settings.namespaces,
        )


def _repo_of(application: Application) -> str:
    source = application.spec.source
    if source.id:
        return source.id
    try:
        return git.repo_id(source.url)
    except BadInput:
        return "unknown"


async def _until(stopping: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()

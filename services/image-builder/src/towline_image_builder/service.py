"""Puts the image-builder together: settings and host → service."""

from __future__ import annotations

from functools import partial

import httpx

from towline import cgroup, flow
from towline.delivery.model import Service
from towline.host import Host
from towline.ids import digest_of
from towline_image_builder.bases import Bases, Source
from towline_image_builder.build.buildah import Buildah
from towline_image_builder.build.handler import Builds
from towline_image_builder.build.prepare import Checkouts
from towline_image_builder.build.scratch import remove_now
from towline_image_builder.decide import Target, decide
from towline_image_builder.messages import Build, Cancel, ImageBuilt, ImageFailed, ImageLost, ImagePushed, Push
from towline_image_builder.registry.client import Registry
from towline_image_builder.registry.push import Pusher
from towline_image_builder.settings import BaseSource, ImageBuilderSettings
from towline_image_builder.state import BuilderState

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)


def build(settings: ImageBuilderSettings, host: Host) -> Service[BuilderState]:
    http = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, headers={"user-agent": "towline"})
    groups = cgroup.hierarchy(f"towline-build-{digest_of(str(host.folder.resolve()))[:12]}")
    groups.sweep()  # builds of a process that was killed
    remove_now(host.folder / "builds")
    to = settings.registry
    target = None if to is None else Target(to.address, to.prefix)
    registry = None if to is None else Registry(to, http)
    most_image_bytes = settings.limits.image_mib << 20
    checkouts = Checkouts(host.folder / "builds", groups)
    buildah = Buildah(settings, host.folder, groups)
    builds = Builds(
        store=host.store,
        folder=host.folder,
        bases=Bases(host.folder / "bases", _sources(settings, registry, http), most_bytes=most_image_bytes),
        buildah=buildah,
        checkouts=checkouts,
        registry=registry,
        most_image_bytes=most_image_bytes,
    )

    async def close() -> None:
        await builds.close()
        await http.aclose()
        groups.close()

    return Service(
        name=flow.BUILDER,
        state=BuilderState,
        decide=partial(decide, target),
        effects={Build: builds.build, Cancel: builds.cancel, Push: Pusher(registry, builds.kept).push},
        inbox=(ImageBuilt, ImageFailed, ImagePushed, ImageLost),
        pools={"builds": settings.parallel_builds, "registry": settings.parallel_pushes},
        ready=buildah.missing,
        close=close,
    )


def _sources(settings: ImageBuilderSettings, registry: Registry | None, http: httpx.AsyncClient) -> list[Source]:
    """Where bases may come from; the registry that is pushed to comes first, with its own login."""
    found = []
    if settings.registry is not None and registry is not None:
        found.append(Source(BaseSource(address=settings.registry.address), registry))
    for each in settings.bases:
        found.append(Source(each, Registry(each.mirror or each, http)))
    return found

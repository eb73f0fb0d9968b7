"""`towline up`: all services in one process, on an instance that is made where there is none."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from towline.errors import BadInput
from towline_cli import local_registry
from towline_cli.lab import progress_on
from towline_cli.lab.cache import Cache
from towline_cli.local import LocalInstance, Surroundings

if TYPE_CHECKING:
    from towline_cli.application import Applying

BUSES = ("sqlite:///", "kafka://")


def up(
    *, config: Path | None, name: str, bus: str | None = None, registry: str | None = None, cluster: Path | None = None
) -> None:
    """Runs until SIGTERM or SIGINT, then drains."""
    given = {"--bus": bus, "--registry": registry, "--kubeconfig": cluster}
    told = [flag for flag, value in given.items() if value is not None]
    if config is not None:
        if told:
            raise BadInput(f"{told[0]} goes into the settings file when one is given: {config}")
        asyncio.run(_run(config, None))
        return
    instance = LocalInstance(name)
    with instance.only():
        if not instance.exists():
            make(instance, bus, registry, cluster)
        elif told:
            raise BadInput(f"instance {name!r} is there already; instead of {told[0]}, edit {instance.config}")
        with local_registry.running(instance):
            asyncio.run(_run(instance.config, instance))


def make(instance: LocalInstance, bus: str | None, registry: str | None, cluster: Path | None) -> None:
    if bus is not None and not bus.startswith(BUSES):
        raise BadInput(f"{bus!r} is no bus; expected sqlite:///<path> or kafka://<host:port>")
    if cluster is not None and not cluster.is_file():
        raise BadInput(f"there is no kubeconfig {cluster}")
    if registry is None:
        from rich.console import Console

        local_registry.install(progress_on(Console(stderr=True)))
        registry = local_registry.prepare(instance)
    kubeconfig = cluster.absolute() if cluster else None
    kustomize = Cache.default().kustomize()
    instance.create(Surroundings(registry=registry, kubeconfig=kubeconfig, bus=bus, kustomize=kustomize))


async def _run(config: Path, instance: LocalInstance | None) -> None:
    from towline import flow
    from towline_cli import compose
    from towline_cli.settings import read

    settings = read(config, os.environ)
    # Without a cluster there is nothing to reconcile, and a service that can never be ready says nothing to anybody.
    deploys = instance is None or settings.reconciler.kubeconfig is not None
    names = flow.SERVICES if deploys else tuple(name for name in flow.SERVICES if name != flow.RECONCILER)
    applying = _applying(instance, settings.reconciler.kubeconfig)
    background: list[asyncio.Task[None]] = []

    def started(address: str) -> None:
        if instance is None:
            return
        if applying is not None:
            background.append(asyncio.create_task(applying.run()))
        instance.ready.write_text(f"{address}\n", encoding="ascii")
        registry = settings.image_builder.registry
        cluster = settings.reconciler.kubeconfig
        for line in greeting(instance, registry.address if registry else None, cluster, settings.bus, address):
            sys.stdout.write(line + "\n")
        sys.stdout.flush()

    try:
        await compose.run(names, settings, on_started=started, ready=applying.waits if applying else None)
    finally:
        if instance is not None:
            instance.ready.unlink(missing_ok=True)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


def _applying(instance: LocalInstance | None, kubeconfig: Path | None) -> Applying | None:
    if instance is None or kubeconfig is None:
        return None
    from towline_cli.application import Applying, application

    return Applying(kubeconfig, application(instance.name, instance.repository))


def greeting(
    instance: LocalInstance, registry: str | None, cluster: Path | None, bus: str, health: str
) -> Sequence[str]:
    """Where everything is, and what to do next."""
    places = {
        "repository": str(instance.repository),
        "registry": registry or "none",
        "cluster": str(cluster) if cluster else "none; a new instance follows one with --kubeconfig",
        "bus": bus,
        "health": f"http://{health}/readyz",
        "settings": str(instance.config),
    }
    return [
        f"Towline runs: instance {instance.name}",
        *(f"  {what:<11} {where}" for what, where in places.items()),
        "Next:",
        f"  git clone {instance.repository} app && cd app      # change something, commit it",
        "  git push origin HEAD:refs/heads/for/main/my-topic",
        f"  towline status --name {instance.name}",
        f"  towline trace my-topic --name {instance.name}",
        "Ctrl-C stops it; what is under way goes on with the next start.",
    ]

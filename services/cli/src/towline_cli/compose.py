"""The composition root: the one place where services, bus and settings meet."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Iterable
from typing import Any

from towline import flow
from towline.bus.open import open_bus
from towline.delivery.model import Service
from towline.errors import BadInput
from towline.host import Host
from towline.ids import digest_of
from towline.service import Process
from towline.store import FolderStore
from towline.telemetry.log import configure
from towline_cli.settings import TowlineSettings

log = logging.getLogger(__name__)


def build(name: str, settings: TowlineSettings) -> Service[Any]:
    """One service, ready to be run. Imports only that service: a reconciler needs no Git gate in memory."""
    data = settings.data.resolve()
    folder = data / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    host = Host(FolderStore(data / "artifacts"), folder)
    return _builders()[name](settings, host)


def _builders() -> dict[str, Callable[[TowlineSettings, Host], Service[Any]]]:
    def watcher(settings: TowlineSettings, host: Host) -> Service[Any]:
        from towline_git_watcher.service import build

        return build(settings.git_watcher, host)

    def runner(settings: TowlineSettings, host: Host) -> Service[Any]:
        from towline_ci_runner.service import build

        return build(settings.ci_runner, host)

    def builder(settings: TowlineSettings, host: Host) -> Service[Any]:
        from towline_image_builder.service import build

        return build(settings.image_builder, host)

    def reconciler(settings: TowlineSettings, host: Host) -> Service[Any]:
        from towline_reconciler.service import build

        return build(settings.reconciler, host)

    def notifier(settings: TowlineSettings, host: Host) -> Service[Any]:
        from towline_notifier.service import build

        return build(settings.notifier, host)

    return dict(zip(flow.SERVICES, (watcher, runner, builder, reconciler, notifier), strict=True))


async def run(
    names: Iterable[str],
    settings: TowlineSettings,
    *,
    on_started: Callable[[str], None] = lambda _: None,
    ready: Callable[[], str | None] | None = None,
) -> None:
    """Run services until a signal. `on_started` gets the health address once every service reads its topics; `ready`
    says what keeps the whole from being ready besides its services, None for nothing."""
    configure(settings.log_level)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o711)
    bus = await open_bus(settings.bus, partitions=flow.PARTITIONS, kafka=settings.kafka)
    try:
        services = [build(name, settings) for name in names]
        process = Process(
            services,
            bus,
            listen=address_of(settings.listen),
            ready=ready,
            member=member_of(settings),
            watchdog=True,
        )
        teller = asyncio.create_task(_tell(process, on_started))
        try:
            await process.run()
        finally:
            teller.cancel()
            told = await asyncio.gather(teller, return_exceptions=True)
        if isinstance(told[0], Exception):
            raise told[0]
    finally:
        await bus.close()


async def _tell(process: Process, on_started: Callable[[str], None]) -> None:
    await process.started()
    host, port = process.address or ("", 0)
    try:
        on_started(f"{host}:{port}")
    except BaseException:
        process.stop()  # whoever waits to be told would wait for ever
        raise


def member_of(settings: TowlineSettings) -> str:
    """The process's name within its groups: of a Pod the Pod's, of several processes on a host one for each `data`."""
    if settings.member:
        return settings.member
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:80]
    return f"{host}-{digest_of(str(settings.data.resolve()))[:6]}"


def address_of(text: str) -> tuple[str, int]:
    """`host:port`; raises BadInput."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise BadInput(f"{text!r} is no address; expected host:port, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)

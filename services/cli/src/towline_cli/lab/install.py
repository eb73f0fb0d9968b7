"""Owns what each part needs installed, in which order, and what is said about it before.

The rule that must hold: `ensure` can be called any number of times; what is there and current is left alone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING

from towline_cli.lab import base_image, build_user, debian, go_parts, kafka_jars, pause
from towline_cli.lab.cache import Cache
from towline_cli.lab.command import interrupt_all
from towline_cli.lab.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from towline_cli.lab.progress import Progress


class Part(StrEnum):
    """The real parts Towline can install; the first three can also be started in an instance."""

    REGISTRY = "registry"
    KUBERNETES = "kubernetes"
    KAFKA = "kafka"
    BUILDER = "builder"


ALL = frozenset(Part)


def _needs_debian(parts: Collection[Part]) -> bool:
    return bool(set(parts) - {Part.KAFKA}) and (bool(debian.missing()) or debian.is_unfinished())


def plan(parts: Collection[Part] = ALL, cache: Cache | None = None) -> list[str]:
    """One sentence per thing that `ensure` would install or change now; empty when all is there."""
    cache = cache or Cache.default()
    sentences = []
    if _needs_debian(parts):
        names = ", ".join(debian.missing()) or "none; puts back what an installation that was killed left changed"
        sentences.append(f"Installs Debian packages, without starting their services: {names}.")
    if Part.BUILDER in parts and not build_user.is_there():
        sentences.append(
            f"Adds the system user {build_user.NAME} with {build_user.COUNT} subordinate ids: image builds run as it."
        )
    if Part.KUBERNETES in parts and not go_parts.is_there(cache):
        sentences.append(f"Builds Kubernetes and Kustomize from Go modules, once, about 6 minutes, into {cache.bin}.")
    if Part.KUBERNETES in parts and not pause.is_there(cache):
        sentences.append("Compiles the pause image that every pod's sandbox runs.")
    if Part.BUILDER in parts and not base_image.is_there(cache):
        sentences.append(f"Makes a Debian base image with Python, once, about 40 seconds, in {cache.base_image}.")
    if Part.KAFKA in parts and not kafka_jars.is_there(cache):
        sentences.append(f"Fetches Apache Kafka with Maven, once, 43 MB, into {cache.kafka}.")
    return sentences


def ensure(parts: Collection[Part] = ALL, progress: Progress | None = None, cache: Cache | None = None) -> None:
    """Installs what `parts` need and is not there; one process at a time on one cache.

    Raises `LabError` naming the part that failed.
    """
    cache, progress = cache or Cache.default(), progress or Silent()
    if not plan(parts, cache):
        return
    with cache.lock():
        if _needs_debian(parts):
            with progress.step("Debian packages"):
                debian.install(cache)
        if Part.BUILDER in parts:
            build_user.install()
        if Part.KUBERNETES in parts:
            pause.install(cache)
        # The Go build keeps both cores busy for minutes; the other two mostly wait for the network.
        pool = ThreadPoolExecutor(max_workers=2)
        try:
            for each in [pool.submit(each, cache, progress) for each in _slow(parts, cache)]:
                each.result()
        except BaseException:
            # One failed, or Ctrl-C: nobody waits for the minutes that the others would still take.
            pool.shutdown(wait=False, cancel_futures=True)
            interrupt_all()
            raise
        finally:
            pool.shutdown()


def _slow(parts: Collection[Part], cache: Cache) -> list[Callable[[Cache, Progress], None]]:
    candidates = (
        (Part.KUBERNETES, go_parts.is_there, _build_kubernetes),
        (Part.BUILDER, base_image.is_there, _make_base_image),
        (Part.KAFKA, kafka_jars.is_there, _fetch_kafka),
    )
    return [work for part, is_there, work in candidates if part in parts and not is_there(cache)]


def _build_kubernetes(cache: Cache, progress: Progress) -> None:
    with progress.step("Kubernetes, from source") as step:
        go_parts.install(cache, step)


def _make_base_image(cache: Cache, progress: Progress) -> None:
    with progress.step("Debian base image") as step:
        base_image.install(cache, step)


def _fetch_kafka(cache: Cache, progress: Progress) -> None:
    with progress.step("Kafka"):
        kafka_jars.install(cache)

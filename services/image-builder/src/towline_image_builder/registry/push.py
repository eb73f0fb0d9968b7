"""Does `Push`: an image kept on this machine goes to the registry by digest, then gets the tag of its content key.

Repeating it is harmless: what the registry has is not sent again, and the tag only appears once all is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from towline.delivery.model import EffectContext
from towline.errors import Permanent
from towline_image_builder import layout
from towline_image_builder.messages import ImageLost, ImagePushed, Push
from towline_image_builder.registry.client import Registry

_AT_ONCE = 4


def tag_of(key: str) -> str:
    """The tag that finds an image by its content key; it also keeps the image from being collected as untagged."""
    return f"key-{key}"


class Pusher:
    def __init__(self, registry: Registry | None, kept: Callable[[str], Path]) -> None:
        self._registry = registry
        self._kept = kept

    async def push(self, effect: Push, _: EffectContext) -> ImagePushed | ImageLost:
        """Raises what the registry's client raises."""
        registry = self._registry
        if registry is None or effect.registry != registry.address:
            raise Permanent(f"the registry {effect.registry} is no longer the one that images are pushed to")
        started = monotonic()
        image = await asyncio.to_thread(layout.load, self._kept(effect.key))
        if image is None or image.digest != effect.digest:
            return ImageLost(build=effect.build)
        slots = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in {each.digest: each for each in image.blobs}.values():
                    group.create_task(_send(registry, effect.repository, image, blob, slots))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        await registry.put_manifest(effect.repository, image.digest, image.manifest)
        await registry.put_manifest(effect.repository, tag_of(effect.key), image.manifest)
        return ImagePushed(build=effect.build, seconds=monotonic() - started)


async def _send(
    registry: Registry, repository: str, image: layout.KeptImage, blob: layout.Descriptor, slots: asyncio.Semaphore
) -> None:
    here = f"{registry.address}/"
    homes = image.near.get(blob.digest, ())
    near = tuple(home.removeprefix(here) for home in homes if home.startswith(here))
    async with slots:
        with image.open(blob) as source:
            await registry.push_blob(repository, blob.digest, blob.size, source, near)

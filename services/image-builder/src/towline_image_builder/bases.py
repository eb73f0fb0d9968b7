"""Base images: where they may come from, what they are today, and fetching them before there is no network.

Owns `bases/` of the service's folder: one OCI layout per manifest digest, whole or not there. Rules that must hold:

- Only registries and paths that the operator allows are asked; a credential goes to its own registry alone.
- What is fetched is checked by digest and bounded in size; a build sees the layout, never the registry.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towline.errors import BadInput, Permanent
from towline.ids import is_digest
from towline_image_builder import reference
from towline_image_builder.architecture import ARCHITECTURE, PLATFORM
from towline_image_builder.layout import (
    CONFIG_TYPE,
    LAYER_TYPE,
    LAYER_TYPES,
    Descriptor,
    LayerTable,
    add_blob,
    blob_path,
    descriptor,
    write_index,
)
from towline_image_builder.reference import Reference
from towline_image_builder.registry.client import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    Registry,
)
from towline_image_builder.settings import BaseSource

_AS_OCI = {
    "application/vnd.docker.container.image.v1+json": CONFIG_TYPE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": f"{LAYER_TYPE}+gzip",
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TYPE,
}
"""Docker's older names of the same contents."""
MOST_LAYERS = 128


@dataclass(frozen=True, slots=True)
class Source:
    """A registry that bases come from, and the path below which they may lie."""

    settings: BaseSource
    registry: Registry

    def offers(self, wanted: Reference) -> bool:
        path = self.settings.path.rstrip("/")
        inside = not path or wanted.repository == path or wanted.repository.startswith(f"{path}/")
        return wanted.registry == self.settings.address and inside

    def __str__(self) -> str:
        return f"{self.settings.address}/{self.settings.path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class ResolvedBase:
    """A base as it is today; `digest` is of the manifest for this platform."""

    wanted: Reference
    source: Source
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest


@dataclass(frozen=True, slots=True)
class FetchedBase:
    """A base on this machine: `layout` is an OCI layout with it alone, `image` the id that builders give it."""

    digest: str
    layout: Path
    image: str
    layers: LayerTable
    home: str
    """`<registry>/<repository>` that it came from."""


class Bases:
    """Resolves and fetches; asked for the same base twice at once, it fetches once."""

    def __init__(self, folder: Path, sources: Sequence[Source], *, most_bytes: int) -> None:
        self._folder = folder
        self._sources = tuple(sources)
        self._most_bytes = most_bytes
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def resolve(self, text: str) -> ResolvedBase:
        """Raises BadInput for what its author can mend, and what the registry's client raises."""
        wanted = reference.parse(text)
        source = next((each for each in self._sources if each.offers(wanted)), None)
        if source is None:
            known = ", ".join(map(str, self._sources)) or "none"
            raise BadInput(
                f"the base {text} comes from {wanted.name}, which is not allowed; allowed are: {known} "
                "(image_builder.bases names them)"
            )
        found = await source.registry.manifest(wanted.repository, wanted.wanted)
        if found is not None and found.media_type in (OCI_INDEX, DOCKER_LIST):
            digest = _for_platform(found, text)
            found = await source.registry.manifest(wanted.repository, digest)
        if found is None:
            raise BadInput(f"the base {text} is not in the registry {source.registry.address}; check name and tag")
        if found.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
            raise BadInput(f"the base {text} is no image of one platform, but {found.media_type}")
        return ResolvedBase(wanted, source, found)

    async def fetch(self, base: ResolvedBase) -> FetchedBase:
        """Raises Permanent when the content is not what its digest says, and what the registry's client raises."""
        manifest = _read_manifest(base)
        folder = self._folder / base.digest.removeprefix("sha256:")
        async with self._locks[base.digest]:
            if not (folder / "oci").exists():
                await self._download(base, manifest, folder)
        layers = [descriptor(each) for each in manifest["layers"]]
        config = json.loads(blob_path(folder / "oci", manifest["config"]["digest"]).read_bytes())
        diffs = config.get("rootfs", {}).get("diff_ids", [])
        if len(diffs) != len(layers) or not all(isinstance(each, str) and is_digest(each) for each in diffs):
            raise Permanent(f"the base {base.wanted} does not name the contents of its layers")
        image = manifest["config"]["digest"].removeprefix("sha256:")
        return FetchedBase(base.digest, folder / "oci", image, dict(zip(diffs, layers, strict=True)), base.wanted.name)

    async def _download(self, base: ResolvedBase, manifest: dict[str, Any], folder: Path) -> None:
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        (part / "oci").mkdir(parents=True)
        blobs = [descriptor(manifest["config"]), *map(descriptor, manifest["layers"])]
        if sum(each.size for each in blobs) > self._most_bytes:
            raise Permanent(f"the base {base.wanted} is larger than {self._most_bytes >> 20} MiB (limits.image_mib)")
        for each in {each.digest: each for each in blobs}.values():
            path = blob_path(part / "oci", each.digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                await base.source.registry.fetch_blob(base.wanted.repository, each.digest, each.size, file)
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
        write_index(part / "oci", add_blob(part / "oci", json.dumps(manifest).encode(), OCI_MANIFEST))
        part.rename(folder)


def _for_platform(index: Manifest, text: str) -> str:
    for each in _object(index.body, text).get("manifests", []):
        at = each.get("platform", {}) if isinstance(each, dict) else {}
        if (at.get("os"), at.get("architecture")) == ("linux", ARCHITECTURE) and is_digest(str(each.get("digest"))):
            return str(each["digest"])
    raise BadInput(f"the base {text} is not there for {PLATFORM}, which is what this builder builds for")


def _read_manifest(base: ResolvedBase) -> dict[str, Any]:
    """The manifest with OCI's names; raises Permanent when it is not what it should be."""
    manifest = _object(base.manifest.body, str(base.wanted))
    try:
        layers = [descriptor(each) for each in manifest["layers"]]
        config = descriptor(manifest["config"])
    except (KeyError, TypeError, ValueError):
        raise Permanent(f"the manifest of the base {base.wanted} cannot be read") from None
    layers = [Descriptor(_AS_OCI.get(each.media_type, each.media_type), each.digest, each.size) for each in layers]
    if len(layers) > MOST_LAYERS or any(each.media_type not in LAYER_TYPES for each in layers):
        raise Permanent(f"the base {base.wanted} has layers of a kind or a number that is not built upon")
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(CONFIG_TYPE, config.digest, config.size).as_json(),
        "layers": [each.as_json() for each in layers],
    }


def _object(body: bytes, text: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Permanent(f"the manifest of the base {text} is not JSON")
    return found

"""OCI layouts on disk: reading one that a hostile build wrote, and keeping images that were taken from there.

A build may write anything into its output folder, links to files of the host included. Rules that must hold:

- Nothing of the output is opened by following a link, and only regular files are read, within a size.
- A blob is kept under the hash that was computed here while it was copied.
- Layers of a base are replaced by the base's own blobs, so they are never packed or sent again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from towline.errors import Permanent
from towline.ids import is_digest

if TYPE_CHECKING:
    from towline_image_builder.bases import FetchedBase

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
LAYER_TYPES = frozenset({LAYER_TYPE, f"{LAYER_TYPE}+gzip", f"{LAYER_TYPE}+zstd"})
MAX_JSON_BYTES = 4 << 20
_CHUNK = 1 << 20
_NEAR = "near.json"
_PART = ".part"
"""Ends the name of an image that is being kept and is not whole."""
_TOO_LARGE = "the image is larger than images may be here (image_builder.limits.image_mib)"


class BadLayout(Permanent):
    """The builder's output is not an image; the message says what of it."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: str
    size: int

    def as_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


LayerTable = Mapping[str, Descriptor]
"""Hash of a layer's content (`diff_id`) → the blob that holds it."""


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An image on this machine. `blobs` are its configuration and layers; `near` says where a blob is known to be."""

    folder: Path
    digest: str
    manifest: bytes
    blobs: tuple[Descriptor, ...]
    near: Mapping[str, tuple[str, ...]]

    def open(self, blob: Descriptor) -> IO[bytes]:
        return blob_path(self.folder, blob.digest).open("rb")


def descriptor(value: Any) -> Descriptor:
    """Raises ValueError for what is none."""
    if not isinstance(value, dict) or not isinstance(value.get("size"), int) or value["size"] < 0:
        raise ValueError("not a descriptor")
    if not is_digest(str(value.get("digest"))):
        raise ValueError("a digest is sha256: and 64 hex digits")
    return Descriptor(str(value.get("mediaType", "")), str(value["digest"]), value["size"])


def blob_path(layout: Path, digest: str) -> Path:
    if not is_digest(digest):
        raise ValueError("a digest is sha256: and 64 hex digits")
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def add_blob(layout: Path, content: bytes, media_type: str) -> Descriptor:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    path = blob_path(layout, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Descriptor(media_type, digest, len(content))


def write_index(layout: Path, manifest: Descriptor) -> None:
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest.as_json()]}))


def keep(output: Path, into: Path, bases: Sequence[FetchedBase], *, most_bytes: int) -> KeptImage:
    """Take the one image out of a build's output. Blocks. Raises BadLayout; then `into` is not there."""
    part = into.with_name(f"{into.name}{_PART}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        kept = _keep(output, part, bases, most_bytes)
    except (KeyError, TypeError, ValueError, IndexError):
        raise BadLayout("the builder's output is no image of one platform") from None
    finally:
        if not (part / "index.json").exists():
            shutil.rmtree(part, ignore_errors=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(into)
    part.rename(into)
    return KeptImage(into, kept.digest, kept.manifest, kept.blobs, kept.near)


def load(folder: Path) -> KeptImage | None:
    """An image that was kept; None when it is not there any more, or not whole."""
    try:
        near = {digest: tuple(homes) for digest, homes in json.loads((folder / _NEAR).read_bytes()).items()}
        entry = descriptor(json.loads((folder / "index.json").read_bytes())["manifests"][0])
        manifest = blob_path(folder, entry.digest).read_bytes()
        blobs = _blobs_of(json.loads(manifest))
        whole = all(blob_path(folder, blob.digest).stat().st_size == blob.size for blob in blobs)
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return KeptImage(folder, entry.digest, manifest, blobs, near) if whole else None


def forget_old(images: Path, most: int) -> None:
    """Remove all kept images but the newest. Blocks. What others keep, or replace, at the same time is theirs."""
    found: list[tuple[float, Path]] = []
    for each in images.iterdir():
        with suppress(FileNotFoundError):
            if each.suffix != _PART:
                found.append((each.stat().st_mtime, each))
    for _, each in sorted(found, reverse=True)[most:]:
        shutil.rmtree(each, ignore_errors=True)


def _keep(output: Path, part: Path, bases: Sequence[FetchedBase], most_bytes: int) -> KeptImage:
    index = json.loads(_read(output, "index.json"))
    (entry,) = index["manifests"]
    manifest = json.loads(_read(output, *_place(descriptor(entry).digest)))
    raw_config = _read(output, *_place(descriptor(manifest["config"]).digest))
    config = add_blob(part, raw_config, CONFIG_TYPE)
    layers = [descriptor(each) for each in manifest["layers"]]
    diffs = json.loads(raw_config)["rootfs"]["diff_ids"]
    known = {diff: (base, blob) for base in bases for diff, blob in base.layers.items()}
    near: dict[str, tuple[str, ...]] = {}
    final: list[Descriptor] = []
    left = most_bytes
    for layer, diff in zip(layers, diffs, strict=True):
        base, blob = known.get(diff, (None, None))
        if base is not None and blob is not None:
            _link(blob_path(base.layout, blob.digest), blob_path(part, blob.digest))
            near[blob.digest] = (base.home,)
            final.append(blob)
        else:
            if layer.media_type not in LAYER_TYPES:
                raise BadLayout(f"a layer is of kind {layer.media_type[:80]!r}")
            final.append(_copy(output, layer, part, left))
        left -= final[-1].size
        if left < 0:
            raise BadLayout(_TOO_LARGE)
    whole = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.as_json(),
        "layers": [each.as_json() for each in final],
    }
    body = json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()
    named = add_blob(part, body, MANIFEST_TYPE)
    (part / _NEAR).write_text(json.dumps(near))
    write_index(part, named)
    return KeptImage(part, named.digest, body, (config, *final), near)


def _blobs_of(manifest: dict[str, Any]) -> tuple[Descriptor, ...]:
    return (descriptor(manifest["config"]), *map(descriptor, manifest["layers"]))


def _place(digest: str) -> tuple[str, str, str]:
    return "blobs", "sha256", digest.removeprefix("sha256:")


def _copy(output: Path, layer: Descriptor, part: Path, most_bytes: int) -> Descriptor:
    sha, size = hashlib.sha256(), 0
    path = blob_path(part, layer.digest)
    with _open(output, *_place(layer.digest)) as source, path.open("wb") as target:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > most_bytes:
                raise BadLayout(_TOO_LARGE)
            sha.update(chunk)
            target.write(chunk)
    if f"sha256:{sha.hexdigest()}" != layer.digest:
        raise BadLayout(f"the content of layer {layer.digest} has another hash")
    return Descriptor(layer.media_type, layer.digest, size)


def _read(output: Path, *way: str) -> bytes:
    with _open(output, *way) as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise BadLayout(f"{way[-1]} of the builder's output is larger than {MAX_JSON_BYTES} bytes")
    return content


def _open(top: Path, *way: str) -> IO[bytes]:
    """A regular file below `top`, reached without following any link."""
    folder = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in way[:-1]:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        fd = os.open(way[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        raise BadLayout(f"the builder's output has no file {'/'.join(way)}") from None
    finally:
        os.close(folder)
    file = os.fdopen(fd, "rb")
    if not os.path.isfile(fd):  # noqa: PTH113 - asks the open file, not a path
        file.close()
        raise BadLayout(f"{'/'.join(way)} of the builder's output is not a file")
    return file


def _link(source: Path, target: Path) -> None:
    """A second name instead of a copy; blobs never change."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

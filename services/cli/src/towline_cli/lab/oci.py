"""Owns writing a one-layer OCI image layout and pushing a layout to a registry of the lab.

The rule that must hold: the same layer gives the same digest. Layers stay uncompressed: on loopback, packing and
unpacking costs more than it saves.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import platform
import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from towline_cli.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# One fixed moment for everything that is made here: a date that moves would move the digest.
CREATED = "2026-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
CHUNK = 1 << 20
TIMEOUT_SECONDS = 60.0


def _digest_of(path: Path) -> str:
    with path.open("rb") as handle:
        return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}"


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _add_json(layout: Path, content: dict[str, Any]) -> tuple[str, int]:
    raw = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    _blob(layout, digest).write_bytes(raw)
    return digest, len(raw)


def write_layout(layout: Path, layer: Path, *, tag: str, config: dict[str, Any]) -> str:
    """Makes an OCI layout of `layer` (a tar, moved into it) that replaces `layout`; returns the manifest's digest.

    `config` is the image configuration's own `config` object (Cmd, Env, …).
    """
    staged = layout.with_name(layout.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)
    (staged / "blobs" / "sha256").mkdir(parents=True)
    diff, size = _digest_of(layer), layer.stat().st_size
    shutil.move(str(layer), _blob(staged, diff))
    image = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": CREATED,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    }
    config_digest, config_size = _add_json(staged, image)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": LAYER, "digest": diff, "size": size}],
    }
    digest, manifest_size = _add_json(staged, manifest)
    named = {"org.opencontainers.image.ref.name": tag}
    entry = {"mediaType": MANIFEST, "digest": digest, "size": manifest_size, "annotations": named}
    (staged / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}), encoding="utf-8")
    (staged / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")
    shutil.rmtree(layout, ignore_errors=True)
    staged.rename(layout)
    return digest


def manifest_digest(layout: Path) -> str:
    """Digest of the one manifest that `layout` holds."""
    index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
    return str(index["manifests"][0]["digest"])


class _Registry:
    """The few calls of the distribution API that a push needs, over one connection to a plain-HTTP registry."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)

    def call(
        self, method: str, path: str, expected: Sequence[int], body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        self._connection.request(method, path, body=body, headers=headers or {})
        response = self._connection.getresponse()
        said = response.read()
        if response.status not in expected:
            words = said.decode(errors="replace")[:300]
            raise LabError("registry", f"{self._address} answered {response.status} to {method} {path}: {words}")
        return response

    def push_blob(self, name: str, blob: Path, digest: str) -> None:
        if self.call("HEAD", f"/v2/{name}/blobs/{digest}", (200, 404)).status == 200:
            return
        started = self.call("POST", f"/v2/{name}/blobs/uploads/", (202,))
        place = urlsplit(started.headers["Location"])
        query = f"{place.query}&digest={digest}" if place.query else f"digest={digest}"
        headers = {"Content-Length": str(blob.stat().st_size), "Content-Type": "application/octet-stream"}
        self.call("PUT", f"{place.path}?{query}", (201,), body=_chunks(blob), headers=headers)

    def close(self) -> None:
        self._connection.close()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            yield chunk


def push_layout(layout: Path, registry: str, name: str, tag: str) -> str:
    """Pushes the one image of `layout` to `registry` (host:port, plain HTTP) as `name:tag`; returns its digest.

    Blobs that the registry has are not sent again. Raises `LabError` when the registry refuses.
    """
    digest = manifest_digest(layout)
    raw = _blob(layout, digest).read_bytes()
    manifest = json.loads(raw)
    target = _Registry(registry)
    try:
        for each in (manifest["config"], *manifest["layers"]):
            target.push_blob(name, _blob(layout, each["digest"]), each["digest"])
        target.call("PUT", f"/v2/{name}/manifests/{tag}", (201,), body=raw, headers={"Content-Type": MANIFEST})
    except OSError as error:
        raise LabError("registry", f"{registry} could not be reached: {error}.") from error
    finally:
        target.close()
    return digest
